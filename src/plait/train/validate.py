"""Validation during training: the plain loss over held-out rows, by source."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plait.data.batch import evaluation_batch
from plait.data.source import Source
from plait.parallel.placed import Placed
from plait.train.objectives import next_token


@dataclass(frozen=True)
class Validation:
    """Sums over held-out rows.

    Attributes:
        nll: nats.
        text_bytes: UTF-8 bytes of the text behind the rows; an estimate where `rows` stopped early.
    """

    nll: float = 0.0
    correct: int = 0
    tokens: int = 0
    text_bytes: float = 0.0

    def __add__(self, other: Validation) -> Validation:
        return Validation(
            self.nll + other.nll,
            self.correct + other.correct,
            self.tokens + other.tokens,
            self.text_bytes + other.text_bytes,
        )

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nll / self.tokens

    @property
    def accuracy(self) -> float:
        """Share of tokens that were the most probable ones."""
        return self.correct / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of text."""
        return self.nll / math.log(2) / self.text_bytes


def validate(
    placed: Placed, source: Source, *, batch_size: int, rows: int = 0, attend_across: bool = False
) -> Validation:
    """The loss over the first `rows` rows of a source (0: all), its batches divided among data ranks."""
    count = math.ceil(min(rows or source.rows.count, source.rows.count) / batch_size)
    ranks, mine = placed.mesh.layout.data_ranks, placed.data_rank
    sums = [0.0, 0.0, 0.0]
    for first in range(0, count, ranks):
        # every rank computes, as others may wait for its part: one beyond the end for nothing
        number = min(first + mine, count - 1)
        batch = evaluation_batch(source, number, batch_size, rows=rows, attend_across=attend_across)
        loss = placed.evaluate(batch, next_token)
        if first + mine < count:
            sums = [s + float(x) for s, x in zip(sums, (loss.nll, loss.correct, loss.tokens))]
    nll, correct, tokens = placed.total(sums)
    share = tokens / source.target_tokens
    return Validation(nll, int(correct), int(tokens), source.text_bytes * share)
