"""The order of rows, as pure functions: a permutation for each epoch, an exact interleave of sources."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np

LONGEST_PERIOD = 1 << 16


def order(seed: int, epoch: int, count: int, stream: str = "") -> np.ndarray:
    """A permutation of `range(count)` that depends on the arguments only, on any machine and version.

    Sorts raw Philox-4x64 output (Salmon et al. 2011), whose bits are fixed by its definition; numpy's own
    `permutation` may change between versions. `stream` separates sources that share a seed.

    Returns:
        int64 `[count]`.
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{stream}".encode(), digest_size=16).digest()
    keys = np.random.Philox(key=np.frombuffer(digest, "<u8").astype(np.uint64)).random_raw(count)
    return np.argsort(keys, kind="stable")


class Mixture:
    """An exact interleave of several endless streams by weight.

    Row number n of the mixture belongs to one source, found without walking the rows before it. In every
    prefix each source has its exact share of the rows, give or take less than one.

    Weights are kept exactly where their common period is at most 65,536 rows (so 0.7, 0.2 and 0.1 are
    10 rows: 7, 2 and 1); others are rounded to multiples of 1/65,536.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.counts = _whole_shares(weights)
        self.period = sum(self.counts)
        self._source = _interleave(self.counts)
        taken = np.zeros((len(self.counts), self.period + 1), np.int64)
        for number in range(len(self.counts)):
            taken[number, 1:] = np.cumsum(self._source == number)
        self._taken = taken

    def source(self, rows: np.ndarray) -> np.ndarray:
        """The source of each row number."""
        return self._source[rows % self.period]

    def number_within(self, rows: np.ndarray) -> np.ndarray:
        """How many earlier rows of the mixture belong to the same source, for each row number."""
        turn, place = np.divmod(rows, self.period)
        source = self._source[place]
        return turn * np.asarray(self.counts)[source] + self._taken[source, place]


def _whole_shares(weights: Sequence[float]) -> list[int]:
    """Weights as whole rows per period, every source at least one."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = lcm(*(share.denominator for share in exact))
    whole = [int(share * scale) for share in exact]
    divisor = gcd(*whole)
    whole = [share // divisor for share in whole]
    if sum(whole) <= LONGEST_PERIOD:
        return whole
    total = sum(exact)
    rounded = [max(1, round(share / total * LONGEST_PERIOD)) for share in exact]
    rounded[rounded.index(max(rounded))] += LONGEST_PERIOD - sum(rounded)
    return rounded


def _interleave(counts: Sequence[int]) -> np.ndarray:
    """One period of sources whose every prefix is within 1 - 1/(2k - 2) of exact shares (Tijdeman 1980).

    Tijdeman, "The chairman assignment problem": of the k sources that are behind by at least 1/(2k - 2),
    take the one that must be taken soonest.
    """
    kinds, period = len(counts), sum(counts)
    schedule = np.zeros(period, np.int64)
    if kinds == 1:
        return schedule
    unit = 2 * kinds - 2
    behind = [0] * kinds  # (share so far - rows taken) · period, in whole numbers
    for row in range(period):
        behind = [gap + count for gap, count in zip(behind, counts)]
        due = [number for number in range(kinds) if unit * behind[number] >= period]
        chosen = min(due, key=lambda number: ((unit - 1) * period - unit * behind[number]) / counts[number])
        behind[chosen] -= period
        schedule[row] = chosen
    return schedule
