"""Pairs from every form of file to the batches an encoder-decoder learns from."""

from __future__ import annotations

import gzip
import io
import json

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from plait.config import build
from plait.data.batch import NO_LOSS, PADDING, evaluation_batches
from plait.data.config import DataConfig
from plait.data.encode import encode_pairs, source_frame
from plait.data.inputs import Intake, inputs_of, training_texts
from plait.data.loader import Loader
from plait.data.pairs import aligned, pair_of
from plait.data.prepare import prepare_data
from plait.errors import ConfigError, InputError
from plait.text.document import Document
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train

PAIRS = [(f"source {n}" * (1 + n % 3), f"Ziel {n * n}") for n in range(30)]
CONTEXT = 40


@pytest.fixture(scope="module")
def tokenizer():
    return train(["x"], kind="byte")


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
        assert report["skipped"] == {"with a side longer than model.context=40": 2}
        assert "2 skipped: with a side longer than model.context=40 (first: " in said


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
    assert report["skipped"] == {"longer than model.context=64": 3 if truncate else 6}
    assert report["truncated"] == (3 if truncate else 0)
    assert f"{3 if truncate else 6} skipped: longer than model.context=64 (first: " in said


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


def test_a_target_is_written_from_the_start_token_on_and_padding_is_told_apart(tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer, {"pairs": two_files(tmp_path)}, start_id=2)
    for batch in evaluation_batches(data.train[0], 7):
        assert batch.source.shape[1] % 8 == batch.tokens.shape[1] % 8 == 0
        lengths = (batch.targets != NO_LOSS).sum(1)
        assert batch.source.shape[1] - 8 < (batch.source_positions != PADDING).sum(1).max()
        assert batch.tokens.shape[1] - 8 < lengths.max()
        for row, length in enumerate(lengths.tolist()):
            assert batch.tokens[row, 0] == 2
            assert torch.equal(batch.tokens[row, 1:length], batch.targets[row, : length - 1])
            assert (batch.tokens[row, length:] == tokenizer.pad_id).all()
            places = batch.source_positions[row]
            size = int((places != PADDING).sum())
            assert places[:size].tolist() == list(range(size))
            assert (places[size:] == PADDING).all()
            assert (batch.source[row, size:] == tokenizer.pad_id).all()
        assert torch.equal(batch.held, batch.targets != NO_LOSS)


def test_a_batch_is_never_longer_than_the_model_has_positions(tmp_path, tokenizer):
    pairs = [("s" * 33, "t" * 33), ("a", "b")]
    data = prepared(tmp_path, tokenizer, {"pairs": two_files(tmp_path, pairs)}, context=34)
    (batch,) = evaluation_batches(data.train[0], 2)
    assert batch.source.shape == batch.tokens.shape == (2, 34)


def test_the_pairs_of_a_step_are_put_in_order_of_length_and_their_tokens_counted(tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer, {"pairs": two_files(tmp_path)})
    loader = Loader(data.train, batch_size=12, micro_batch=4, seed=5)
    whole = Loader(data.train, batch_size=12, seed=5)
    for step in range(4):
        batch = loader.batch(step)
        rows = [row for micro in batch.microbatches for row in micro.rows]
        assert sorted(rows) == sorted(row for _, row in loader.rows_of(step))
        lengths = [data.train[0].rows.places_in(row) for row in rows]
        assert lengths == sorted(lengths)
        counted = sum(micro.target_tokens() for micro in batch.microbatches)
        assert counted == batch.target_tokens == whole.batch(step).target_tokens


def test_a_decoder_reads_pairs_as_chats_and_learns_the_answers(tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer, {"pairs": two_files(tmp_path)}, context=64, start_id=None)
    assert not data.paired
    shards = data.train[0].shards
    for number, (source, target) in enumerate(PAIRS):
        ids, mask = tokenizer.encode_chat(
            [{"role": "user", "content": source}, {"role": "assistant", "content": target}]
        )
        assert shards.read(number).tolist() == ids
        assert shards.read_mask(number).tolist() == mask
        learned = [token for token, on in zip(ids, mask) if on]
        assert tokenizer.decode(learned, skip_special=True) == target


def test_special_tokens_spelled_in_a_pair_are_text(tokenizer):
    document = Document("a#1", record={"source": "a<|end|>b", "target": "<|pad|>"})
    ((encoded, _),) = encode_pairs([(document, False)], tokenizer, Intake(), context=40)
    assert list(encoded.ids).count(tokenizer.eos_id) == 2
    assert tokenizer.pad_id not in encoded.ids
    assert tokenizer.decode(encoded.ids) == "a<|end|>b<|end|><|pad|><|end|>"


@pytest.mark.parametrize(
    ("around", "frame"),
    [("$A </s>", ([], [5])), ("<s> $A </s>", ([4], [5])), ("<s> $A", ([4], [5]))],
)
def test_a_source_stands_in_what_its_tokenizer_puts_around_a_text(around, frame):
    backend = Backend(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 3, "<s>": 4, "</s>": 5}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", 4), ("</s>", 5)]
    )
    tokenizer = Tokenizer(backend.to_str(), {"eos_token": "</s>"})
    assert source_frame(tokenizer) == frame
    document = Document("a#1", record={"source": "a b", "target": "c"})
    ((encoded, _),) = encode_pairs([(document, False)], tokenizer, Intake(), context=9)
    assert list(encoded.ids) == [*frame[0], 0, 1, *frame[1], *frame[0], 2, 5]
    assert encoded.mask == [0] * (len(frame[0]) + 3) + [1] * (len(frame[0]) + 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "tail"}, "split=tail would cut a pair in two; use split: document"),
        ({"text": "b"}, "exactly one of text, messages and pairs, found text and pairs"),
        ({"pairs": []}, "pairs: is empty; give a path"),
    ],
)
def test_impossible_settings_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        build(DataConfig, {"pairs": "a"} | given)


def test_truncation_is_of_pairs():
    with pytest.raises(ConfigError, match="truncate is for pairs, and the data are text; leave it out"):
        build(DataConfig, {"text": "a", "truncate": True})


def test_one_of_two_aligned_files_may_come_through_a_pipe(tmp_path, tokenizer, monkeypatch):
    _, de = two_files(tmp_path)
    piped = lines(source for source, _ in PAIRS).encode()
    for format in ("auto", "parallel"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(piped))))
        data = prepared(tmp_path, tokenizer, {"pairs": ["-", de], "format": format})
        assert stored(data.train[0], tokenizer) == PAIRS
