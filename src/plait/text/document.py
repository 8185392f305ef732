"""One piece of text on its way from a file to tokens, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# the fields of a record that hold text, in reading order; `answers` and `messages` are lists
TEXT_FIELDS = (
    "context", "question", "instruction", "input", "prompt", "source", "prefix", "middle", "suffix",
    "output", "target", "chosen", "rejected", "answers", "messages",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Document:
    """A document as read.

    Attributes:
        id: `path#number`, the number counting from 1 the documents, records or lines of that file.
        text: running text; empty where the record holds structured fields instead.
        record: every other field as read: `source`/`target`, `messages`, `context`/`question`/`answers`,
            `prompt`/`chosen`/`rejected`, `instruction`/`input`/`output`, and whatever else a file carries.
    """

    id: str
    text: str = ""
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def structured(self) -> bool:
        """Whether the text is in the record's fields (a pair, a dialogue, a question) and not in `text`."""
        return not self.text and any(name in self.record for name in TEXT_FIELDS)

    def body(self) -> str:
        """All text of the document: `text`, or the record's fields and messages, one a line."""
        return "\n".join(self.strings())

    def strings(self) -> list[str]:
        """Every text of the document: `text`, or each text field of the record and each message."""
        return [self.text] if self.text else list(_strings([self.record.get(name) for name in TEXT_FIELDS]))

    def map_text(self, function: Callable[[str], str]) -> Document:
        """The same document with `function` applied to its text and to every text field."""
        record = {
            key: _mapped(value, function) if key in TEXT_FIELDS else value
            for key, value in self.record.items()
        }
        return Document(self.id, function(self.text) if self.text else "", record)

    def to_json(self) -> dict[str, Any]:
        """One flat mapping, a line of `documents.jsonl`: the record's own `id` becomes `record_id`."""
        row: dict[str, Any] = {"id": self.id}
        if self.text:
            row["text"] = self.text
        return row | {("record_id" if key == "id" else key): value for key, value in self.record.items()}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Document:
        """The inverse of `to_json`."""
        record = {
            ("id" if key == "record_id" else key): value
            for key, value in row.items()
            if key not in ("id", "text")
        }
        return cls(row["id"], row.get("text", ""), record)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):  # a message
        yield from _strings(value.get("content"))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, function: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return function(value)
    if isinstance(value, dict):
        return value | {"content": _mapped(value.get("content"), function)}
    return [_mapped(item, function) for item in value] if isinstance(value, list) else value
