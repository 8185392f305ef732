"""A tiny model where it runs, steps of random tokens, and a source of packed documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from plait.data.batch import NO_LOSS, Batch, StepBatch
from plait.data.pack import write_rows
from plait.data.shards import EncodedDocument, write_shards
from plait.data.source import Source
from plait.nn.config import ModelConfig
from plait.parallel.apply import apply_layout
from plait.parallel.layout import Layout
from plait.parallel.placed import Placed

VOCAB = 31


@pytest.fixture(scope="session")
def make_placed() -> Callable[..., Placed]:
    def make(dtype: str = "float64", seed: int = 0, **fields) -> Placed:
        config = ModelConfig(
            **({"vocab": VOCAB, "width": 16, "layers": 2, "heads": 4, "context": 8} | fields)
        )
        return apply_layout(config, Layout(), torch.device("cpu"), dtype=dtype, seed=seed)

    return make


@pytest.fixture(scope="session")
def make_step() -> Callable[..., StepBatch]:
    """Rows of random tokens with unequal numbers of targets, the same rows for any `micro_batch`."""

    def make(step: int = 0, rows: int = 6, micro_batch: int = 6) -> StepBatch:
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(VOCAB, (rows, 9), generator=generator)
        targets = tokens[:, 1:].clone()
        for row in range(rows):
            targets[row, : row + step % 2] = NO_LOSS  # the first rows learn more than the last
        batches = [
            Batch(
                tokens[at : at + micro_batch, :-1], targets[at : at + micro_batch], None, None,
                rows=list(range(at, at + micro_batch)), sources=["text"] * micro_batch,
                read_ids=lambda at=at: [f"book.txt#{at}"],
            )
            for at in range(0, rows, micro_batch)
        ]  # fmt: skip
        return StepBatch(batches, int((targets != NO_LOSS).sum()))

    return make


@pytest.fixture
def source(tmp_path: Path) -> Source:
    generator = np.random.default_rng(0)
    lengths = (30, 4, 5, 9, 3, 20, 6, 12, 2)
    documents = [
        EncodedDocument(f"text#{n}", generator.integers(0, VOCAB, length)) for n, length in enumerate(lengths)
    ]
    shards = write_shards(tmp_path / "text", documents, vocab_size=VOCAB, pad_id=1)
    rows = write_rows(tmp_path / "text" / "rows.idx", shards, np.arange(len(lengths)), 8)
    return Source("text", shards, rows)
