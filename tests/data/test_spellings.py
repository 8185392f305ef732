"""`data.bpe_dropout`: each pair to train on is stored in several spellings, what is held out in one."""

from __future__ import annotations

import pytest

from plait.config import build
from plait.data.batch import NO_LOSS, evaluation_batches
from plait.data.config import DataConfig
from plait.data.encode import encode_pairs
from plait.data.inputs import Intake
from plait.data.prepare import EncodedData, prepare_data
from plait.data.source import Source
from plait.errors import ConfigError
from plait.text.bpe_dropout import DroppingEncoder
from plait.text.document import Document
from plait.text.train_tokenizer import train

PAIRS = [(f"the {word} is lower than the newest", f"das {word} ist tiefer") for word in "abcdefghij"]


@pytest.fixture(scope="module")
def tokenizer():
    return train([" ".join(side for pair in PAIRS for side in pair) * 5], vocab_size=280)


def prepared(folder, tokenizer, out="data", **given) -> EncodedData:
    names = [folder / "a.en", folder / "a.de"]
    for name, side in zip(names, zip(*PAIRS)):
        name.write_text("".join(f"{text}\n" for text in side), encoding="utf-8")
    config = build(DataConfig, {"pairs": [str(name) for name in names], "validation": 0.2} | given)
    return prepare_data(config, tokenizer, folder / out, 64, 0, start_id=0)


def sides(source: Source) -> list[list[int]]:
    """Sources of the rows and their targets, in pieces."""
    found = []
    for batch in evaluation_batches(source, 1):
        assert batch.source is not None
        read = (
            batch.source[0]
            if batch.source_positions is None
            else batch.source[0][batch.source_positions[0] >= 0]
        )
        found += [read.tolist(), batch.targets[0][batch.targets[0] != NO_LOSS].tolist()]
    return found


def test_each_spelling_is_another_row_of_the_same_words(tmp_path, tokenizer):
    plain = prepared(tmp_path, tokenizer, "plain")
    dropped = prepared(tmp_path, tokenizer, "dropped", bpe_dropout=0.3, spellings=4)
    words = [tokenizer.decode(side, skip_special=True) for side in sides(plain.train[0])]
    found = sides(dropped.train[0])
    assert [tokenizer.decode(side, skip_special=True) for side in found] == [
        text for at in range(0, len(words), 2) for _ in range(4) for text in words[at : at + 2]
    ]
    assert len(set(map(tuple, found))) > 3 * len(set(words))
    assert sides(dropped.validation[0]) == sides(plain.validation[0])


def test_the_seed_decides_the_spellings(tmp_path, tokenizer):
    first, again = (prepared(tmp_path, tokenizer, name, bpe_dropout=0.3, spellings=2) for name in "ab")
    assert sides(first.train[0]) == sides(again.train[0])


def test_where_it_does_nothing_it_is_refused(tmp_path, tokenizer):
    with pytest.raises(ConfigError, match="bpe_dropout is for pairs, and the data are text; leave it out"):
        build(DataConfig, {"text": "a", "bpe_dropout": 0.1})
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"a {number}\tb\n" for number in range(40)), encoding="utf-8")
    config = build(DataConfig, {"pairs": str(path), "format": "tsv", "bpe_dropout": 0.1})
    with pytest.raises(
        ConfigError, match="bpe_dropout is for an encoder-decoder; leave it out, or set model"
    ):
        prepare_data(config, tokenizer, tmp_path / "data", 64, 0)


def test_a_long_question_stays_whole_in_every_spelling_and_plain_where_held_out(tokenizer):
    record = {"context": "the lazy dog. " * 20, "question": "where is the dog?", "answers": ["here"]}
    document = Document("q", record=record)
    encoded = encode_pairs(
        [(document, False), (document, True)], tokenizer, Intake(), context=60, truncate=True,
        dropping=DroppingEncoder(tokenizer, 0.5, 1), spellings=9,
    )  # fmt: skip
    *drawn, (held, _) = list(encoded)
    read = [[id for id, on in zip(one.ids, one.mask) if not on] for one, _ in [*drawn, (held, True)]]
    for ids in read:
        assert tokenizer.decode(ids, skip_special=True).endswith("\nwhere is the dog?")
        assert len(ids) <= 60
    assert len({tuple(ids) for ids in read}) > 5
    text = tokenizer.decode(read[-1], skip_special=True)
    assert read[-1][:-1] == tokenizer.encode_plain(text)
