"""One piece of text on its way from a file to tokens, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


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

    def with_text(self, text: str) -> Document:
        """The same document with another text."""
        return self if text == self.text else replace(self, text=text)

    def to_json(self) -> dict[str, Any]:
        """One flat mapping, as a line of `documents.jsonl`; `text` is left out where it is empty."""
        head: dict[str, Any] = {"id": self.id}
        if self.text:
            head["text"] = self.text
        return head | {key: value for key, value in self.record.items() if key not in ("id", "text")}
