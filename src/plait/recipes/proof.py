"""What `plait prove` compares: the same training in one process and under a layout, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from plait.checkpoint.tensors import open_tensors, write_tensors
from plait.config import Config
from plait.data.loader import Loader
from plait.data.prepare import open_data
from plait.nn.config import ModelConfig
from plait.parallel.apply import apply_layout
from plait.parallel.data import local
from plait.parallel.layout import Layout, microbatch_counts
from plait.parallel.mesh import Mesh
from plait.parallel.placed import Placed
from plait.recipes.random_rows import RandomRows
from plait.text.tokenizer import Tokenizer
from plait.train.config import TrainConfig
from plait.train.loop import TrainState, train
from plait.train.objectives import objective_of
from plait.train.optim import optimizer_of

GRADIENTS = 1e-12  # of the first step: float64 sums in another order; mistakes are a million times larger
WEIGHTS = 1e-10  # and losses: Adam divides by gradients' size and so makes rounding larger
Weights = dict[str, Tensor]


class Problem(Config):
    """A training to be compared: everything but the layout.

    Attributes:
        train: `steps` is what the learning rate's schedule spans.
        context: tokens in a row.
        rows: of an optimizer step.
        steps: so many are compared.
        data: a directory with `tokenizer` and `data`; empty: random tokens.
    """

    model: ModelConfig
    train: TrainConfig
    context: int
    rows: int
    seed: int = 0
    steps: int = 3
    data: str = ""
    attend_across: bool = False

    def loader(self, layout: Layout, rank: int) -> Loader | RandomRows:
        """The rows of one data rank."""
        micro, ranks = micro_rows(layout, self.rows), layout.data_ranks
        if not self.data:
            return RandomRows(
                self.model.vocab, self.context, self.rows, micro, seed=self.seed, rank=rank, ranks=ranks,
                start_id=self.model.start_id,
            )  # fmt: skip
        data = open_data(Path(self.data) / "data", Tokenizer.load(Path(self.data) / "tokenizer"))
        return Loader(
            data.train, batch_size=self.rows, micro_batch=micro, seed=self.seed, rank=rank, ranks=ranks,
            attend_across=self.attend_across,
        )  # fmt: skip


@dataclass
class Trace:
    """What a training left behind: numbers and weights of each step, and the gradients of the first."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)
    gradients: Weights = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it for other processes."""
        tensors = {f"gradient/{name}": tensor for name, tensor in self.gradients.items()}
        for step, weights in enumerate(self.weights):
            tensors |= {f"{step}/{name}": tensor for name, tensor in weights.items()}
        tensors["numbers"] = torch.tensor([self.losses, self.norms], dtype=torch.float64)
        write_tensors(path, tensors)

    @staticmethod
    def load(path: Path) -> Trace:
        """One that was saved; its tensors stay on the disk until they are looked at."""
        trace = Trace()
        with open_tensors(path.parent, path.stem) as files:
            trace.losses, trace.norms = files.view("numbers").tolist()
            trace.weights = [{} for _ in trace.losses]
            for key in files.file_of:
                kind, _, name = key.partition("/")
                if name:
                    into = trace.gradients if kind == "gradient" else trace.weights[int(kind)]
                    into[name] = files.view(key)
        return trace


@dataclass(frozen=True)
class Difference:
    """The first number that is further from one process's than the tolerance.

    Attributes:
        name: of the parameter; `loss` or `gradient norm` where every parameter is right.
        what: what of it, and when.
        others: how many parameters more differ there.
    """

    name: str
    what: str
    size: float
    tolerance: float
    others: int = 0

    def __str__(self) -> str:
        more = f" (and {self.others} more)" if self.others else ""
        return f"{self.name}{more}: {self.what} differs by {self.size:.1e}, tolerance {self.tolerance:.0e}"


@dataclass(frozen=True)
class StepProof:
    """A step under a layout, and how far it is from the same step in one process.

    Attributes:
        weights_apart: the largest difference over all elements of all weights.
    """

    loss: float
    norm: float
    loss_apart: float
    norm_apart: float
    weights_apart: float

    @property
    def worst(self) -> float:
        """The largest of its differences."""
        return max(self.loss_apart, self.norm_apart, self.weights_apart)


@dataclass(frozen=True)
class Proof:
    """The comparison of one layout with one process.

    Attributes:
        gradients: largest difference of a first gradient, by parameter.
        first: what differs first, where the proof failed.
    """

    steps: list[StepProof]
    gradients: dict[str, float]
    first: Difference | None

    @property
    def gradient(self) -> float:
        """The largest difference of a first gradient."""
        return max(self.gradients.values())

    @property
    def holds(self) -> bool:
        """The verdict."""
        return self.first is None

    def as_json(self) -> dict[str, Any]:
        """For other processes."""
        return asdict(self)

    @staticmethod
    def from_json(made: Mapping[str, Any]) -> Proof:
        """The inverse of `as_json`."""
        first = Difference(**made["first"]) if made["first"] else None
        return Proof([StepProof(**step) for step in made["steps"]], made["gradients"], first)


def micro_rows(layout: Layout, rows: int) -> int:
    """Rows of a micro-batch: as many of these as the schedule needs, else two, so that sums are tried."""
    share = rows // layout.data_ranks
    counts = microbatch_counts(layout, share)
    return share // next((n for n in counts if n >= 2), counts[-1])


def run(
    problem: Problem,
    layout: Layout,
    mesh: Mesh | None = None,
    watch: Callable[[Placed], None] = lambda placed: None,
) -> tuple[Placed, Trace]:
    """Train under a layout; every rank of it calls this. The trace holds this rank's pieces.

    Args:
        watch: is given the model before it trains.
    """
    placed = apply_layout(
        problem.model, layout, torch.device("cpu"), dtype=problem.train.dtype, seed=problem.seed, mesh=mesh
    )
    watch(placed)
    trace = Trace()
    compute = placed.forward_backward

    def watched(*args):
        loss = compute(*args)
        if not trace.gradients:
            trace.gradients = {
                name: torch.zeros_like(local(p)) if p.grad is None else local(p.grad).clone()
                for name, p in placed.named_parameters()
                if p.requires_grad
            }
        return loss

    placed.forward_backward = watched  # type: ignore[method-assign]
    steps = train(
        placed,
        problem.loader(layout, placed.data_rank),  # type: ignore[arg-type]
        objective_of(problem.train),
        optimizer_of(placed, problem.train),
        problem.train,
        TrainState(),
        total_steps=problem.train.steps,
        seed=problem.seed,
    )
    for step in islice(steps, problem.steps):
        trace.losses.append(step.loss)
        trace.norms.append(step.grad_norm)
        trace.weights.append({name: local(p.detach()).clone() for name, p in placed.named_parameters()})
    return placed, trace


def compare(placed: Placed, trace: Trace, reference: Trace) -> Proof:
    """Compare this rank's pieces with the whole of the reference, and join the ranks' differences."""
    gradients = _apart(placed, trace.gradients, reference.gradients)
    weights = [
        _apart(placed, mine, whole) for mine, whole in zip(trace.weights, reference.weights, strict=True)
    ]
    steps = [
        StepProof(loss, norm, _distance(loss, loss_alone), _distance(norm, norm_alone), max(apart.values()))
        for loss, norm, loss_alone, norm_alone, apart in zip(
            trace.losses, trace.norms, reference.losses, reference.norms, weights, strict=True
        )
    ]
    found = _differences(gradients, steps, weights)
    return Proof(steps, gradients, next(found, None))


def _apart(placed: Placed, mine: Weights, whole: Weights) -> dict[str, float]:
    """The largest difference of each parameter on any rank."""
    parameters, each = placed.parameters, dict[str, float]()
    for name, tensor in mine.items():
        expected = parameters.pieces[name].of(whole[parameters.copies.get(name, name)])
        each[name] = (tensor - expected).abs().max().item() if tensor.numel() else 0.0
    names = list(parameters.shapes)
    worst = torch.tensor([each.get(name, 0.0) for name in names], dtype=torch.float64)
    worst = worst.nan_to_num(math.inf)
    if placed.mesh.layout.world > 1:
        dist.all_reduce(worst, dist.ReduceOp.MAX)
    return dict(zip(names, worst.tolist()))


def _distance(one: float, other: float) -> float:
    return abs(one - other) if math.isfinite(one - other) else math.inf


def _differences(
    gradients: Mapping[str, float], steps: list[StepProof], weights: list[dict[str, float]]
) -> Iterator[Difference]:
    """What is beyond its tolerance, in the order in which it is computed; of parameters the worst."""

    def worst(what: str, each: Mapping[str, float], tolerance: float) -> Iterator[Difference]:
        beyond = [name for name in each if each[name] > tolerance]
        if beyond:
            name = max(beyond, key=lambda name: each[name])
            yield Difference(name, what, each[name], tolerance, len(beyond) - 1)

    for number, (step, apart) in enumerate(zip(steps, weights), 1):
        if number == 1:
            yield from worst("the gradient of step 1", gradients, GRADIENTS)
        yield from worst(f"the weight after step {number}", apart, WEIGHTS)
        numbers = {"loss": step.loss_apart, "gradient norm": step.norm_apart}
        yield from worst(f"its value in step {number}", numbers, WEIGHTS)
