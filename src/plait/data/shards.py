"""Token shards: encoded documents on disk, memory-mapped, with checksums and document boundaries."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plait.data.files import (
    REMEDY,
    HashedFile,
    check_sha256,
    check_size,
    read_json,
    write_json,
)
from plait.errors import InputError
from plait.files import new_directory

FORMAT = 1
SHARD_BYTES = 1 << 28


class EncodedDocument(NamedTuple):
    """A document as it is stored.

    Attributes:
        ids: its tokens, the special ones at its ends included.
        mask: for each token, whether predicting it carries a loss; None: all do.
        text_bytes: UTF-8 bytes of the text that carries a loss.
    """

    id: str
    ids: Sequence[int]
    mask: Sequence[int] | None = None
    text_bytes: int = 0


def write_shards(
    out_dir: str | Path,
    documents: Iterable[EncodedDocument],
    *,
    vocab_size: int,
    tokenizer_hash: str = "",
    pad_id: int = 0,
    start_id: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Shards:
    """Write documents, one after the other, into a new directory, whole or not at all.

    Files: `tokens-00000.bin`, ... (little-endian uint16, or uint32 above 65,536 tokens), `mask-00000.bin`,
    ... (uint8) where documents have masks, `documents.bin` (int64: the N + 1 token offsets, then N byte
    counts), `documents.jsonl` (an id a line) and `index.json` (counts, sizes and sha256 of the others).
    A document never spans two shards; a shard is closed once it holds `shard_bytes`.

    Args:
        start_id: what begins the target of a pair, where documents are pairs: a source, which carries no
            loss, and its target.

    Raises:
        ValueError: for a document without tokens, with tokens outside the vocabulary, or where only some
            documents have masks.
        TrainingError: when the disk is full.
    """
    out_dir = Path(out_dir)
    dtype = np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")
    with (
        new_directory(out_dir) as folder,
        closing(_Writer(folder, dtype, vocab_size, shard_bytes)) as writer,
    ):
        for document in documents:
            writer.add(document)
        head = {"format": FORMAT, "dtype": dtype.name, "vocab_size": vocab_size}
        index = head | {"tokenizer": tokenizer_hash, "pad_id": pad_id} | writer.finish()
        index |= {} if start_id is None else {"start_id": start_id}
        write_json(folder / "index.json", index)
    return Shards(out_dir)


class _Writer:
    def __init__(self, folder: Path, dtype: np.dtype, vocab_size: int, shard_bytes: int) -> None:
        self.folder, self.dtype, self.vocab_size, self.shard_bytes = folder, dtype, vocab_size, shard_bytes
        self.files: dict[str, dict[str, Any]] = {}
        self.offsets, self.text_bytes = array("q", [0]), array("q")
        self.masked: bool | None = None
        self.shard_tokens: list[int] = []
        self.names = HashedFile(folder / "documents.jsonl")
        self.open: list[HashedFile] = []

    def add(self, document: EncodedDocument) -> None:
        ids = np.asarray(document.ids, np.int64)
        if not len(ids) or ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValueError(f"document {document.id} needs tokens within 0..{self.vocab_size - 1}: {ids}")
        if self.masked not in (None, document.mask is not None):
            raise ValueError(f"document {document.id} differs from the others in having or lacking a mask")
        self.masked = document.mask is not None
        if not self.open or self.open[0].size >= self.shard_bytes:
            self._next_shard()
        self.open[0].write(ids.astype(self.dtype).tobytes())
        if document.mask is not None:
            mask = np.asarray(document.mask, np.uint8)
            if len(mask) != len(ids):
                raise ValueError(f"document {document.id}: {len(mask)} mask values for {len(ids)} tokens")
            self.open[1].write(mask.tobytes())
        self.names.write((json.dumps(document.id, ensure_ascii=False) + "\n").encode())
        self.offsets.append(self.offsets[-1] + len(ids))
        self.text_bytes.append(document.text_bytes)
        self.shard_tokens[-1] += len(ids)

    def _next_shard(self) -> None:
        self._finish_shard()
        number = len(self.shard_tokens)
        kinds = ("tokens", "mask") if self.masked else ("tokens",)
        self.open = [HashedFile(self.folder / f"{kind}-{number:05d}.bin") for kind in kinds]
        self.shard_tokens.append(0)

    def _finish_shard(self) -> None:
        self.files |= {file.path.name: file.finish() for file in self.open}
        self.open = []

    def close(self) -> None:
        for file in (self.names, *self.open):
            file.close()

    def finish(self) -> dict[str, Any]:
        self._finish_shard()
        table = HashedFile(self.folder / "documents.bin")
        table.write(np.asarray(self.offsets, "<i8").tobytes())
        table.write(np.asarray(self.text_bytes, "<i8").tobytes())
        self.files |= {file.path.name: file.finish() for file in (table, self.names)}
        return {
            "documents": len(self.text_bytes),
            "tokens": self.offsets[-1],
            "text_bytes": sum(self.text_bytes),
            "masked": bool(self.masked),
            "shards": self.shard_tokens,
            "files": self.files,
        }


class Shards:
    """Encoded documents, numbered from 0, read through a memory map.

    Attributes:
        lengths: tokens of each document, int64 `[documents]`.
        text_bytes: UTF-8 bytes of each document's text, int64 `[documents]`.
        masked: whether each token says if it carries a loss.
        start_id: what begins the target of a pair; None: documents are no pairs.
        digest: sha256 of the index, and so of everything in it.

    Raises:
        InputError: when a file is missing or has the wrong size.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        index = read_json(self.directory / "index.json")
        if index.get("format") != FORMAT:
            raise InputError(
                f"{self.directory} has token format {index.get('format')}, {FORMAT} expected; {REMEDY}"
            )
        self.files: dict[str, dict[str, Any]] = index["files"]
        for name, file in self.files.items():
            check_size(self.directory / name, file["bytes"])
        self.digest = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
        self.vocab_size: int = index["vocab_size"]
        self.tokenizer_hash: str = index["tokenizer"]
        self.pad_id: int = index["pad_id"]
        self.start_id: int | None = index.get("start_id")
        self.masked: bool = index["masked"]
        self.documents: int = index["documents"]
        self.tokens: int = index["tokens"]
        table = np.fromfile(self.directory / "documents.bin", "<i8")
        self._offsets = table[: self.documents + 1]
        self.text_bytes = table[self.documents + 1 :]
        self.lengths = np.diff(self._offsets)
        self._shard_starts = np.cumsum([0, *index["shards"]])
        count = len(index["shards"])
        self._tokens = [self._map(f"tokens-{number:05d}.bin", index["dtype"]) for number in range(count)]
        self._masks = [self._map(f"mask-{number:05d}.bin", "u1") for number in range(count * self.masked)]

    def _map(self, name: str, dtype: str) -> np.ndarray:
        return np.memmap(self.directory / name, np.dtype(dtype).newbyteorder("<"), mode="r")

    def read(self, document: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Tokens `start` up to `stop` of a document, a view of the file."""
        return self._slice(self._tokens, document, start, stop)

    def read_mask(self, document: int, start: int = 0, stop: int | None = None) -> np.ndarray | None:
        """Whether each of these tokens carries a loss; None: all do."""
        return self._slice(self._masks, document, start, stop) if self.masked else None

    def _slice(self, shards: list[np.ndarray], document: int, start: int, stop: int | None) -> np.ndarray:
        offset = self._offsets[document]
        length = int(self.lengths[document])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise IndexError(f"tokens {start}..{stop} of document {document}, which has {length}")
        shard = int(np.searchsorted(self._shard_starts, offset, side="right")) - 1
        offset = int(offset - self._shard_starts[shard])
        return shards[shard][offset + start : offset + stop]

    def document_ids(self, documents: Iterable[int]) -> list[str]:
        """The ids of documents, in the order asked for; reads the list of ids, so for messages only."""
        wanted = [int(document) for document in documents]
        found: dict[int, str] = {}
        with (self.directory / "documents.jsonl").open(encoding="utf-8", newline="\n") as file:
            at = 0
            for number in sorted(set(wanted)):
                found[number] = json.loads(next(islice(file, number - at, None)))
                at = number + 1
        return [found[number] for number in wanted]

    def verify(self) -> None:
        """Read every file and compare its sha256 with the index.

        Raises:
            InputError: naming the file that differs.
        """
        for name, file in self.files.items():
            check_sha256(self.directory / name, file["sha256"])
