"""Chatting: each response of the assistant is asked for, given what was said before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plait.infer.params import BeamParams
from plait.tasks.task import Task
from plait.text.document import Document


def responses(documents: Iterable[Document]) -> Iterator[Document]:
    """One record for each response to a user: `messages` up to it, and `answers`."""
    for document in documents:
        messages, asked = document.record.get("messages") or [], False
        for at, message in enumerate(messages):
            if asked and message["role"] == "assistant":
                record = {"messages": messages[:at], "answers": [message["content"]]}
                yield Document(f"{document.id}/{at}", "", record)
            asked = asked or message["role"] == "user"


def history(document: Document) -> str:
    """What was said, one utterance a line, as an encoder reads it."""
    return "\n".join(message["content"] for message in document.record["messages"])


TASK = Task(
    "chat",
    BeamParams(beams=1),
    ("accuracy", "chrf"),
    history,
    lambda document: document.record["answers"],
    pairs=False,
    questions=responses,
)
