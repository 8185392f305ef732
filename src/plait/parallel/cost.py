"""What a training step costs: bytes between ranks, idle time of a pipeline, memory. Measured, and by formula.

`Meter` counts what is really sent, `plait.parallel.formula.expected` what the algorithm says must be, and
`cost_table` lays them side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _resolve_process_group
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plait.parallel.layout import AXES, Layout
from plait.parallel.mesh import Mesh
from plait.parallel.pipeline import schedule_class, stages_of

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all-reduce", "all-gather", "reduce-scatter"
ALL_TO_ALL, SEND = "all-to-all", "send"
RESULT = -1
# by the name of the operation: what it is called here, and which argument is the payload
OPERATIONS = {
    "c10d.allreduce_": (ALL_REDUCE, 0),
    "c10d.allreduce_coalesced_": (ALL_REDUCE, 0),
    "c10d._allgather_base_": (ALL_GATHER, 0),
    "c10d.allgather_": (ALL_GATHER, 0),
    "c10d.allgather_into_tensor_coalesced_": (ALL_GATHER, 0),
    "c10d._reduce_scatter_base_": (REDUCE_SCATTER, 1),
    "c10d.reduce_scatter_": (REDUCE_SCATTER, 1),
    "c10d.reduce_scatter_tensor_coalesced_": (REDUCE_SCATTER, 1),
    "c10d.alltoall_base_": (ALL_TO_ALL, 0),
    "c10d.alltoall_": (ALL_TO_ALL, 0),
    "c10d.send": (SEND, 0),
    "c10d.broadcast_": ("broadcast", 0),
    "_c10d_functional.all_reduce": (ALL_REDUCE, 0),
    "_c10d_functional.all_reduce_": (ALL_REDUCE, 0),
    "_c10d_functional.all_gather_into_tensor": (ALL_GATHER, RESULT),
    "_c10d_functional.reduce_scatter_tensor": (REDUCE_SCATTER, 0),
    "_c10d_functional.all_to_all_single": (ALL_TO_ALL, RESULT),
}
SILENT = {"recv_", "recv_any_source_", "irecv", "barrier", "monitored_barrier_"}


@dataclass(frozen=True)
class Count:
    """How often an operation was called, and how many bytes it moved, on one rank."""

    calls: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.calls + other.calls, self.bytes + other.bytes)


Costs = dict[tuple[str, str], Count]


def axes_name(layout: Layout, axes: Iterable[str]) -> str:
    """The axes along which the ranks of a group differ: `tp`, `dp·cp`, `world` for all of several axes."""
    wide = [axis for axis in AXES if getattr(layout, axis) > 1]
    along = [axis for axis in wide if axis in axes]
    return "world" if len(wide) > 1 and along == wide else "·".join(along)


class Meter(TorchDispatchMode):
    """Counts what this rank sends, while it is entered, in forward and backward passes.

    A payload is the input of an all-reduce or a reduce-scatter, the output of an all-gather or an all-to-all
    (this rank's own part included), and what is sent from one rank to another. What of it crosses a wire is
    for the backend to choose: of n ranks a ring moves (n-1)/n of a payload, of an all-reduce twice that.

    Autograd hands the mode on to the threads in which it runs backward passes, those of GPUs too. Blocks that
    `torch.compile` has compiled count alike. Entered, it makes every operation slower: do not time with it.

    Attributes:
        counts: by (axes, operation), see `axes_name`.
    """

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self.mesh = mesh
        self.counts: Costs = {}
        self._names: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again as what it does to plain tensors
        result = func(*args, **(kwargs or {}))
        if func.namespace in ("c10d", "_c10d_functional"):
            self._count(func, [*args, *(kwargs or {}).values()], result)
        return result

    def _count(self, func: Any, args: list, result: Any) -> None:
        name = func.overloadpacket.__name__
        group = next(filter(None, map(_group, reversed(args))), None)
        if group is None or name in SILENT:  # without a group: waiting for what was counted already
            return
        # what is not known shows up under its own name, with all it was given
        operation, place = OPERATIONS.get(f"{func.namespace}.{name}", (name, None))
        payload = args if place is None else result if place == RESULT else args[place]
        size = sum(x.numel() * x.element_size() for x in tree_leaves(payload) if isinstance(x, Tensor))
        key = self._axes(group), operation
        self.counts[key] = self.counts.get(key, Count()) + Count(1, size)

    def _axes(self, group: dist.ProcessGroup) -> str:
        name = group.group_name
        if name not in self._names:
            places = [self.mesh.coordinates(rank) for rank in dist.get_process_group_ranks(group)]
            along = [axis for axis in AXES if len({place[axis] for place in places}) > 1]
            self._names[name] = axes_name(self.mesh.layout, along)
        return self._names[name]


def _group(argument: Any) -> dist.ProcessGroup | None:
    """The process group that an argument of a collective stands for, if it is one."""
    if isinstance(argument, dist.ProcessGroup):
        return argument
    try:
        if isinstance(argument, str):
            return _resolve_process_group(argument)  # type: ignore[arg-type]
        if isinstance(argument, torch.ScriptObject):
            return dist.ProcessGroup.unbox(argument)
    except (RuntimeError, ValueError):  # the name, or the object, of something else
        return None
    return None


class Row(NamedTuple):
    """A line of a cost table; `formula_calls` and `formula_bytes` are 0 where no formula has it."""

    axes: str
    operation: str
    calls: int
    bytes: int
    formula_calls: int
    formula_bytes: int

    @property
    def equal(self) -> bool:
        """Whether as much was sent as the formula says."""
        return (self.calls, self.bytes) == (self.formula_calls, self.formula_bytes)


def cost_table(
    measured: Mapping[tuple[str, str], Count], formula: Mapping[tuple[str, str], Count]
) -> list[Row]:
    """What was measured beside what was expected, the most bytes first."""
    rows = []
    for key in {**measured, **formula}:
        sent, told = measured.get(key, Count()), formula.get(key, Count())
        rows.append(Row(*key, sent.calls, sent.bytes, told.calls, told.bytes))
    return sorted(rows, key=lambda row: (-row.bytes, -row.formula_bytes, row.axes, row.operation))


def peak_memory(device: torch.device | None = None) -> int:
    """The most bytes that this process has held: tensors on a GPU, else all of its memory.

    Args:
        device: None: the current GPU where this process has used one, else the CPU.
    """
    on_gpu = torch.cuda.is_initialized() if device is None else device.type == "cuda"
    if on_gpu:
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):  # Linux: since `forget_peak`, and of this process alone
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Begin anew to look for the peak of memory, where the system lets a process do so."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


FORWARD, BACKWARD, OF_INPUT, OF_WEIGHT, UNSHARD = "F", "B", "I", "W", "UNSHARD"
UNITS = {FORWARD: 1, BACKWARD: 2, OF_INPUT: 1, OF_WEIGHT: 1}


class Action(NamedTuple):
    """What a pipeline rank does: F forward, B backward or its halves I and W, or UNSHARD (micro-batch -1)."""

    kind: str
    stage: int
    microbatch: int


def actions_of(layout: Layout, microbatches: int) -> dict[int, list[Action]]:
    """What each pipeline rank does in a training step, in the order in which torch's schedule does it."""
    from torch.distributed.pipelining.schedules import PipelineScheduleMulti

    kind = schedule_class(layout)
    if not issubclass(kind, PipelineScheduleMulti):
        return {rank: _single_stage(layout, rank, microbatches) for rank in range(layout.pp)}
    stages: list[Any] = [
        SimpleNamespace(
            stage_index=stage,
            num_stages=layout.total_stages,
            group_size=layout.pp,
            group_rank=0,
            submod=None,
            is_first=stage == 0,
            is_last=stage == layout.total_stages - 1,
        )
        for stage in stages_of(layout, 0)
    ]
    schedule: Any = kind(stages, microbatches)
    return {
        rank: [
            Action(part.computation_type.value, part.stage_index, -1 if micro is None else micro)
            for action in actions
            for part in action.sub_actions or (action,)
            for micro in (part.microbatch_index,)
            if part.computation_type.value in (*UNITS, UNSHARD)
        ]
        for rank, actions in schedule.pipeline_order_with_comms.items()
    }


def _single_stage(layout: Layout, rank: int, count: int) -> list[Action]:
    """As the loops of torch's `ScheduleGPipe` and `Schedule1F1B` run; what the latter tells is not it."""
    ahead = count if layout.schedule == "gpipe" else min(count, layout.pp - rank)
    forward = [Action(FORWARD, rank, number) for number in range(count)]
    backward = [Action(BACKWARD, rank, number) for number in range(count)]
    steady = [action for pair in zip(backward, forward[ahead:]) for action in pair]
    return [Action(UNSHARD, rank, -1), *forward[:ahead], *steady, *backward[count - ahead :]]


def bubble(layout: Layout, microbatches: int) -> float:
    """The share of a step in which ranks of a pipeline wait, if all stages take equally long: idle / total.

    A forward pass takes one unit of time, a backward pass two, its halves (gradients of inputs, of weights)
    one each, and sending nothing. With p ranks, v stages on each and m micro-batches it is (p-1)/(m+p-1) for
    GPipe and 1F1B, (p-1)/(vm+p-1) for interleaved stages (Narayanan et al. 2021, section 2.2, who divide by
    the time without idling instead), and with enough micro-batches (p-1)/(3vm+p-1) where halves of backward
    passes fill gaps (Qi et al. 2023).
    """
    if layout.pp == 1:
        return 0.0
    left = {
        rank: [a for a in do if a.kind in UNITS][::-1]
        for rank, do in actions_of(layout, microbatches).items()
    }
    busy = sum(UNITS[action.kind] for actions in left.values() for action in actions)
    done: dict[Action, int] = {}
    clock = dict.fromkeys(left, 0)
    while any(left.values()):
        before = len(done)
        for rank, actions in left.items():
            while actions and all(need in done for need in _needs(actions[-1], layout)):
                action = actions.pop()
                start = max([clock[rank], *(done[need] for need in _needs(action, layout))])
                clock[rank] = start + UNITS[action.kind]
                done[_as_need(action)] = clock[rank]
        if len(done) == before:
            raise RuntimeError(
                f"schedule {layout.schedule} with {microbatches} micro-batches waits for itself"
            )
    return 1 - busy / (layout.pp * max(clock.values()))


def _needs(action: Action, layout: Layout) -> list[Action]:
    """What must be done before an action."""
    kind, stage, micro = action
    if kind == FORWARD:
        return [Action(FORWARD, stage - 1, micro)] if stage else []
    if kind == OF_WEIGHT:
        return [Action(BACKWARD, stage, micro)]
    after = [Action(BACKWARD, stage + 1, micro)] if stage < layout.total_stages - 1 else []
    return [Action(FORWARD, stage, micro), *after]


def _as_need(action: Action) -> Action:
    """Gradients of inputs are all that the stage before waits for."""
    return action._replace(kind=BACKWARD) if action.kind == OF_INPUT else action
