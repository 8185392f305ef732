"""Losses as sums and counts, normalized once by whoever knows the global count of the step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # target of a position without loss


@dataclass
class LossSum:
    """Sums over a batch.

    Attributes:
        total: what is differentiated: cross-entropy with smoothing and z-loss, summed; a scalar tensor.
        nll: plain negative log-likelihood in nats, summed, detached.
        correct: positions whose most probable token is the target.
        tokens: positions with a target.
    """

    total: Tensor
    nll: Tensor
    correct: Tensor
    tokens: int | Tensor

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(
            self.total + other.total,
            self.nll + other.nll,
            self.correct + other.correct,
            self.tokens + other.tokens,
        )

    def detach(self) -> LossSum:
        """The same sums without their graph."""
        return LossSum(self.total.detach(), self.nll, self.correct, self.tokens)


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> LossSum:
    """Cross-entropy summed over the positions whose target is not -100.

    Args:
        logits: `[..., vocab]`.
        targets: ids `[...]`.
        label_smoothing: mass spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
        z_loss: weight of `logsumexp(logits)²` (Chowdhery et al. 2022, section 5).
    """
    logits, targets = wide(logits.flatten(0, -2)), targets.flatten()
    keep = targets != IGNORE
    if label_smoothing or z_loss:
        log_norm = logits.logsumexp(-1)
        picked = logits.gather(-1, targets.clamp(min=0)[:, None]).squeeze(-1)
        nll = ((log_norm - picked) * keep).sum()
        uniform = ((log_norm - logits.mean(-1)) * keep).sum()
        total = (1 - label_smoothing) * nll + label_smoothing * uniform
        total = total + z_loss * (log_norm.square() * keep).sum()
    else:
        total = nll = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    correct = ((logits.detach().argmax(-1) == targets) & keep).sum()
    return LossSum(total, nll.detach(), correct, keep.sum())


def kl_divergence(
    logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """`temperature² · KL(teacher ‖ student)` summed over target positions (Hinton et al. 2015, section 2).

    Args:
        logits, teacher_logits: `[..., vocab]`.
        targets: ids `[...]`; only which positions count is read.
    """
    student, teacher = ((wide(each) / temperature).log_softmax(-1) for each in (logits, teacher_logits))
    divergence = (teacher.exp() * (teacher - student)).sum(-1)
    return temperature**2 * (divergence * (targets != IGNORE)).sum()


def wide(logits: Tensor) -> Tensor:
    """At least float32: a sum of exponentials needs its range."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
