"""`plait prove`: the same training in one process and under a layout, step by step, element by element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from plait.data.batch import NO_LOSS, PADDING, Batch, StepBatch
from plait.nn.config import ModelConfig
from plait.parallel.apply import apply_layout
from plait.parallel.data import local
from plait.parallel.layout import Layout, microbatch_rule
from plait.parallel.mesh import Mesh
from plait.parallel.placed import Placed
from plait.train.config import TrainConfig
from plait.train.loop import TrainState, train
from plait.train.objectives import objective_of
from plait.train.optim import Optimizer

GRADIENTS = 1e-12  # float64 sums in another order; planted mistakes are a million times larger
WEIGHTS = 1e-10  # after Adam, which divides by gradients' size and so makes rounding larger
Weights = dict[str, Tensor]


class RandomRows:
    """A loader of seeded random tokens: rows of unequal lengths, packed with several documents every second step.

    Args:
        micro_batch: rows of a micro-batch of one rank.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        micro_batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.config, self.rows, self.micro_batch, self.seed = config, rows, micro_batch, seed
        self.rank, self.ranks = rank, ranks

    def batch(self, step: int) -> StepBatch:
        """This rank's micro-batches of a step; step 0 is the first."""
        whole = self._rows(step)
        share = self.rows // self.ranks
        first = self.rank * share
        starts = range(first, first + share, self.micro_batch)
        return StepBatch(
            [self._take(whole, at, at + self.micro_batch) for at in starts], whole.target_tokens()
        )

    def _rows(self, step: int) -> Batch:
        rng = np.random.Generator(np.random.Philox(key=self.seed * 1000 + step))
        time, rows = self.config.context, self.rows
        tokens = rng.integers(0, self.config.vocab, (rows, time + 1))
        positions, segments = np.tile(np.arange(time), (rows, 1)), np.zeros((rows, time), np.int64)
        packed = step % 2 == 1
        for row in range(rows):
            length = int(rng.integers(2, time + 1))
            segments[row, length:] = PADDING
            if packed:
                cuts = np.sort(rng.integers(1, time, 2))
                for cut in cuts:
                    positions[row, cut:] = np.arange(time - cut)
                    segments[row, cut:length] += 1
        targets = np.where(segments == PADDING, NO_LOSS, tokens[:, 1:])
        return Batch(
            tokens=torch.from_numpy(tokens[:, :-1].copy()),
            targets=torch.from_numpy(targets),
            positions=torch.from_numpy(positions) if packed else None,
            segments=torch.from_numpy(segments) if packed else None,
            rows=list(range(rows)),
            sources=["random"] * rows,
            held=torch.from_numpy(segments != PADDING),
        )

    @staticmethod
    def _take(batch: Batch, first: int, last: int) -> Batch:
        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[first:last]

        return Batch(
            batch.tokens[first:last], batch.targets[first:last], cut(batch.positions), cut(batch.segments),
            batch.rows[first:last], batch.sources[first:last], held=cut(batch.held),
        )  # fmt: skip


@dataclass
class Trace:
    """What a training left behind: numbers and weights of each step, and the gradients of the first."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)
    gradients: Weights = field(default_factory=dict)


@dataclass
class Proof:
    """The comparison of one layout with one process; differences are the largest over all elements.

    Attributes:
        losses, norms, weights: differences after each step.
        gradients: of the first step, by parameter.
        first: the parameter that differs first, where the proof failed.
    """

    layout: Layout
    losses: list[float]
    norms: list[float]
    weights: list[float]
    gradients: dict[str, float]
    first: str = ""

    @property
    def gradient(self) -> float:
        """The largest difference of a first gradient."""
        return max(self.gradients.values())

    @property
    def holds(self) -> bool:
        """The verdict."""
        worst = max(*self.losses, *self.weights)
        return self.gradient <= GRADIENTS and worst <= WEIGHTS


@dataclass(frozen=True)
class Problem:
    """A training to be compared: everything but the layout."""

    config: ModelConfig
    train: TrainConfig
    rows: int
    seed: int = 0
    steps: int = 3


def micro_rows(layout: Layout, rows: int) -> int:
    """Rows of a micro-batch: as many micro-batches as the schedule needs, else two, so that sums are tried."""
    share = rows // layout.data_ranks
    least, multiple = microbatch_rule(layout) if layout.pp > 1 else (1, 1)
    counts = [n for n in range(least, share + 1) if share % n == 0 and n % multiple == 0]
    return share // next((n for n in counts if n >= 2), counts[-1])


def run(problem: Problem, layout: Layout, mesh: Mesh | None = None) -> tuple[Placed, Trace]:
    """Train under a layout; every rank of it calls this. The trace holds this rank's pieces."""
    placed = apply_layout(
        problem.config, layout, torch.device("cpu"), dtype="float64", seed=problem.seed, mesh=mesh
    )
    loader = RandomRows(
        problem.config,
        problem.rows,
        micro_rows(layout, problem.rows),
        seed=problem.seed,
        rank=placed.data_rank,
        ranks=layout.data_ranks,
    )
    trace = Trace()
    compute = placed.forward_backward

    def watched(*args):
        loss = compute(*args)
        if not trace.gradients:
            trace.gradients = {
                name: local(p.grad).clone() for name, p in placed.named_parameters() if p.grad is not None
            }
        return loss

    placed.forward_backward = watched  # type: ignore[method-assign]
    optim = Optimizer(placed.named_parameters(), problem.train, placed.on_whole)
    steps = train(
        placed, loader, objective_of(problem.train), optim, problem.train, TrainState(),
        total_steps=problem.steps, seed=problem.seed,
    )  # fmt: skip
    for step in steps:
        trace.losses.append(step.loss)
        trace.norms.append(step.grad_norm)
        trace.weights.append({name: local(p.detach()).clone() for name, p in placed.named_parameters()})
    return placed, trace


def compare(layout: Layout, placed: Placed, trace: Trace, reference: Trace) -> Proof:
    """Compare this rank's pieces with the whole of the reference, and join the ranks' differences."""
    names = list(placed.shapes)

    def differences(mine: Weights, whole: Weights) -> dict[str, float]:
        each = {
            name: (tensor - placed.pieces[name].of(whole[placed.copies.get(name, name)])).abs().max().item()
            if tensor.numel()
            else 0.0
            for name, tensor in mine.items()
        }
        worst = torch.tensor([each.get(name, 0.0) for name in names], dtype=torch.float64)
        worst = worst.nan_to_num(torch.inf)
        if layout.world > 1:
            dist.all_reduce(worst, dist.ReduceOp.MAX)
        return dict(zip(names, worst.tolist()))

    gradients = differences(trace.gradients, reference.gradients)
    weights = [differences(mine, whole) for mine, whole in zip(trace.weights, reference.weights)]
    proof = Proof(
        layout,
        [abs(a - b) for a, b in zip(trace.losses, reference.losses)],
        [abs(a - b) for a, b in zip(trace.norms, reference.norms)],
        [max(each.values()) for each in weights],
        gradients,
    )
    if not proof.holds:
        proof.first = first_different(gradients, weights)
    return proof


def first_different(gradients: Mapping[str, float], weights: Sequence[Mapping[str, float]]) -> str:
    """The parameter that is worst where the first difference beyond the tolerance shows; empty: none."""
    for values, tolerance in [(gradients, GRADIENTS), *((each, WEIGHTS) for each in weights)]:
        name = max(values, key=lambda name: values[name])
        if values[name] > tolerance:
            return name
    return ""
