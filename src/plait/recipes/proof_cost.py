"""What one step of a proven layout costs on each rank: bytes sent, beside the formula, and memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from plait.data.batch import StepBatch
from plait.nn.config import ModelConfig
from plait.nn.experts import DROPPED, Experts
from plait.nn.loss import LossSum
from plait.parallel.cost import Meter, bubble, cost_table, peak_memory
from plait.parallel.formula import Work, expected
from plait.parallel.mesh import Mesh
from plait.parallel.placed import Placed
from plait.recipes.prove import Problem

STEP = 3  # the first one agrees on more; of random rows the second is packed


class StepCost:
    """Counts what this rank sends in one step, the last where there are fewer than `STEP`.

    Attributes:
        left, arrived: (token, expert) pairs that this rank sent to experts, and that its experts received.
    """

    def __init__(self, problem: Problem, mesh: Mesh) -> None:
        self.problem, self.mesh, self.meter = problem, mesh, Meter(mesh)
        self.step, self.counted = 0, min(STEP, problem.steps)
        self.left = self.arrived = 0
        self.batch: StepBatch
        _forget_peak()

    def watch(self, placed: Placed) -> None:
        """Count from here on what a placed model does."""
        compute, clip = placed.forward_backward, placed.clip

        def counted(batch: StepBatch, *args: Any) -> LossSum:
            self.step += 1
            if not self._now:
                return compute(batch, *args)
            self.batch = batch
            with self.meter:
                return compute(batch, *args)

        def clipped(*args: Any) -> Tensor:
            if not self._now:
                return clip(*args)
            with self.meter:
                return clip(*args)

        placed.forward_backward, placed.clip = counted, clipped  # type: ignore[method-assign]
        for part in placed.parts:
            for module in part.modules():
                if isinstance(module, Experts):
                    self._count_pairs(module)

    @property
    def _now(self) -> bool:
        return self.step == self.counted

    def _count_pairs(self, experts: Experts) -> None:
        def leave(_: Experts, args: tuple[Tensor, ...]) -> None:
            if self._now:
                self.left += int((args[1] != DROPPED).sum())

        def arrive(x: Tensor, sizes: list[int]) -> Tensor:
            self.arrived += len(x) if self._now else 0
            return each(x, sizes)

        each: Callable[[Tensor, list[int]], Tensor] = experts.each
        experts.each = arrive  # type: ignore[method-assign]
        experts.register_forward_pre_hook(leave)

    def of_all_ranks(self) -> dict[str, Any]:
        """The costs of every rank, as JSON; every rank calls this."""
        layout, micros = self.mesh.layout, self.batch.microbatches
        rows = cost_table(
            self.meter.counts,
            expected(self._config, layout, self._work(micros[0].segments is not None), self.mesh.at),
        )
        mine = {
            "rank": self.mesh.rank,
            "place": {axis: at for axis, at in self.mesh.at.items() if self.mesh.sizes[axis] > 1},
            "collectives": [row._asdict() | {"equal": row.equal} for row in rows],
            "peak_bytes": _peak(),
        }
        ranks: list[Any] = [None] * layout.world
        dist.all_gather_object(ranks, mine)
        return {"step": self.counted, "bubble": bubble(layout, len(micros)), "ranks": ranks}

    @property
    def _config(self) -> ModelConfig:
        return self.problem.model

    def _work(self, packed: bool) -> Work:
        micros = self.batch.microbatches
        return Work(
            rows=len(micros[0].tokens),
            microbatches=len(micros),
            context=self.problem.context,
            dtype=self.problem.train.dtype,
            packed=packed,
            smoothed=self.problem.train.label_smoothing > 0,
            pairs=(self.left, self.arrived) if self._config.experts else None,
        )


def _forget_peak() -> None:
    """Begin anew to look for this process's peak of memory, where the system lets it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int:
    """Bytes of memory since then; elsewhere the most that this process, or what started it, ever held."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return peak_memory()
