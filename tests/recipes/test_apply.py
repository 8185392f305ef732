"""`plait translate` and its like: a text, a file line by line, records, a pipe, and what they refuse."""

from __future__ import annotations

import io
import json
import math
import re
import shutil

import pytest

from plait.cli import main
from plait.errors import ConfigError, InputError, ModelError, PromptError
from plait.infer.engine import Engine
from plait.infer.params import BeamParams
from plait.infer.search import search, text_of
from plait.recipes.apply import apply_task
from plait.tasks import task as tasks

LINES = ["one", "two words", "", "床前明月光", "  ", "the last", ""]
SHORT = {"max_tokens": 6, "beams": 3}


def expected(model, texts, **decoding) -> list[str]:
    """The best targets, each alone; an empty text has an empty one."""
    engine, params = Engine(model), BeamParams(**SHORT | decoding)
    found = []
    for text in texts:
        (best,) = search(engine, [engine.encode(text)], params) if text.strip() else ([],)
        found.append(" ".join(text_of(engine, best[0]).splitlines()) if best else "")
    return found


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many prompts are answered at a time."""
    counts: list[int] = []
    answer = tasks.answer

    def counted(engine, prompts, *args, **options):
        counts.append(len(prompts))
        return answer(engine, prompts, *args, **options)

    monkeypatch.setattr(tasks, "answer", counted)
    return counts


def translate(model, *args, **options) -> None:
    apply_task("translate", model, *args, decoding=SHORT | options.pop("decoding", {}), **options)


def test_a_text_is_answered_on_standard_output(tiny_pairs, capsys):
    translate(tiny_pairs, "two words")
    engine = Engine(tiny_pairs)
    (best,) = search(engine, [engine.encode("two words")], BeamParams(**SHORT, n=2))
    assert capsys.readouterr().out == text_of(engine, best[0]) + "\n"
    translate(tiny_pairs, "two words", decoding={"n": 2})
    out = capsys.readouterr().out
    assert f"{best[0].score:.4f}\t" in out
    assert f"{best[1].score:.4f}\t" in out


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_line_n_of_the_output_answers_line_n_of_the_input(tiny_pairs, lines, tmp_path, batch, capsys):
    out = tmp_path / "new" / "out.txt"
    translate(tiny_pairs, input=lines, output=out, batch=batch)
    assert out.read_text(encoding="utf-8").split("\n") == [*expected(tiny_pairs, LINES), ""]
    assert [path.name for path in out.parent.iterdir()] == ["out.txt"]
    capsys.readouterr()
    translate(tiny_pairs, input=lines, batch=batch)
    assert capsys.readouterr().out == out.read_text(encoding="utf-8")


def test_a_pipe_is_answered_line_by_line(tiny_pairs, monkeypatch, capsys):
    given = "".join(f"{line}\r\n" for line in LINES).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8", newline=""))
    translate(tiny_pairs)
    assert capsys.readouterr().out.split("\n") == [*expected(tiny_pairs, LINES), ""]
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\n" + b"x" * 60 + b"\n"), encoding="utf-8")
    )
    with pytest.raises(PromptError, match=r"standard input#2: source \(61 tokens\) is more than the model's"):
        translate(tiny_pairs)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    with pytest.raises(InputError, match="standard input is not UTF-8"):
        translate(tiny_pairs)


def test_standard_input_as_a_file_is_answered_in_batches(tiny_pairs, monkeypatch, capsys, asked):
    given = io.BufferedReader(io.BytesIO("".join(f"{line}\n" for line in LINES).encode()))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(given))
    translate(tiny_pairs, input="-")
    assert capsys.readouterr().out.split("\n") == [*expected(tiny_pairs, LINES), ""]
    assert asked == [4]


def test_a_killed_run_goes_on_where_it_was_and_a_finished_file_is_left_alone(
    tiny_pairs, lines, tmp_path, asked, monkeypatch
):
    out, partial = tmp_path / "out.txt", tmp_path / "out.txt.partial.jsonl"
    many = tmp_path / "many.txt"
    many.write_text("".join(f"line {n % 5}\n" if n % 4 else "\n" for n in range(20)), encoding="utf-8")
    counted = tasks.answer
    with monkeypatch.context() as patch:

        def killed(*args, **options):
            if len(asked) == 2:
                raise KeyboardInterrupt
            return counted(*args, **options)

        patch.setattr(tasks, "answer", killed)
        with pytest.raises(KeyboardInterrupt):
            translate(tiny_pairs, input=many, output=out, batch=1)
    rows = [json.loads(line) for line in partial.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 16
    assert rows[0]["skipped"] == "the text is empty"
    assert not out.exists()
    asked.clear()
    translate(tiny_pairs, input=many, output=out, batch=1)
    assert asked == [3]  # of the four last lines one is empty
    texts = many.read_text(encoding="utf-8").split("\n")[:-1]
    assert out.read_text(encoding="utf-8").split("\n")[:-1] == expected(tiny_pairs, texts)
    assert not partial.exists()
    with pytest.raises(InputError, match=r"out.txt is there already; name another --output, or remove it"):
        translate(tiny_pairs, input=many, output=out)


def test_records_become_records_with_scores(tiny_pairs, tmp_path, capsys):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given = [
        {"source": "one", "target": "eins", "id": "mine", "weight": math.nan},
        {"text": "two words"},
        {"instruction": "do"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    translate(tiny_pairs, input=path, output=out, decoding={"n": 2})
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["choice"] for row in rows] == [0, 1] * 3
    best = [" ".join(row["completion"].splitlines()) for row in rows[::2]]
    assert best == expected(tiny_pairs, ["one", "two words", "do"], n=2)
    assert rows[0]["target"] == "eins"
    assert (rows[0]["id"], rows[2]["id"]) == ("mine", f"{path}#2")
    assert rows[0]["score"] >= rows[1]["score"]
    made_with = r"model:tiny-pairs@[0-9a-f]{8}\|dtype:float32\|beams:3\|max_tokens:6\|n:2"
    assert re.fullmatch(made_with, rows[0]["made_with"])
    before = out.read_bytes()
    translate(tiny_pairs, input=path, output=out, decoding={"n": 2})  # all of it is there
    assert out.read_bytes() == before
    with pytest.raises(InputError, match=r"in\.jsonl holds the texts themselves; name another --output"):
        translate(tiny_pairs, input=path, output=path)
    with pytest.raises(InputError, match=r"is a directory; name one file of texts, whose line n"):
        translate(tiny_pairs, input=tmp_path, output=tmp_path / "other.jsonl")
    path.write_text('{"source": ""}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"in\.jsonl holds no document; skipped: 1 × empty text"):
        translate(tiny_pairs, input=path, output=tmp_path / "other.jsonl")
    table, lines = tmp_path / "in.csv", tmp_path / "lines.txt"
    table.write_text('source\none\n""\n" "\ntwo words\n""\n', encoding="utf-8")
    translate(tiny_pairs, input=table, output=lines)
    one, two = expected(tiny_pairs, ["one", "two words"])
    assert lines.read_text(encoding="utf-8").split("\n") == [one, "", "", two, "", ""]
    path.write_text('{"source": "one"}\n\n{"source": "two words"}\n', encoding="utf-8")
    translate(tiny_pairs, input=path, output=tmp_path / "blank.txt")
    assert (tmp_path / "blank.txt").read_text(encoding="utf-8").split("\n") == [one, "", two, ""]
    said = capsys.readouterr().err
    assert "empty texts, which are answered emptily: 3 (first: " in said
    assert "empty texts, which are answered emptily: 1 (first: " in said


def test_fewer_answers_than_asked_for_leave_no_gap(tiny_pairs, tmp_path, monkeypatch):
    path, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    path.write_text("a\nb\n", encoding="utf-8")
    found = tasks.answer
    monkeypatch.setattr(
        tasks, "answer", lambda *args, **options: [one[:1] for one in found(*args, **options)]
    )
    translate(tiny_pairs, input=path, output=out, decoding={"n": 2})
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert ["completion" in row for row in rows] == [True, False] * 2
    assert rows[1]["skipped"] == "the decoding's rules leave no more answers"


def test_mistakes_are_one_line_and_found_before_any_work(
    tiny_pairs, tiny_model, lines, tmp_path, monkeypatch
):
    monkeypatch.setattr(Engine, "prefill", lambda *_: pytest.fail("no work before all lines are checked"))
    long = tmp_path / "long.txt"
    long.write_text("good\n\n" + "x" * 48 + "\n", encoding="utf-8")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n", encoding="utf-8")

    def refused(error, message, *args, model=tiny_pairs, **options) -> None:
        with pytest.raises(error, match=message):
            translate(model, *args, **options)
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.partial.jsonl").exists()

    out = tmp_path / "out"
    refused(PromptError, r"long.txt#3: source \(49 tokens\) is more than the model's context of 48",
            input=long, output=out)  # fmt: skip
    refused(InputError, "empty.txt is empty; give a file with text in it", input=empty, output=out)
    for name, kind in (("out.csv", "csv"), ("out.txt.gz", "gz"), ("out.JSONL", "jsonl")):
        refused(InputError, f"written as .jsonl or as plain lines, not as .{kind}",
                input=lines, output=tmp_path / name)  # fmt: skip
    refused(InputError, "'nowhere.txt' does not exist", input="nowhere.txt", output=out)
    refused(InputError, "give either a text or --input FILE", "a", input=lines)
    refused(InputError, "--output keeps the answers to --input FILE", "a", output=out)
    refused(ConfigError, "batch=0 must be at least 1", "a", batch=0)
    refused(ConfigError, "decoding: n=4 is more than beams=3", "a", decoding={"n": 4})
    refused(ConfigError, "2 answers do not fit into one line; name an --output in .jsonl",
            input=lines, output=out, decoding={"n": 2})  # fmt: skip


def test_a_decoder_of_text_is_of_the_wrong_kind(tiny_model, tmp_path, lines):
    model = tmp_path / "text"
    shutil.copytree(tiny_model, model)
    (model / "generation_config.json").write_text('{"trained_on": "text"}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"text is a decoder that continues text; `translate` needs a model"):
        translate(model, "one")
    with pytest.raises(ModelError, match="is a decoder that continues text"):
        translate(model, input=lines)


def test_a_decoder_that_learned_pairs_is_asked_in_a_conversation(tiny_model, lines, tmp_path, capsys):
    translate(tiny_model, "two", decoding={"beams": 1})
    engine = Engine(tiny_model)
    prompt, _ = engine.tokenizer.encode_chat([{"role": "user", "content": "two"}], add_generation_prompt=True)
    (best,) = search(engine, [prompt], BeamParams(beams=1, max_tokens=6))
    assert capsys.readouterr().out == text_of(engine, best[0]) + "\n"


def test_columns_of_a_table_are_named(tiny_pairs, tmp_path):
    table, out = tmp_path / "in.csv", tmp_path / "out.txt"
    table.write_text("number,body\n1,one\n2,two words\n", encoding="utf-8")
    translate(tiny_pairs, input=table, output=out, fields={"source": "body"})
    assert out.read_text(encoding="utf-8").splitlines() == expected(tiny_pairs, ["one", "two words"])
    with pytest.raises(InputError, match="has no column 'mail'; found: number, body"):
        translate(tiny_pairs, input=table, fields={"source": "mail"})
    with pytest.raises(InputError, match="--field names columns of --input FILE; name that file too"):
        translate(tiny_pairs, "one", fields={"source": "body"})
    plain = tmp_path / "in.txt"
    plain.write_text("one\n", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"in.txt holds plain lines, which have no columns; leave --field out"
    ):
        translate(tiny_pairs, input=plain, fields={"source": "body"})


@pytest.mark.parametrize("verb", ["translate", "summarize", "classify", "answer"])
def test_columns_are_named_on_the_command_line(verb, tiny_pairs, tmp_path):
    table, out = tmp_path / "in.tsv", tmp_path / "out.jsonl"
    table.write_text("number\tbody\n1\tone\n", encoding="utf-8")
    name = "question" if verb == "answer" else "source"
    words = [verb, str(tiny_pairs), "--input", str(table), "--field", f"{name}=body", "--output", str(out)]
    words += ["--labels", "a", "b"] if verb == "classify" else ["--max-tokens", "4", "--beams", "1"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert not end.value.code
    assert json.loads(out.read_text(encoding="utf-8"))[name] == "one"
