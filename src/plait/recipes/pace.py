"""Which rank holds the others up: own working time per step, without the waiting for others."""

from __future__ import annotations

from plait.log import warn
from plait.parallel.health import stragglers
from plait.parallel.placed import Placed
from plait.recipes.ranks import Ranks
from plait.train.loop import Step

WINDOW = 20  # steps


class Pace:
    """Compares the ranks' own time every WINDOW steps; says once which rank is a straggler."""

    def __init__(self, placed: Placed, ranks: Ranks) -> None:
        self.placed, self.ranks = placed, ranks
        self.seconds: list[float] = []
        self.told: set[int] = set()

    def note(self, step: Step) -> None:
        """Take in a step; every rank calls this after every step."""
        if self.ranks.health is None:
            return
        self.seconds.append(step.seconds * self.ranks.health.own_share())
        if len(self.seconds) < WINDOW:
            return
        here = [0.0] * (WINDOW * self.ranks.size)
        start = WINDOW * self.ranks.rank
        here[start : start + WINDOW] = self.seconds
        every = self.placed.total(here)
        self.seconds = []
        by_rank = [every[at : at + WINDOW] for at in range(0, len(every), WINDOW)]
        for rank, ratio in stragglers(by_rank):
            if rank not in self.told:
                self.told.add(rank)
                warn(
                    f"rank {rank} is a straggler: its own work took {ratio:.1f} times the median of the "
                    f"ranks over the {WINDOW} steps up to {step.number}"
                )
