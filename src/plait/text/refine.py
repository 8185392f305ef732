"""One document through cleaning, filters and language detection: a pure function over records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from plait.text.clean import STEPS, ordered
from plait.text.document import Document
from plait.text.filters import Rules, filter, language_of


@dataclass(frozen=True, slots=True)
class Refined:
    """A cleaned document, the steps that changed it, its language, and why to drop it (None: keep)."""

    document: Document
    changed: tuple[str, ...]
    language: str
    reason: str | None


def refine(document: Document, steps: Iterable[str], rules: Rules) -> Refined:
    """Clean every text field of a document and judge the result."""
    changed = []
    for name in ordered(tuple(steps)):
        cleaned = document.map_text(STEPS[name])
        if cleaned != document:
            changed.append(name)
            document = cleaned
    language, _ = language_of(document.body())
    return Refined(document, tuple(changed), language, filter(document, rules))


def refine_batch(setup: dict[str, Any], batch: list[list[Any]]) -> list[list[Any]]:
    """`refine` on JSON values: `setup` holds steps and rules, each item is `[id, text, record]`."""
    rules = Rules.model_validate(setup["rules"])
    results = []
    for id, text, record in batch:
        one = refine(Document(id, text, record), setup["steps"], rules)
        results.append([one.document.text, one.document.record, one.changed, one.language, one.reason])
    return results
