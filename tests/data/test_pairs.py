"""Pairs from every form of file, as they are read, skipped, cut and divided."""

from __future__ import annotations

import gzip
import io
import json

import pytest

from plait.config import build
from plait.data.batch import NO_LOSS, PADDING, evaluation_batches
from plait.data.config import DataConfig
from plait.data.inputs import Intake, inputs_of, training_texts
from plait.data.pairs import aligned, pair_of
from plait.data.prepare import prepare_data
from plait.errors import ConfigError, InputError
from plait.text.document import Document

PAIRS = [(f"source {n}" * (1 + n % 3), f"Ziel {n * n}") for n in range(30)]
CONTEXT = 40


def write(path, text):
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def lines(rows):
    return "".join(f"{row}\n" for row in rows)


def json_lines(rows):
    return lines(json.dumps(row, ensure_ascii=False) for row in rows)


def two_files(folder, pairs=PAIRS, suffix=""):
    names = [f"{folder.name}.{side}{suffix}" for side in ("en", "de")]
    return [write(folder / name, lines(side)) for name, side in zip(names, zip(*pairs))]


def form(name, folder):
    """A `data:` block over PAIRS in one form of file."""
    if name == "two files":
        return {"pairs": two_files(folder)}
    if name == "two zipped files":
        return {"pairs": two_files(folder, suffix=".gz")}
    if name == "tsv":
        return {"pairs": write(folder / "a.tsv", lines("\t".join(pair) for pair in PAIRS)), "format": "tsv"}
    if name == "tsv with more columns":
        rows = lines("\t".join([*pair, "by whom"]) for pair in PAIRS)
        return {"pairs": write(folder / "a.txt", rows), "format": "tsv"}
    if name == "csv":
        rows = ["English,German,note", *(f'"{en}",{de},"a, b"' for en, de in PAIRS)]
        return {
            "pairs": write(folder / "a.csv", lines(rows)),
            "fields": {"source": "English", "target": "German"},
        }
    if name == "jsonl":
        rows = json_lines({"en": en, "de": de} for en, de in PAIRS)
        return {"pairs": write(folder / "a.jsonl.gz", rows), "fields": {"source": "en", "target": "de"}}
    if name == "two record files":
        halves = [[{"source": en, "target": de} for en, de in PAIRS[at::2]] for at in (0, 1)]
        names = ("one.jsonl", "two.jsonl")
        return {"pairs": [write(folder / name, json_lines(half)) for name, half in zip(names, halves)]}
    if name == "two folders":
        for at, part in enumerate(("one", "two")):
            (folder / part).mkdir()
            rows = [{"source": en, "target": de} for en, de in PAIRS[at::2]]
            write(folder / part / "a.jsonl", json_lines(rows))
        return {"pairs": [str(folder / "one"), str(folder / "two")]}
    if name == "instructions":
        rows = [{"instruction": en, "input": "", "output": de} for en, de in PAIRS]
        return {"pairs": write(folder / "a.jsonl", json_lines(rows))}
    assert name == "questions"
    rows = [{"question": en, "answers": [de, "another"]} for en, de in PAIRS]
    return {"pairs": write(folder / "a.jsonl", json_lines(rows))}


FORMS = (
    "two files", "two zipped files", "tsv", "tsv with more columns", "csv", "jsonl", "two record files",
    "two folders", "instructions", "questions",
)  # fmt: skip


def prepared(folder, tokenizer, given, *, context=CONTEXT, start_id=1):
    config = build(DataConfig, {"validation": 0.0} | given)
    return prepare_data(config, tokenizer, folder / "run", context, 3, start_id=start_id)


def stored(source, tokenizer):
    """The pairs of a source's rows, taken from its batches."""
    found = []
    for batch in evaluation_batches(source, 7):
        for row in range(len(batch.rows)):
            read = batch.source[row]
            if batch.source_positions is not None:
                read = read[batch.source_positions[row] != PADDING]
            written = batch.targets[row][batch.targets[row] != NO_LOSS]
            assert read[-1] == written[-1] == tokenizer.eos_id
            found.append((tokenizer.decode(read[:-1].tolist()), tokenizer.decode(written[:-1].tolist())))
    return found


