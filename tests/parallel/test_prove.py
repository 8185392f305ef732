"""A dozen layouts and more train as one process does, and planted mistakes do not: each is seen and named.

Each number of ranks starts once and proves all of its layouts; the tests below read what it wrote.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from plait.nn.config import ModelConfig
from plait.nn.encoder_decoder import EncoderDecoder
from plait.nn.moe import Whole
from plait.parallel import apply, placed, tensor
from plait.parallel.collectives import all_gather
from plait.parallel.data import local
from plait.parallel.layout import Layout, check_layout
from plait.parallel.mesh import Mesh
from plait.recipes.proof import GRADIENTS, WEIGHTS, Problem, Proof, Trace, compare, micro_rows, run
from plait.recipes.random_rows import RandomRows
from plait.train.config import TrainConfig

ROWS, CONTEXT = 16, 16
SMALL = {"vocab": 67, "width": 32, "layers": 4, "heads": 4, "kv_heads": 2, "ffn": 48, "context": CONTEXT}
EXPERTS = {"experts": 4, "shared_experts": 1}
BALANCED = EXPERTS | {"capacity_factor": 1.25, "balance_bias": 0.01}
GPT2 = {
    "norm": "layer", "norm_place": "post", "position": "learned", "gated": False, "activation": "gelu",
    "qkv_bias": True, "out_bias": True, "mlp_bias": True, "qk_norm": False,
}  # fmt: skip
PAIRS = {"layers": 2, "encoder_layers": 3}
MARIAN = PAIRS | GPT2 | {"position": "sinusoidal", "activation": "relu", "embed_scale": 32**0.5}
APART = PAIRS | {"position": "learned", "embed_norm": True, "shared_embeddings": False, "tied": False}
TRAIN = {"steps": 3, "lr": 1e-2, "clip": 0.5, "warmup": 0, "schedule": "constant", "dtype": "float64"}
PROBLEMS: dict[str, tuple[dict, dict]] = {
    "dense": ({}, {}),
    "eight layers": ({"layers": 8}, {}),
    "experts": (BALANCED, {}),
    "muon": (EXPERTS, {"optimizer": "muon"}),
    "one key head": ({"kv_heads": 1}, {}),
    "gpt2": (GPT2, {}),
    "alibi": ({"position": "alibi"}, {}),
    "untied": ({"tied": False, "head_bias": True}, {}),
    "smoothed": ({"logit_scale": 0.25}, {"label_smoothing": 0.1, "z_loss": 1e-3}),
    "marian": (MARIAN, {"label_smoothing": 0.1}),
    "t5": (PAIRS | {"position": "t5", "attn_scale": 1.0, "logit_scale": 0, "qk_norm": False}, {}),
    "pairs apart": (APART, {}),
    "pairs, one key head": (PAIRS | {"kv_heads": 1}, {}),
}
# the vocabulary of 67 is divided by no number of ranks
LAYOUTS: dict[int, list[tuple[str, str]]] = {
    2: [
        *(("dense", axis) for axis in ("dp", "fsdp", "tp", "cp", "pp")),
        *(("experts", axis) for axis in ("ep", "fsdp", "tp", "cp", "pp")),
        *(("muon", axis) for axis in ("ep", "fsdp", "tp")),
        *(("gpt2", axis) for axis in ("tp", "cp", "pp")),
        *(("alibi", axis) for axis in ("tp", "cp")),
        *(("untied", axis) for axis in ("tp", "pp")),
        *(("smoothed", axis) for axis in ("tp", "cp", "pp")),
        *(("dense", f"pp schedule={one}") for one in ("gpipe", "interleaved", "zero_bubble", "dualpipev")),
        ("one key head", "tp"),
        *(("marian", axis) for axis in ("dp", "fsdp", "tp")),
        *(("t5", axis) for axis in ("fsdp", "tp")),
        *(("pairs apart", axis) for axis in ("fsdp", "tp")),
        ("pairs, one key head", "tp"),
    ],
    4: [
        ("dense", "tp=4"),
        ("dense", "fsdp cp"),
        ("dense", "dp fsdp"),
        ("alibi", "cp tp"),
        ("experts", "pp ep"),
        ("experts", "ep tp"),
        ("muon", "fsdp tp"),
        ("eight layers", "pp=4 schedule=zbv"),
        ("t5", "fsdp tp"),
    ],
    8: [("dense", "dp tp pp"), ("dense", "cp tp fsdp"), ("experts", "ep fsdp pp")],
}


def problem_of(name: str) -> Problem:
    model, train = PROBLEMS[name]
    return Problem(
        model=ModelConfig(**(SMALL | model)), train=TrainConfig(**(TRAIN | train)), context=CONTEXT, rows=ROWS
    )


def layout_of(words: str) -> Layout:
    """`tp cp=4 schedule=zbv`; an axis without a size has two ranks."""
    pairs = [word.partition("=") for word in words.split()]
    return Layout(**{key: value or 2 for key, _, value in pairs})  # type: ignore[arg-type]


# ---- mistakes, planted in the rank's own process


def local_positions(patch: pytest.MonkeyPatch) -> None:
    whole = placed.Placed._own

    def own(self, batch):
        part = whole(self, batch)
        return replace(part, positions=torch.arange(part.tokens.shape[1]).expand_as(part.tokens))

    patch.setattr(placed.Placed, "_own", own)


def local_norm(patch: pytest.MonkeyPatch) -> None:
    def clip(self, max_norm, scale=1.0):
        grads = [local(p.grad) for _, p in self.named_parameters() if p.grad is not None]
        norm = torch.stack([grad.norm() for grad in grads]).norm()
        for grad in grads:
            grad.mul_((max_norm / norm).clamp(max=1.0))
        return norm

    patch.setattr(placed.Placed, "clip", clip)


def no_sum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placed, "sum_gradients", lambda parameters, group: None)


def mean_of_shares(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("torch.distributed.fsdp.FSDPModule.set_gradient_divide_factor", lambda self, factor: None)


def experts_twice(patch: pytest.MonkeyPatch) -> None:
    once = placed.Placed._reduce

    def twice(self):
        once(self)
        for name, parameter in self.named_parameters():
            if ".experts." in name:
                dist.all_reduce(parameter.grad, group=self.mesh.group("ep"))

    patch.setattr(placed.Placed, "_reduce", twice)


def untied(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placed, "add_tied", lambda *args: None)


def own_count(patch: pytest.MonkeyPatch) -> None:
    right = RandomRows.batch

    def batch(self, step):
        mine = right(self, step).microbatches
        return replace(
            right(self, step), target_tokens=self.ranks * sum(micro.target_tokens() for micro in mine)
        )

    patch.setattr(RandomRows, "batch", batch)


def whole_bias(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tensor, "_share_bias", lambda linear, ranks: None)


def balance_of_a_part(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(apply, "ContextParts", lambda group: Whole())


def router_unsummed(patch: pytest.MonkeyPatch) -> None:
    some = placed.sum_gradients
    gates = 4 * 32  # experts by width

    def but_routers(parameters, group):
        some([p for p in parameters if p.numel() != gates], group)

    patch.setattr(placed, "sum_gradients", but_routers)


def memory_of_a_part(patch: pytest.MonkeyPatch) -> None:
    """Each rank looks at the part of the source that it has, twice."""

    def own(encode, group, source, positions=None):
        memory = encode(source, positions)
        return replace(memory, states=memory.states.repeat(1, dist.get_world_size(group), 1))

    patch.setattr(tensor, "_whole_memory", own)


def memory_taught_by_a_part(patch: pytest.MonkeyPatch) -> None:
    """Each rank looks at all of the source, whose encoder learns from one rank's heads."""

    def gathered(encode, group, source, positions=None):
        memory = encode(source, positions)
        parts = list(all_gather(memory.states.detach(), 1, group).chunk(dist.get_world_size(group), 1))
        parts[dist.get_rank(group)] = memory.states
        return replace(memory, states=torch.cat(parts, 1))

    patch.setattr(tensor, "_whole_memory", gathered)


