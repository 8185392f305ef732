"""Bytes to text, strictly: UTF-8 (or UTF-16/32 with a byte order mark), or an error that says where not."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

from plait.errors import InputError

# longest first: the mark of UTF-32 LE begins with the mark of UTF-16 LE
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# characters that running text in each encoding cannot do without; rare ones betray a wrong guess
COMMON = {
    "GB18030": "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年",
    "BIG5": "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年",
    "SHIFT_JIS": "のにはをたがでてとしれさいるなもこらりあっスンルイ",
    "EUC-KR": "이다는을가에의고를은하지도사한인로서기어해수아리",
}


def decoded(chunks: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode a stream of bytes piece by piece; a byte order mark is honoured and removed.

    Raises:
        InputError: for binary data and for bytes in another encoding: which bytes, where, and the remedy.
    """
    decoder, base, lines = None, 0, 1
    for chunk in chunks:
        if decoder is None:
            mark, encoding = next((m for m in MARKS if chunk.startswith(m[0])), (b"", "utf-8"))
            decoder = codecs.getincrementaldecoder(encoding)()
            chunk, base = chunk[len(mark) :], len(mark)
        wide = encoding != "utf-8"
        if not wide and (zero := chunk.find(0)) >= 0:
            raise InputError(_binary(name, chunk, base + zero))
        try:
            yield decoder.decode(chunk)
        except UnicodeDecodeError as error:
            raise InputError(_wrong(name, error, base + len(chunk), lines, encoding)) from None
        base += len(chunk)
        lines += chunk.count(b"\n")
    if decoder is not None:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise InputError(_wrong(name, error, base, lines, encoding)) from None


def lines_of(pieces: Iterable[str]) -> Iterator[str]:
    """Lines without their ends (`\\n` or `\\r\\n`); never splits at other separators, which text may hold."""
    rest = ""
    for piece in pieces:
        first, *more = piece.split("\n")
        rest += first
        for line in more:
            yield rest.removesuffix("\r")
            rest = line
    if rest:
        yield rest.removesuffix("\r")


def _binary(name: str, chunk: bytes, offset: int) -> str:
    head = chunk[:4096]
    for first, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if head[first::2].count(0) > 0.3 * len(head) / 2 and not head[1 - first :: 2].count(0):
            return f"{name} looks like {encoding} without a byte order mark; iconv -f {encoding} -t UTF-8"
    return f"{name} is a binary file (zero byte at offset {offset}), not text; give text files only"


def _wrong(name: str, error: UnicodeDecodeError, fed: int, lines: int, encoding: str) -> str:
    data, start = error.object, error.start
    # the decoder may have kept bytes of the previous chunk in front of this one
    offset = fed - len(data) + start
    line = lines + data[:start].count(b"\n")
    shown = data[start : start + 4].hex(" ")
    where = f"{name} is not {encoding.upper()}: bytes {shown} at offset {offset} (line {line})"
    if encoding != "utf-8":
        return f"{where}; the file is damaged or truncated"
    guess = guess_encoding(data[start : start + 65536])
    looks = f"it looks like {guess}; convert it" if guess else "convert it"
    return f"{where}; {looks}: iconv -f {guess or 'GB18030'} -t UTF-8 FILE > NEW"


def guess_encoding(data: bytes) -> str | None:
    """The likely encoding of bytes that are not UTF-8, or None: where everyday letters are most frequent."""
    scores = {}
    for encoding, common in COMMON.items():
        text = codecs.getincrementaldecoder(encoding)("replace").decode(data)
        beyond = [letter for letter in text if letter > "\x7f"]
        if "\ufffd" not in text and beyond:
            scores[encoding] = sum(letter in common for letter in beyond) / len(beyond)
    best = max(scores, key=lambda encoding: scores[encoding], default=None)
    if best is not None and scores[best] > 0.03:
        return best
    high = [i for i, byte in enumerate(data) if byte > 0x7F]
    alone = sum(not (i > 0 and data[i - 1] > 0x7F) and data[i + 1 : i + 2] < b"\x80" for i in high)
    if high and alone > 0.8 * len(high):  # accented letters stand between plain ones
        return "WINDOWS-1252"
    return best
