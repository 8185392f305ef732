"""`plait train --dry-run`: what a run would cost and learn from, before it is paid for."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from plait.data.describe import describe_batch
from plait.log import bytes_text, duration, say, table
from plait.nn.causal import LONGEST, kept_pairs
from plait.recipes.choices import size_of
from plait.recipes.plan import begin
from plait.recipes.ranks import Ranks
from plait.recipes.recipe import Recipe
from plait.recipes.train import open_run
from plait.train.objectives import laid_out, objective_of

OPTIMIZER_TENSORS = {"adamw": 2, "adam": 2, "muon": 1, "sgd": 1}


def dry_run(recipe: Recipe) -> None:
    """Print parameters, memory, predicted time, and the first batch decoded with its loss mask.

    Tokenizer and data are really made, in a temporary directory, and one microbatch is really run, to
    measure what a step takes; nothing of it is kept.
    """
    with tempfile.TemporaryDirectory() as directory:
        stage = open_run(Path(directory), begin(Path(directory), recipe), Ranks())
        settings, config = stage.recipe.train, stage.placed.config
        size = size_of(config)
        seconds = _microbatch_seconds(stage)
        batch = stage.loader.batch(0)
        per_step = seconds * len(batch.microbatches)
        steps = stage.total_steps
        total = per_step * steps if steps is not None else 60 * (settings.minutes or 0)
        width = 8 if settings.dtype == "float64" else 4
        weights = size.parameters * width
        states = weights * OPTIMIZER_TENSORS[settings.optimizer]
        rows = [
            ("parameters", f"{size.parameters:,} ({size.active:,} multiply each token)"),
            ("vocabulary", f"{config.vocab:,}"),
            ("weights, gradients, optimizer", bytes_text(2 * weights + states)),
            ("activations (estimate)", bytes_text(_activations(stage, width))),
            ("checkpoint", bytes_text(weights + states)),
            ("batch", f"{_rows(stage)}, {settings.micro_batch} at a time"),
            ("steps", f"{steps:,}" if steps is not None else f"what {settings.minutes:g} minutes allow"),
            ("one step (measured)", f"{per_step:.3g} s, {batch.target_tokens / per_step:,.0f} tokens/s"),
            ("predicted training time", duration(total)),
        ]
        table("dry run: nothing is trained", ("what", "value"), rows, stdout=True)
        print(describe_batch(batch.microbatches[0], stage.tokenizer))
        say("leave out --dry-run to train")


def _rows(stage) -> str:
    size, context = stage.loader.batch_size, stage.data.context
    return f"{size} pairs, sides of up to {context}" if stage.data.paired else f"{size} rows of {context}"


def _microbatch_seconds(stage) -> float:
    """Time of one microbatch forward and backward, the second of two; of pairs one of middling length."""
    batch = laid_out(stage.loader.batch(0), stage.recipe.train)
    one = type(batch)([batch.microbatches[len(batch.microbatches) // 2]], batch.target_tokens)
    objective = objective_of(stage.recipe.train)
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        stage.placed.forward_backward(one, objective)
        if stage.placed.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _activations(stage, width: int) -> float:
    """Bytes that one microbatch keeps for its backward pass.

    Korthikanti et al. 2022, section 4.1: about 34 bytes a token, layer and unit of width in half precision,
    scaled to `width` bytes a number, plus the logits and their gradient; and on a CPU attention's weights.
    Pairs are taken for as long as the model reads and writes.
    """
    config, rows, context = stage.placed.config, stage.loader.micro_batch, stage.data.context
    # of longer rows they are kept where documents or a window leave as few
    kept = kept_pairs(min(context, LONGEST)) / context if stage.placed.device.type == "cpu" else 0
    numbers = 17 * config.width + config.heads * kept
    layers = config.layers + config.encoder_layers
    return rows * context * width * (layers * numbers + 2 * config.vocab)