def padding_read(patch: pytest.MonkeyPatch) -> None:
    encode = EncoderDecoder.encode
    patch.setattr(EncoderDecoder, "encode", lambda self, source, positions=None: encode(self, source))


def forgetful_step(patch: pytest.MonkeyPatch) -> None:
    """Only what comes after the first step is wrong."""
    right = RandomRows.batch
    patch.setattr(RandomRows, "batch", lambda self, step: right(self, step and 1 + self.rank))


# by name: the mistake, the problem, the layout, a part of the name of the parameter, what of it and when
GRADIENT = "the gradient of step 1"
MISTAKES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str, str, str]] = {
    "local positions": (local_positions, "dense", "cp", "", GRADIENT),
    "local norm": (local_norm, "dense", "fsdp", "", "the weight after step 1"),
    "local norm of a stage": (local_norm, "dense", "pp", "", "the weight after step 1"),
    "gradients not summed": (no_sum, "dense", "dp", "", GRADIENT),
    "gradients divided": (mean_of_shares, "dense", "fsdp", "", GRADIENT),
    "experts summed twice": (experts_twice, "experts", "ep", ".mlp.experts.", GRADIENT),
    "untied weights": (untied, "dense", "pp", "embed_tokens.weight lm_head.weight", GRADIENT),
    "own token count": (own_count, "dense", "dp", "", GRADIENT),
    "bias of every rank": (whole_bias, "gpt2", "tp", "_proj.bias", GRADIENT),
    "balance of a part": (balance_of_a_part, "experts", "cp", "", GRADIENT),
    "router not summed": (router_unsummed, "experts", "tp", ".mlp.gate.weight", GRADIENT),
    "memory of a part": (memory_of_a_part, "marian", "tp", "", GRADIENT),
    "memory taught by a part": (memory_taught_by_a_part, "pairs apart", "tp", "encoder.", GRADIENT),
    "padding of sources read": (padding_read, "marian", "dp", "", GRADIENT),
    "own count of pairs": (own_count, "marian", "dp", "", GRADIENT),
    "wrong later": (forgetful_step, "dense", "dp", "", "the weight after step 2"),
}


