"""Validation during training: the plain loss over held-out rows, by source."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from plait.data.batch import evaluation_batches
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
    """The loss over the first `rows` rows of a source (0: all of them)."""
    batches: Iterable = evaluation_batches(source, batch_size, attend_across=attend_across)
    if rows:
        batches = islice(batches, math.ceil(rows / batch_size))
    total = Validation()
    for batch in batches:
        loss = placed.evaluate(batch, next_token)
        total += Validation(float(loss.nll), int(loss.correct), int(loss.tokens))
    share = total.tokens / source.target_tokens
    return total + Validation(text_bytes=source.text_bytes * share)
