"""Scores that are means over samples, in percent, with the interval that suits their kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from plait import __version__
from plait.eval.bootstrap import RESAMPLES, SEED, Statistics, interval
from plait.eval.scores import Score, signature

CONFIDENCE = NormalDist().inv_cdf(0.975)  # standard errors on either side of a 95 % interval


def wilson(right: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, in percent (Wilson 1927); sound even where all or none are right."""
    share, square = right / count, CONFIDENCE**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    reach = (
        CONFIDENCE * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    )
    return 100 * max(centre - reach, 0.0), 100 * min(centre + reach, 1.0)


def mean_statistics(values: Sequence[float]) -> Statistics:
    """The mean of values between 0 and 1 in percent, as statistics that add up."""
    samples = np.array([(value, 1.0) for value in values])
    return Statistics(samples, lambda sums: 100 * float(sums[0] / sums[1]))


def mean_score(
    task: str, metric: str, values: Sequence[float], *, right_or_wrong: bool = False, **settings: Any
) -> Score:
    """The mean of values between 0 and 1, in percent.

    Args:
        right_or_wrong: whether the values are 1 and 0, which have Wilson's interval; others are resampled.
        settings: parts of the signature.
    """
    count = len(values)
    if right_or_wrong:
        spread, how = wilson(sum(values), count), {"interval": "95% Wilson"}
    else:
        statistics = mean_statistics(values)
        spread = interval(statistics.at, count)
        how = {"interval": "95% bootstrap", "bs": RESAMPLES, "seed": SEED}
    return Score(
        task=task,
        metric=metric,
        value=100 * math.fsum(values) / count,
        interval=spread,
        n=count,
        signature=signature(**settings, **how, plait=__version__),
        data=[],
    )
