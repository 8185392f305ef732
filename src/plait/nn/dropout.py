"""Dropout (Srivastava et al. 2014) that costs little on a CPU.

torch draws CPU dropout masks with one slow generator. Here they are random bytes of a fast one, so that the
rate is rounded to 1/256.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zero each element with probability `rate` while training and scale the others by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate) if self.training and self.rate else x


def dropout(x: Tensor, rate: float) -> Tensor:
    """`x` with dropped elements; on CPU torch's default generator gives one seed a call."""
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    return _Dropped.apply(x, *keep_mask(x.shape, rate))


def keep_mask(shape: torch.Size | tuple[int, ...], rate: float) -> tuple[Tensor, float]:
    """uint8 mask, 0 where dropped, else 1, and the scale of what stays.

    The probability is `rate` rounded to 1/256, never to 0 or 1.

    A product with uint8 is one fast pass; torch's bool masks take ten times as long.
    """
    threshold = min(max(round(rate * 256), 1), 255)
    count = math.prod(shape)
    seed = int(torch.randint(2**63 - 1, ()).item())
    words = np.random.SFC64(seed).random_raw(-(-count // 8))
    keep = words.view(np.uint8)[:count] >= threshold
    return torch.from_numpy(keep.view(np.uint8)).view(shape), 256 / (256 - threshold)


class _Dropped(torch.autograd.Function):
    """`x * keep * scale`, keeping only the byte mask for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return (x * keep).mul_(scale)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (keep,) = ctx.saved_tensors
        return (grads[0] * keep).mul_(ctx.scale), None, None
