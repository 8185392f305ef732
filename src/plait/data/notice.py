"""What is worth knowing about the pairs of some data: that their targets are labels, or lie in no context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from plait.data.pairs import target_in
from plait.text.document import Document

# So few different targets are labels; more are, up to the most, where each is there some times on average.
FEW_LABELS, MOST_LABELS, TIMES = 20, 1000, 5


def answer_elsewhere(document: Document) -> bool:
    """Whether none of a question's answers stands in its context."""
    context, answers = document.record.get("context"), document.record.get("answers") or []
    return bool(context and answers) and not any(answer in context for answer in answers)


@dataclass
class Noticed:
    """What `watch` has seen.

    Attributes:
        targets: different ones, up to one more than `MOST_LABELS`.
        elsewhere, first: how many answers stand not in their context, and the first one's id.
    """

    pairs: int = 0
    targets: set[str] = field(default_factory=set)
    elsewhere: int = 0
    first: str = ""

    def watch(self, documents: Iterable[tuple[Document, bool]]) -> Iterator[tuple[Document, bool]]:
        """The same documents, looked at on their way."""
        for document, held_out in documents:
            target = target_in(document)
            self.pairs += target is not None
            if target is not None and len(self.targets) <= MOST_LABELS:
                self.targets.add(target)
            if answer_elsewhere(document):
                self.elsewhere += 1
                self.first = self.first or document.id
            yield document, held_out

    def report(self) -> dict[str, Any]:
        """For the report of a source."""
        found: dict[str, Any] = {}
        count = len(self.targets)
        most = FEW_LABELS if TIMES * count > self.pairs else MOST_LABELS
        if count < self.pairs and count <= most:
            found["labels"] = sorted(self.targets)
        if self.elsewhere:
            found["elsewhere"] = {"answers": self.elsewhere, "first": self.first}
        return found


def labels_in(sources: Iterable[Mapping[str, Any]]) -> list[str]:
    """The labels of all sources of a report; empty where some source has none, or they are too many."""
    found = [source.get("labels") or [] for source in sources]
    labels = sorted({label for some in found for label in some})
    return labels if all(found) and len(labels) <= MOST_LABELS else []


def elsewhere_text(count: int, first: str) -> str:
    """One line about answers that stand not in their context."""
    found = f"{count:,} answers not found in their context (first: {first})"
    return f"{found}; they are kept: check the columns if they are many"
