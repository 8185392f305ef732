"""From token ids to bytes and text: what a token spells, and decoding that never shows half a character."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plait.text.tokenizer_config import WORD_END

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies (Radford et al. 2019, section 2.2).

    Printable characters of Latin-1 stand for themselves, the other bytes for U+0100 onwards in order.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


@dataclass(frozen=True)
class Spelling:
    """How a vocabulary spells text.

    Attributes:
        bytes_of: the bytes of every id.
        lead: number of spaces that decoding drops from the start of a text.
        words: whether a word's end is spelled as a space, which is dropped at the end of a text.
    """

    bytes_of: Mapping[int, bytes]
    lead: int = 0
    words: bool = False

    def text(self, ids: Iterable[int]) -> str:
        """Decode at once; bytes that are not UTF-8 become U+FFFD."""
        decoder = StreamDecoder(self)
        whole = b"".join(self.bytes_of.get(index, b"") for index in ids)
        return decoder.feed(whole) + decoder.flush()


def spelling(vocab: Mapping[str, int], added: Mapping[int, str], decoder: Any) -> Spelling | None:
    """Work out what every token spells from the `decoder` part of a tokenizer.json.

    Returns:
        None where no rule of bytes describes it (WordPiece and the like): decoding is the library's then.
    """
    parts = _flatten(decoder)
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        spell = _byte_level
    elif "BPEDecoder" in kinds:
        suffix = next(part.get("suffix", WORD_END) for part in parts if part["type"] == "BPEDecoder")
        spell = _with_suffix(suffix)
    elif kinds & {"ByteFallback", "Metaspace"}:
        spell = _with_fallback(_space_mark(parts))
    else:
        return None
    table = {index: spell(token) for token, index in vocab.items()}
    table |= {index: content.encode() for index, content in added.items()}
    return Spelling(table, _leading_spaces(parts), "BPEDecoder" in kinds)


def _flatten(decoder: Any) -> list[dict[str, Any]]:
    if not isinstance(decoder, dict):
        return []
    if decoder.get("type") == "Sequence":
        return [part for inner in decoder.get("decoders", []) for part in _flatten(inner)]
    return [decoder]


def _space_mark(parts: list[dict[str, Any]]) -> str:
    for part in parts:
        if part["type"] == "Metaspace":
            return part.get("replacement", "▁")
        if part["type"] == "Replace" and part.get("content") == " ":
            return part.get("pattern", {}).get("String", "▁")
    return ""


def _leading_spaces(parts: list[dict[str, Any]]) -> int:
    for part in parts:
        if part["type"] == "Strip" and part.get("content") == " ":
            return part.get("start", 0)
        if part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never":
            return 1
    return 0


_BYTE_OF = byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:  # a token that was added as plain text
        return token.encode()


def _with_suffix(suffix: str) -> Callable[[str], bytes]:
    return lambda token: token.replace(suffix, " ").encode()


def _with_fallback(space: str) -> Callable[[str], bytes]:
    def spell(token: str) -> bytes:
        byte = _FALLBACK.fullmatch(token)
        if byte:
            return bytes([int(byte[1], 16)])
        return (token.replace(space, " ") if space else token).encode()

    return spell


class StreamDecoder:
    """Turns ids into text as they come: `push` returns whatever characters are complete.

    All pushes and the final `flush` together equal decoding all ids at once. Bytes that cannot become UTF-8
    turn into U+FFFD as soon as, and not before, that is certain.
    """

    def __init__(self, spelling: Spelling, skip: frozenset[int] = frozenset()) -> None:
        self._spelling, self._skip = spelling, skip
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._lead = spelling.lead
        self._held = ""

    def push(self, token: int) -> str:
        """Text completed by one more token id; ids outside the vocabulary spell nothing."""
        return "" if token in self._skip else self.feed(self._spelling.bytes_of.get(token, b""))

    def feed(self, data: bytes) -> str:
        """Text completed by more bytes."""
        return self._trim(self._utf8.decode(data))

    def flush(self) -> str:
        """The rest: U+FFFD for a character left incomplete. The decoder starts anew."""
        text = self._trim(self._utf8.decode(b"", final=True))
        self._utf8.reset()
        self._lead, self._held = self._spelling.lead, ""
        return text

    def _trim(self, text: str) -> str:
        while self._lead and text:
            if text[0] == " ":
                text, self._lead = text[1:], self._lead - 1
            else:
                self._lead = 0
        if not self._spelling.words:
            return text
        text = self._held + text  # the space of a word's end shows when another word follows
        self._held = " " if text.endswith(" ") else ""
        return text.removesuffix(" ")


class ReplayDecoder:
    """`StreamDecoder` for vocabularies without a rule of bytes: decodes all ids again at every push."""

    def __init__(self, decode: Callable[[list[int]], str], skip: frozenset[int] = frozenset()) -> None:
        self._decode, self._skip = decode, skip
        self._ids: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        """Text completed by one more token id."""
        if token in self._skip:
            return ""
        self._ids.append(token)
        text = self._decode(self._ids)
        return "" if text.endswith("\ufffd") else self._show(text)

    def flush(self) -> str:
        """The rest. The decoder starts anew."""
        rest = self._show(self._decode(self._ids)) if self._ids else ""
        self._ids, self._shown = [], ""
        return rest

    def _show(self, text: str) -> str:
        new, self._shown = text[len(self._shown) :], text
        return new


def visible(data: bytes) -> str:
    """Bytes of a token to look at: `▁` for a space, escapes for invisible characters, `<0xE4>` for bytes."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in data)
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == " ":
        return "▁"
    invisible = unicodedata.category(character)[0] in "CZ"
    return character.encode("unicode_escape").decode() if invisible else character
