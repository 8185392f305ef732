"""Losses as sums and counts, normalized once by whoever knows the global count of the step."""

from __future__ import annotations

import math
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
    logits, targets = logits.flatten(0, -2), targets.flatten()
    keep = targets != IGNORE
    total, nll, correct = _CrossEntropy.apply(logits, targets, label_smoothing, z_loss)
    return LossSum(total, nll, correct, keep.sum())


class _CrossEntropy(torch.autograd.Function):
    """The loss a few rows at a time, so that what is made of a row's logits stays in the processor's cache.

    The gradient of a row is `softmax · (1 + 2·z·logsumexp) - (1-s)·onehot - s/vocab`; all it needs from the
    way forward is the logarithm of the softmax's denominator.
    """

    @staticmethod
    def forward(
        ctx, logits: Tensor, targets: Tensor, smoothing: float, z_loss: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        keep = targets != IGNORE
        wanted = targets.clamp(min=0)
        log_norm, highest, gold, mean = [], [], [], []
        for rows, chosen in zip(*(_chunks(each, logits) for each in (logits, wanted))):
            rows = wide(rows)
            best = rows.amax(-1)
            log_norm.append(_exp_of(rows - best[:, None]).sum(-1).log() + best)
            highest.append(best)
            gold.append(rows.gather(-1, chosen[:, None]).squeeze(-1))
            if smoothing:
                mean.append(rows.mean(-1))
        norm, picked = torch.cat(log_norm), torch.cat(gold)
        ctx.save_for_backward(logits, targets, norm)
        ctx.smoothing, ctx.z_loss = smoothing, z_loss
        nll = ((norm - picked) * keep).sum()
        total = nll.clone()
        if smoothing:
            total = (1 - smoothing) * nll + smoothing * ((norm - torch.cat(mean)) * keep).sum()
        if z_loss:
            total = total + z_loss * (norm.square() * keep).sum()
        correct = ((picked == torch.cat(highest)) & keep).sum()
        ctx.mark_non_differentiable(nll, correct)
        return total, nll, correct

    @staticmethod
    def backward(ctx, *grads: Tensor):
        logits, targets, norm = ctx.saved_tensors
        keep, gradient = targets != IGNORE, torch.empty_like(logits)
        scale = keep * grads[0]
        whole = scale * (1 + 2 * ctx.z_loss * norm)
        for out, rows, chosen, log_norm, one, factor in zip(
            *(_chunks(each, logits) for each in (gradient, logits, targets.clamp(min=0), norm, scale, whole))
        ):
            share = _exp_of(wide(rows) - log_norm[:, None]).mul_(factor[:, None])
            if ctx.smoothing:
                share.sub_((ctx.smoothing / rows.shape[-1] * one)[:, None])
            share.scatter_add_(-1, chosen[:, None], ((ctx.smoothing - 1) * one)[:, None].to(share.dtype))
            out.copy_(share)
        return gradient, None, None, None


def _exp_of(x: Tensor) -> Tensor:
    """`exp(x)` in the place of `x`, by powers of two, of which CPUs make several times as many a second."""
    return x.mul_(math.log2(math.e)).exp2_()


def _chunks(tensor: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """Rows of a tensor in pieces whose logits a CPU's cache holds; all of a GPU's that memory allows."""
    room = CPU_NUMBERS if logits.device.type == "cpu" else GPU_NUMBERS
    return tensor.split(max(1, room // logits.shape[-1]))


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
    logits, targets = logits.flatten(0, -2), targets.flatten()
    total, nll, correct = _Consistent.apply(logits, targets, label_smoothing, z_loss, weight / 2)
    return LossSum(total, nll, correct, (targets != IGNORE).sum())


class _Consistent(torch.autograd.Function):
    """A few rows of both halves at a time.

    The gradient is made of what the loss is made of, so it is made on the way forward, while that is in the
    processor's cache. Of the probabilities p and q the divergence is `Σ (p - q)·(log p - log q)`, whose
    gradient for the logits of p is `p·(log p - log q - KL(p ‖ q)) + p - q`.
    """

    @staticmethod
    def forward(
        ctx, logits: Tensor, targets: Tensor, smoothing: float, z_loss: float, weight: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient, spread = torch.empty_like(logits), smoothing / logits.shape[-1]
        total, nll = wide(logits.new_zeros(2))
        correct = targets.new_zeros(())
        for *pair, chosen, to_first, to_second in zip(
            *(_chunks(each, logits) for each in (*logits.chunk(2), targets.chunk(2)[0], *gradient.chunk(2)))
        ):
            keep, chosen = (chosen != IGNORE)[:, None], chosen.clamp(min=0)[:, None]
            p, q = (_Softmax.of(rows) for rows in pair)
            ratio = p.log - q.log
            for here, there, sign, out in ((p, q, weight, to_first), (q, p, -weight, to_second)):
                apart = sign * (here.share * ratio).sum(-1, keepdim=True)  # weight · KL(here ‖ there)
                gold = here.log.gather(-1, chosen)
                loss = apart - (1 - smoothing) * gold + z_loss * here.norm.square()
                if smoothing:
                    loss -= smoothing * here.log.mean(-1, keepdim=True)
                total += (loss * keep).sum()
                nll -= (gold * keep).sum()
                correct += ((gold == here.highest) & keep).sum()
                slope = (ratio * sign).add_(1 + weight - apart + 2 * z_loss * here.norm).mul_(here.share)
                slope.sub_(there.share, alpha=weight).sub_(spread)
                slope.scatter_add_(-1, chosen, torch.full_like(gold, smoothing - 1))
                out.copy_(slope.mul_(keep))
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(nll, correct)
        return total, nll, correct

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(grads[0]), None, None, None, None


@dataclass
class _Softmax:
    """Of rows of logits, `log` and `share` as long as they, the others a column.

    Attributes:
        log: logarithms of the probabilities.
        share: the probabilities.
        norm: logarithms of the denominators.
        highest: logarithm of the highest probability.
    """

    log: Tensor
    share: Tensor
    norm: Tensor
    highest: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> _Softmax:
        """With one exponential a logit."""
        rows = wide(rows)
        best = rows.amax(-1, keepdim=True)
        share = _exp_of(rows - best)
        whole = share.sum(-1, keepdim=True)
        norm = whole.log() + best
        return cls(rows - norm, share.div_(whole), norm, best - norm)


def wide(logits: Tensor) -> Tensor:
    """At least float32: a sum of exponentials needs its range."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
