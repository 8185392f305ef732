"""Dialogue bAbI (Bordes et al. 2017): each response of the bot is asked for, given all that was said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plait.infer.params import BeamParams
from plait.tasks.task import Task
from plait.text.document import Document

BOT = "assistant"


def responses(documents: Iterable[Document]) -> Iterator[Document]:
    """One record for each response: `messages` up to it, and `answers`."""
    for document in documents:
        messages = document.record.get("messages") or []
        for at, message in enumerate(messages):
            if message["role"] == BOT:
                record = {"messages": messages[:at], "answers": [message["content"]]}
                yield Document(f"{document.id}/{at}", "", record)


def history(document: Document) -> str:
    """What was said, one utterance a line."""
    return "\n".join(message["content"] for message in document.record["messages"])


TASK = Task(
    "dialog-babi",
    BeamParams(beams=1),
    ("accuracy",),
    history,
    lambda document: document.record["answers"],
    format="dialog-babi",
    questions=responses,
)
