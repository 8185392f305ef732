import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.data.split import HELD_OUT, TRAIN, choose_split, hold_out, split_tail, with_keys
from plait.errors import ConfigError
from plait.text.document import Document


def documents(*texts):
    return [Document(f"a#{number}", text) for number, text in enumerate(texts, 1)]


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.floats(0, 0.99))
def test_a_tail_split_loses_no_character(texts, fraction):
    keep = int(sum(map(len, texts)) * (1 - fraction))
    parts = list(split_tail(documents(*texts), keep))
    train = "".join(document.text for document, side in parts if side == TRAIN)
    held = "".join(document.text for document, side in parts if side == HELD_OUT)
    assert len(train) == keep
    assert train + held == "".join(texts)
    assert len(parts) <= len(texts) + 1


def test_the_document_in_which_the_cut_falls_becomes_two():
    parts = list(split_tail(documents("床前明月光", "疑是地上霜"), 7))
    assert [(document.id, document.text, side) for document, side in parts] == [
        ("a#1", "床前明月光", TRAIN),
        ("a#2", "疑是", TRAIN),
        ("a#2 (tail)", "地上霜", HELD_OUT),
    ]


@pytest.mark.parametrize(
    ("split", "kind", "count", "expected"),
    [
        ("auto", "text", 19, "tail"),
        ("auto", "text", 20, "document"),
        ("auto", "messages", 3, "document"),
        ("tail", "text", 50, "tail"),
        ("document", "text", 3, "document"),
    ],
)
def test_auto_cuts_the_tail_of_few_documents(split, kind, count, expected):
    assert choose_split(split, kind, lambda: iter(documents(*"x" * count))) == expected


def held_texts(texts, seed, fraction=0.1):
    keys = np.array([key for _, key in with_keys(documents(*texts), seed)])
    held = hold_out(keys, fraction, "text")
    return {text for text, out in zip(texts, held) if out}, int(held.sum())


def test_the_choice_depends_on_content_and_seed_only():
    texts = [f"text {number}" for number in range(100)]
    held, count = held_texts(texts, 1)
    assert count == 10
    assert held_texts(texts[::-1], 1)[0] == held
    assert held_texts(texts, 2)[0] != held


def test_a_document_that_occurs_twice_is_on_one_side():
    texts = [f"text {number}" for number in range(30)]
    held, _ = held_texts(texts * 3, 7, 0.3)
    assert held == held_texts(texts, 7, 0.3)[0]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=60), st.floats(0.01, 0.6))
def test_at_least_one_document_is_held_out(keys, fraction):
    array = np.array(keys)
    if len(set(keys)) == 1:
        with pytest.raises(ConfigError, match="leaves nothing to train on in 'text', which has 1 different"):
            hold_out(array, fraction, "text")
    elif len(set(keys)) == len(keys):
        assert hold_out(array, fraction, "text").sum() == max(1, round(len(keys) * fraction))


def test_no_validation_and_nothing_but_validation():
    assert not hold_out(np.arange(5), 0.0, "text").any()
    assert hold_out(np.arange(5), 1.0, "text").all()
