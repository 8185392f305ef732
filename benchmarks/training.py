"""Training speed against a minimal GPT trainer, in one run: tokens/s of full optimizer steps.

    python benchmarks/training.py                     # dropout 0 and 0.2, ratio of tokens/s
    python benchmarks/training.py --loss 200 --text input.txt    # also the loss after 200 steps

Peer: `peers/minimal_gpt.py`, the best of eager and compiled, float32 and bfloat16. plait: the decoder of
`recipes/shakespeare.yaml`, same context, batch and heads, parameters within 2 %, dropout in the same places.
Steps of both alternate and the fastest of each counts, so that other programs disturb both alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from minimal_gpt import Shape, Trainer

from plait.config import build, read_yaml
from plait.data.batch import Batch, StepBatch
from plait.device import choose, measure
from plait.nn.config import ModelConfig
from plait.parallel.apply import apply_layout
from plait.parallel.layout import Layout
from plait.recipes.choices import TYPICAL_SHARE, graph_break, micro_rows, size_of
from plait.recipes.recipe import find_recipe
from plait.train.config import TrainConfig
from plait.train.loop import TrainState, train
from plait.train.objectives import next_token
from plait.train.optim import optimizer_of

CONTEXT, VOCAB, STEPS = 256, 65, 5000
Step = Callable[[], float]


class Rows:
    """Random rows of a text, the same for every trainer: what `plait.data.Loader` is to a run."""

    def __init__(self, tokens: torch.Tensor, rows: int, micro: int) -> None:
        self.tokens, self.rows, self.micro = tokens, rows, micro

    def pair(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(step)
        starts = torch.randint(len(self.tokens) - CONTEXT - 1, (self.rows,), generator=draw).tolist()
        x = torch.stack([self.tokens[at : at + CONTEXT] for at in starts])
        y = torch.stack([self.tokens[at + 1 : at + 1 + CONTEXT] for at in starts])
        return x, y

    def batch(self, step: int) -> StepBatch:
        parts = zip(*(tensor.split(self.micro) for tensor in self.pair(step)))
        micro = [Batch(x, y, None, None, [], []) for x, y in parts]
        return StepBatch(micro, self.rows * CONTEXT)


def plait_steps(rows: Rows, dropout: float, compile: bool, seed: int = 0) -> tuple[Step, str]:
    """A closure that does one full step of plait's own loop, set as `plait train` would set the whole run."""
    shape = read_yaml(find_recipe("shakespeare"))["model"] | {"vocab": VOCAB, "dropout": dropout}
    config = build(ModelConfig, shape)
    machine, size = measure(device="cpu"), size_of(config)
    total = STEPS * rows.rows * CONTEXT
    seconds = total * size.flops_per_token / (TYPICAL_SHARE * max(machine.matmul.values()))
    asked = "auto" if compile and not graph_break(config, "cpu", Layout()) else False
    choices = choose(machine, parameters=size.parameters, predicted_seconds=seconds, compile=asked)
    rows.micro, _ = micro_rows(config, CONTEXT, rows.rows, machine.kind, choices.dtype)
    device = torch.device("cpu")
    placed = apply_layout(config, Layout(), device, dtype=choices.dtype, seed=seed, compiled=choices.compile)
    settings = TrainConfig(steps=STEPS, lr=1e-3, warmup=100, betas=(0.9, 0.99))
    optim = optimizer_of(placed, settings)
    steps: Iterator = train(
        placed,
        rows,
        next_token,
        optim,
        settings,
        TrainState(),
        total_steps=STEPS,
        seed=seed,  # type: ignore[arg-type]
    )
    kind = f"{choices.dtype} {'compiled' if choices.compile else 'eager'}"
    name = f"plait {kind}, {rows.micro} rows at a time, {size.parameters:,} parameters"
    return lambda: next(steps).loss, name


def peer_steps(rows: Rows, dropout: float, compiled: bool, bf16: bool) -> tuple[Step, str]:
    """The same for the peer."""
    trainer = Trainer(Shape(vocab=VOCAB, context=CONTEXT, dropout=dropout), compiled=compiled, bf16=bf16)
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    kind = f"{'bfloat16' if bf16 else 'float32'} {'compiled' if compiled else 'eager'}"
    name = f"peer {kind}, {count:,} parameters"
    return lambda: trainer.step(*rows.pair(trainer.count)), name


