"""The learning rate as a pure function of how far the run is."""

from __future__ import annotations

import math

from plait.train.config import TrainConfig


def lr_share(config: TrainConfig, progress: float, step: int, total: int) -> float:
    """Share of the peak learning rate for one step.

    Args:
        progress: how far the run is, 0 to 1 (by steps, or by the clock under `minutes`).
        step: steps done before this one, for warm-up counted in steps and for inverse_sqrt.
        total: planned steps; an estimate under `minutes`.

    cosine: Loshchilov & Hutter 2017, eq. 5, without restarts. inverse_sqrt: Vaswani et al. 2017, eq. 3.
    wsd: warm-up, stable, decay (Hu et al. 2024, section 4.2).
    """
    warmup = config.warmup if config.warmup >= 1 else config.warmup * total
    if step < warmup:
        return (step + 1) / math.ceil(warmup + 1)
    floor = config.min_lr
    start = min(warmup / max(total, 1), 1.0)
    rest = min(max((progress - start) / max(1 - start, 1e-9), 0.0), 1.0)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "linear":
        return 1 - (1 - floor) * rest
    if config.schedule == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * rest))
    if config.schedule == "inverse_sqrt":
        return math.sqrt(max(warmup, 1) / max(step + 1, warmup, 1))
    left = (1 - progress) / config.decay
    return 1.0 if left >= 1 else floor + (1 - floor) * left
