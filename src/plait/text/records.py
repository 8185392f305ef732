"""Rows of data (JSON objects, table rows) to documents: column names, joined lists, checked fields."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plait.errors import InputError, did_you_mean
from plait.text.document import Document

Fields = Mapping[str, str | int]  # our name → the column's name, or its number in a table without header

LEADING = ("text", "messages", "source", "question", "prompt", "prefix", "chosen", "instruction")
FORMS = (
    "text; source, target; messages; context, question, answers; prompt; prefix, suffix; chosen, rejected; "
    "instruction"
)
STRINGS = (
    "text", "source", "target", "context", "question", "prompt", "instruction", "input", "output",
    "prefix", "suffix", "middle",
)  # fmt: skip
FIELDS = (*STRINGS, "messages", "answers", "chosen", "rejected", "label", "task", "id")
ROLES = ("system", "user", "assistant")


def to_document(row: Mapping[Any, Any], id: str, place: str, fields: Fields | None) -> Document | None:
    """One row as a document, or None where its text is empty. `place` (file:line) is for errors.

    A list of strings joins with newlines; `answers` becomes a list of strings in every layout of it.

    Raises:
        InputError: an unknown column, no known field, or a field of the wrong type.
    """
    record = _renamed(row, place, fields) if fields else dict(row)
    if not any(name in record for name in LEADING):
        found = ", ".join(map(str, row)) or "none"
        raise InputError(
            f"{place} has none of the fields plait reads ({FORMS}); found: {found}; "
            "name yours with --field source=english target=german, or text=body, or source=0 for a table "
            "without header (in a recipe: data.fields={source: english, target: german})"
        )
    for name in STRINGS:
        if name in record:
            record[name] = _string(record[name], name, place)
    for name in ("chosen", "rejected"):
        if name in record:
            chat = isinstance(record[name], list) and record[name] and isinstance(record[name][0], Mapping)
            record[name] = (_messages if chat else _string)(record[name], name, place)
    if record.get("messages") is not None:
        record["messages"] = _messages(record["messages"], "messages", place)
    if record.get("answers") is not None:
        record["answers"] = _answers(record["answers"], place)
    record = {name: value for name, value in record.items() if value is not None}
    text = record.pop("text", "")
    document = Document(id, text, record)
    return document if document.body().strip() else None


def _renamed(row: Mapping[Any, Any], place: str, fields: Fields) -> dict[str, Any]:
    if unknown := [name for name in fields if name not in FIELDS]:
        hint = did_you_mean(unknown[0], FIELDS) or f"; its fields are {', '.join(FIELDS)}"
        raise InputError(f"plait reads no field {unknown[0]!r} (from column {fields[unknown[0]]!r}){hint}")
    for column in fields.values():
        if column not in row:
            known: list[str] = [str(name) for name in row]
            hint = did_you_mean(str(column), known)
            raise InputError(f"{place} has no column {column!r}{hint}; found: {', '.join(known) or 'none'}")
    renamed = {ours: row[column] for ours, column in fields.items()}
    used = {*fields.values(), *renamed}
    return renamed | {str(key): value for key, value in row.items() if key not in used}


def _string(value: Any, name: str, place: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if name == "target" and isinstance(value, int):  # a label
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    raise InputError(
        f"{place}: {name!r} must be text or a list of strings, not {type(value).__name__} {_short(value)}"
    )


def _messages(value: Any, name: str, place: str) -> list[dict[str, str]]:
    rule = f"{place}: {name!r} must be a list of {{role: {' | '.join(ROLES)}, content: text}}"
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(f"{rule}, not {_short(value)}")
    for message in value:
        good = isinstance(message, Mapping) and message.get("role") in ROLES
        if not good or not isinstance(message.get("content"), str):
            raise InputError(f"{rule}; it holds {_short(message)}")
    return [dict(message) for message in value]


def _answers(value: Any, place: str) -> list[str]:
    """A string, a list of strings, `[{text}]` (SQuAD) or `{text: [...]}` (its flattened form)."""
    if isinstance(value, Mapping):
        value = value.get("text")
    parts = [value] if isinstance(value, str) else value
    if isinstance(parts, list):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
        strings = [text for text in texts if isinstance(text, str)]
        if len(strings) == len(texts):
            return list(dict.fromkeys(strings))
    raise InputError(f"{place}: 'answers' must be text, a list of texts or SQuAD's form, not {_short(value)}")


def squad_rows(value: Any, file: str) -> Iterator[dict[str, Any]] | None:
    """The questions of a parsed file in SQuAD's nested layout, or None where it is not one.

    Raises:
        InputError: as the rows are read, an article, paragraph or question that is no object.
    """
    articles = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(articles, list) or not articles or not isinstance(articles[0], Mapping):
        return None
    if not isinstance(articles[0].get("paragraphs"), list):
        return None
    return (
        {"title": article.get("title"), "context": paragraph.get("context")} | dict(question)
        for article in _objects(value, "data", file)
        for paragraph in _objects(article, "paragraphs", file)
        for question in _objects(paragraph, "qas", file)
    )


def _objects(parent: Mapping[str, Any], name: str, file: str) -> list[Mapping[str, Any]]:
    """The list of objects that a field of SQuAD's layout is; a missing one has none."""
    found = parent.get(name, [])
    if not isinstance(found, list):
        raise InputError(f"{file}: {name!r} of SQuAD's layout must be a list, not {_short(found)}")
    for number, item in enumerate(found):
        if not isinstance(item, Mapping):
            raise InputError(f"{file}: {name}[{number}] of SQuAD's layout is no object: {_short(item)}")
    return found


def plain(value: Any) -> Any:
    """A value of a table library as JSON knows it; None for what is not text or numbers (images, sound)."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
