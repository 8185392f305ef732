"""Conversations of a file and in Python: the last message is answered, the oldest turns give way."""

from __future__ import annotations

import json

import pytest

import plait
from plait.errors import InputError
from plait.infer.engine import Engine
from plait.tasks.conversation import messages_of
from plait.text.document import Document

TALK = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "bye"},
]
LONG = [{"role": "user", "content": "x" * 115}, {"role": "assistant", "content": "y"}, TALK[2]]
GREEDY = ("--temperature", 0, "--max-tokens", 5)


def test_a_file_python_and_what_is_said_agree(model, works, tmp_path, capsys):
    path, source, out = model("messages"), tmp_path / "talks.jsonl", tmp_path / "out.jsonl"
    rows = [{"messages": TALK, "n": 7}, {"text": "bye"}, {"messages": LONG}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    words = ("chat", path, "--system", "Be brief.", "--input", source, *GREEDY, "--output")
    works(*words, out)
    made = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [(row["finish_reason"], row["completion_tokens"] <= 5) for row in made] == [("length", True)] * 3
    assert (made[0]["n"], made[0]["messages"]) == (7, TALK)
    assert made[1]["completion"] == made[2]["completion"], "of the long one only the last turn fits"
    engine = Engine(path)
    asked = {"system": "Be brief.", "temperature": 0, "max_tokens": 5}
    assert plait.chat(engine, TALK, **asked) == made[0]["completion"]
    assert plait.chat(path, "bye", **asked) == made[1]["completion"]
    assert works("chat", path, "bye", "--system", "Be brief.", *GREEDY).rstrip("\n") == made[1]["completion"]
    whole = out.read_text("utf-8")
    out.write_text(whole.splitlines(keepends=True)[0], "utf-8")
    works(*words, out)
    assert out.read_text("utf-8") == whole
    works(*words, tmp_path / "out.txt")
    lines = (tmp_path / "out.txt").read_text("utf-8").splitlines()
    assert lines == [" ".join(row["completion"].splitlines()) for row in made]


def test_an_instruction_stands_before_a_conversation_that_has_none():
    system = {"role": "system", "content": "Be kind."}
    assert messages_of(Document("a", "hi"), "Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]
    asked = Document("a", "", {"context": "Ann is in.", "question": "Where?"})
    assert messages_of(asked) == [{"role": "user", "content": "Ann is in.\nWhere?"}]
    own = Document("a", "", {"messages": [system, TALK[0]]})
    assert messages_of(own, "Be brief.") == messages_of(own) == [system, TALK[0]]
    with pytest.raises(InputError, match="a ends with the assistant; messages that end with a user's"):
        messages_of(Document("a", "", {"messages": TALK[:2]}))
    with pytest.raises(InputError, match="a holds no message"):
        messages_of(Document("a", "", {"n": 1}))


def test_bad_input_is_one_line(model, reader, refuses, tmp_path):
    path, source = model("messages"), tmp_path / "talks.jsonl"
    source.write_text(
        json.dumps({"messages": TALK}) + "\n" + json.dumps({"messages": TALK[:2]}) + "\n", "utf-8"
    )
    words = ("chat", path, "--input", source, "--output", tmp_path / "out.jsonl")
    assert "talks.jsonl#2 ends with the assistant" in refuses(*words)
    assert not (tmp_path / "out.jsonl").exists()
    source.write_text(json.dumps({"text": "x" * 200}) + "\n", "utf-8")
    assert "talks.jsonl#1: the message takes 203 tokens, more than" in refuses(*words)
    assert "--output keeps the answers to --input FILE" in refuses("chat", path, "--output", "a.txt")
    assert "the text is empty; give at least one word" in refuses("chat", path, " ")
    assert "continues text and has learned no conversation; use plait complete" in refuses(
        "chat", model("text")
    )
    assert "holds no conversation; use plait translate" in refuses("chat", reader)
    with pytest.raises(InputError, match="the message is empty"):
        plait.chat(path, " ")
    with pytest.raises(InputError, match="must be a list of"):
        plait.chat(path, [{"role": "user"}])
