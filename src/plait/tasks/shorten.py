"""Texts that are longer than a model can read, cut to the beginning that it can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plait import log
from plait.text.document import Document


def shortened(
    documents: Sequence[Document],
    source: Callable[[Document], str],
    size: Callable[[Document], int],
    room: int,
) -> list[Document]:
    """The documents, each with as much of its text as fits, and a warning that says how many were cut.

    Args:
        source: the text of a document; conversations have none, and are left as they are.
        size: tokens of the prompt that a document makes.
        room: tokens that a prompt may have.
    """
    cut: list[str] = []

    def short(document: Document) -> Document:
        if document.record.get("messages") or size(document) <= room:
            return document
        cut.append(document.id)
        text = source(document)
        end = fitting(lambda end: size(Document(document.id, text[:end])) <= room, len(text))
        return Document(document.id, text[:end])

    shorter = [short(document) for document in documents]
    if cut:
        log.warn(f"texts cut to their first {room:,} tokens: {len(cut):,} (first: {cut[0]})")
    return shorter


def fitting(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, 0 if none does; what fits must not grow again."""
    low, high = 0, most
    while low < high:
        middle = high if high == most else (low + high + 1) // 2  # all of it fits as a rule
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
