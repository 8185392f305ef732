"""How sure a score is: percentile intervals and paired tests by drawing the samples again (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
SEED = 12345  # sacrebleu's too
PERCENTILES = (2.5, 97.5)

Statistic = Callable[[np.ndarray], float]  # numbers of the samples drawn → score of that corpus


@dataclass(frozen=True)
class Statistics:
    """A corpus score made of sums, as BLEU is: numbers of each sample, and the score of their sum.

    Attributes:
        samples: `[samples, numbers]`.
        value: the score of a row of sums.
    """

    samples: np.ndarray
    value: Callable[[np.ndarray], float]

    def at(self, drawn: np.ndarray) -> float:
        """The score of the corpus of these samples (their indices, with repetitions)."""
        return self.value(np.bincount(drawn, minlength=len(self.samples)) @ self.samples)


@dataclass(frozen=True)
class Paired:
    """Two systems on the same samples.

    Attributes:
        values, intervals: of the first and the second system.
        difference: first minus second, with its interval.
        p_value: how probable so large a difference is among systems that are equally good.
    """

    values: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]] | None
    difference: float
    difference_interval: tuple[float, float] | None
    p_value: float


def draws(samples: int, *, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """Indices of as many samples, drawn with replacement, `resamples` times; for a seed sacrebleu's own."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield random.integers(samples, size=samples)


def interval(
    statistic: Statistic, samples: int, *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float] | None:
    """The 95 % percentile interval of any score of a corpus; None with fewer than two samples.

    Args:
        statistic: the score of the samples at these indices; `Statistics.at` where numbers add up.
        samples: how many there are.
    """
    if samples < 2:
        return None
    values = np.array([statistic(drawn) for drawn in draws(samples, resamples=resamples, seed=seed)])
    return _percentiles(values)


def paired(
    first: Statistic, second: Statistic, samples: int, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Paired:
    """Compare two systems by drawing the same samples for both (Koehn 2004, section 5).

    The p-value is that of `sacrebleu --paired-bs`: `(1 + times) / (1 + resamples)`, of the times that the
    size of a draw's difference, less the mean size, is larger than the size of the difference itself
    (Riezler and Maxwell 2005). Where both are equal it is 1.
    """
    everything = np.arange(samples)
    one, other = first(everything), second(everything)
    difference = one - other
    if samples < 2:
        return Paired((one, other), None, difference, None, 1.0)
    drawn = draws(samples, resamples=resamples, seed=seed)
    values = np.array([(first(indices), second(indices)) for indices in drawn])
    differences = values[:, 0] - values[:, 1]
    sizes = np.abs(differences)
    larger = int((sizes - sizes.mean() > abs(difference)).sum())
    return Paired(
        values=(one, other),
        intervals=(_percentiles(values[:, 0]), _percentiles(values[:, 1])),
        difference=difference,
        difference_interval=_percentiles(differences),
        p_value=(1 + larger) / (1 + resamples) if difference else 1.0,
    )


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)
