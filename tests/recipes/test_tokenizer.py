import io
import json
import sys
from pydoc_data import topics

import pytest

from plait.errors import ConfigError, InputError, ModelError
from plait.recipes.tokenizer import tokenize, train_tokenizer
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_config import TokenizerConfig

ENGLISH = topics.topics["assignment"]
CHINESE = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？\n"


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "en.txt").write_text(ENGLISH, encoding="utf-8")
    rows = [
        {"source": CHINESE, "target": "A spring morning."},
        {"messages": [{"role": "user", "content": "静夜思"}, {"role": "assistant", "content": "床前明月光"}]},
    ]
    for number, row in enumerate(rows):
        (folder / f"{number}.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def test_a_tokenizer_is_learned_from_every_string_and_reported(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    tokenizer = train_tokenizer(corpus, out, TokenizerConfig(kind="char"))
    assert Tokenizer.load(out).fingerprint == tokenizer.fingerprint
    assert all(len(tokenizer.encode(character)) == 1 for character in "春静月")
    report = json.loads((out / "tokenizer_report.json").read_text("utf-8"))
    assert (report["kind"], report["vocab_size"], report["sha256"]) == (
        "char",
        tokenizer.vocab_size,
        tokenizer.fingerprint,
    )
    rows = {row["language"]: row for row in report["fertility"]}
    assert rows["Latin"]["bytes"] == len((ENGLISH + "A spring morning.").encode())
    assert rows["Han"]["tokens"] == len(CHINESE + "静夜思" + "床前明月光")
    shown = capsys.readouterr().err
    assert "bytes per token" in shown
    assert f"a char tokenizer of {tokenizer.vocab_size:,} tokens" in shown


def test_published_merges_need_no_input(tmp_path):
    (tmp_path / "codes").write_text("#version: 0.2\nt h\nth e</w>\n", encoding="utf-8")
    tokenizer = train_tokenizer([], tmp_path / "out", merges=tmp_path / "codes")
    assert tokenizer.pieces("the path") == ["the", "p@@", "a@@", "t@@", "h"]
    assert json.loads((tmp_path / "out/tokenizer_report.json").read_text("utf-8"))["kind"] == "bpe (words)"


def test_a_directory_in_use_stays_as_it_is(corpus, tmp_path):
    (tmp_path / "tokenizer.json").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"already holds a tokenizer; give another --out or delete it"):
        train_tokenizer(corpus, tmp_path)
    assert (tmp_path / "tokenizer.json").read_text("utf-8") == "mine"
    with pytest.raises(InputError, match=r"tokenizer.json' is a file; give a directory"):
        train_tokenizer(corpus, tmp_path / "tokenizer.json")


def test_too_large_a_vocabulary_leaves_nothing_behind(corpus, tmp_path):
    with pytest.raises(
        ConfigError, match=r"vocab_size=8192 is more than this text supports, which gives \d+; use"
    ):
        train_tokenizer(corpus, tmp_path / "out", TokenizerConfig(vocab_size=8192))
    assert not (tmp_path / "out").exists()


def test_a_size_nobody_asked_for_is_as_much_as_the_text_supports(corpus, tmp_path):
    train_tokenizer(corpus, tmp_path / "out")
    assert 261 < Tokenizer.load(tmp_path / "out").vocab_size < 8192


@pytest.fixture
def byte_directory(tmp_path):
    (tmp_path / "x.txt").write_text("x", encoding="utf-8")
    train_tokenizer(tmp_path / "x.txt", tmp_path / "out", TokenizerConfig(kind="byte"))
    return tmp_path / "out"


def test_lines_become_ids_or_pieces(byte_directory, tmp_path, capsys):
    (tmp_path / "in.txt").write_bytes("a b\r\n\n中<|end|>".encode())
    tokenize(byte_directory, tmp_path / "in.txt")
    assert capsys.readouterr().out == "102 37 103\n\n233 189 178 0\n"
    tokenize(byte_directory, tmp_path / "in.txt", pieces=True)
    assert capsys.readouterr().out == "a ▁ b\n\n<0xE4> <0xB8> <0xAD> <|end|>\n"


def test_standard_input_is_read_line_by_line(byte_directory, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
    tokenize(byte_directory)
    assert capsys.readouterr().out == "102\n103\n"


def test_bad_input_is_named(byte_directory, tmp_path):
    with pytest.raises(InputError, match=r"nowhere.txt' does not exist"):
        tokenize(byte_directory, tmp_path / "nowhere.txt")
    (tmp_path / "bad.txt").write_bytes(b"ok\n\xff\xfa")
    with pytest.raises(InputError, match=r"bad.txt is not UTF-8"):
        tokenize(byte_directory, tmp_path / "bad.txt")
    with pytest.raises(ModelError, match=r"holds no tokenizer.json"):
        tokenize(tmp_path)
