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

from plait.data.batch import StepBatch
from plait.nn.config import ModelConfig
from plait.nn.encoder_decoder import EncoderDecoder, build
from plait.nn.initialize import initialize
from plait.parallel.apply import apply_layout
from plait.parallel.data import local
from plait.parallel.layout import Layout
from plait.recipes.random_rows import RandomRows
from plait.train.objectives import next_token

CONFIG = ModelConfig(vocab=41, width=16, layers=2, heads=2, context=8, ffn=24)
# one layer looks at the memory: of more, the sum of their gradients, in bfloat16, depends on its order
PAIRS = {"layers": 1, "encoder_layers": 2, "position": "t5"}
CONFIGS = {"decoder": CONFIG, "encoder-decoder": CONFIG.model_copy(update=PAIRS)}
ROWS, MICRO, RANKS = 8, 2, 2


def rows_of(config: ModelConfig, rank: int) -> StepBatch:
    """The rows of a rank, which are pairs for an encoder-decoder."""
    return RandomRows(
        config.vocab, config.context, ROWS, MICRO, rank=rank, ranks=RANKS, start_id=config.start_id
    ).batch(0)


def emulated(config: ModelConfig) -> dict[str, torch.Tensor]:
    """float32 sums of the bfloat16 gradients of every micro-batch of every rank."""
    model = build(config)
    initialize(model, 0)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    for rank in range(RANKS):
        step = rows_of(config, rank)
        for micro in step.microbatches:
            model.zero_grad()
            memory = None
            if isinstance(model, EncoderDecoder):
                assert micro.source is not None
                memory = model.encode(micro.source, micro.source_positions)
            logits = model(micro.tokens, memory=memory)
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), micro.targets.flatten(), ignore_index=-100, reduction="sum"
            )
            (loss / step.target_tokens).backward()
            for name, parameter in model.named_parameters():
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
    found = {name: difference(config, rank) for name, config in CONFIGS.items()}
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def difference(config: ModelConfig, rank: int) -> tuple[float, float]:
    """The largest difference of a gradient from the emulation, and the largest gradient."""
    placed = apply_layout(config, Layout(fsdp=RANKS), torch.device("cpu"), dtype="bfloat16")
    placed.forward_backward(rows_of(config, rank), next_token)
    expected = emulated(config)
    worst, size = 0.0, 0.0
    for name, parameter in placed.named_parameters():
        assert parameter.grad is not None
        whole = placed.parameters.pieces[name].of(expected[name])
        worst = max(worst, float((local(parameter.grad) - whole).abs().max()))
        size = max(size, float(whole.abs().max()))
    return worst, size


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    command = [sys.executable, __file__, str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [subprocess.Popen([*command, str(rank)], env=env) for rank in range(RANKS)]
    assert [each.wait(120) for each in started] == [0] * RANKS
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(RANKS)]


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_gradients_under_fsdp_are_those_of_the_emulation(differences, name):
    for worst, size in (each[name] for each in differences):
        assert size > 1e-3
        assert worst < 1e-6


if __name__ == "__main__":
    measure(Path(sys.argv[1]), int(sys.argv[2]))
