"""Samples out of files, aligned: hypotheses, reference sets and records, from lines or from fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NoReturn

from plait import log
from plait.errors import InputError, did_you_mean
from plait.text.encoding import lines_of
from plait.text.sources import RECORDS, Source, find_sources
from plait.text.tables import Row, json_file, json_lines, parquet_rows, table_rows, text_of


def read_hypotheses(path: str, fields: Sequence[str], references: Sequence[str]) -> list[str]:
    """The outputs in a file: its lines, empty ones too, or one field of its records.

    Args:
        references: the files on the other side, to tell whether the two are swapped.

    Raises:
        InputError: what cannot be read; no field or several; a value that is not text.
    """
    source = _source(path)
    if len(fields) > 1 and source.kind in RECORDS:
        raise InputError(f"{path} needs one field, not {', '.join(fields)}; --field hypotheses=NAME")
    texts, none = [], 0
    for place, value in _column(source, fields[0] if fields else None, "hypotheses", references):
        if isinstance(value, list):
            raise InputError(
                f"{place}: {fields[0]!r} holds a list, as references may; give one text, or are --hypotheses "
                "and --references swapped?"
            )
        none += value is None
        texts.append("" if value is None else _text(value, place))
    if none:
        log.warn(f"{path} has no output for {none:,} of {len(texts):,} samples (null); they count as empty")
    return texts


def read_references(
    paths: Sequence[str], fields: Sequence[str], hypotheses: str, count: int
) -> list[list[str | None]]:
    """Reference sets as long as the hypotheses, one for each file and field; None where a sample has fewer.

    Raises:
        InputError: what cannot be read, a field that is missing or no text, a file of another length.
    """
    samples: list[list[str]] = [[] for _ in range(count)]
    for path in paths:
        source = _source(path)
        for name in fields if fields and source.kind in RECORDS else [None]:
            column = list(_column(source, name, "references", [hypotheses]))
            check_length(path, len(column), hypotheses, count)
            for sample, (place, value) in zip(samples, column):
                sample += _texts(value, place)
    return [list(texts) for texts in zip_longest(*samples)] or [[None] * count]


def read_records(path: str) -> Iterator[Row]:
    """(number, place, record) of a file of records.

    Raises:
        InputError: another file, or a record that cannot be read: samples would no longer be aligned.
    """
    source = _source(path)
    if source.kind not in RECORDS:
        raise InputError(f"{path} holds no records; give {', '.join(RECORDS)}, each also .gz or .zst")
    return _rows(source)


def check_length(path: str, length: int, other: str, count: int) -> None:
    """Refuse files of different length."""
    if length != count:
        raise InputError(
            f"{other} has {count:,} samples and {path} {length:,}; give one of each for a sample, in order"
        )


def cell(row: dict[Any, Any], name: str, place: str, others: Sequence[str] = ()) -> Any:
    """A field of a record; where it is missing, those that are there, and whether another file has it."""
    key: Any = int(name) if name.isdecimal() and name not in row else name
    if key in row:
        return row[key]
    known = [str(column) for column in row]
    hint = did_you_mean(name, known)
    for path in others:
        if name in first_record(path):
            hint = f"; {path} has it, are --hypotheses and --references swapped?"
    raise InputError(f"{place} has no field {name!r}{hint}; found: {', '.join(known) or 'none'}")


def first_record(path: str) -> dict[Any, Any]:
    """The first record of a file; an empty one where it holds none."""
    return next((row for _, _, row in read_records(path)), {}) if has_records(path) else {}


def has_records(path: str) -> bool:
    """Whether a file holds records with fields, and not lines."""
    return _source(path).kind in RECORDS


def _source(path: str) -> Source:
    if path.startswith("hf://"):
        raise InputError(f"{path} is a hub data set; save it to a file to score against it")
    found = find_sources(path, lambda where, reason: None)
    if len(found) != 1:
        raise InputError(
            f"{path} is {len(found)} files; name one with a sample on each line or in each record"
        )
    return found[0]


def _column(source: Source, name: str | None, side: str, others: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(place, value) of every line or record."""
    if source.kind not in RECORDS:
        for number, line in enumerate(lines_of(text_of(source, blank=True)), 1):
            yield f"{source.name}:{number}", line
        return
    for _, place, row in _rows(source, name):
        if name is None:
            found = ", ".join(map(str, row))
            raise InputError(f"{source.name} holds records with {found}; name a field: --field {side}=NAME")
        yield place, cell(row, name, place, others)


def _rows(source: Source, field: str | None = None) -> Iterator[Row]:
    def refuse(where: str, reason: str) -> NoReturn:
        raise InputError(f"{where} cannot be used: {reason}; mend or remove it, on the other side too")

    if source.kind in (".csv", ".tsv"):
        return table_rows(source, {"text": int(field)} if field and field.isdecimal() else None, refuse)
    if source.kind == ".parquet":  # tells only of columns that it leaves out
        return parquet_rows(source, lambda where, reason: None)
    reader: Callable[..., Iterator[Row]] = json_file if source.kind == ".json" else json_lines
    return reader(source, refuse)


def _text(value: Any, place: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():  # a column of integers beside gaps, as tables have it
        value = int(value)
    if isinstance(value, int):  # labels are often numbers
        return json.dumps(value)
    raise InputError(f"{place} must hold text, not {type(value).__name__} {value!r:.40}")


def _texts(value: Any, place: str) -> list[str]:
    """A text, a list of texts, or SQuAD's answers: `[{text}]` or `{text: [...]}`."""
    if isinstance(value, dict):
        value = value.get("text")
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [_text(one.get("text") if isinstance(one, dict) else one, place) for one in values]
