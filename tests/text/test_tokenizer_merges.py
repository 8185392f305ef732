import gzip
import io
import json
from pathlib import Path
from pydoc_data import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.errors import ConfigError, InputError
from plait.text.merges import from_merges, read_merges
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train

REFERENCE = Path(__file__).parents[3] / "shared/data/tokenizer-refs"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the reference segmentation")
MERGES = ["t h", "th e</w>", "i n", "a n", "in g</w>", "l l", "中 文</w>", "e r", "er e</w>", "n n"]


@pytest.fixture
def codes(tmp_path):
    path = tmp_path / "codes"
    path.write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", encoding="utf-8")
    return path


def lines(name: str) -> list[str]:
    return (REFERENCE / name).read_text(encoding="utf-8").splitlines()


@needs_reference
def test_reference_merges_segment_the_reference_corpus_identically():
    tokenizer = from_merges(REFERENCE / "bpe.ref")
    differ = [
        (line, expected)
        for line, expected in zip(lines("corpus.en"), lines("corpus.bpe.ref.en"), strict=True)
        if " ".join(tokenizer.pieces(line)) != expected.strip()
    ]
    assert differ == []


@needs_reference
def test_merges_learned_in_that_style_need_no_more_pieces_than_the_reference():
    corpus = lines("corpus.en")
    tokenizer = train(["\n".join(corpus)], style="words", merges=1000)
    assert sum(len(tokenizer.pieces(line)) for line in corpus) <= 43_041
    assert sum(map(len, tokenizer.encode_batch(corpus))) <= 43_041


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    apply_bpe = pytest.importorskip("subword_nmt.apply_bpe", reason="needs the peer, subword-nmt")
    path = tmp_path_factory.mktemp("merges") / "codes"
    path.write_text("\n".join(["#version: 0.2", *MERGES]), encoding="utf-8")
    return from_merges(path), apply_bpe.BPE(io.StringIO(path.read_text(encoding="utf-8")))


@settings(deadline=None, max_examples=150)
@given(text=st.lists(st.text("thein ganlré中文<\u00a0\t", max_size=6), max_size=6).map(" ".join))
def test_pieces_equal_those_of_subword_nmt(pair, text):
    ours, peer = pair
    assert " ".join(ours.pieces(text)) == peer.process_line(text).strip(" ")


def test_learning_merges_then_importing_them_changes_nothing(tmp_path):
    text = topics.topics["assignment"]
    learned = train([text], style="words", merges=100)
    learned.save(tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]["merges"]
    assert len(merges) == 100
    (tmp_path / "codes").write_text("\n".join(" ".join(merge) for merge in merges), encoding="utf-8")
    imported = from_merges(tmp_path / "codes", [text])
    for line in text.splitlines():
        assert imported.pieces(line) == learned.pieces(line)


def test_header_compression_and_repeats_do_not_matter(codes, tmp_path):
    plain = tmp_path / "headerless"
    plain.write_text("\r\n".join([*MERGES, "i n", ""]), encoding="utf-8")
    packed = tmp_path / "codes.gz"
    packed.write_bytes(gzip.compress(codes.read_bytes()))
    assert read_merges(codes) == read_merges(plain) == read_merges(packed)
    assert len(read_merges(codes)) == len(MERGES)


def test_unknown_characters_become_unk_but_stay_visible(codes):
    tokenizer = from_merges(codes)
    unknown = tokenizer.token_id("<|unk|>")
    assert unknown == 5
    assert tokenizer.encode("the 龙") == [tokenizer.token_id("the</w>"), unknown]
    assert tokenizer.pieces("the 龙in") == ["the", "龙@@", "i@@", "n"]
    assert unknown not in from_merges(codes, ["a 龙"]).encode("the 龙")


def test_decoding_joins_words_with_spaces(codes):
    tokenizer = from_merges(codes)
    ids = tokenizer.encode("  then the   ending \n 中文")
    assert tokenizer.decode([i for i in ids if i != 5]) == "then the ening 中文"
    decoder = tokenizer.decoder()
    shown = [decoder.push(index) for index in tokenizer.encode("the thin")] + [decoder.flush()]
    assert shown == ["the", " th", "i", "n", ""]


def test_saved_and_opened_again_the_ids_are_the_same(codes, tmp_path):
    tokenizer = from_merges(codes)
    tokenizer.save(tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out").encode("the ending 中文") == tokenizer.encode("the ending 中文")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"codes holds no merges; give a file that `subword-nmt learn-bpe` wrote"),
        ("#version: 0.2\n", r"holds no merges"),
        ("#version: 0.3\na b\n", r"'#version: 0.3' is not supported; plait reads merges of version 0.2"),
        (
            "#version: 0.2\na b\na b c\n",
            r"codes:3: 'a b c' is not a merge; a merge is two symbols and a space",
        ),
        ("hello\n", r"codes:1: 'hello' is not a merge"),
        ("e </w>\n", r"version 0.1 \(</w> as a symbol of its own\); learn them again"),
        ("Ġ t\nh e\n", r"holds byte-level merges, as GPT-2 has; open the tokenizer.json they came with"),
        ("<|en d|>\n", r"codes:1: this merge makes the special token <\|end\|>; remove it"),
    ],
)
def test_files_of_another_format_are_refused(content, message, tmp_path):
    (tmp_path / "codes").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        from_merges(tmp_path / "codes")


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"merges file '.*codes' does not exist; check the path"):
        from_merges(tmp_path / "codes")
    (tmp_path / "codes").write_bytes(b"a b\n\xff\xfe\x00")
    with pytest.raises(InputError, match=r"codes is (a binary file|not UTF-8)"):
        from_merges(tmp_path / "codes")


def test_more_merges_than_the_text_supports_are_refused():
    with pytest.raises(
        ConfigError, match=r"merges=50 is more than this text supports, which gives 3; use merges=3 or"
    ):
        train(["abcd abcd abcd"], style="words", merges=50)
    assert train(["abcd abcd abcd"], style="words", merges=3).pieces("abcd") == ["abcd"]


def test_words_can_be_sized_by_vocabulary_too():
    characters = 6 + 5  # special tokens, and a b c d with the d at the end of a word
    assert train(["abcd abcd abcd"], style="words", vocab_size=characters + 2).vocab_size == characters + 2
    with pytest.raises(
        ConfigError, match=r"vocab_size=50 is more than this text supports, which gives 14; use"
    ):
        train(["abcd abcd abcd"], style="words", vocab_size=50)
    with pytest.raises(
        ConfigError, match=r"vocab_size=7 does not hold the 11 characters of this text; use a larger"
    ):
        train(["abcd abcd abcd"], style="words", vocab_size=7)
