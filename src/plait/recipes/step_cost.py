"""What one step under a layout costs on each rank: bytes sent, beside the formula, and memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from plait.data.batch import Batch, StepBatch
from plait.files import write_text
from plait.nn.config import ModelConfig
from plait.nn.experts import DROPPED, Experts
from plait.nn.loss import LossSum
from plait.parallel.cost import Meter, bubble, cost_table, forget_peak, peak_memory
from plait.parallel.formula import expected
from plait.parallel.mesh import Mesh
from plait.parallel.placed import Placed
from plait.parallel.work import Work
from plait.train.config import TrainConfig

STEP = 3  # the first one agrees on more; of random rows the second is packed


class StepCost:
    """Counts what this rank sends in one step.

    Args:
        context: tokens in a row.
        last: of the steps, which is counted where it comes before `STEP`.

    Attributes:
        left, arrived: (token, expert) pairs that this rank sent to experts, and that its experts received.
    """

    def __init__(
        self, config: ModelConfig, train: TrainConfig, context: int, mesh: Mesh, last: int = STEP
    ) -> None:
        self.config, self.train, self.context = config, train, context
        self.mesh, self.meter = mesh, Meter(mesh)
        self.step, self.counted = 0, min(STEP, last)
        self.left = self.arrived = 0
        self.batch: StepBatch
        self.stop: Callable[[], None]  # leave the model as it was
        forget_peak()

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
        experts = [m for part in placed.parts for m in part.modules() if isinstance(m, Experts)]
        hooks = [self._count_pairs(module) for module in experts]

        def stop() -> None:
            placed.forward_backward, placed.clip = compute, clip  # type: ignore[method-assign]
            for module, hook in zip(experts, hooks):
                del module.each
                hook.remove()

        self.stop = stop

    @property
    def _now(self) -> bool:
        return self.step == self.counted

    def _count_pairs(self, experts: Experts) -> RemovableHandle:
        def leave(_: Experts, args: tuple[Tensor, ...]) -> None:
            if self._now:
                self.left += int((args[1] != DROPPED).sum())

        def arrive(x: Tensor, sizes: list[int]) -> Tensor:
            self.arrived += len(x) if self._now else 0
            return each(x, sizes)

        each: Callable[[Tensor, list[int]], Tensor] = experts.each
        experts.each = arrive  # type: ignore[method-assign]
        return experts.register_forward_pre_hook(leave)

    def of_all_ranks(self) -> dict[str, Any]:
        """The costs of every rank, as JSON; every rank calls this."""
        layout, micros = self.mesh.layout, self.batch.microbatches
        rows = cost_table(
            self.meter.counts,
            expected(self.config, layout, self._work(micros[0].segments is not None), self.mesh.at),
        )
        mine = {
            "rank": self.mesh.rank,
            "place": {axis: at for axis, at in self.mesh.at.items() if self.mesh.sizes[axis] > 1},
            "collectives": [row._asdict() | {"equal": row.equal} for row in rows],
            "peak_bytes": peak_memory(),
        }
        ranks: list[Any] = [None] * layout.world
        dist.all_gather_object(ranks, mine)
        return {"step": self.counted, "bubble": bubble(layout, len(micros)), "ranks": ranks}

    def write(self, run_dir: Path) -> None:
        """Stop counting, and leave `layout.json` for a run's report; every rank calls this, rank 0 writes."""
        self.stop()
        found = self.of_all_ranks()
        if self.mesh.rank != 0:
            return
        value = {
            "layout": self.mesh.layout.name,
            "sent by rank 0 in one step": found["ranks"][0]["collectives"],
            "share of a step in which a pipeline waits": found["bubble"],
            "peak memory of each rank, MiB": [round(rank["peak_bytes"] / 2**20) for rank in found["ranks"]],
        }
        write_text(run_dir / "layout.json", json.dumps(value, indent=1) + "\n")

    def _work(self, packed: bool) -> Work:
        micros = self.batch.microbatches
        return Work(
            rows=len(micros[0].tokens),
            microbatches=len(micros),
            context=self.context,
            dtype=self.train.dtype,
            packed=packed,
            smoothed=self.train.label_smoothing > 0,
            places=_places(micros),
            pairs=(self.left, self.arrived) if self.config.experts else None,
        )


def _places(micros: list[Batch]) -> tuple[int, int] | None:
    """Places of sources and of targets, padding among them."""
    sources = [micro.source.numel() for micro in micros if micro.source is not None]
    return (sum(sources), sum(micro.tokens.numel() for micro in micros)) if sources else None
