"""How much of something fits, found by halving."""

from __future__ import annotations

from collections.abc import Callable


def fitting(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, 0 if none does; what fits must not grow again."""
    low, high = 0, most
    while low < high:
        middle = high if high == most else (low + high + 1) // 2  # all of it fits as a rule
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
