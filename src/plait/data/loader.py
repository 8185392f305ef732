"""`Loader`: the batch of any step, as a pure function of the data, the seed and the step number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from plait.data.batch import StepBatch, make_batch
from plait.data.order import Mixture, order
from plait.data.source import Source
from plait.errors import ConfigError

T = TypeVar("T")


class Loader:
    """Gives the batch of any step; keeps no state of its own, so a resume at step n is exact.

    Rows form one endless stream: a mixture of the sources by weight, each source passing through its rows
    in a new order every epoch. Step n takes rows `n · batch_size` onwards, and each data rank an equal share
    of them, so the rows of a step do not depend on the number of ranks. An epoch that is not a multiple of
    the batch size runs on into the next one, and no row is left out.

    Batches are made when asked for: copying some thousand tokens takes about a millisecond, so a thread
    that fetches ahead would gain nothing.

    Args:
        batch_size: rows in an optimizer step, over all ranks.
        micro_batch: rows in a micro-batch of one rank; None: all of the rank's rows at once.
        rank, ranks: this data rank and how many there are.

    Raises:
        ConfigError: when the rows cannot be divided evenly.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        batch_size: int,
        micro_batch: int | None = None,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        attend_across: bool = False,
    ) -> None:
        check_division(batch_size, micro_batch, ranks)
        self.sources = list(sources)
        self.batch_size = batch_size
        self.micro_batch = micro_batch or batch_size // ranks
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.attend_across = attend_across
        self.rows_per_epoch = sum(source.rows.count for source in self.sources)
        self.context = self.sources[0].rows.context
        self._mixture = Mixture([source.weight for source in self.sources])
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def steps_for(self, epochs: float) -> int:
        """Steps that make so many epochs, rounded up."""
        return math.ceil(epochs * self.rows_per_epoch / self.batch_size)

    def epoch(self, step: int) -> int:
        """The epoch, counting from 0, in which the first row of a step lies."""
        return step * self.batch_size // self.rows_per_epoch

    def rows_of(self, step: int) -> list[tuple[int, int]]:
        """(source number, row number there) of every row of a step, over all ranks."""
        stream = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        return [
            (number, self._row(number, within))
            for number, within in zip(
                self._mixture.source(stream).tolist(), self._mixture.number_within(stream).tolist()
            )
        ]

    def batch(self, step: int) -> StepBatch:
        """The micro-batches of this rank for a step; step 0 is the first."""
        picks = [(self.sources[number], row) for number, row in self.rows_of(step)]
        target_tokens = sum(source.rows.targets_in(row) for source, row in picks)
        pairs = self.sources[0].shards.start_id is not None
        if pairs:  # a micro-batch is as long as its longest pair: those of one length belong together
            picks.sort(key=_pair_length)
        groups = [picks[at : at + self.micro_batch] for at in range(0, self.batch_size, self.micro_batch)]
        mine = _dealt(groups, self.rank, self.ranks) if pairs else _slice(groups, self.rank, self.ranks)
        return StepBatch(
            [make_batch(group, attend_across=self.attend_across) for group in mine], target_tokens
        )

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps: where the data stands before `step`, and what the data was."""
        return {"epoch": self.epoch(step), "step": step, "fingerprint": self.fingerprint()}

    def fingerprint(self) -> dict[str, Any]:
        """Everything the order of rows depends on, as JSON."""
        return {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "context": self.context,
            "attend_across": self.attend_across,
            "weights": {source.name: source.weight for source in self.sources},
            "data": {source.name: source.digest for source in self.sources},
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse to go on with a state that another data set, mixture or batch size wrote.

        Raises:
            ConfigError: naming what changed.
        """
        saved, now = state["fingerprint"], self.fingerprint()
        for key, value in now.items():
            if saved.get(key) == value:
                continue
            if key == "data":
                changed = ", ".join(name for name in value if saved["data"].get(name) != value[name])
                raise ConfigError(
                    f"the encoded data of {changed} is not the data this run was trained on; "
                    "restore it or start a new run"
                )
            raise ConfigError(
                f"{key}={value} differs from {key}={saved.get(key)} of the run; "
                "resume needs the same rows in the same order, so start a new run to change it"
            )

    def _row(self, number: int, within: int) -> int:
        source = self.sources[number]
        epoch, place = divmod(within, source.rows.count)
        if (number, epoch) not in self._orders:
            # a step may straddle two epochs: keep the one before this and forget the others
            kept = {k: v for k, v in self._orders.items() if k[0] != number or k[1] == epoch - 1}
            self._orders = kept | {(number, epoch): order(self.seed, epoch, source.rows.count, source.name)}
        return int(self._orders[number, epoch][place])


def _pair_length(pick: tuple[Source, int]) -> tuple[int, int]:
    """Of a pair's longer side and of both."""
    rows, row = pick[0].rows, pick[1]
    both, target = rows.places_in(row), rows.targets_in(row)
    return max(target, both - target), both


def _slice(groups: Sequence[T], rank: int, ranks: int) -> Sequence[T]:
    share = len(groups) // ranks
    return groups[rank * share : (rank + 1) * share]


def _dealt(groups: Sequence[T], rank: int, ranks: int) -> Sequence[T]:
    """Round by round, in turn from either end: ranks work on micro-batches of one length at a time."""
    return [
        groups[first + (ranks - 1 - rank if first // ranks % 2 else rank)]
        for first in range(0, len(groups), ranks)
    ]


def check_division(batch_size: int, micro_batch: int | str | None, ranks: int = 1) -> None:
    """Refuse rows that cannot be divided evenly; a micro-batch that is not yet a number can always be chosen.

    Raises:
        ConfigError: with the sizes that would do.
    """
    if batch_size % ranks:
        lower, upper = batch_size // ranks * ranks, -(-batch_size // ranks) * ranks
        near = " or ".join(str(size) for size in (lower, upper) if size)
        raise ConfigError(f"batch_size={batch_size} is not divisible by {ranks} data ranks; use {near}")
    share = batch_size // ranks
    if isinstance(micro_batch, int) and share % micro_batch:
        good = [size for size in range(1, share + 1) if share % size == 0]
        raise ConfigError(
            f"micro_batch={micro_batch} does not divide the {share} rows of a rank "
            f"(batch_size={batch_size} over {ranks}); use one of {', '.join(map(str, good))}"
        )
