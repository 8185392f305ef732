"""Losses as sums and counts, normalized once by whoever knows the global count of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100  # target of a position without loss
CPU_NUMBERS, GPU_NUMBERS = 1 << 18, 1 << 27  # logits that are worked on at once


@dataclass
class LossSum:
    """Sums over a batch.

    Attributes:
        total: what is differentiated: cross-entropy with smoothing and z-loss, summed; a scalar tensor.
        nll: plain negative log-likelihood in nats, summed, detached.
        correct: positions whose target no token is more probable than.
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
    return _summed(logits, targets, label_smoothing, z_loss)


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


def consistent_cross_entropy(
    logits: Tensor, targets: Tensor, *, weight: float, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> LossSum:
    """Cross-entropy that also draws the halves of a batch to each other: R-Drop (Liang et al. 2021, eq. 4).

    Each position with a target adds `weight / 2 · (KL(first ‖ second) + KL(second ‖ first))` to the
    cross-entropy of both halves.

    Args:
        logits: `[2n, ..., vocab]`; both halves have a gradient.
        targets: ids `[2n, ...]`, the same in both halves.
        weight: α there.
        label_smoothing, z_loss: as of `cross_entropy`.
    """
    return _summed(logits, targets, label_smoothing, z_loss, weight / 2)


def _summed(
    logits: Tensor, targets: Tensor, smoothing: float, z_loss: float, weight: float | None = None
) -> LossSum:
    logits, targets = logits.flatten(0, -2), targets.flatten()
    total, nll, correct = _CrossEntropy.apply(logits, targets, smoothing, z_loss, weight)
    return LossSum(total, nll, correct, (targets != IGNORE).sum())


class _CrossEntropy(torch.autograd.Function):
    """The loss a few rows at a time, so that what is made of a row's logits stays in the processor's cache.

    The gradient is made of the same, so it is made on the way forward: of a row with the probabilities p it
    is `p·(1 + 2·z·logsumexp) - (1-s)·onehot - s/vocab`. With a weight there are two halves; a row and the one
    with the probabilities q in the other half add `weight · Σ (p - q)·(log p - log q)` to the loss, whose
    gradient for the logits of p is `weight · (p·(log p - log q - KL(p ‖ q)) + p - q)`.
    """

    @staticmethod
    def forward(
        ctx, logits: Tensor, targets: Tensor, smoothing: float, z_loss: float, weight: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        halves = 1 if weight is None else 2
        rows = logits.chunk(halves)
        outs = gradient.chunk(halves) if gradient is not None else (None,) * halves
        total, nll = wide(logits.new_zeros(2))
        correct = targets.new_zeros(())
        for at in _pieces(rows[0]):
            wanted = targets[at, None]
            keep, wanted = wanted != IGNORE, wanted.clamp(min=0)
            both = [_Softmax.of(half[at]) for half in rows]
            for here, there, out in zip(both, reversed(both), outs):
                gold = here.logits.gather(-1, wanted)
                loss = here.norm - (1 - smoothing) * gold + z_loss * here.norm.square()
                if smoothing:
                    loss -= smoothing * here.logits.mean(-1, keepdim=True)
                if weight is not None:
                    apart, pull = here.apart_from(there)
                    loss += weight * apart
                total += (loss * keep).sum()
                nll += ((here.norm - gold) * keep).sum()
                correct += ((gold == here.highest) & keep).sum()
                if out is None:
                    continue
                slope = here.share * (1 + 2 * z_loss * here.norm)
                if smoothing:
                    slope -= smoothing / slope.shape[-1]
                if weight is not None:
                    slope.add_(pull, alpha=weight)
                slope.scatter_add_(-1, wanted, torch.full_like(gold, smoothing - 1))
                out[at] = slope.mul_(keep)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(nll, correct)
        return total, nll, correct

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(grads[0]), None, None, None, None


@dataclass
class _Softmax:
    """Of rows of logits.

    Attributes:
        logits: the rows, at least float32.
        share: the probabilities, as long.
        norm: logarithms of the denominators; a column.
        highest: the highest logits; a column.
    """

    logits: Tensor
    share: Tensor
    norm: Tensor
    highest: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> _Softmax:
        """By powers of two, of which CPUs make several times as many a second as of e; one a logit."""
        logits = wide(rows)
        highest = logits.amax(-1, keepdim=True)
        share = (logits - highest).mul_(math.log2(math.e)).exp2_()
        whole = share.sum(-1, keepdim=True)
        return cls(logits, share.div_(whole), whole.log() + highest, highest)

    def apart_from(self, other: _Softmax) -> tuple[Tensor, Tensor]:
        """The divergence from the other's probabilities, a column, and what it and the one back pull at."""
        ratio = (self.logits - other.logits).sub_(self.norm - other.norm)
        apart = (self.share * ratio).sum(-1, keepdim=True)
        return apart, ratio.sub_(apart - 1).mul_(self.share).sub_(other.share)


def _pieces(logits: Tensor) -> Iterator[slice]:
    """So many rows that a CPU's cache holds their logits; all of a GPU's that memory allows."""
    numbers = CPU_NUMBERS if logits.device.type == "cpu" else GPU_NUMBERS
    step = max(1, numbers // logits.shape[-1])
    return (slice(start, min(start + step, len(logits))) for start in range(0, len(logits), step))


def wide(logits: Tensor) -> Tensor:
    """At least float32: a sum of exponentials needs its range."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
