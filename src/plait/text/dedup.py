"""Exact and near duplicates in a stream of documents, first one kept.

Near duplicates are found by character shingles, which suit Chinese and English alike: one-permutation
MinHash (Li, Owen & Zhang 2012; densified by rotation, Shrivastava & Li 2014), banded into a locality-
sensitive index (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, 3.4). A candidate counts only if
the true Jaccard similarity of the shingle sets reaches the threshold, so hashing never drops a document.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from plait.text.document import Document

SHINGLE = 5  # characters
BANDS, ROWS = 16, 6  # a pair of similarity 0.8 shares a band with probability 0.99, one of 0.3 with 0.01
SLOTS = BANDS * ROWS
EMPTY = np.uint64(1 << 32)
BATCH = 256  # documents sketched at once
PIECE = 1 << 20  # characters hashed at once
SPOOL = 64 << 20  # bytes of kept text held in memory before they go to a temporary file


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Why a document is dropped: `exact_duplicate` or `near_duplicate` of the kept document `of`."""

    reason: str
    of: str
    similarity: float


def dedup(
    documents: Iterable[Document], threshold: float | None = 0.8
) -> Iterator[tuple[Document, Duplicate | None]]:
    """Each document in order, with the earlier kept one that it repeats, or None.

    Exact duplicates agree in everything but white space. Near duplicates (`threshold` is the Jaccard
    similarity from which two texts count as the same; None: none) are looked for in running text only:
    questions about one paragraph look alike and are not. Memory: about 3 KiB a kept document; texts go to
    a temporary file.
    """
    stream = iter(documents)
    seen: dict[bytes, str] = {}
    with closing(NearDuplicates(threshold or 1.0)) as near:
        while batch := list(islice(stream, BATCH)):
            sketches = near.sketches(batch) if threshold is not None else [None] * len(batch)
            for document, mine in zip(batch, sketches):
                digest = _digest(document)
                if (first := seen.get(digest)) is not None:
                    yield document, Duplicate("exact_duplicate", first, 1.0)
                    continue
                found = near.check(mine) if mine is not None else None
                if found is None:
                    seen[digest] = document.id
                yield document, found


def _digest(document: Document) -> bytes:
    words = " ".join(document.body().split())
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()[:16]


@dataclass(frozen=True, slots=True)
class Sketched:
    """A text in `normal` form with its sketch `uint32[96]` and the keys of its bands."""

    id: str
    text: str
    row: np.ndarray
    keys: list[int]


def normal(text: str) -> str:
    """The form in which texts are compared: lower case, no white space."""
    return "".join(text.lower().split())


