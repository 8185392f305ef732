"""Rows out of JSON Lines, JSON, CSV, TSV and Parquet files, each with its number and place."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from plait.errors import InputError, need
from plait.text.encoding import decoded, lines_of
from plait.text.records import Fields, plain, squad_rows
from plait.text.sources import BLANK, Skip, Source, read_bytes

Row = tuple[int, str, dict[Any, Any]]
OnBytes = Callable[[int], None] | None
Line = TypeVar("Line", str, list[str])


def text_of(source: Source, on_bytes: OnBytes = None, *, blank: bool = False) -> Iterator[str]:
    """The decoded text of a source in pieces.

    Args:
        blank: whether it may hold nothing but white space.

    Raises:
        InputError: where it is empty, binary, or in another encoding.
    """
    some = False
    for piece in decoded(read_bytes(source, on_bytes), source.name):
        some = some or bool(piece if blank else piece.strip())
        yield piece
    if not some:
        what = "standard input" if source.name == "-" else source.name
        raise InputError(f"{what} is empty; give a file with text in it")


def json_lines(source: Source, on_skip: Skip, on_bytes: OnBytes = None) -> Iterator[Row]:
    """One JSON object a line."""
    lines = enumerate(map(str.strip, lines_of(text_of(source, on_bytes))), 1)
    for number, line in _but_blank(lines, source.name, on_skip):
        place = f"{source.name}:{number}"
        row = _parse(line, place)
        if not isinstance(row, dict):
            raise InputError(f"{place} must be a JSON object {{...}}, not {type(row).__name__}")
        if "\\u" in line and _lone_surrogate(row):
            on_skip(place, "lone surrogate (half a character)")
            continue
        yield number, place, row


def json_file(source: Source, on_skip: Skip, on_bytes: OnBytes = None) -> Iterator[Row]:
    """A list of objects, `{"data": [...]}`, SQuAD's nested layout, or one object."""
    text = "".join(text_of(source, on_bytes))
    value = _parse(text, source.name)
    rows = squad_rows(value, source.name)
    if rows is None:
        data = value.get("data") if isinstance(value, dict) else None
        rows = data if isinstance(data, list) else value if isinstance(value, list) else [value]
    escaped = "\\u" in text
    for number, row in enumerate(rows, 1):
        place = f"{source.name} record {number}"
        if not isinstance(row, dict):
            raise InputError(f"{place} must be a JSON object {{...}}, not {type(row).__name__}")
        if escaped and _lone_surrogate(row):
            on_skip(place, "lone surrogate (half a character)")
            continue
        yield number, place, row


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{place}:{error.lineno}" if error.lineno > 1 else place
        raise InputError(f"{where} is not valid JSON: {error.msg} (column {error.colno}); mend it") from None
    except RecursionError:
        raise InputError(f"{place} is nested too deeply to be data; check the file") from None


def _lone_surrogate(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _but_blank(lines: Iterable[tuple[int, Line]], name: str, on_skip: Skip) -> Iterator[tuple[int, Line]]:
    """Numbered lines without blank ones, which are told unless they end the file: others may count them."""
    blank: list[int] = []
    for number, line in lines:
        if not line:
            blank.append(number)
            continue
        for at in blank:
            on_skip(f"{name}:{at}", BLANK)
        blank.clear()
        yield number, line


def table_rows(
    source: Source, fields: Fields | None, on_skip: Skip, on_bytes: OnBytes = None
) -> Iterator[Row]:
    """Rows of a CSV (RFC 4180) or TSV (never quoted, as IANA registered it) file.

    Columns are named by the first row, or numbered from 0 where `fields` holds integers. In a table of one
    column a blank line is an empty cell.
    """
    columns: Sequence[Any] | None = None
    rows = _cells(source, on_bytes)
    if not any(isinstance(column, int) for column in (fields or {}).values()):
        line, names = next((row for row in rows if row[1]), (1, []))
        columns = [name.strip() for name in names]
        if twice := next((name for name in columns if columns.count(name) > 1), None):
            raise InputError(f"{source.name}:{line} names the column {twice!r} twice; rename one of them")
        if len(columns) == 1:
            other = next((mark for mark in ";\t" if mark in columns[0]), None)
            if source.kind == ".csv" and other:
                raise InputError(
                    f"{source.name}:{line} has one column, {columns[0]!r}; commas part those of a .csv, not "
                    f"{other!r}; save it with commas, or with tabs as .tsv"
                )
            rows = ((line, cells or [""]) for line, cells in rows)
    for number, (line, cells) in enumerate(_but_blank(rows, source.name, on_skip), 1):
        place = f"{source.name}:{line}"
        if columns is not None and len(cells) != len(columns):
            raise InputError(
                f"{place} has {len(cells)} columns, its header {len(columns)}; mend the row, or where "
                "there is no header number the columns: --field source=0 target=1 (in a recipe: "
                "data.fields={source: 0, target: 1})"
            )
        yield number, place, dict(zip(columns if columns is not None else range(len(cells)), cells))


def _cells(source: Source, on_bytes: OnBytes) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line, none of a blank one."""
    lines = lines_of(text_of(source, on_bytes))
    if source.kind != ".csv":
        yield from ((at, line.split("\t") if line.strip(" ") else []) for at, line in enumerate(lines, 1))
        return
    csv.field_size_limit(1 << 30)  # the default, 128 KiB, is less than a long document
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    first = 1  # line of the row, which may hold line breaks
    try:
        for cells in reader:
            yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{source.name}:{reader.line_num} is not valid CSV: {error}; mend the row from line {first} on"
        ) from None


def parquet_rows(source: Source, on_skip: Skip, on_bytes: OnBytes = None) -> Iterator[Row]:
    """Rows of a Parquet file, batch by batch; columns of raw bytes (images, sound) are told and left out."""
    parquet = need("pyarrow.parquet", "text")
    with tempfile.TemporaryFile() as unpacked:
        if source.compression:  # Parquet is read from its end
            for chunk in read_bytes(source, on_bytes):
                unpacked.write(chunk)
            unpacked.seek(0)
        try:
            with parquet.ParquetFile(unpacked if source.compression else source.name) as file:
                columns = []
                for field in file.schema_arrow:
                    if "binary" in str(field.type):
                        on_skip(source.name, f"column {field.name!r} of raw bytes")
                    else:
                        columns.append(field.name)
                number = 0
                for batch in file.iter_batches(batch_size=1024, columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, f"{source.name} row {number}", plain(row)
        except (need("pyarrow", "text").ArrowException, OSError) as error:
            reason = str(error).split("\n", 1)[0]
            raise InputError(f"{source.name} is not a readable Parquet file: {reason}") from None
    if on_bytes is not None and not source.compression:
        on_bytes(source.size)
