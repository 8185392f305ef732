"""`plait prepare`: read, clean, filter, remove duplicates; write what is kept, what is dropped, a report."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import Field, field_validator

from plait.config import Config
from plait.errors import BusyError, ConfigError, InputError
from plait.files import new_directory
from plait.log import progress
from plait.text.clean import DEFAULT, ordered
from plait.text.dedup import Duplicate, dedup
from plait.text.document import Document
from plait.text.filters import Rules
from plait.text.pool import cores, ordered_map
from plait.text.readers import read
from plait.text.refine import Refined
from plait.text.report import Tally, show
from plait.text.sources import find_sources, is_prepared

BATCH = 1 << 18  # characters a worker gets at once
SMALL = 16  # so many batches are done sooner here than by workers that first have to start


class PrepareConfig(Config):
    """How `prepare` reads, cleans, filters and removes duplicates.

    `similarity` is the Jaccard similarity from which near duplicates count as the same. `workers` is the
    number of processes (None: one a core, and none for small inputs).
    """

    format: str = "auto"
    fields: dict[str, str | int] | None = None
    steps: tuple[str, ...] = DEFAULT
    rules: Rules = Rules()
    dedup: Literal["near", "exact", "none"] = "near"
    similarity: float = Field(default=0.8, gt=0, le=1)
    workers: int | None = Field(default=None, ge=1)
    overwrite: bool = False

    @field_validator("steps")
    @classmethod
    def _known(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        return ordered(steps)


def prepare(
    inputs: str | Path | Sequence[str | Path], out: str | Path, config: PrepareConfig | None = None
) -> dict[str, Any]:
    """Write `documents.jsonl`, `dropped.jsonl` (with `reason`) and `report.json` to `out`; return the report.

    `out` appears only when everything is written. It serves as the input of `read`, `tokenizer` and `train`.

    Raises:
        InputError: anything wrong with the inputs, or nothing kept.
        BusyError: `out` exists and `overwrite` is off.
        TrainingError: no space on the disk.
    """
    config = config or PrepareConfig()
    out = Path(out).expanduser()
    _check_out(out, config.overwrite)
    total = _check_inputs(inputs, out)
    tally = Tally()
    with new_directory(out) as folder, progress("prepare", total or None) as bar:
        documents = read(
            inputs, format=config.format, fields=config.fields, on_skip=tally.skip, on_bytes=bar.advance
        )
        with _lines(folder / "documents.jsonl") as kept, _lines(folder / "dropped.jsonl") as dropped:
            for document, language, why in _decide(documents, config, tally):
                if why is None:
                    tally.keep(document, language)
                    _write(kept, document.to_json())
                else:
                    tally.drop(document, **why)
                    _write(dropped, document.to_json() | why)
        report = tally.report()
        if not report["kept"]["documents"]:
            reasons = ", ".join(f"{name} {one['documents']}" for name, one in report["dropped"].items())
            raise InputError(
                f"none of the {tally.read.documents} documents is kept ({reasons}); "
                "relax these rules (plait prepare --help)"
            )
        names = [str(one) for one in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
        report = {"inputs": names, "settings": config.model_dump(mode="json")} | report
        with _lines(folder / "report.json") as file:
            file.write(json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    show(report, f"prepared {', '.join(names)}")
    return report


def _decide(
    documents: Iterable[Document], config: PrepareConfig, tally: Tally
) -> Iterator[tuple[Document, str, dict[str, Any] | None]]:
    """(document, language, why it is dropped or None): refined in batches, then freed of duplicates."""
    waiting: deque[Refined] = deque()

    def survivors() -> Iterator[Document]:
        for one in _refined(documents, config, tally):
            waiting.append(one)
            if one.reason is None:
                yield one.document

    threshold = config.similarity if config.dedup == "near" else None
    pairs: Iterable[tuple[Document, Duplicate | None]] = (
        ((document, None) for document in survivors())
        if config.dedup == "none"
        else dedup(survivors(), threshold)
    )
    for document, duplicate in pairs:
        yield from _refused(waiting)
        one = waiting.popleft()
        if duplicate is None:
            yield document, one.language, None
        else:
            similar = {"of": duplicate.of, "similarity": duplicate.similarity}
            yield document, one.language, {"reason": duplicate.reason} | similar
    yield from _refused(waiting)


def _refused(waiting: deque[Refined]) -> Iterator[tuple[Document, str, dict[str, Any]]]:
    while waiting and waiting[0].reason is not None:
        one = waiting.popleft()
        yield one.document, one.language, {"reason": one.reason}


def _refined(documents: Iterable[Document], config: PrepareConfig, tally: Tally) -> Iterator[Refined]:
    batches = _batches(documents, tally)
    first = list(islice(batches, SMALL))
    workers = config.workers or (cores() if len(first) == SMALL else 1)
    setup = {"steps": list(config.steps), "rules": config.rules.model_dump(mode="json")}
    ids: deque[str] = deque()

    def noted(batch: list[list[Any]]) -> list[list[Any]]:
        ids.extend(item[0] for item in batch)
        return batch

    stream = (noted(batch) for batch in chain(first, batches))
    for results in ordered_map("plait.text.refine:refine_batch", setup, stream, workers):
        for text, record, changed, language, reason in results:
            tally.changed.update(changed)
            yield Refined(Document(ids.popleft(), text, record), tuple(changed), language, reason)


def _batches(documents: Iterable[Document], tally: Tally) -> Iterator[list[list[Any]]]:
    batch, size = [], 0
    for document in documents:
        tally.read.add(document)
        batch.append([document.id, document.text, document.record])
        size += len(document.body())
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise BusyError(f"{str(out)!r} exists and is not empty; choose another --out or give --overwrite")
    if not is_prepared(out):
        raise ConfigError(f"{str(out)!r} was not written by plait prepare, so it is not overwritten")


def _check_inputs(inputs: str | Path | Sequence[str | Path], out: Path) -> int:
    """Bytes of the inputs, none of which may lie in the directory about to be written."""
    sources = find_sources(inputs, lambda where, reason: None)
    for source in sources:
        if out.resolve() in Path(source.name).resolve().parents:
            raise ConfigError(f"--out {str(out)!r} holds the input {source.name}; choose another directory")
    return sum(source.size for source in sources)


def _lines(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", newline="\n")


def _write(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
