"""Every input a user may have as a stream of documents: `read(["notes/", "pairs.jsonl.gz"])`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from plait.errors import ConfigError, InputError, did_you_mean
from plait.log import warn
from plait.text import layouts
from plait.text.clean import html_to_text
from plait.text.document import Document
from plait.text.encoding import lines_of
from plait.text.hub import hub_rows
from plait.text.records import Fields, to_document
from plait.text.sources import EMPTY, RECORDS, Skip, Source, find_sources, leave_aside, piped_records
from plait.text.tables import OnBytes, Row, json_file, json_lines, parquet_rows, table_rows, text_of

LINE_LAYOUTS = {"scan": layouts.scan, "babi": layouts.babi, "dialog-babi": layouts.dialog_babi}
ROW_LAYOUTS = {"alpaca": layouts.alpaca, "sharegpt": layouts.sharegpt}
TEXT_FORMATS = ("document", "lines", "paragraphs")
FORMATS = ("auto", *TEXT_FORMATS, *LINE_LAYOUTS, *ROW_LAYOUTS, "parallel", "tsv")


def read(
    inputs: str | Path | Sequence[str | Path],
    *,
    format: str = "auto",
    fields: Fields | None = None,
    on_skip: Skip | None = None,
    on_bytes: OnBytes = None,
) -> Iterator[Document]:
    """Read documents from files, directories, globs, `-` (standard input) or `hf://` data sets.

    Args:
        inputs: one or several; directories are read recursively in sorted order, hidden files left out.
        format: `auto` goes by the extension (a text file is one document, HTML becomes text); `document`,
            `lines` and `paragraphs` read any file as text; the others are named layouts. `parallel` takes
            two aligned files.
        fields: our field name → the column it is in, or the column's number where a table has no header.
        on_skip: told (where, reason) of whatever is passed over; without it a warning counts them.
        on_bytes: told the bytes taken from the disk, for progress.

    Raises:
        ConfigError: an unknown format.
        InputError: anything wrong with the inputs, naming file, line and remedy.
    """
    if format not in FORMATS:
        raise ConfigError(
            f"format={format!r} is unknown{did_you_mean(format, FORMATS)}; use {', '.join(FORMATS)}"
        )
    return _documents(inputs, format, fields, on_skip, on_bytes)


def _documents(inputs, format: str, fields: Fields | None, on_skip: Skip | None, on_bytes: OnBytes):
    skipped: Counter[str] = Counter()

    def tell(where: str, reason: str) -> None:
        skipped[reason] += 1
        if on_skip is not None:
            on_skip(where, reason)

    if fields and format in ("parallel", *LINE_LAYOUTS):
        raise InputError(f"fields rename columns, and format={format} has none; leave them out")
    some = False
    sources = find_sources(inputs, tell)
    if fields or format not in ("auto", *TEXT_FORMATS):
        sources = leave_aside(sources, tell)
    if format == "parallel" and not all(source.prepared for source in sources):
        stream = _parallel(sources, tell, on_bytes)
    else:
        stream = chain.from_iterable(_one(source, format, fields, tell, on_bytes) for source in sources)
    for document in stream:
        some = True
        yield document
    if not some:
        names = ", ".join(source.name for source in sources[:3])
        why = f"skipped: {counted(skipped)}" if skipped else "give a file with at least one"
        raise InputError(f"{names} holds no document; {why}")
    if skipped and on_skip is None:
        warn(f"skipped in the input: {counted(skipped)}")


def counted(skipped: Counter[str]) -> str:
    """Reasons for which something was passed over, and how often each was."""
    return ", ".join(f"{count} × {reason}" for reason, count in sorted(skipped.items()))


def _parallel(sources: list[Source], on_skip: Skip, on_bytes: OnBytes) -> Iterator[Document]:
    if len(sources) != 2:
        raise InputError(f"format=parallel takes two aligned files, source and target, not {len(sources)}")
    left, right = (lines_of(text_of(source, on_bytes)) for source in sources)
    return layouts.parallel(left, right, (sources[0].name, sources[1].name), on_skip)


def _one(
    source: Source, format: str, fields: Fields | None, on_skip: Skip, on_bytes: OnBytes
) -> Iterator[Document]:
    if source.prepared:
        for _number, _place, row in json_lines(source, on_skip, on_bytes):
            yield Document.from_json(row)
    elif source.name.startswith("hf://"):
        yield from _records(source, hub_rows(source.name, on_skip), format, fields, on_skip)
    elif format in LINE_LAYOUTS:
        yield from LINE_LAYOUTS[format](lines_of(text_of(source, on_bytes)), source.name)
    elif format in TEXT_FORMATS or (format == "auto" and not _holds_records(source)):
        yield from _text(source, format, fields, on_bytes)
    else:
        if format == "tsv":
            source = Source(source.name, ".tsv", source.compression)
            fields = fields or {"source": 0, "target": 1}
        yield from _records(source, _rows(source, fields, on_skip, on_bytes), format, fields, on_skip)


def _holds_records(source: Source) -> bool:
    return piped_records() if source.name == "-" else source.kind in RECORDS


def _rows(source: Source, fields: Fields | None, on_skip: Skip, on_bytes: OnBytes) -> Iterator[Row]:
    if source.kind in (".csv", ".tsv"):
        return table_rows(source, fields, on_skip, on_bytes)
    if source.kind == ".parquet":
        return parquet_rows(source, on_skip, on_bytes)
    reader: Callable[..., Iterator[Row]] = json_file if source.kind == ".json" else json_lines
    return reader(source, on_skip, on_bytes)


def _records(
    source: Source, rows: Iterator[Row], format: str, fields: Fields | None, on_skip: Skip
) -> Iterator[Document]:
    layout = ROW_LAYOUTS.get(format)
    for number, place, row in rows:
        if layout is not None:
            row = layout(row, place)
        document = to_document(row, f"{source.name}#{number}", place, fields)
        if document is None:
            on_skip(place, EMPTY)
        else:
            yield document


def _text(source: Source, format: str, fields: Fields | None, on_bytes: OnBytes) -> Iterator[Document]:
    pieces = text_of(source, on_bytes)
    if fields:
        raise InputError(f"fields rename columns, and {source.name} is read as text, which has none")
    if source.kind in (".html", ".htm"):
        pieces = iter([html_to_text("".join(pieces))])
    if format == "lines":
        numbered = enumerate(lines_of(pieces), 1)
    elif format == "paragraphs":
        numbered = _paragraphs(lines_of(pieces))
    else:
        numbered = iter([(1, "".join(pieces))])
    for number, text in numbered:
        if text.strip():
            yield Document(f"{source.name}#{number}", text)


def _paragraphs(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """(number, text) of runs of lines between blank ones."""
    number, held = 0, []
    for line in chain(lines, [""]):
        if line.strip():
            held.append(line)
        elif held:
            number += 1
            yield number, "\n".join(held)
            held = []
