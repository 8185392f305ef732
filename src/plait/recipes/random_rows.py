"""Seeded random tokens as rows of unequal lengths, for runs that need no data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plait.data.batch import NO_LOSS, PADDING, Batch, StepBatch


class RandomRows:
    """A loader of seeded random tokens: rows of unequal lengths, of several documents every second step.

    Args:
        context: tokens in a row.
        rows: of a step, over all ranks.
        micro_batch: rows of a micro-batch of one rank.
        start_id: what begins a target, for rows that are pairs; None: they are not.
    """

    def __init__(
        self,
        vocab: int,
        context: int,
        rows: int,
        micro_batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        start_id: int | None = None,
    ) -> None:
        self.start_id = start_id
        self.vocab, self.context = vocab, context
        self.rows, self.micro_batch, self.seed = rows, micro_batch, seed
        self.rank, self.ranks = rank, ranks

    def batch(self, step: int) -> StepBatch:
        """This rank's micro-batches of a step; step 0 is the first."""
        whole = self._rows(step) if self.start_id is None else self._pairs(step, self.start_id)
        share = self.rows // self.ranks
        first = self.rank * share
        starts = range(first, first + share, self.micro_batch)
        return StepBatch(
            [self._take(whole, at, at + self.micro_batch) for at in starts], whole.target_tokens()
        )

    def _rows(self, step: int) -> Batch:
        rng = np.random.Generator(np.random.Philox(key=self.seed * 1000 + step))
        time, rows = self.context, self.rows
        tokens = rng.integers(0, self.vocab, (rows, time + 1))
        positions, segments = np.tile(np.arange(time), (rows, 1)), np.zeros((rows, time), np.int64)
        packed = step % 2 == 1
        for row in range(rows):
            length = int(rng.integers(2, time + 1))
            segments[row, length:] = PADDING
            if packed:
                cuts = np.sort(rng.integers(1, time, 2))
                for cut in cuts:
                    positions[row, cut:] = np.arange(time - cut)
                    segments[row, cut:length] += 1
        targets = np.where(segments == PADDING, NO_LOSS, tokens[:, 1:])
        return Batch(
            tokens=torch.from_numpy(tokens[:, :-1].copy()),
            targets=torch.from_numpy(targets),
            positions=torch.from_numpy(positions) if packed else None,
            segments=torch.from_numpy(segments) if packed else None,
            rows=list(range(rows)),
            sources=["random"] * rows,
            held=torch.from_numpy(segments != PADDING),
        )

    def _pairs(self, step: int, start_id: int) -> Batch:
        rng = np.random.Generator(np.random.Philox(key=self.seed * 1000 + step))
        shape = self.rows, self.context
        source, targets = rng.integers(0, self.vocab, shape), rng.integers(0, self.vocab, shape)
        tokens = np.c_[np.full(self.rows, start_id), targets[:, :-1]]
        places = np.tile(np.arange(self.context), (self.rows, 1))
        read, written = (rng.integers(1, self.context + 1, (self.rows, 1)) for _ in range(2))
        held = places < written
        return Batch(
            tokens=torch.from_numpy(tokens),
            targets=torch.from_numpy(np.where(held, targets, NO_LOSS)),
            positions=None,
            segments=None,
            rows=list(range(self.rows)),
            sources=["random"] * self.rows,
            held=torch.from_numpy(held),
            source=torch.from_numpy(source),
            source_positions=torch.from_numpy(np.where(places < read, places, PADDING)),
        )

    @staticmethod
    def _take(batch: Batch, first: int, last: int) -> Batch:
        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[first:last]

        return Batch(
            batch.tokens[first:last], batch.targets[first:last], cut(batch.positions), cut(batch.segments),
            batch.rows[first:last], batch.sources[first:last], held=cut(batch.held),
            source=cut(batch.source), source_positions=cut(batch.source_positions),
        )  # fmt: skip
