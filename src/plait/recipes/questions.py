"""The questions of a task as files hold them; those that cannot be scored are counted and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from plait import log
from plait.data.pairs import aligned
from plait.errors import InputError
from plait.recipes.evaluate_outputs import Paths, listed
from plait.tasks.task import Task
from plait.text.document import Document
from plait.text.layouts import EMPTY_SIDE
from plait.text.readers import counted, read
from plait.text.sources import EMPTY, find_sources


@dataclass(frozen=True)
class Questions:
    """What a task asks.

    Attributes:
        skipped: how many more records were read, which cannot be scored.
        files: those that were read, where the ids of the documents name others; None: these do.
    """

    documents: list[Document]
    skipped: int = 0
    files: list[str] | None = None


def read_questions(
    task: Task,
    data: Paths,
    format: str = "auto",
    fields: Mapping[str, str | int] | None = None,
    limit: int | None = None,
) -> Questions:
    """The first questions of some files; two plain files are aligned lines, if no other format is named.

    Those that cannot be scored are counted and told, as they are before training.

    Raises:
        InputError: see `plait.text.readers.read`; none that can be scored.
    """
    names = listed(data)
    format = _format_of(task, names, format)
    kept: list[Document] = []
    skipped, first, unread = 0, None, Counter[str]()

    def passed_over(where: str, reason: str) -> None:
        unread[reason] += 1

    for question in task.questions(read(names, format=format, fields=fields, on_skip=passed_over)):
        if len(kept) == limit:
            if format != "parallel":
                break
            continue  # to the end, where files of different lengths are refused
        try:
            task.source(question)
            task.references(question)
        except InputError as error:
            skipped, first = skipped + 1, first or error
        else:
            kept.append(question)
    if unread:
        log.warn(f"skipped in the input: {counted(unread)}")
    if first and not kept:
        raise first
    if first:
        log.warn(f"{skipped:,} skipped that cannot be scored; the first: {first}")
    skipped += unread[EMPTY] + unread[EMPTY_SIDE]
    # of two aligned files the documents name the first
    return Questions(kept, skipped, names if format == "parallel" else files_read(names))


def files_read(data: Paths) -> list[str] | None:
    """The files behind some data if its documents name others, as those of `plait prepare` do."""
    sources = find_sources(listed(data), lambda where, reason: None)
    return [source.name for source in sources] if any(source.prepared for source in sources) else None


def _format_of(task: Task, names: list[str], format: str) -> str:
    if format != "auto" or task.format != "auto":
        return task.format if format == "auto" else format
    return "parallel" if task.pairs and aligned(names) else "auto"