@pytest.mark.parametrize("name", FORMS)
def test_pairs_are_read_from(name, tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer, form(name, tmp_path))
    assert sorted(stored(data.train[0], tokenizer)) == sorted(PAIRS)
    assert data.paired
    assert data.report["sources"]["pairs"]["skipped"] == {}


def test_a_question_stands_below_its_context_and_an_instruction_above_its_input():
    question = {"context": "Ann is here.", "question": "Who?", "answers": ["Ann"]}
    assert pair_of(Document("a", record=question)) == ("Ann is here.\nWho?", "Ann")
    task = {"instruction": "Add.", "input": "1 1", "output": "2"}
    assert pair_of(Document("a", record=task)) == ("Add.\n1 1", "2")
    assert pair_of(Document("a", record={"prompt": "p", "output": "o"})) == ("p", "o")
    assert pair_of(Document("a", record={"question": "Who?", "answers": []})) is None
    # a pair that is named is the pair, whatever stands beside it
    named = {"instruction": "translate", "question": "Who?", "source": "Ann is here.", "target": "yes"}
    assert pair_of(Document("a", record=named)) == ("Ann is here.", "yes")
    assert pair_of(Document("a", record={"question": "Who?", "context": "c", "target": "Ann"})) == (
        "c\nWho?",
        "Ann",
    )
    beside = {"question": "Who?", "answers": ["Ann"], "source": "a wiki"}
    assert pair_of(Document("a", record=beside)) == ("Who?", "Ann")


def test_a_label_may_be_a_number(tmp_path, tokenizer):
    rows = json_lines({"text": "good" if n % 2 else "bad", "label": n % 2} for n in range(30))
    given = {"pairs": write(tmp_path / "a.jsonl", rows), "fields": {"source": "text", "target": "label"}}
    data = prepared(tmp_path, tokenizer, given)
    assert set(stored(data.train[0], tokenizer)) == {("good", "1"), ("bad", "0")}
    assert data.labels == ["0", "1"]
    assert pair_of(Document("a", "running text")) is None


def test_two_plain_files_are_aligned_and_nothing_else_is(tmp_path):
    (tmp_path / "folder").mkdir()
    folder = str(tmp_path / "folder")
    assert aligned(["a.en", "a.de"])
    assert aligned(["a.json.en.gz", "a.de.gz"])
    for names in (["a.en"], ["a.en", "a.de", "a.fr"], ["a.tsv", "b.de"], ["a.jsonl.gz", "b.csv"],
                  [folder, "a.de"], ["hf://a/b", "hf://c/d"], ["*.en", "a.de"]):  # fmt: skip
        assert not aligned(names)


def test_files_of_unequal_length_are_refused_by_name(tmp_path, tokenizer):
    en, _ = two_files(tmp_path)
    write(tmp_path / "short.de", lines(["eins", "zwei"]))
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, tokenizer, {"pairs": [en, str(tmp_path / "short.de")]})
    assert str(caught.value) == (
        f"{en} has 30 lines and {tmp_path / 'short.de'} 2; aligned files need the same number"
    )


