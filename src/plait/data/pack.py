"""Rows of exactly `context` predictions: long documents in chunks, short ones packed with little padding."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np

from plait.data.files import REMEDY, check_sha256, check_size
from plait.data.shards import Shards
from plait.errors import InputError
from plait.files import write_bytes

_HEADER = struct.Struct("<8s7q32s")  # magic; context, rows, pieces, targets, documents, bytes, cut; sha256
_MAGIC = b"plaitro1"


def pack(pieces: np.ndarray, context: int, *, together: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Put pieces of documents into rows of `context` places.

    Pieces are packed best-fit-decreasing (Ding et al. 2024, "Fewer truncations improve language
    modeling"), all pieces of one length at once, so time grows with the number of different lengths more
    than with the number of pieces.

    Args:
        pieces: int64 `[pieces, columns]`: document, start, length and whatever else belongs to them.
        together: False: one piece a row.

    Returns:
        pieces: the same ones, row by row, rows in the order of their first piece.
        offsets: int64 `[rows + 1]`, where each row's pieces begin.
    """
    row = _best_fit_decreasing(pieces[:, 2], context) if together else np.arange(len(pieces))
    return _arrange(pieces, row)


def cut(documents: np.ndarray, predictions: np.ndarray, context: int) -> np.ndarray:
    """Cut documents into pieces of at most `context` predictions, in document order.

    A piece (document, start, length) has `length` tokens from `start` as inputs and the `length` tokens one
    further on as targets, so each token of a document but its first is predicted exactly once.

    Args:
        documents: document numbers, int64 `[n]`.
        predictions: tokens less one of each, int64 `[n]`.

    Returns:
        int64 `[pieces, 3]`.
    """
    chunks = -(-predictions // context)
    owner = np.repeat(np.arange(len(documents)), chunks)
    first = np.cumsum(chunks) - chunks
    start = (np.arange(len(owner)) - first[owner]) * context
    length = np.minimum(context, predictions[owner] - start)
    return np.stack([documents[owner], start, length], axis=1).astype(np.int64)


def _arrange(pieces: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    by_row = np.argsort(row, kind="stable")  # keeps document order within a row
    starts = np.flatnonzero(np.r_[True, np.diff(row[by_row]) > 0]) if len(row) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[starts, len(row)])
    rank = np.argsort(by_row[starts], kind="stable")
    offsets = np.r_[0, np.cumsum(sizes[rank])].astype(np.int64)
    within = np.arange(len(row)) - np.repeat(offsets[:-1], sizes[rank])
    return pieces[by_row[np.repeat(starts[rank], sizes[rank]) + within]], offsets


def _best_fit_decreasing(lengths: np.ndarray, context: int) -> np.ndarray:
    """The row of each piece.

    All pieces of one length are placed at once: the row with the least room that still fits takes as many
    of them as it can hold, since after each it remains the best fit.
    """
    row = np.empty(len(lengths), np.int64)
    by_length = np.argsort(-lengths, kind="stable")
    rooms: list[list[np.ndarray]] = [[] for _ in range(context + 1)]  # open rows by their free room
    count = np.zeros(context + 1, np.int64)
    rows = 0
    values, sizes = np.unique(lengths, return_counts=True)
    at = 0
    for length, size in zip(values[::-1].tolist(), sizes[::-1].tolist()):
        todo = by_length[at : at + size]
        at += size
        while len(todo):
            open_rooms = np.flatnonzero(count[length:])
            room = length + int(open_rooms[0]) if len(open_rooms) else context
            each = room // length
            needed = -(-len(todo) // each)
            if len(open_rooms):
                taken = _take(rooms[room], needed)
                count[room] -= len(taken)
            else:
                taken = np.arange(rows, rows + needed)
                rows += needed
            filled = np.repeat(taken, each)[: len(todo)]
            row[todo[: len(filled)]] = filled
            todo = todo[len(filled) :]
            last = len(filled) - (len(taken) - 1) * each
            for group, used in ((taken[:-1], each), (taken[-1:], last)):
                rooms[room - used * length].append(group)
                count[room - used * length] += len(group)
    return row


def _take(groups: list[np.ndarray], wanted: int) -> np.ndarray:
    """Remove up to `wanted` numbers from the end of a list of arrays."""
    taken: list[np.ndarray] = []
    while groups and wanted:
        group = groups.pop()
        if len(group) > wanted:
            groups.append(group[:-wanted])
            group = group[-wanted:]
        taken.append(group)
        wanted -= len(group)
    return np.concatenate(taken)


def write_rows(
    path: str | Path, shards: Shards, documents: np.ndarray, context: int, *, together: bool = True
) -> Rows:
    """Pack some documents of a store and write the rows, whole or not at all.

    Pieces in which no token carries a loss are left out.

    Args:
        documents: the document numbers, int64 `[n]`, increasing.
        together: False: one piece a row.
    """
    path = Path(path)
    pieces = cut(documents, shards.lengths[documents] - 1, context)
    targets = _targets(shards, pieces)
    pieces, targets = pieces[targets > 0], targets[targets > 0]
    arranged, offsets = pack(np.c_[pieces, targets], context, together=together)
    per_row = np.add.reduceat(arranged[:, 3], offsets[:-1]) if len(arranged) else np.zeros(0, np.int64)
    body = b"".join(part.astype("<i8").tobytes() for part in (offsets, per_row, arranged[:, :3]))
    head = (
        context, len(per_row), len(arranged), int(per_row.sum()), len(documents),
        int(shards.text_bytes[documents].sum()), int((shards.lengths[documents] - 1 > context).sum()),
    )  # fmt: skip
    write_bytes(path, _HEADER.pack(_MAGIC, *head, hashlib.sha256(body).digest()) + body)
    return Rows(path)


def _targets(shards: Shards, pieces: np.ndarray) -> np.ndarray:
    """Tokens with a loss in each piece."""
    if not shards.masked:
        return pieces[:, 2]
    counts = [
        int(np.sum(shards.read_mask(document, start + 1, start + length + 1)))  # type: ignore[arg-type]
        for document, start, length in pieces.tolist()
    ]
    return np.array(counts, np.int64)


class Rows:
    """The rows of a training or validation set, as written by `write_rows`, memory-mapped.

    Attributes:
        context: places in a row.
        count: rows.
        target_tokens: places with a loss, in all rows.
        places: places that hold a token, in all rows; the rest of `count · context` is padding.
        documents, text_bytes: documents behind the rows, and the UTF-8 bytes of their text.
        cut: documents longer than a row.
        digest: sha256 of the contents.

    Raises:
        InputError: when the file is missing, truncated or not of this format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{self.path} is missing; {REMEDY}")
        with self.path.open("rb") as file:
            head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise InputError(f"{self.path} is damaged: it does not begin as a row index does; {REMEDY}")
        _, self.context, self.count, pieces, *counts, digest = _HEADER.unpack(head)
        self.target_tokens, self.documents, self.text_bytes, self.cut = counts
        self.digest = digest.hex()
        check_size(self.path, _HEADER.size + 8 * (2 * self.count + 1 + 3 * pieces))
        table = np.memmap(self.path, "<i8", mode="r", offset=_HEADER.size)
        self._offsets = table[: self.count + 1]
        self._targets = table[self.count + 1 : 2 * self.count + 1]
        self._pieces = table[2 * self.count + 1 :].reshape(-1, 3)
        self.places = int(self._pieces[:, 2].sum())

    def pieces(self, row: int) -> np.ndarray:
        """(document, start, length) of each piece of a row, int64 `[pieces, 3]`."""
        return self._pieces[self._offsets[row] : self._offsets[row + 1]]

    def places_in(self, row: int) -> int:
        """Places that hold a token in a row."""
        return int(self.pieces(row)[:, 2].sum())

    def targets_in(self, row: int) -> int:
        """Places with a loss in a row."""
        return int(self._targets[row])

    def verify(self) -> None:
        """Read the file and compare its checksum; raises InputError."""
        check_sha256(self.path, self.digest, skip=_HEADER.size)
