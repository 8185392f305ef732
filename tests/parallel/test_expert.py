"""Experts spread over ranks equal all experts in one process.

Four ranks start once and measure themselves, as one group of four and as two groups of two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from plait.nn.config import ModelConfig
from plait.nn.experts import DROPPED, Experts, dispatch_here
from plait.nn.moe import MoE
from plait.parallel.expert import all_to_all_dispatch

WORLD, EXPERTS, WIDTH, K = 4, 8, 8, 2
FIELDS = {"width": WIDTH, "heads": 2, "ffn": 12, "experts": EXPERTS, "experts_per_token": K}


@dataclass(frozen=True)
class Case:
    """One exchange: how many tokens the ranks have (in turn), what they choose, what wants a gradient."""

    tokens: tuple[int, ...] = (6,)
    choose: str = "any"
    gated: bool = True
    frozen: tuple[bool, ...] = (False,)
    dtype: torch.dtype = torch.float64
    grouped: bool | None = None


CASES = {
    "even": Case(),
    "ungated": Case(gated=False),
    "a rank without tokens": Case(tokens=(5, 0, 3, 9)),
    "no tokens at all": Case(tokens=(0,)),
    "ranks that receive nothing": Case(choose="first"),
    "some dropped": Case(choose="some"),
    "all dropped on a rank": Case(choose="none on the first rank"),
    "all dropped": Case(choose="none"),
    "inputs without gradient": Case(frozen=(True,)),
    "inputs without gradient on a rank": Case(frozen=(True, False)),
    "grouped": Case(dtype=torch.float32, grouped=True),
}


def chosen_by(case: Case, tokens: int, rank: int, random: torch.Generator) -> Tensor:
    chosen = torch.rand(tokens, EXPERTS, generator=random).topk(K).indices
    if case.choose == "first":
        return torch.arange(K).expand(tokens, K)
    if case.choose == "some":
        return chosen.masked_fill(torch.rand(tokens, K, generator=random) < 0.4, DROPPED)
    if case.choose == "none" or (case.choose == "none on the first rank" and rank == 0):
        return torch.full_like(chosen, DROPPED)
    return chosen


def fill(module: torch.nn.Module) -> None:
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in module.parameters() if p.requires_grad):
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) / 2)


def keep_own(experts: Experts, group: dist.ProcessGroup) -> None:
    """Leave this rank's slice of the experts, and send tokens to the others."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    for name, parameter in list(experts.named_parameters()):
        setattr(experts, name, torch.nn.Parameter(parameter.detach().chunk(ranks)[rank].clone()))
    experts.dispatch = all_to_all_dispatch(group, EXPERTS)


def worst(pairs) -> float:
    """The largest difference; infinite where a gradient is missing."""
    return max(
        float("inf") if ours is None else max((ours - theirs).abs().flatten().tolist(), default=0.0)
        for ours, theirs in pairs
    )


def measure(case: Case, group: dist.ProcessGroup) -> dict[str, float]:
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    random = torch.Generator().manual_seed(1)
    sizes = [case.tokens[number % len(case.tokens)] for number in range(ranks)]

    def draw(*shape: int) -> list[Tensor]:
        return [torch.randn(size, *shape, generator=random, dtype=case.dtype) for size in sizes]

    x, probe, weights = draw(WIDTH), draw(WIDTH), draw(K)
    chosen = [chosen_by(case, size, number, random) for number, size in enumerate(sizes)]

    whole = Experts(ModelConfig(**FIELDS | {"gated": case.gated})).to(case.dtype)
    fill(whole)
    whole.grouped = case.grouped
    all_x, all_weights = torch.cat(x).requires_grad_(), torch.cat(weights).requires_grad_()
    expected = dispatch_here(whole, all_x, torch.cat(chosen), all_weights)
    (expected * torch.cat(probe)).sum().backward()
    theirs = [gradient.split(sizes)[rank] for gradient in (all_x.grad, all_weights.grad)]

    part = Experts(ModelConfig(**FIELDS | {"gated": case.gated})).to(case.dtype)
    part.load_state_dict(whole.state_dict())
    part.grouped = case.grouped
    keep_own(part, group)
    frozen = case.frozen[rank % len(case.frozen)]
    own_x, own_weights = x[rank].requires_grad_(not frozen), weights[rank].requires_grad_()
    out = part(own_x, chosen[rank], own_weights)
    (out * probe[rank]).sum().backward()
    ours = [own_x.grad, own_weights.grad]
    if frozen:
        assert own_x.grad is None
        ours, theirs = ours[1:], theirs[1:]
    slices = [parameter.grad.chunk(ranks)[rank] for parameter in whole.parameters()]
    with torch.no_grad():
        silent = part(own_x, chosen[rank], own_weights)
    assert not silent.requires_grad
    expected = expected.split(sizes)[rank]
    return {
        "forward": worst([(out, expected), (silent, expected)]),
        "tokens": worst(zip(ours, theirs, strict=True)),
        "experts": worst(zip((p.grad for p in part.parameters()), slices, strict=True)),
    }


def measure_layer(group: dist.ProcessGroup) -> dict[str, float]:
    """A whole layer with capacity, bias and balancing loss: each rank has a row of the batch."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    x = torch.randn(
        ranks, 9, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )  # [batch, time, width]
    config = ModelConfig(**FIELDS, capacity_factor=0.75, balance_bias=0.1, shared_experts=1, balance_loss=0.3)
    layers = [MoE(config).double(), MoE(config).double()]
    for layer in layers:
        fill(layer)
        layer.get_parameter("choice_bias").copy_(torch.arange(EXPERTS) / 20)
        layer.aux_scale.fill_(0.25)
    whole, part = layers
    keep_own(part.experts, group)
    expected, out = whole(x), part(x[rank, None])
    expected.square().sum().backward()
    out.square().sum().backward()
    gate, load = part.get_parameter("gate.weight").grad, part.load
    assert gate is not None
    dist.all_reduce(gate, group=group)
    dist.all_reduce(load, group=group)
    experts = zip(part.experts.parameters(), whole.experts.parameters(), strict=True)
    pairs = [(ours.grad, theirs.grad.chunk(ranks)[rank]) for ours, theirs in experts]
    return {
        "forward": worst([(out[0], expected[rank])]),
        "experts": worst(pairs),
        "gate": worst([(gate, whole.get_parameter("gate.weight").grad)]),
        "load": worst([(load, whole.load)]),
    }


def main(folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/meet", timedelta(seconds=60), world_size=WORLD, rank=rank
    )
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    everyone = dist.new_group(range(WORLD))
    found = {}
    for ranks, group in ((2, pairs[rank // 2]), (4, everyone)):
        assert isinstance(group, dist.ProcessGroup)
        found |= {f"{name}/{ranks}": measure(case, group) for name, case in CASES.items()}
        found[f"layer/{ranks}"] = measure_layer(group)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> list[dict[str, dict[str, float]]]:
    """What each rank measured."""
    folder = tmp_path_factory.mktemp("ranks")
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(WORLD)
    ]
    said = [process.communicate()[0] for process in started]
    failed = [text for process, text in zip(started, said, strict=True) if process.returncode]
    assert not failed, "\n".join(failed)
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_equals_all_experts_in_one_process(measured, name, ranks):
    small = 1e-14 if CASES[name].dtype == torch.float64 else 1e-5
    for found in measured:
        for what, difference in found[f"{name}/{ranks}"].items():
            assert difference <= small, what


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_layer_equals_one_process(measured, ranks):
    for found in measured:
        for what, difference in found[f"layer/{ranks}"].items():
            assert difference < 1e-12, what


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
