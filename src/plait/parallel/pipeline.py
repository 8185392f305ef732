"""Pipeline parallelism: stages of layers on different ranks, and torch's schedules that keep them busy.

GPipe (Huang et al. 2019), 1F1B (Narayanan et al. 2019), interleaved (Narayanan et al. 2021), zero bubble (Qi
et al. 2023) and DualPipe (DeepSeek-AI 2024). The parts of a micro-batch that stages do not hand on
(positions, segments, targets) are read on every rank, so that only hidden states travel.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from plait.nn.config import ModelConfig
from plait.nn.loss import LossSum
from plait.parallel.collectives import Group
from plait.parallel.layout import V_SHAPED, Layout

if TYPE_CHECKING:
    from plait.parallel.part import Part

CLASSES = {  # of torch.distributed.pipelining
    "gpipe": "ScheduleGPipe",
    "1f1b": "Schedule1F1B",
    "interleaved": "ScheduleInterleaved1F1B",
    "looped_bfs": "ScheduleLoopedBFS",
    "zero_bubble": "ScheduleInterleavedZeroBubble",
    "zbv": "ScheduleZBVZeroBubble",
    "dualpipev": "ScheduleDualPipeV",
}


def schedule_class(layout: Layout) -> Any:
    """torch's class for the layout's schedule."""
    from torch.distributed import pipelining

    return getattr(pipelining, CLASSES[layout.schedule])


def stages_of(layout: Layout, rank: int) -> list[int]:
    """The stages of one pipeline rank: in a loop over the ranks, or there and back again."""
    if layout.schedule in V_SHAPED and layout.pp > 1:
        return [rank, layout.total_stages - 1 - rank]
    return [rank + turn * layout.pp for turn in range(layout.stages_per_rank)]


def owner_of(layout: Layout, stage: int) -> int:
    """The pipeline rank that has a stage; the inverse of `stages_of`."""
    turn, place = divmod(stage, layout.pp)
    return layout.pp - 1 - place if layout.schedule in V_SHAPED and turn == 1 else place


def split_layers(config: ModelConfig, stages: int, head_cost: float | None = None) -> list[range]:
    """Consecutive layers for each stage, so that the costliest stage costs least; the head counts as layers.

    Args:
        head_cost: of the head, in layers; None: by its share of multiplications.
    """
    layers = config.layers
    head = _head_cost(config) if head_cost is None else head_cost
    # best[s][n]: (cost of the costliest, ends) of the first n layers in s stages
    best: list[dict[int, tuple[float, tuple[int, ...]]]] = [{0: (0.0, ())}]
    for stage in range(1, stages + 1):
        row: dict[int, tuple[float, tuple[int, ...]]] = {}
        for end in range(stage, layers - (stages - stage) + 1):
            extra = head if stage == stages else 0.0
            row[end] = min(
                (max(cost, end - start + extra), (*ends, end))
                for start, (cost, ends) in best[-1].items()
                if start < end
            )
        best.append(row)
    ends = (0, *best[stages][layers][1])
    return [range(first, last) for first, last in pairwise(ends)]


def _head_cost(config: ModelConfig) -> float:
    ffn = (config.expert_ffn or config.ffn) * config.experts_per_token if config.experts else config.ffn
    attention = config.width * config.head_dim * 2 * (config.heads + config.kv_heads)
    return config.vocab * config.width / (attention + (3 if config.gated else 2) * config.width * ffn)


class Pipeline:
    """The stages of one rank, run by a schedule in training and one after the other in evaluation."""

    def __init__(self, parts: list[Part], layout: Layout, group: Group, device: torch.device) -> None:
        self.parts, self.layout, self.group, self.device = parts, layout, group, device
        self.rank = dist.get_rank(group)
        self.losses: list[LossSum] = []
        self._schedules: dict[tuple, Any] = {}

    def forward_backward(self, hidden: Tensor, scale: float) -> list[LossSum]:
        """Run all micro-batches that the parts hold; the losses where the last stage is, else none.

        Args:
            hidden: an empty tensor of the shape and type that stages hand on.
            scale: of the loss in the gradients.
        """
        count = len(self.parts[0].batches)
        key = (count, hidden.shape, hidden.dtype)
        if key not in self._schedules:
            self._schedules[key] = self._schedule(count, hidden)
        self.losses, self.scale = [], scale
        numbers = torch.arange(count)
        inputs = (numbers,) if any(part.first for part in self.parts) else ()
        target: dict[str, Any] = {"target": numbers} if any(part.last for part in self.parts) else {}
        self._schedules[key].step(*inputs, number=numbers, return_outputs=False, **target)
        return self.losses

    def _schedule(self, count: int, hidden: Tensor) -> Any:
        from torch.distributed import pipelining

        hidden = hidden.detach().requires_grad_()  # so that the schedule knows a gradient comes back
        stages = [
            pipelining.PipelineStage(
                part,
                part.stage,
                self.layout.total_stages,
                self.device,
                input_args=torch.zeros(1, dtype=torch.long) if part.first else hidden,
                output_args=hidden,
                group=self.group,
            )
            for part in self.parts
        ]
        kind = schedule_class(self.layout)
        several = issubclass(kind, pipelining.schedules.PipelineScheduleMulti)
        return kind(stages if several else stages[0], count, loss_fn=self._loss, scale_grads=False)

    def _loss(self, hidden: Tensor, number: Tensor) -> Tensor:
        last = next(part for part in self.parts if part.last)
        loss = last.loss(hidden, int(number))
        self.losses.append(loss.detach())
        return loss.total * self.scale

    @torch.no_grad()
    def evaluate(self, hidden: Tensor) -> LossSum | None:
        """The loss of the parts' only batch where the last stage is, else None."""
        mine = {part.stage: part for part in self.parts}
        x = torch.empty(0)
        number = torch.zeros(1, dtype=torch.long)
        for stage in range(self.layout.total_stages):
            before, here = owner_of(self.layout, stage - 1) if stage else None, owner_of(self.layout, stage)
            if here != self.rank:
                continue
            if before not in (None, here):
                x = torch.empty_like(hidden)
                dist.recv(x, group=self.group, group_src=before)
            x = mine[stage](x, number=number)
            after = owner_of(self.layout, stage + 1) if stage + 1 < self.layout.total_stages else None
            if after not in (None, here):
                dist.send(x.contiguous(), group=self.group, group_dst=after)
        last = mine.get(self.layout.total_stages - 1)
        return last.loss(x, 0).detach() if last else None


def add_tied(grads: list[Tensor], layout: Layout, group: Group) -> None:
    """Sum, in place, the gradients of a weight that the first and the last stage both hold.

    Args:
        grads: of the copies on this rank: two where both stages are here, one, or none.
    """
    ends = owner_of(layout, 0), owner_of(layout, layout.total_stages - 1)
    rank = dist.get_rank(group)
    if rank not in ends:
        return
    if ends[0] == ends[1]:
        total = grads[0] + grads[1]
        for grad in grads:
            grad.copy_(total)
        return
    (grad,) = grads
    other = torch.empty_like(grad)
    peer = ends[1] if rank == ends[0] else ends[0]
    works = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, grad.contiguous(), group=group, group_peer=peer),
            dist.P2POp(dist.irecv, other, group=group, group_peer=peer),
        ]
    )
    for work in works:
        work.wait()
    grad.add_(other)
