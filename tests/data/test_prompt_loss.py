"""`data.prompt_loss`: a decoder also learns some of what it is asked; held out are answers alone."""

from __future__ import annotations

import json

import pytest

from plait.config import build
from plait.data.batch import NO_LOSS, evaluation_batches
from plait.data.config import DataConfig
from plait.data.prepare import EncodedData, prepare_data
from plait.errors import ConfigError
from plait.text.train_tokenizer import train

TALKS = [(f"where is the ball number {number}", f"in room {number}") for number in range(60)]


@pytest.fixture(scope="module")
def tokenizer():
    return train([" ".join(side for talk in TALKS for side in talk)], vocab_size=280)


def prepared(folder, tokenizer, out: str, kind="messages", **given) -> EncodedData:
    path = folder / f"{kind}.jsonl"
    for source, target in TALKS:
        turns = {"messages": [{"role": "user", "content": source}, {"role": "assistant", "content": target}]}
        record = turns if kind == "messages" else {"source": source, "target": target}
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
    config = build(DataConfig, {kind: str(path), "validation": 0.2} | given)
    return prepare_data(config, tokenizer, folder / out, 64, 0)


def learned(data: EncodedData, split: str) -> list[int]:
    (source,) = getattr(data, split)
    return [int(target) for batch in evaluation_batches(source, 4) for target in batch.targets.flatten()]


@pytest.mark.parametrize("kind", ["messages", "pairs"])
def test_the_share_of_prompts_is_learned_beside_every_answer(tmp_path, tokenizer, kind):
    folders = [tmp_path / name for name in ("none", "half", "all")]
    for folder in folders:
        folder.mkdir()
    none, half, whole = (
        prepared(folder, tokenizer, "data", kind, prompt_loss=share)
        for folder, share in zip(folders, (0, 0.5, 1))
    )
    answers, some, everything = (learned(data, "train") for data in (none, half, whole))
    assert all(b == a or a == NO_LOSS for a, b in zip(answers, some))
    assert all(b == a or a == NO_LOSS for a, b in zip(some, everything))
    prompts = sum(target != NO_LOSS for target in everything) - sum(target != NO_LOSS for target in answers)
    more = sum(target != NO_LOSS for target in some) - sum(target != NO_LOSS for target in answers)
    assert prompts > 400
    assert abs(more / prompts - 0.5) < 0.1
    assert learned(none, "validation") == learned(half, "validation") == learned(whole, "validation")
    assert none.validation[0].rows.target_tokens < none.validation[0].rows.places


def test_the_seed_and_the_text_decide_which(tmp_path, tokenizer):
    first, again = tmp_path / "first", tmp_path / "again"
    first.mkdir(), again.mkdir()
    drawn = [
        learned(prepared(folder, tokenizer, "data", prompt_loss=0.5), "train") for folder in (first, again)
    ]
    assert drawn[0] == drawn[1]


def test_where_it_does_nothing_it_is_refused(tmp_path, tokenizer):
    with pytest.raises(ConfigError, match=r"prompt_loss=0.1: running text has no prompts; leave it out"):
        build(DataConfig, {"text": "a", "prompt_loss": 0.1})
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"a {number}\tb\n" for number in range(40)), encoding="utf-8")
    config = build(DataConfig, {"pairs": str(path), "format": "tsv", "prompt_loss": 0.1})
    with pytest.raises(ConfigError, match="prompt_loss is for a decoder, which predicts prompts"):
        prepare_data(config, tokenizer, tmp_path / "data", 64, 0, start_id=0)
