"""What a batch of hidden states is trained towards: `objective(hidden, head, batch) -> LossSum`."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from plait.data.batch import Batch, StepBatch
from plait.nn.decoder import Head
from plait.nn.loss import LossSum, consistent_cross_entropy
from plait.parallel.placed import Objective
from plait.train.config import TrainConfig


def next_token(
    hidden: Tensor, head: Head, batch: Batch, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> LossSum:
    """Cross-entropy of each next token; positions with target -100 (prompts, padding) have no loss."""
    return head.loss(head(hidden), batch.targets, label_smoothing=label_smoothing, z_loss=z_loss)


def consistent(
    hidden: Tensor, head: Head, batch: Batch, *, r_drop: float, label_smoothing: float, z_loss: float
) -> LossSum:
    """R-Drop (Liang et al. 2021) of a batch of `twice`, whose halves differ by what dropout has dropped."""
    return consistent_cross_entropy(
        head(hidden), batch.targets, weight=r_drop, label_smoothing=label_smoothing, z_loss=z_loss
    )


def objective_of(config: TrainConfig) -> Objective:
    """The recipe's training objective. Text and chat differ only in which targets count."""
    smooth = {"label_smoothing": config.label_smoothing, "z_loss": config.z_loss}
    if config.r_drop:
        return partial(consistent, r_drop=config.r_drop, **smooth)
    return partial(next_token, **smooth)


def laid_out(batch: StepBatch, config: TrainConfig) -> StepBatch:
    """The batch as the objective wants it."""
    return batch.twice() if config.r_drop else batch
