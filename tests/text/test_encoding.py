"""Bytes become text: marks that decide, encodings that are guessed, and bad bytes that are found."""

import re

import pytest

from plait.errors import InputError
from plait.text.encoding import decoded, guess_encoding, lines_of

ZH = "今天天气很好，我们去公园散步。"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_byte_order_marks_decide_and_disappear(tmp_path, encoding, put, texts):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    assert texts(put(tmp_path / "a.txt", (mark + ZH).encode(encoding))) == [ZH]


def test_wrong_encoding_says_which_bytes_where_and_the_remedy(tmp_path, put, fails):
    data = b"fine\nline\n" + ("我们的国家在这个地方，" * 9).encode("gb18030")
    message = r"a.txt is not UTF-8: bytes ce d2 c3 c7 at offset 10 \(line 3\); it looks like GB18030"
    fails(put(tmp_path / "a.txt", data), message)
    fails(put(tmp_path / "a.txt.gz", data), r"iconv -f GB18030 -t UTF-8")


def test_the_place_of_a_bad_byte_does_not_depend_on_the_pieces():
    data = "我\nb\n".encode() + b"\xff\xfe"
    seen = set()
    for size in range(1, 9):
        with pytest.raises(InputError) as caught:
            list(decoded((data[at : at + size] for at in range(0, len(data), size)), "x"))
        seen.add(re.sub(r"bytes .* at", "at", str(caught.value)).split(";")[0])
    assert seen == {"x is not UTF-8: at offset 6 (line 3)"}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("他說這個人是我們的朋友", "BIG5"), ("これはペンです。それもいいです。", "SHIFT_JIS"),
     ("나는 학교에 가고 이 책을 읽는다", "EUC-KR"), ("Die Straße führt über die Brücke", "WINDOWS-1252")],
)  # fmt: skip
def test_other_encodings_are_guessed(text, encoding):
    assert guess_encoding(text.encode(encoding)) == encoding


def test_lines_do_not_depend_on_the_pieces():
    text = "a\r\nb\n\nc\r"
    assert list(lines_of(iter(text))) == list(lines_of([text])) == ["a", "b", "", "c"]