class NearDuplicates:
    """Kept texts, found again by their sketches. `close()` it, as it holds a temporary file."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._ids: list[str] = []
        self._sketches = np.empty((1024, SLOTS), np.uint32)
        self._bands: dict[int, int | list[int]] = {}
        self._texts = tempfile.SpooledTemporaryFile(SPOOL)  # noqa: SIM115 (closed by close)
        self._offsets = [0]

    def close(self) -> None:
        """Give back the temporary file."""
        self._texts.close()

    @staticmethod
    def sketches(documents: Sequence[Document]) -> list[Sketched | None]:
        """What `check` compares, None for a document without running text."""
        texts = [normal(document.text) for document in documents]
        rows = sketch(texts)
        keys = _band_keys(rows)
        return [
            None if document.structured else Sketched(document.id, text, row, key)
            for document, text, row, key in zip(documents, texts, rows, keys)
        ]

    def check(self, mine: Sketched) -> Duplicate | None:
        """The most similar kept text if it reaches the threshold; else this one is kept too."""
        hashes = None
        for other in self._candidates(mine):
            hashes = np.unique(shingles(mine.text)) if hashes is None else hashes
            similarity = jaccard(hashes, np.unique(shingles(self._text(other))))
            if similarity >= self.threshold:
                return Duplicate("near_duplicate", self._ids[other], round(similarity, 4))
        self._keep(mine)
        return None

    def _candidates(self, mine: Sketched) -> list[int]:
        """Kept texts that share a band and, by their sketches, may be similar enough; likeliest first."""
        shared: Counter[int] = Counter()
        for key in mine.keys:
            if (found := self._bands.get(key)) is not None:
                shared.update([found] if isinstance(found, int) else found)
        if not shared:
            return []
        others = np.array(sorted(shared))
        estimates = (self._sketches[others] == mine.row).mean(axis=1)
        # an estimate from 96 slots errs by 0.05, more where a short text fills few of them
        order = [i for i in np.argsort(-estimates, kind="stable") if estimates[i] >= self.threshold - 0.3]
        return [int(others[i]) for i in order]

    def _keep(self, mine: Sketched) -> None:
        number = len(self._ids)
        if number == len(self._sketches):
            self._sketches = np.concatenate([self._sketches, np.empty_like(self._sketches)])
        self._ids.append(mine.id)
        self._sketches[number] = mine.row
        for key in mine.keys:
            held = self._bands.setdefault(key, number)
            if isinstance(held, list):
                held.append(number)
            elif held != number:
                self._bands[key] = [held, number]
        self._texts.seek(self._offsets[-1])
        self._texts.write(mine.text.encode("utf-8", "surrogatepass"))
        self._offsets.append(self._texts.tell())

    def _text(self, number: int) -> str:
        self._texts.seek(self._offsets[number])
        return self._texts.read(self._offsets[number + 1] - self._offsets[number]).decode(
            "utf-8", "surrogatepass"
        )


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Shared over all elements of two sets, given as arrays of distinct values."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


def shingles(text: str) -> np.ndarray:
    """64-bit hashes of every run of five characters; a shorter text is padded to one run."""
    text = text.ljust(SHINGLE, "\0")
    starts = range(0, len(text) - SHINGLE + 1, PIECE)
    return np.concatenate([_hashes(_points(text[at : at + PIECE + SHINGLE - 1])) for at in starts])


def sketch(texts: list[str]) -> np.ndarray:
    """One-permutation MinHash: `uint32[texts, 96]`. Equal slots of two rows estimate their similarity."""
    table = np.full((len(texts), SLOTS), EMPTY)
    group: list[tuple[int, str]] = []
    size = 0
    for row, text in enumerate(texts):
        text = text.ljust(SHINGLE, "\0")
        for at in range(0, len(text) - SHINGLE + 1, PIECE):
            piece = text[at : at + PIECE + SHINGLE - 1]
            if size + len(piece) > PIECE and group:
                _fill(table, group)
                group, size = [], 0
            group.append((row, piece))
            size += len(piece)
    if group:
        _fill(table, group)
    return _densified(table)


def _fill(table: np.ndarray, group: list[tuple[int, str]]) -> None:
    lengths = np.array([len(piece) for _, piece in group])
    hashes = _hashes(_points("".join(piece for _, piece in group)))
    rows = np.repeat(np.array([row for row, _ in group]), lengths)[: len(hashes)]
    ends = np.repeat(np.cumsum(lengths), lengths)[: len(hashes)]
    inside = np.arange(len(hashes)) + SHINGLE <= ends  # shingles over the border of two texts do not count
    slots = ((hashes >> np.uint64(32)) * np.uint64(SLOTS) >> np.uint64(32)).astype(np.int64)
    where = (rows * SLOTS + slots)[inside]
    np.minimum.at(table.reshape(-1), where, (hashes & np.uint64(0xFFFFFFFF))[inside])


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)


def _hashes(points: np.ndarray) -> np.ndarray:
    """A polynomial over five code points, then the finalizer of MurmurHash3 (Appleby 2011) to mix it."""
    count = len(points) - SHINGLE + 1
    value = points[:count].copy()
    for offset in range(1, SHINGLE):
        value *= np.uint64(0x9E3779B97F4A7C15)
        value += points[offset : offset + count]
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value ^= value >> np.uint64(33)
        value *= np.uint64(factor)
    value ^= value >> np.uint64(33)
    return value


def _densified(table: np.ndarray) -> np.ndarray:
    """Empty slots borrow from the next filled one to the right, marked by the distance."""
    filled = np.concatenate([table, table], axis=1) != EMPTY
    positions = np.where(filled, np.arange(2 * SLOTS), 2 * SLOTS)
    source = np.minimum.accumulate(positions[:, ::-1], axis=1)[:, ::-1][:, :SLOTS]
    distance = (source - np.arange(SLOTS)).astype(np.uint32)
    borrowed = np.take_along_axis(table, source % SLOTS, axis=1).astype(np.uint32)
    return borrowed + distance * np.uint32(0x9E3779B9)


def _band_keys(table: np.ndarray) -> list[list[int]]:
    """For each row of sketches the hashes of its bands, which differ between bands of equal content."""
    parts = table.reshape(len(table), BANDS, ROWS).astype(np.uint64)
    keys = np.tile(np.arange(1, BANDS + 1, dtype=np.uint64), (len(table), 1))
    for column in range(ROWS):
        keys = (keys ^ parts[:, :, column]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys.tolist()
