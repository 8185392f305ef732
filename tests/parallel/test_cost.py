"""What is sent in a training step is what the formula says, call by call and byte by byte, on every rank.

Each number of ranks starts once, trains a step of each case under a meter, and writes what it saw.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from plait.data.batch import Batch, StepBatch
from plait.nn.config import ModelConfig
from plait.nn.experts import DROPPED, Experts
from plait.parallel import data, formula
from plait.parallel.apply import apply_layout
from plait.parallel.cost import Count, Meter, Row, axes_name, cost_table, peak_memory
from plait.parallel.formula import expected
from plait.parallel.layout import Layout
from plait.parallel.mesh import Mesh
from plait.parallel.placed import Placed
from plait.parallel.work import Work
from plait.train.objectives import next_token

TIME, ROWS = 16, 2
FORK = multiprocessing.get_context("fork")
SMALL = {"width": 16, "layers": 2, "heads": 4, "kv_heads": 2, "vocab": 31, "context": TIME, "ffn": 24}
ODD = {"width": 15, "heads": 3, "kv_heads": 3, "ffn": 25, "position": "learned", "norm": "layer"}
BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True, "head_bias": True}
EXPERTS = {"experts": 4, "experts_per_token": 2, "shared_experts": 1, "expert_ffn": 12}
PAIRS = {"encoder_layers": 3}
CAPACITY = {"capacity_factor": 1.1, "balance_bias": 0.01}


@dataclass(frozen=True)
class Case:
    """A training step: the layout, what differs from a small model, and what its batches are like."""

    layout: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float64"
    microbatches: int = 2
    packed: bool = False
    smoothing: float = 0.0
    bucket: int = data.BUCKET

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(**SMALL | self.model)

    def work(self, pairs: tuple[int, int] | None = None) -> Work:
        return Work(
            rows=ROWS,
            microbatches=self.microbatches,
            context=TIME,
            dtype=self.dtype,
            packed=self.packed,
            smoothed=self.smoothing > 0,
            places=self.places,
            pairs=pairs,
        )

    def lengths(self, number: int) -> tuple[int, int]:
        """Of the sources and of the targets of a micro-batch."""
        return (8 * (number + 1), TIME // (number + 1)) if self.config.encoder_layers else (0, TIME)

    @property
    def places(self) -> tuple[int, int] | None:
        """Of all sources and all targets of pairs."""
        sources, targets = zip(*map(self.lengths, range(self.microbatches)))
        return (ROWS * sum(sources), ROWS * sum(targets)) if self.config.encoder_layers else None


def pipeline(schedule: str, model: dict | None = None, *, layers: int = 4, micro: int = 4, **layout) -> Case:
    return Case(
        {"pp": 2, "schedule": schedule, **layout}, {"layers": layers} | (model or {}), microbatches=micro
    )


CASES = {
    2: {
        "dp": Case({"dp": 2}),
        "dp, several buckets": Case({"dp": 2}, bucket=1000),
        "dp, experts": Case({"dp": 2}, EXPERTS | CAPACITY),
        "fsdp": Case({"fsdp": 2}),
        "fsdp, padding": Case({"fsdp": 2}, ODD | BIASES | {"tied": False}),
        "fsdp, experts": Case({"fsdp": 2}, EXPERTS | CAPACITY | {"experts": 3}),
        "fsdp, bfloat16": Case({"fsdp": 2}, dtype="bfloat16"),
        "tp": Case({"tp": 2}),
        "tp, one key head": Case({"tp": 2}, {"kv_heads": 1}, packed=True),
        "tp, biases": Case({"tp": 2}, BIASES | {"position": "alibi", "norm_place": "post", "tied": False}),
        "tp, smoothing": Case({"tp": 2}, dtype="float32", smoothing=0.1),
        "tp, experts": Case({"tp": 2}, EXPERTS),
        "tp, bfloat16": Case({"tp": 2}, dtype="bfloat16"),
        "tp, experts, bfloat16": Case({"tp": 2}, EXPERTS, dtype="bfloat16"),
        "dp, pairs": Case({"dp": 2}, PAIRS),
        "fsdp, pairs": Case({"fsdp": 2}, PAIRS | ODD | BIASES | {"shared_embeddings": False, "tied": False}),
        "fsdp, pairs, bfloat16": Case({"fsdp": 2}, PAIRS | {"position": "t5"}, dtype="bfloat16"),
        "tp, pairs": Case({"tp": 2}, PAIRS | BIASES | {"position": "sinusoidal", "norm_place": "post"}),
        "tp, pairs, one key head": Case({"tp": 2}, PAIRS | {"kv_heads": 1, "shared_embeddings": False}),
        "tp, pairs, bfloat16": Case({"tp": 2}, PAIRS | {"position": "t5"}, dtype="bfloat16", smoothing=0.1),
        "cp, ring": Case({"cp": 2}),
        "cp, ring, bfloat16": Case({"cp": 2}, dtype="bfloat16"),
        "cp, gather": Case({"cp": 2, "attention": "gather"}),
        "cp, packed": Case({"cp": 2}, packed=True),
        "cp, windows": Case({"cp": 2}, {"window": 4, "window_pattern": 2}),
        "cp, soft cap": Case({"cp": 2}, {"attn_softcap": 2.0}),
        "cp, exchange": Case({"cp": 2, "attention": "exchange"}),
        "cp, exchange, packed": Case({"cp": 2, "attention": "exchange"}, {"kv_heads": 1}, packed=True),
        "cp, experts": Case({"cp": 2}, EXPERTS | CAPACITY, packed=True),
        "ep": Case({"ep": 2}, EXPERTS),
        "ep, capacity": Case({"ep": 2}, EXPERTS | CAPACITY, packed=True),
        "ep, bfloat16": Case({"ep": 2}, EXPERTS, dtype="bfloat16"),
        "pp, gpipe": pipeline("gpipe"),
        "pp, 1f1b": pipeline("1f1b"),
        "pp, 1f1b, bfloat16": Case({"pp": 2}, dtype="bfloat16"),
        "pp, untied": pipeline("1f1b", {"tied": False}),
        "pp, interleaved": pipeline("interleaved"),
        "pp, looped_bfs": pipeline("looped_bfs"),
        "pp, zero_bubble": pipeline("zero_bubble"),
        "pp, zbv": pipeline("zbv"),
        "pp, dualpipev": pipeline("dualpipev"),
    },
    4: {
        "tp, two key heads": Case({"tp": 4}),
        "cp, ring of four": Case({"cp": 4}),
        "dp·fsdp": Case({"dp": 2, "fsdp": 2}, ODD),
        "dp·tp": Case({"dp": 2, "tp": 2}),
        "dp·tp, experts": Case({"dp": 2, "tp": 2}, EXPERTS),
        "dp·cp": Case({"dp": 2, "cp": 2}),
        "cp·tp": Case({"cp": 2, "tp": 2}),
        "cp·tp, packed": Case({"cp": 2, "tp": 2}, EXPERTS, packed=True),
        "cp·tp, exchange": Case({"cp": 2, "tp": 2, "attention": "exchange"}, BIASES),
        "fsdp·tp": Case({"fsdp": 2, "tp": 2}, {"ffn": 22}),
        "fsdp·tp, bfloat16": Case({"fsdp": 2, "tp": 2}, EXPERTS, dtype="bfloat16"),
        "fsdp·tp, pairs, bfloat16": Case({"fsdp": 2, "tp": 2}, PAIRS, dtype="bfloat16"),
        "fsdp·cp": Case({"fsdp": 2, "cp": 2}, EXPERTS),
        "dp·ep": Case({"dp": 2, "ep": 2}, EXPERTS),
        "fsdp·ep": Case({"fsdp": 2, "ep": 2}, EXPERTS | CAPACITY),
        "ep·cp": Case({"ep": 2, "cp": 2}, EXPERTS | CAPACITY),
        "ep·tp": Case({"ep": 2, "tp": 2}, EXPERTS),
        "pp, four stages": pipeline("1f1b", pp=4),
        "pp·dp": pipeline("1f1b", dp=2),
        "pp·dp, zbv": pipeline("zbv", dp=2),
        "pp·tp": pipeline("1f1b", tp=2),
        "pp·tp, zbv": pipeline("zbv", tp=2),
        "pp·cp, zero_bubble": pipeline("zero_bubble", cp=2),
        "pp·fsdp": pipeline("1f1b", fsdp=2),
        "pp·fsdp, zbv": pipeline("zbv", fsdp=2),
        "pp·fsdp, eight stages": pipeline("interleaved", fsdp=2, layers=8, stages=4),
        "pp·ep": pipeline("1f1b", EXPERTS, ep=2),
    },
}  # fmt: skip


def batch_of(case: Case, layout: Layout, rank: int) -> StepBatch:
    """The rows of a data rank."""
    random = torch.Generator().manual_seed(rank)
    positions, segments = torch.arange(TIME).expand(ROWS, -1), torch.zeros(ROWS, TIME, dtype=torch.int64)
    if case.packed:
        positions, segments = positions % 5, positions // 5
    micros = []
    for number in range(case.microbatches):
        read, written = case.lengths(number)
        tokens = torch.randint(0, SMALL["vocab"], (ROWS, written + 1), generator=random)
        held = torch.ones(ROWS, TIME, dtype=torch.bool) if case.packed else None
        where = (positions, segments) if case.packed else (None, None)
        source = torch.randint(0, SMALL["vocab"], (ROWS, read), generator=random) if read else None
        micros.append(
            Batch(tokens[:, :-1], tokens[:, 1:], *where, [0] * ROWS, [""] * ROWS, held=held, source=source)
        )
    return StepBatch(micros, layout.data_ranks * sum(micro.target_tokens() for micro in micros))


def watch_routes(placed: Placed) -> list[Tensor]:
    """Where the choices of experts will be put, one tensor each time."""
    seen: list[Tensor] = []

    def watched(
        dispatch: Callable[..., Tensor], experts: Experts, x: Tensor, chosen: Tensor, weights: Tensor
    ) -> Tensor:
        seen.append(chosen)
        return dispatch(experts, x, chosen, weights)

    for part in placed.parts:
        for moe in part.experts:
            moe.experts.dispatch = partial(watched, moe.experts.dispatch)
    return seen


def pairs_of(seen: list[Tensor], config: ModelConfig, mesh: Mesh) -> tuple[int, int]:
    """How many pairs left this rank, and how many chose an expert that is here."""
    flat = torch.cat([chosen.flatten() for chosen in seen])
    counts = torch.bincount(flat[flat != DROPPED], minlength=config.experts)
    left = int(counts.sum())
    dist.all_reduce(counts, group=mesh.group("ep"))
    return left, int(counts.chunk(mesh.sizes["ep"])[mesh.at["ep"]].sum())


def measure(case: Case) -> list[Row]:
    """The table of a step on this rank."""
    config, layout = case.config, Layout(**case.layout)
    data.BUCKET = formula.BUCKET = case.bucket
    mesh = Mesh(layout)
    placed = apply_layout(config, layout, torch.device("cpu"), dtype=case.dtype, mesh=mesh)
    batch = batch_of(case, layout, placed.data_rank)
    objective = partial(next_token, label_smoothing=case.smoothing)
    placed.forward_backward(batch, objective)
    for _, parameter in placed.named_parameters():
        parameter.grad = None
    seen = watch_routes(placed)
    with Meter(mesh) as meter:
        placed.forward_backward(batch, objective)
        placed.clip(1.0)
    pairs = pairs_of(seen, config, mesh) if layout.ep > 1 else None
    told = expected(config, layout, case.work(pairs), mesh.at)
    mesh.close()
    return cost_table(meter.counts, told)


class Deep(torch.autograd.Function):
    """A backward pass within a backward pass within ..., which autograd continues in a thread of its own."""

    @staticmethod
    def forward(ctx, x: Tensor, depth: int, threads: set[int]) -> Tensor:
        ctx.depth, ctx.threads = depth, threads
        return x.clone()

    @staticmethod
    def backward(ctx, *grads: Tensor):
        ctx.threads.add(threading.get_ident())
        if ctx.depth:
            with torch.enable_grad():
                Deep.apply(torch.ones(1, requires_grad=True), ctx.depth - 1, ctx.threads).backward()
        else:
            dist.all_reduce(grads[0].clone())
        return grads[0], None, None


def meters_torch() -> None:
    """Functional collectives, those of no table, those that carry nothing, and those of other threads."""
    mesh = Mesh(Layout(dp=2))
    x, functional = torch.ones(3), torch.ops._c10d_functional
    with Meter(mesh) as meter:
        functional.wait_tensor(functional.all_gather_into_tensor(x, 2, dist.group.WORLD.group_name))
        functional.wait_tensor(functional.all_reduce(x, "sum", dist.group.WORLD.group_name))
        dist.broadcast(x, 0)
        dist.reduce(x, 0)
        dist.barrier()
        if mesh.rank == 0:
            dist.send(x, 1)
        else:
            dist.recv(x, 0)
    told = {
        "all-gather": Count(1, 24),
        "all-reduce": Count(1, 12),
        "broadcast": Count(1, 12),
        "reduce_": Count(1, 12),
    }
    told |= {"send": Count(1, 12)} if mesh.rank == 0 else {}
    assert meter.counts == {("dp", operation): count for operation, count in told.items()}
    threads: set[int] = set()
    with Meter(mesh) as meter:
        Deep.apply(torch.ones(1, requires_grad=True), 70, threads).backward()
    assert len(threads) > 1
    assert meter.counts == {("dp", "all-reduce"): Count(1, 4)}
    dist.all_reduce(x)
    assert meter.counts == {("dp", "all-reduce"): Count(1, 4)}, "counted after it was left"
    mesh.close()


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Callable[[int], list[dict[str, list[Row]]]]:
    """The tables of every rank, by their number; ranks start when first asked for."""
    known: dict[int, list[dict[str, list[Row]]]] = {}

    def read(file: Path) -> dict[str, list[Row]]:
        found = json.loads(file.read_text())
        return {name: [Row(*row) for row in table] for name, table in found.items()}

    def of(ranks: int) -> list[dict[str, list[Row]]]:
        if ranks not in known:
            folder = tmp_path_factory.mktemp(f"ranks{ranks}")
            command = [sys.executable, __file__, str(folder), str(ranks)]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            known[ranks] = [read(folder / f"{ranks}-{rank}.json") for rank in range(ranks)]
        return known[ranks]

    return of


EACH = [
    pytest.param(ranks, name, marks=[pytest.mark.long] if ranks > 2 else [])
    for ranks in CASES
    for name in CASES[ranks]
]


@pytest.mark.parametrize(("ranks", "name"), EACH)
def test_what_is_sent_is_what_the_formula_says(measured, ranks, name):
    for rank, found in enumerate(measured(ranks)):
        assert found[name], "nothing was sent"
        assert [row for row in found[name] if not row.equal] == [], f"rank {rank}"


@pytest.mark.parametrize(
    ("layout", "axes", "name"),
    [
        ({"dp": 2}, ("dp", "cp"), "dp"),
        ({"dp": 2}, ("tp",), ""),
        ({"dp": 2, "cp": 2, "tp": 2}, ("cp", "dp"), "dp·cp"),
        ({"dp": 2, "cp": 2}, ("cp", "dp", "tp"), "world"),
    ],
)
def test_names_of_axes(layout, axes, name):
    assert axes_name(Layout(**layout), axes) == name


def test_a_table_shows_what_only_one_side_has():
    sent = {("tp", "all-gather"): Count(2, 80), ("dp", "broadcast"): Count(1, 8), ("dp", "send"): Count(1, 4)}
    told = {
        ("tp", "all-gather"): Count(2, 80),
        ("dp", "all-reduce"): Count(1, 99),
        ("dp", "send"): Count(2, 4),
    }
    rows = cost_table(sent, told)
    assert rows == [
        ("tp", "all-gather", 2, 80, 2, 80),
        ("dp", "broadcast", 1, 8, 0, 0),
        ("dp", "send", 1, 4, 2, 4),
        ("dp", "all-reduce", 0, 0, 1, 99),
    ]
    assert [row.equal for row in rows] == [True, False, False, False]


def test_peak_memory_is_in_bytes():
    now = psutil.Process().memory_info().rss
    assert 0.9 * now < peak_memory(torch.device("cpu")) < 100 * now
    if not torch.cuda.is_initialized():
        assert peak_memory() == pytest.approx(peak_memory(torch.device("cpu")), rel=0.1)


def train(folder: Path, ranks: int, rank: int) -> None:
    """One rank: every case of so many ranks."""
    store = dist.FileStore(str(folder / f"store{ranks}"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=120))
    found = {name: measure(case) for name, case in CASES[ranks].items()}
    if ranks == 2:
        meters_torch()
    (folder / f"{ranks}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def main(folder: Path, ranks: int) -> None:
    """Import once, then become all the ranks."""
    torch.set_num_threads(1)
    processes = [FORK.Process(target=train, args=(folder, ranks, rank)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
