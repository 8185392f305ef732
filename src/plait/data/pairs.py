"""What in a record is a pair: a source to read, and the target to write for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plait.text.document import Document
from plait.text.sources import RECORDS, source_of


def source_in(document: Document) -> str | None:
    """The source of a pair, an instruction with its input, or a question below its context; None: none."""
    record = document.record
    if "source" in record and "target" in record:  # what else a record holds stands beside the pair
        return record["source"]
    if "instruction" in record:
        return "\n".join(filter(None, (record["instruction"], record.get("input"))))
    if "question" in record:
        return "\n".join(filter(None, (record.get("context"), record["question"])))
    return record.get("source") or record.get("prompt", record.get("source"))


def target_in(document: Document) -> str | None:
    """The target of a pair, the output of an instruction, or the first answer; None: none."""
    record = document.record
    if "source" in record and "target" in record:  # as in `source_in`
        return record["target"]
    if "question" in record and "answers" in record and "instruction" not in record:
        return record["answers"][0] if record["answers"] else None
    return record.get("target") or record.get("output", record.get("target"))


def pair_of(document: Document) -> tuple[str, str] | None:
    """Source and target of a record; None where it lacks one of them."""
    source, target = source_in(document), target_in(document)
    return None if source is None or target is None else (source, target)


def beginning(document: Document, source: str, characters: int) -> str:
    """So many characters of a source; a question stays whole, below what they leave of its context."""
    context, question = (document.record.get(field) or "" for field in ("context", "question"))
    if not context or source != f"{context}\n{question}":
        return source[:characters]
    kept = context[: max(0, characters - len(question) - 1)]
    return f"{kept}\n{question}" if kept else question


def nothing_to_read(document: Document) -> bool:
    """Whether a record is an empty line, or its source an empty cell."""
    source = source_in(document)
    written = bool(document.record) if source is None else bool(source.strip())
    return not (written or document.text.strip())


def why_no_pair(document: Document) -> str | None:
    """What keeps a record from being learned as a pair; None: nothing."""
    pair = pair_of(document)
    if pair is None:
        return f"without a source and a target{but_with(document)}"
    return None if all(side.strip() for side in pair) else "pair with an empty side"


def but_with(document: Document) -> str:
    """`", but with context, question"`: what a record has instead; empty where it has nothing."""
    return f", but with {found_in(document)}" if document.text or document.record else ""


def found_in(document: Document) -> str:
    """The fields of a record, for messages."""
    return ", ".join([*(["text"] if document.text else []), *sorted(map(str, document.record))]) or "nothing"


def holds_records(name: str | Path) -> bool:
    """Whether a file is one of records, by its name."""
    return source_of(Path(name)).kind in RECORDS


def aligned(names: Sequence[str | Path]) -> bool:
    """Whether these are two plain files, of which line n of the second belongs to line n of the first."""
    return len(names) == 2 and not any(_many(str(name)) or holds_records(name) for name in names)


def _many(name: str) -> bool:
    """Whether a name stands for several files, or for a data set."""
    found = Path(name).expanduser()
    return (
        name.startswith("hf://")
        or found.is_dir()
        or (any(mark in name for mark in "*?[") and not found.exists())
    )
