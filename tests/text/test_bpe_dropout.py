"""BPE-dropout: without dropout the tokenizer itself; with it other pieces of the same text."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.errors import ConfigError
from plait.text.bpe_dropout import DRAWN, DroppingEncoder
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train

TEXT = "low lower lowest new newer newest wide wider widest 床前明月光 疑是地上霜 <|end|> ünïcödé\n" * 20
KINDS = {"bytes": {"vocab_size": 300}, "words": {"style": "words", "merges": 30}}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request) -> Tokenizer:
    return train([TEXT], **KINDS[request.param])


@given(text=st.text(alphabet="lower newst wid床前明月ü<|end>\n", max_size=60))
@settings(max_examples=200, deadline=None)
def test_without_dropout_it_is_the_tokenizer(tokenizer, text):
    encoder = DroppingEncoder(tokenizer, 0.0, 0)
    assert encoder.encode(text) == tokenizer.encode_plain(text)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.99])
def test_the_text_stays_the_same(tokenizer, dropout):
    encoder = DroppingEncoder(tokenizer, dropout, 0)
    plain = tokenizer.encode_plain(TEXT)
    for _ in range(3):
        assert tokenizer.decode(encoder.encode(TEXT)) == tokenizer.decode(plain)
    assert len(encoder.encode(TEXT)) > len(plain)


def test_the_seed_decides(tokenizer):
    first, again, other = (DroppingEncoder(tokenizer, 0.3, seed) for seed in (1, 1, 2))
    drawn = [first.encode(TEXT) for _ in range(3)]
    assert drawn == [again.encode(TEXT) for _ in range(3)]
    assert drawn[0] != drawn[1]
    assert drawn[0] != other.encode(TEXT)


def test_a_merge_is_left_out_as_often_as_asked():
    tokenizer = train(["ab " * 50], style="words", merges=1)  # the only merge: a, b and the word's end
    encoder = DroppingEncoder(tokenizer, 0.25, 0)
    counts = Counter(
        len(encoder._draw(tokenizer_ids)) for tokenizer_ids in [[*ids(tokenizer)] for _ in range(4000)]
    )
    assert set(counts) == {1, 2}
    assert counts[2] / 4000 == pytest.approx(0.25, abs=0.03)


def ids(tokenizer: Tokenizer) -> list[int]:
    """The characters of the word `ab`."""
    encoder = DroppingEncoder(tokenizer, 0.0, 0)
    ((first, second),) = encoder._merges
    return [first, second]


def test_a_frequent_word_keeps_as_many_segmentations_as_were_drawn(tokenizer):
    encoder = DroppingEncoder(tokenizer, 0.5, 0)
    found = {tuple(encoder.encode("newest")) for _ in range(20 * DRAWN)}
    assert 3 < len(found) <= DRAWN


def test_a_tokenizer_without_merges_is_refused():
    for kind in ({"kind": "byte"}, {"kind": "unigram", "vocab_size": 265}):
        with pytest.raises(
            ConfigError, match=r"data.bpe_dropout=0.1 leaves out merges, and this tokenizer has"
        ):
            DroppingEncoder(train([TEXT], **kind), 0.1, 0)
