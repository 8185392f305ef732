"""Texts that are too long: refused, or read as far as they fit when asked to, in every task."""

from __future__ import annotations

import json

import pytest

import plait
from plait.data.pairs import source_in
from plait.errors import ConfigError, PromptError
from plait.infer.engine import Engine
from plait.tasks.shorten import fitting, shortened
from plait.tasks.task import source_of
from plait.text.document import Document

LONG = "床前明月光，疑是地上霜。" * 20  # 720 bytes, a token each


@pytest.fixture(params=["reader", "converses"])
def both(request, reader, model):
    return reader if request.param == "reader" else model("messages")


def test_as_much_is_kept_as_fits(capsys):
    assert [fitting(lambda end, room=room: end <= room, 9) for room in (0, 1, 8, 9, 20)] == [0, 1, 8, 9, 9]
    documents = [Document("a", "abc"), Document("b", "abcdefgh"), Document("c", "", {"source": "abcdefghi"})]

    def text(document):
        return document.record.get("source") or document.text

    found = shortened(documents, text, lambda document: 2 * len(text(document)) + 1, 12)
    assert found[0] is documents[0]
    assert [(document.id, text(document)) for document in found[1:]] == [("b", "abcde"), ("c", "abcde")]
    assert "texts cut to 12 tokens: 2 (first: b)" in capsys.readouterr().err
    (found,) = shortened([Document("d", "\n" * 99 + "a text")], source_of, lambda one: len(one.text), 4)
    assert found.text == "a te"


def test_of_a_question_the_context_is_cut(capsys):
    long = Document("q", "", {"context": "Anna is in the garden.", "question": "Where?", "answers": ["in"]})

    def text(document):
        return document.text or source_in(document)

    for room, kept in ((22, "Anna is in the \nWhere?"), (8, "A\nWhere?"), (7, "Where?"), (3, "Where?")):
        (found,) = shortened([long], text, lambda document: len(text(document)), room)
        assert text(found) == kept
    assert "texts cut to 22 tokens: 1 (first: q)" in capsys.readouterr().err


def test_of_a_conversation_the_oldest_turns_are_forgotten(capsys):
    def size(document):
        return sum(len(message["content"]) for message in document.record["messages"])

    said = [("user", "a" * 9), ("assistant", "b"), ("user", "c" * 5), ("assistant", "d"), ("user", "e" * 6)]
    talk = Document("d", "", {"messages": [{"role": role, "content": text} for role, text in said]})
    (kept,) = shortened([talk], str, size, 12)
    assert [message["content"] for message in kept.record["messages"]] == ["ccccc", "d", "eeeeee"]
    assert "texts cut to 12 tokens: 1 (first: d)" in capsys.readouterr().err
    with pytest.raises(PromptError, match="d: the message takes 6 tokens, more than the 5"):
        shortened([talk], str, size, 5)


@pytest.mark.parametrize("verb", ["translate", "summarize", "classify"])
def test_a_file_is_refused_by_line_and_read_when_asked(verb, both, works, refuses, tmp_path):
    lines, out = tmp_path / "in.txt", tmp_path / "out.txt"
    lines.write_text(f"short\n{LONG}\n", encoding="utf-8")
    more = ["--labels", "good", "bad"] if verb == "classify" else ["--max-tokens", "4"]
    words = [verb, both, "--input", lines, "--output", out, *more]
    message = refuses(*words)
    assert "in.txt#2: " in message
    assert message.endswith(", or cut what is too long with --truncate")
    assert not out.exists()
    works(*words, "--truncate")
    kept = out.read_text(encoding="utf-8").splitlines()
    assert len(kept) == 2
    # the beginning that is read says it all: the same text, longer, has the same answer
    lines.write_text(f"short\n{LONG}{LONG}\n", encoding="utf-8")
    out.unlink()
    works(*words, "--truncate")
    assert out.read_text(encoding="utf-8").splitlines() == kept


def test_an_encoder_reads_all_that_its_context_holds(reader):
    engine = Engine(reader)
    room = engine.context - len(engine.encode(""))
    text = LONG.encode()[:room].decode(errors="ignore")
    assert plait.translate(engine, [LONG], truncate=True, max_tokens=4) == plait.translate(
        engine, [text], max_tokens=4
    )
    labels = ("good", "bad")
    assert plait.classify(engine, [LONG], labels, truncate=True) == plait.classify(engine, [text], labels)
    with pytest.raises(PromptError, match="text 1: source"):
        plait.summarize(engine, [LONG])
    with pytest.raises(ConfigError, match="n=3 answers are more than the best one, which is given"):
        plait.translate(engine, "a", n=3)
    with pytest.raises(ConfigError, match="translate: n='three' is not valid"):
        plait.translate(engine, "a", n="three")


@pytest.mark.parametrize("task", ["translate", "summarize", "classify"])
def test_a_long_text_is_scored_when_asked(task, reader, works, refuses, tmp_path):
    data, out = tmp_path / "data.jsonl", tmp_path / "scores.json"
    rows = [{"source": "short", "target": "good"}, {"source": LONG, "target": "bad"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["evaluate", reader, "--task", task, "--data", data, "--out", out]
    words += [] if task == "classify" else ["--max-tokens", "4"]
    assert "data.jsonl#2: " in refuses(*words)
    works(*words, "--truncate")
    assert {row["n"] for row in json.loads(out.read_text(encoding="utf-8"))["results"]} == {2}


def test_it_has_no_meaning_for_running_text_and_cuts_the_context_of_a_question(
    reader, works, refuses, tmp_path
):
    data = tmp_path / "data.txt"
    data.write_text("a\n", encoding="utf-8")
    message = refuses("evaluate", reader, "--data", data, "--truncate")
    assert (
        "--truncate is for tasks that read a text whole, such as summarize and classify, not perp" in message
    )
    row = {"context": "Anna is here. " * 20, "question": "Who?", "answers": ["Anna"]}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    words = ("evaluate", reader, "--task", "answer", "--data", tmp_path / "long.jsonl", "--max-tokens", 2)
    assert "long.jsonl#1: the context and the question are more than the 128 tokens" in refuses(*words)
    assert "truncate:True" in works(*words, "--truncate", "--json")
