"""Averages of weights: an exponential moving average, or the mean of the last checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@torch.no_grad()
def update_ema(average: Weights, weights: Weights, decay: float, step: int) -> None:
    """`average ← d · average + (1 - d) · weights` in place; `d` grows to `decay` to forget the start."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, tensor in average.items():
        tensor.lerp_(weights[name].to(tensor.dtype), 1 - decay)


def mean_of(all_weights: Iterable[Weights]) -> Weights:
    """The mean of several sets of weights, summed in float64 on the CPU, in the first set's dtypes."""
    total: Weights = {}
    dtypes: dict[str, torch.dtype] = {}
    count = 0
    for weights in all_weights:
        count += 1
        for name, tensor in weights.items():
            dtypes.setdefault(name, tensor.dtype)
            wide = tensor.cpu().double()
            total[name] = total[name] + wide if name in total else wide
    return {name: (tensor / count).to(dtypes[name]) for name, tensor in total.items()}
