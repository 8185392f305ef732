"""Texts that are longer than a model can read, cut to the beginning that it can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plait import log
from plait.data.pairs import beginning
from plait.errors import about
from plait.tasks.conversation import Message, fit_history
from plait.text.document import Document
from plait.text.fitting import CHARACTERS, fitting


def shortened(
    documents: Sequence[Document],
    source: Callable[[Document], str],
    size: Callable[[Document], int],
    room: int,
) -> list[Document]:
    """The documents, each as `shorten` has it, and a warning that says how many were cut."""
    shorter = [shorten(document, source, size, room) for document in documents]
    cut = [document.id for document, short in zip(documents, shorter) if short is not document]
    if cut:
        log.warn(f"texts cut to {room:,} tokens: {len(cut):,} (first: {cut[0]})")
    return shorter


def shorten(
    document: Document, source: Callable[[Document], str], size: Callable[[Document], int], room: int
) -> Document:
    """A document with as much of its text as fits; the same where all does.

    Args:
        source: the text of a document; of a conversation the oldest turns are forgotten instead.
        size: tokens of the prompt that a document makes.
        room: tokens that a prompt may have.

    Raises:
        PromptError: a conversation whose last turn is longer than that.
    """
    if size(document) <= room:
        return document
    if messages := document.record.get("messages"):
        with about(document.id):
            return _with(document, fit_history(messages, lambda some: size(_with(document, some)), room))
    text = source(document)
    if not document.record.get("context"):
        text = text.lstrip()  # a beginning of blanks alone would be no text

    def upto(end: int) -> Document:
        return Document(document.id, beginning(document, text, end))

    return upto(fitting(lambda end: size(upto(end)) <= room, len(text), CHARACTERS * room))


def _with(document: Document, messages: list[Message]) -> Document:
    return Document(document.id, "", document.record | {"messages": messages})