def timed(step: Step) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def best_peer(rows: Rows, dropout: float, compile: bool) -> tuple[Step, tuple[bool, bool], list[str]]:
    """The fastest setting of the peer (compiled, bf16); one ten times slower than the best is skipped."""
    best, chosen, notes = float("inf"), None, []
    for compiled in (False, True) if compile else (False,):
        for bf16 in (False, True):
            step, name = peer_steps(rows, dropout, compiled, bf16)
            if bf16 and measure().matmul["bfloat16"] * 10 < measure().matmul["float32"]:
                notes.append(f"{name}: skipped, its products are over ten times slower here")
                continue
            first = timed(step)
            if not compiled and first > 10 * best:
                notes.append(f"{name}: skipped after one step of {first:.1f} s")
                continue
            seconds = min(timed(step) for _ in range(2))
            notes.append(f"{name}: {rows.rows * CONTEXT / seconds:,.0f} tokens/s")
            if seconds < best:
                best, chosen = seconds, (step, (compiled, bf16))
    assert chosen is not None
    return *chosen, notes


def compare(
    tokens: torch.Tensor, batch: int, dropout: float, repeats: int, compile: bool, steps: int
) -> dict:
    """Alternate steps of both and take the fastest of each; then the loss of either after `steps`."""
    peer, setting, notes = best_peer(Rows(tokens, batch, batch), dropout, compile)
    ours, our_name = plait_steps(Rows(tokens, batch, batch), dropout, compile)
    ours()
    peer_best = ours_best = float("inf")
    for _ in range(repeats):
        peer_best, ours_best = min(peer_best, timed(peer)), min(ours_best, timed(ours))
    per_step = batch * CONTEXT
    row = {
        "dropout": dropout,
        "plait": our_name,
        "settings": notes,
        "peer_tokens_per_s": per_step / peer_best,
        "plait_tokens_per_s": per_step / ours_best,
        "ratio": peer_best / ours_best,
    }
    if steps:
        fresh, _ = peer_steps(Rows(tokens, batch, batch), dropout, *setting)
        row |= losses(fresh, plait_steps(Rows(tokens, batch, batch), dropout, compile)[0], steps)
    return row


def losses(peer: Step, ours: Step, steps: int) -> dict:
    """Mean training loss of the last tenth of `steps`, on the same batches."""
    tail = max(1, steps // 10)
    found = {}
    for name, step in (("peer", peer), ("plait", ours)):
        values = [step() for _ in range(steps)]
        found[f"{name}_loss"] = sum(values[-tail:]) / tail
    return found | {"steps": steps}


def characters(path: Path | None) -> torch.Tensor:
    """The text as character numbers; random ones without a text (speed does not depend on them)."""
    if path is None:
        return torch.randint(VOCAB, (200_000,), generator=torch.Generator().manual_seed(0))
    text = path.read_text(encoding="utf-8")
    number = {character: index for index, character in enumerate(sorted(set(text)))}
    assert len(number) <= VOCAB, f"{path} has {len(number)} characters, more than {VOCAB}"
    return torch.tensor([number[character] for character in text[: int(0.9 * len(text))]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dropout", type=float, nargs="*", default=[0.0, 0.2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--loss", type=int, default=0, help="also train so many steps and compare the loss")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(measure().threads)
    tokens = characters(options.text)
    for dropout in options.dropout:
        compile = not options.no_compile
        row = compare(tokens, options.batch, dropout, options.repeats, compile, options.loss)
        if options.json:
            print(json.dumps(row))
            continue
        print(f"dropout {dropout}")
        for note in (*row["settings"], row["plait"]):
            print(f"  {note}")
        print(f"  plait {row['plait_tokens_per_s']:,.0f} / peer {row['peer_tokens_per_s']:,.0f} tokens/s")
        print(f"  ratio {row['ratio']:.2f}")
        if options.loss:
            found = f"plait {row['plait_loss']:.4f}, peer {row['peer_loss']:.4f}"
            print(f"  loss after {row['steps']} steps: {found}")


if __name__ == "__main__":
    main()