def test_a_wrong_column_is_refused_with_those_found(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", json_lines([{"en": "a", "de": "b"}]))
    given = {"pairs": path, "fields": {"source": "en", "target": "ger"}}
    with pytest.raises(InputError, match=r"a.jsonl:1 has no column 'ger'.*found: en, de"):
        prepared(tmp_path, tokenizer, given)
    with pytest.raises(InputError, match=r"none of the fields plait reads .*found: en, de; name yours with"):
        prepared(tmp_path, tokenizer, {"pairs": path})


def test_columns_that_are_named_come_before_a_question_and_its_answers():
    record = {"context": "Paris is big.", "question": "What?", "answers": ["Paris"]}
    assert pair_of(Document("a", "", record)) == ("Paris is big.\nWhat?", "Paris")
    named = record | {"source": "Paris is big.", "target": "A city"}
    assert pair_of(Document("a", "", named)) == ("Paris is big.", "A city")


def test_what_is_no_pair_is_skipped_counted_and_said(tmp_path, tokenizer, capsys):
    rows = [
        "good\tgut\twho", "\tleer\twho", "empty\t \twho", "fine\tfein\twho", "no target\t\twho",
    ]  # fmt: skip
    path = write(tmp_path / "a.tsv", lines(rows))
    data = prepared(tmp_path, tokenizer, {"pairs": path, "format": "tsv"})
    assert data.report["sources"]["pairs"]["skipped"] == {"pair with an empty side": 3}
    assert stored(data.train[0], tokenizer) == [("good", "gut"), ("fine", "fein")]
    assert f"pairs: 3 skipped: pair with an empty side (first: {path}#2)" in capsys.readouterr().err
    en, de = two_files(tmp_path, [("a", "b"), (" ", "c"), ("d", "e")])
    read = list(inputs_of(build(DataConfig, {"pairs": [en, de]}))[0].read(intake := Intake()))
    assert [document.id for document in read] == [f"{en}#1", f"{en}#3"]
    assert intake.skipped == {"pair with an empty side": 1}
    nothing = write(tmp_path / "text.jsonl", json_lines([{"text": "one"}, {"messages": None, "text": "two"}]))
    with pytest.raises(
        InputError, match=r"nothing to learn from; skipped: 2 without a source and a target, "
    ):
        prepared(tmp_path, tokenizer, {"pairs": nothing})


@pytest.mark.parametrize("truncate", [False, True])
def test_pairs_longer_than_the_context_are_skipped_or_cut(tmp_path, tokenizer, truncate, capsys):
    pairs = [("fits", "f" * 39), ("s" * 40, "x"), ("a", "t" * 40), ("s" * 39, "y")]
    given = {"pairs": two_files(tmp_path, pairs), "truncate": truncate}
    data = prepared(tmp_path, tokenizer, given)
    report, said = data.report["sources"]["pairs"], capsys.readouterr().err
    if truncate:
        cut = [(source[:39], target[:39]) for source, target in pairs]
        assert stored(data.train[0], tokenizer) == cut
        assert report["truncated"] == 2
        assert "pairs: 2 cut to the model's context, as data.truncate asks" in said
        assert report["bytes"] == sum(len(target) for _, target in cut)
    else:
        assert stored(data.train[0], tokenizer) == [pairs[0], pairs[3]]
        assert report["skipped"] == {
            "with a side longer than model.context=40, which data.truncate=true cuts": 2
        }
        assert (
            "2 skipped: with a side longer than model.context=40, which data.truncate=true cuts (first: "
            in said
        )


@pytest.mark.parametrize("truncate", [False, True])
def test_a_decoders_pairs_are_never_torn(tmp_path, tokenizer, truncate, capsys):
    ends = len(
        tokenizer.encode_chat([{"role": "user", "content": ""}, {"role": "assistant", "content": ""}])[0]
    )
    room = 64 - ends + 1  # the last token is predicted only
    pairs = [
        ("s" * (room - 3), "fit"),
        ("汉" * room, "cut"),
        ("s", "t" * (room + 1)),
        ("many" * 9, "more"),
    ] * 3
    given = {"pairs": two_files(tmp_path, pairs), "truncate": truncate}
    data = prepared(tmp_path, tokenizer, given, context=64, start_id=None)
    report, said = data.report["sources"]["pairs"], capsys.readouterr().err
    shards = data.train[0].shards
    texts = [
        tokenizer.decode(shards.read(number).tolist(), skip_special=True)
        for number in range(shards.documents)
    ]
    short = ["s" * (room - 3) + "fit", "many" * 9 + "more"]
    assert set(texts) == {*short, "汉" * ((room - 3) // 3) + "cut"} if truncate else {*short}
    assert max(len(shards.read(number)) for number in range(shards.documents)) == 64 + 1
    skipped = {"longer than model.context=64": 3}
    assert report["skipped"] == skipped | (
        {} if truncate else {"longer than model.context=64, which data.truncate=true cuts": 3}
    )
    assert report["truncated"] == (3 if truncate else 0)
    assert "3 skipped: longer than model.context=64 (first: " in said


@pytest.mark.parametrize("start_id", [1, None], ids=["encoder-decoder", "decoder"])
def test_of_a_question_the_context_is_cut(tmp_path, tokenizer, start_id):
    rows = [{"context": "Ann is here. " * 9, "question": "Who?", "answers": ["Ann"]}] * 2
    rows += [{"context": "Ben.", "question": "Is anyone here? " * 9, "answers": ["no"]}]
    given = {"pairs": write(tmp_path / "a.jsonl", json_lines(rows)), "truncate": True}
    data = prepared(tmp_path, tokenizer, given, start_id=start_id)
    shards = data.train[0].shards
    first = tokenizer.decode(shards.read(0).tolist(), skip_special=True).replace("\n", "|")
    assert first.startswith("Ann is here. Ann is")
    assert first.endswith("|Who?Ann")
    assert len(first) >= CONTEXT - 6
    assert shards.documents == (3 if start_id else 2)  # a decoder's row has no room for the third's question


def test_conversations_longer_than_a_row_are_told(tmp_path, tokenizer, capsys):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * 99}]
    short = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": talk}, *({"messages": short} for _ in range(30))]
    given = {"messages": write(tmp_path / "a.jsonl", json_lines(rows)), "validation": 0}
    prepared(tmp_path, tokenizer, given, context=64, start_id=None)
    assert (
        "messages: 1 conversations longer than model.context are learned in pieces" in capsys.readouterr().err
    )


def test_pairs_that_are_all_too_long_are_refused(tmp_path, tokenizer):
    given = {"pairs": two_files(tmp_path, [("s" * 50, "t"), ("s", "t" * 50)])}
    with pytest.raises(InputError, match="holds nothing to learn from; skipped: 2 with a side longer than"):
        prepared(tmp_path, tokenizer, given)
    config = build(
        DataConfig, {"pairs": two_files(tmp_path, [("s" * 50, "t"), ("s", "t")]), "validation": 0.5}
    )
    messages = []
    for seed in range(8):  # either pair may be the one that is held out
        try:
            prepare_data(config, tokenizer, tmp_path / str(seed), CONTEXT, seed, start_id=1)
        except ConfigError as error:
            messages.append(str(error))
    assert set(messages) == {
        "every pair of 'pairs' to train on is longer than model.context=40; raise it or set "
        "data.truncate=true"
    }


def test_validation_is_a_share_a_path_or_two_aligned_files(tmp_path, tokenizer):
    given = {"pairs": two_files(tmp_path), "validation": 0.2}
    data = prepared(tmp_path, tokenizer, given)
    train, held = (stored(split[0], tokenizer) for split in (data.train, data.validation))
    assert (len(train), len(held)) == (24, 6)
    assert sorted(train + held) == sorted(PAIRS)
    assert data.report["sources"]["pairs"]["split"] == "document"
    texts = list(training_texts(build(DataConfig, given), 3))
    assert texts == [side for pair in train for side in pair]

    (tmp_path / "held").mkdir()
    outside = two_files(tmp_path / "held", [("one", "eins"), ("two", "zwei")])
    data = prepared(tmp_path, tokenizer, given | {"validation": outside})
    assert len(stored(data.train[0], tokenizer)) == 30
    assert stored(data.validation[0], tokenizer) == [("one", "eins"), ("two", "zwei")]
    records = write(tmp_path / "held.jsonl", json_lines([{"source": "three", "target": "drei"}]))
    data = prepared(tmp_path, tokenizer, given | {"validation": records})
    assert stored(data.validation[0], tokenizer) == [("three", "drei")]


def test_a_pair_that_occurs_twice_lies_on_one_side(tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer, {"pairs": two_files(tmp_path, PAIRS * 2), "validation": 0.2})
    train, held = (set(stored(split[0], tokenizer)) for split in (data.train, data.validation))
    assert not train & held
    assert train | held == set(PAIRS)


def test_one_of_two_aligned_files_may_come_through_a_pipe(tmp_path, tokenizer, monkeypatch):
    _, de = two_files(tmp_path)
    piped = lines(source for source, _ in PAIRS).encode()
    for format in ("auto", "parallel"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(piped))))
        data = prepared(tmp_path, tokenizer, {"pairs": ["-", de], "format": format})
        assert stored(data.train[0], tokenizer) == PAIRS
