import io
import json
import sys

import pytest

from plait.config import build
from plait.data import inputs
from plait.data.config import DataConfig
from plait.data.inputs import Input, Intake, standard_input_kept, training_texts
from plait.data.prepare import prepare_data
from plait.errors import InputError
from plait.text.document import Document
from plait.text.train_tokenizer import train


@pytest.fixture(scope="module")
def tokenizer():
    return train(["x"], kind="byte")


def lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def stored(sources, tokenizer):
    """The texts that the rows of these sources are made of."""
    found = []
    for source in sources:
        numbers = {int(n) for row in range(source.rows.count) for n in source.rows.pieces(row)[:, 0]}
        found += [tokenizer.decode(source.shards.read(n).tolist(), skip_special=True) for n in numbers]
    return sorted(found)


def check_same_split(given, tokenizer, out, seed=3):
    """What a tokenizer learns from is the stored training set, all of it and nothing else."""
    config = build(DataConfig, given)
    data = prepare_data(config, tokenizer, out, 8, seed)
    seen, held = sorted(training_texts(config, seed)), stored(data.validation, tokenizer)
    assert seen == stored(data.train, tokenizer)
    assert not set(seen) & set(held)
    return seen, held


def test_a_tokenizer_never_sees_held_out_documents(tmp_path, tokenizer):
    rows = [{"text": f"document {n} 第{n}首"} for n in range(40)] + [{"text": " "}, {"question": "not text"}]
    path = lines(tmp_path / "a.jsonl", rows)
    seen, held = check_same_split({"text": path, "validation": 0.2}, tokenizer, tmp_path / "run")
    assert (len(seen), len(held)) == (32, 8)
    other, _ = check_same_split({"text": path, "validation": 0.2}, tokenizer, tmp_path / "other", seed=4)
    assert other != seen


def test_a_tokenizer_never_sees_the_held_out_tail(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("seen " * 90 + "held " * 10, encoding="utf-8")
    given = {"text": str(tmp_path / "a.txt")}
    assert check_same_split(given, tokenizer, tmp_path / "run") == (["seen " * 90], ["held " * 10])
    learned = train(training_texts(build(DataConfig, given), 3), kind="char")
    assert (learned.token_id("s"), learned.token_id("诗")) == (learned.encode("s")[0], None)
    assert learned.decode(learned.encode("诗")) == "诗"  # bytes spell what was never seen


def test_a_mixture_is_split_source_by_source_and_a_validation_path_is_not_read(tmp_path, tokenizer):
    mixture = {
        name: {"path": lines(tmp_path / f"{name}.jsonl", [{"text": f"{name} {n} text"} for n in range(20)])}
        for name in ("en", "zh")
    }
    seen, held = check_same_split({"text": mixture, "validation": 0.1}, tokenizer, tmp_path / "run")
    assert (len(seen), len(held)) == (36, 4)
    (tmp_path / "held.txt").write_text("held out", encoding="utf-8")
    given = {"text": mixture, "validation": str(tmp_path / "held.txt")}
    seen, held = check_same_split(given, tokenizer, tmp_path / "two")
    assert (len(seen), held) == (40, ["held out"])


def test_of_conversations_the_contents_are_learned_from(tmp_path):
    def talk(n):
        return [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n}!"}]

    silent = [{"role": "user", "content": "Anyone there?"}]
    rows = [{"messages": messages} for messages in [*map(talk, range(20)), silent]]
    config = build(DataConfig, {"messages": lines(tmp_path / "a.jsonl", rows), "validation": 0.25})
    seen = set(training_texts(config, 1))
    assert len(seen) == 30
    assert "Anyone there?" not in seen
    assert all((f"Say {n}" in seen) == (f"{n}!" in seen) for n in range(20))


def pipe_in(monkeypatch, text):
    raw = io.BufferedReader(io.BytesIO(text.encode()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="utf-8"))


def test_standard_input_is_read_once_and_split_alike_for_all(tmp_path, tokenizer, monkeypatch):
    rows = "\n".join(json.dumps({"text": f"line {n} 诗"}) for n in range(40))
    pipe_in(monkeypatch, rows)
    config = build(DataConfig, {"text": "-"})
    with standard_input_kept(config, tmp_path) as kept:
        seen = sorted(training_texts(kept, 3))
        data = prepare_data(kept, tokenizer, tmp_path / "run", 8, 3)
    assert seen == stored(data.train, tokenizer)
    assert (len(seen), len(stored(data.validation, tokenizer))) == (36, 4)
    assert data.train[0].shards.document_ids([0]) == ["-#1"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_standard_input_may_be_the_validation_set(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "a.txt").write_text("to train on " * 9, encoding="utf-8")
    pipe_in(monkeypatch, "held out")
    config = build(DataConfig, {"text": str(tmp_path / "a.txt"), "validation": "-"})
    data = prepare_data(config, tokenizer, tmp_path / "run", 8, 3)
    assert stored(data.validation, tokenizer) == ["held out"]


def test_data_without_standard_input_stays_as_it_is(tmp_path):
    config = build(DataConfig, {"text": "a.txt"})
    with standard_input_kept(config, tmp_path) as kept:
        assert kept == config


def test_half_a_character_is_not_text(monkeypatch):
    documents = [Document("a#1", "half \ud83d a smile"), Document("a#2", "whole")]
    monkeypatch.setattr(inputs, "read", lambda *_, **__: iter(documents))
    intake = Intake()
    source = Input("text", "a", 0.0, build(DataConfig, {"text": "a"}))
    assert [document.id for document in source.read(intake)] == ["a#2"]
    assert intake.skipped == {"not valid Unicode": 1}
    documents.pop()
    with pytest.raises(InputError, match=r"a holds nothing to learn from; skipped: 1 not valid .*first: a#1"):
        list(source.read(Intake()))