# ---- what the ranks do


def measure(folder: Path, ranks: int, rank: int) -> dict[str, dict]:
    """Proofs as JSON, by problem and layout, or by mistake."""
    jobs = {f"{problem}/{words}": (None, problem, words) for problem, words in LAYOUTS[ranks]}
    if ranks == 2:
        jobs |= {name: (plant, problem, words) for name, (plant, problem, words, *_) in MISTAKES.items()}
    names = sorted({problem for _, problem, _ in jobs.values()})
    for name in names[rank::ranks]:
        run(problem_of(name), Layout())[1].save(folder / f"{name}.safetensors")
    dist.barrier()
    found = {}
    for key, (plant, name, words) in jobs.items():
        mesh = Mesh(layout_of(words))
        with pytest.MonkeyPatch.context() as patch:
            if plant is not None:
                plant(patch)
            made = run(problem_of(name), mesh.layout, mesh)
        found[key] = compare(*made, Trace.load(folder / f"{name}.safetensors")).as_json()
        mesh.close()
    return found


@pytest.fixture(scope="module")
def proofs(tmp_path_factory) -> Callable[[int], dict[str, Proof]]:
    """What a number of ranks proved, which start when first asked for."""
    known: dict[int, dict[str, Proof]] = {}

    def of(ranks: int) -> dict[str, Proof]:
        if ranks not in known:
            folder = tmp_path_factory.mktemp(f"ranks{ranks}")
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, str(folder), str(ranks)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made = json.loads(Path(folder, "proofs.json").read_text())
            known[ranks] = {name: Proof.from_json(proof) for name, proof in made.items()}
        return known[ranks]

    return of


@pytest.mark.parametrize(
    ("ranks", "name"),
    [(ranks, f"{problem}/{words}") for ranks, all_ in LAYOUTS.items() for problem, words in all_],
)
def test_a_layout_trains_as_one_process_does(proofs, ranks, name):
    proof = proofs(ranks)[name]
    assert proof.holds, proof.first
    assert proof.gradient < GRADIENTS
    assert max(step.worst for step in proof.steps) < WEIGHTS
    assert len(proof.steps) == 3


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_seen_and_named(proofs, name):
    proof = proofs(2)[name]
    *_, parts, what = MISTAKES[name]
    assert not proof.holds
    assert proof.first.what == what
    assert any(part in proof.first.name for part in parts.split(" ")), proof.first
    assert proof.first.name in proof.gradients
    assert proof.first.size > 1e4 * proof.first.tolerance, "too near the tolerance to be told from rounding"


def test_every_layout_here_fits_its_problem():
    for ranks, cases in LAYOUTS.items():
        for name, words in cases:
            problem, layout = problem_of(name), layout_of(words)
            check_layout(layout, problem.model, CONTEXT, ROWS, None)
            assert layout.world == ranks


@pytest.mark.parametrize(
    ("words", "rows", "micro"),
    [
        ("dp", 16, 4),
        ("dp", 2, 1),
        ("pp", 16, 8),
        ("pp=4", 16, 4),
        ("pp schedule=dualpipev", 16, 4),
        ("tp", 3, 1),
    ],
)
def test_sums_over_microbatches_are_tried(words, rows, micro):
    assert micro_rows(layout_of(words), rows) == micro


def one_rank(rank: int, folder: Path, ranks: int) -> None:
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    made = measure(folder, ranks, rank)
    if rank == 0:
        Path(folder, "proofs.json").write_text(json.dumps(made))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    # forked, so that torch is imported once for all of them
    start_processes(one_rank, (Path(sys.argv[1]), int(sys.argv[2])), int(sys.argv[2]), start_method="fork")
