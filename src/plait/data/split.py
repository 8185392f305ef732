"""Which documents are held out for validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal

import numpy as np

from plait.errors import ConfigError
from plait.text.document import Document

FEW = 20  # with fewer documents, whole ones are too coarse a share
TRAIN, HELD_OUT = 1, 0
Read = Callable[[], Iterator[Document]]


def choose_split(split: str, kind: str, read: Read) -> Literal["document", "tail"]:
    """What `auto` means here: `tail` for running text in fewer than 20 documents, else `document`."""
    if split == "document" or kind != "text":
        return "document"
    few = split == "tail" or sum(1 for _ in islice(read(), FEW)) < FEW
    return "tail" if few else "document"


def split_tail(documents: Iterable[Document], keep: int) -> Iterator[tuple[Document, int]]:
    """Documents in order, each `TRAIN` or `HELD_OUT`: the first `keep` characters are for training.

    The document in which the cut falls becomes two.
    """
    for document in documents:
        text = document.text
        if keep or not text:
            yield Document(document.id, text[:keep], document.record), TRAIN
        if keep < len(text):
            suffix = " (tail)" if keep else ""
            yield Document(f"{document.id}{suffix}", text[keep:], document.record), HELD_OUT
        keep = max(0, keep - len(text))


def with_keys(documents: Iterable[Document], seed: int) -> Iterator[tuple[Document, int]]:
    """Each document with a number below 2⁶³ that depends on what it says, not on where it was found."""
    salt = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
    for document in documents:
        said = document.text or json.dumps(document.record, sort_keys=True, default=str)
        digest = hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=8, salt=salt).digest()
        yield document, int.from_bytes(digest, "little") >> 1


def hold_out(keys: np.ndarray, fraction: float, name: str) -> np.ndarray:
    """Choose the share of documents with the smallest keys: at least one, and equal ones together.

    So the choice is the same in any order of the documents, and a document that occurs twice never lies on
    both sides.

    Args:
        keys: of each document, int64 `[documents]`.

    Returns:
        bool `[documents]`, true where held out.

    Raises:
        ConfigError: when nothing would be left on one side.
    """
    if fraction in (0, 1):
        return np.full(len(keys), bool(fraction))
    wanted = max(1, round(len(keys) * fraction))
    held = keys <= np.partition(keys, wanted - 1)[wanted - 1]
    if held.all():
        raise ConfigError(
            f"data.validation={fraction:g} by document leaves nothing to train on in {name!r}, which has "
            f"{len(np.unique(keys))} different document(s); give a path, or 0 for no validation"
        )
    return held
