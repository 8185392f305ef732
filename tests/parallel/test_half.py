"""bfloat16 under fsdp equals its emulation in one process: half-precision copies, float32 sums.

Two ranks start once; the file is also their program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.func import functional_call

from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.parallel.apply import apply_layout
from plait.parallel.data import local
from plait.parallel.layout import Layout
from plait.recipes.random_rows import RandomRows
from plait.train.objectives import next_token

CONFIG = ModelConfig(vocab=41, width=16, layers=2, heads=2, context=8, ffn=24)
ROWS, MICRO, RANKS = 8, 2, 2


def emulated() -> dict[str, torch.Tensor]:
    """float32 sums of the bfloat16 gradients of every micro-batch of every rank."""
    model = Decoder(CONFIG)
    initialize(model, 0)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for rank in range(RANKS):
        step = RandomRows(CONFIG.vocab, CONFIG.context, ROWS, MICRO, rank=rank, ranks=RANKS).batch(0)
        for micro in step.microbatches:
            half = {name: p.detach().bfloat16().requires_grad_() for name, p in model.named_parameters()}
            logits = functional_call(model, half, (micro.tokens,))
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), micro.targets.flatten(), ignore_index=-100, reduction="sum"
            )
            (loss / step.target_tokens).backward()
            for name, parameter in half.items():
                assert parameter.grad is not None
                total[name] += parameter.grad.float()
    return total


def measure(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    placed = apply_layout(CONFIG, Layout(fsdp=RANKS), torch.device("cpu"), dtype="bfloat16")
    rows = RandomRows(CONFIG.vocab, CONFIG.context, ROWS, MICRO, rank=rank, ranks=RANKS)
    placed.forward_backward(rows.batch(0), next_token)
    expected = emulated()
    worst, size = 0.0, 0.0
    for name, parameter in placed.named_parameters():
        assert parameter.grad is not None
        whole = placed.parameters.pieces[name].of(expected[name])
        worst = max(worst, float((local(parameter.grad) - whole).abs().max()))
        size = max(size, float(whole.abs().max()))
    (folder / f"{rank}.json").write_text(json.dumps([worst, size]), encoding="utf-8")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    command = [sys.executable, __file__, str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [subprocess.Popen([*command, str(rank)], env=env) for rank in range(RANKS)]
    assert [each.wait(120) for each in started] == [0] * RANKS
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(RANKS)]


def test_bfloat16_gradients_under_fsdp_are_those_of_the_emulation(differences):
    for worst, size in differences:
        assert size > 1e-3
        assert worst < 1e-6


if __name__ == "__main__":
    measure(Path(sys.argv[1]), int(sys.argv[2]))
