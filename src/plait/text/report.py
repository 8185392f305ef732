"""What happened to the data: counts, reasons, examples; as JSON and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from plait.log import bytes_text, console, say, table
from plait.text.document import Document

EXAMPLES = 3  # shown for every reason
EXCERPT = 80  # characters


@dataclass
class Amount:
    """How many documents, characters and UTF-8 bytes."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0

    def add(self, document: Document) -> None:
        text = document.body()
        self.documents += 1
        self.characters += len(text)
        self.bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


@dataclass
class Tally:
    """Counts documents as they pass; `report()` gives what `report.json` holds."""

    read: Amount = field(default_factory=Amount)
    kept: Amount = field(default_factory=Amount)
    languages: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    _dropped: dict[str, Amount] = field(default_factory=dict)
    _examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _skipped: Counter[str] = field(default_factory=Counter)
    _where: dict[str, list[str]] = field(default_factory=dict)

    def keep(self, document: Document, language: str | None = None) -> None:
        """Count a document that is kept."""
        self.kept.add(document)
        if language is not None:
            self.languages[language] += 1

    def drop(self, document: Document, reason: str, **why: Any) -> None:
        """Count a document that is dropped; `why` (of, similarity) goes into the examples."""
        self._dropped.setdefault(reason, Amount()).add(document)
        examples = self._examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append({"id": document.id, "text": excerpt(document)} | why)

    def skip(self, where: str, reason: str) -> None:
        """Count what was passed over while reading; fits `read(on_skip=...)`."""
        self._skipped[reason] += 1
        places = self._where.setdefault(reason, [])
        if len(places) < EXAMPLES:
            places.append(where)

    def report(self) -> dict[str, Any]:
        """Everything counted, as JSON values."""
        reasons = sorted(self._dropped, key=lambda reason: -self._dropped[reason].documents)
        return {
            "read": vars(self.read).copy(),
            "kept": vars(self.kept).copy(),
            "dropped": {
                reason: vars(self._dropped[reason]) | {"examples": self._examples[reason]}
                for reason in reasons
            },
            "skipped": {
                reason: {"count": count, "examples": self._where[reason]}
                for reason, count in sorted(self._skipped.items())
            },
            "changed": dict(self.changed),
            "languages": dict(self.languages.most_common()),
        }


def report(documents: Iterable[Document]) -> dict[str, Any]:
    """Count documents of which all are kept: the same shape as a `prepare` report."""
    tally = Tally()
    for document in documents:
        tally.read.add(document)
        tally.keep(document)
    return tally.report()


def excerpt(document: Document) -> str:
    """The beginning of a document on one line."""
    text = " ".join(document.body()[: 4 * EXCERPT].split())
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def show(report: dict[str, Any], title: str = "data") -> None:
    """Print a report: a table of counts, then examples of what was dropped and skipped."""
    rows = [("read", report["read"]), ("kept", report["kept"])]
    rows += [(f"dropped: {reason}", amount) for reason, amount in report["dropped"].items()]
    table(
        title,
        ["", "documents", "characters", "bytes"],
        [(name, f"{a['documents']:,}", f"{a['characters']:,}", bytes_text(a["bytes"])) for name, a in rows],
    )
    for reason, amount in report["dropped"].items():
        for example in amount["examples"]:
            of = f" (as {example['of']})" if "of" in example else ""
            say(f"  {reason}: {example['id']}{of}: {example['text']}")
    for reason, skip in report["skipped"].items():
        say(f"  skipped: {skip['count']} × {reason}, for example {skip['examples'][0]}")
    for name, heading in (("changed", "changed by"), ("languages", "languages")):
        if report[name]:
            say(f"  {heading}: " + ", ".join(f"{key} {count:,}" for key, count in report[name].items()))
    console().print()
