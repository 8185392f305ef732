"""How much of something fits, found by halving."""

from __future__ import annotations

from collections.abc import Callable

CHARACTERS = 8  # of a text to try first for each token: one seldom spells more


def fitting(fits: Callable[[int], bool], most: int, first: int | None = None) -> int:
    """The largest number up to `most` that fits, 0 if none does; what fits must not grow again.

    Args:
        first: what is tried first, and doubled while it fits, where to try much more costs much; None: all.
    """
    low, high, tried = 0, most, max(1, most if first is None else min(first, most))
    while low < high:
        if fits(tried):
            low = tried
        else:
            high = tried - 1
        tried = min(2 * tried, most) if high == most else (low + high + 1) // 2
    return low
