"""Which documents are held out for validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from plait.errors import ConfigError
from plait.text.document import Document

FEW = 20  # with fewer documents, whole ones are too coarse a share
NONE, ALL = -1, (1 << 63) - 1  # edges below and above every key
Read = Callable[[], Iterator[Document]]


@dataclass(frozen=True)
class TailSplit:
    """The first `keep` characters are for training; the document in which the cut falls becomes two."""

    keep: int
    name = "tail"

    def sides(self, documents: Iterable[Document]) -> Iterator[tuple[Document, bool]]:
        """Documents in order, each with whether it is held out."""
        left = self.keep
        for document in documents:
            text = document.text
            if left:
                yield Document(document.id, text[:left], document.record), False
            if left < len(text):
                suffix = " (tail)" if left else ""
                yield Document(f"{document.id}{suffix}", text[left:], document.record), True
            left = max(0, left - len(text))


@dataclass(frozen=True)
class DocumentSplit:
    """Whole documents are held out: those whose key is `edge` or less."""

    edge: int
    seed: int
    name = "document"

    def sides(self, documents: Iterable[Document]) -> Iterator[tuple[Document, bool]]:
        """Documents in order, each with whether it is held out."""
        for document in documents:
            yield document, key_of(document, self.seed) <= self.edge


Split = TailSplit | DocumentSplit


def find_split(read: Read, fraction: float, seed: int, *, how: str = "auto", name: str = "text") -> Split:
    """Decide which `fraction` of a source is held out, by reading it through.

    Args:
        read: gives the documents from the start, each time the same.
        how: `document`, `tail`, or `auto`: `tail` for fewer than 20 documents.
        name: of the source, for messages.

    Raises:
        ConfigError: when nothing would be left to train on.
    """
    if how == "tail" or (how == "auto" and _few(read)):
        return TailSplit(int(sum(len(document.text) for document in read()) * (1 - fraction)))
    keys = np.fromiter((key_of(document, seed) for document in read()), np.int64)
    return DocumentSplit(edge_of(keys, fraction, name), seed)


def _few(read: Read) -> bool:
    return sum(1 for _ in islice(read(), FEW)) < FEW


def key_of(document: Document, seed: int) -> int:
    """A number below 2⁶³ that depends on what a document says, not on where it was found.

    Of a question with a context it is that of the context's first line: questions on one text, or on the
    beginnings of one story, lie on one side, since answers to some give others away.
    """
    context = document.record.get("context")
    shared = context.strip().partition("\n")[0] if isinstance(context, str) else ""
    said = document.text or shared or json.dumps(document.record, sort_keys=True, default=str)
    salt = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
    digest = hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=8, salt=salt).digest()
    return int.from_bytes(digest, "little") >> 1


def edge_of(keys: np.ndarray, fraction: float, name: str) -> int:
    """The largest key to hold out for that share of the documents: at least one, and equal ones together.

    So the choice is the same in any order of the documents, and a document that occurs twice never lies on
    both sides.

    Args:
        keys: of each document, int64 `[documents]`.

    Raises:
        ConfigError: when nothing would be left to train on.
    """
    wanted = max(1, round(len(keys) * fraction))
    edge = int(np.partition(keys, wanted - 1)[wanted - 1])
    if (keys <= edge).all():
        raise ConfigError(
            f"data.validation={fraction:g} by document leaves nothing to train on in {name!r}, which has "
            f"{len(np.unique(keys))} different document(s); give a path, or 0 for no validation"
        )
    return edge
