"""What a batch of hidden states is trained towards: `objective(hidden, head, batch) -> LossSum`."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from plait.data.batch import Batch
from plait.nn.decoder import Head
from plait.nn.loss import LossSum
from plait.parallel.placed import Objective
from plait.train.config import TrainConfig


def next_token(
    hidden: Tensor, head: Head, batch: Batch, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> LossSum:
    """Cross-entropy of each next token; positions with target -100 (prompts, padding) have no loss."""
    return head.loss(head(hidden), batch.targets, label_smoothing=label_smoothing, z_loss=z_loss)


def objective_of(config: TrainConfig) -> Objective:
    """The recipe's training objective. Text and chat differ only in which targets count."""
    return partial(next_token, label_smoothing=config.label_smoothing, z_loss=config.z_loss)
