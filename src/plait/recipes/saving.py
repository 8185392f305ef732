"""Saving a run: copies are taken between two steps, and written beside training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from plait.checkpoint.directory import empty_decoder
from plait.checkpoint.resolve import read_state, step_directories, step_of
from plait.checkpoint.run import Checkpoint, exact_weights, prune, save_checkpoint
from plait.checkpoint.snapshot import Entry, Snapshot
from plait.checkpoint.tensors import Lazy, fetched
from plait.infer.generation_config import LABELS, LEARNED
from plait.nn.decoder import Decoder
from plait.train.average import mean_of
from plait.train.loop import TrainState

if TYPE_CHECKING:
    from plait.recipes.fit import Stage

WEIGHTS, AVERAGE, OPTIM = "weights/", "average/", "optim/"


def save(stage: Stage, row: dict[str, Any], planned: bool) -> None:
    """Copy the stage's state and start writing it; every rank calls this, rank 0 writes.

    Args:
        row: the log's row of this step.
        planned: what no interruption brings about, so that only such checkpoints are averaged.
    """
    stage.background.wait()
    snapshot = take_snapshot(stage)
    if not stage.placed.leads:
        stage.background.run(snapshot.offer)
        return
    averaged = _planned_before(stage)
    state = {
        "stage": stage.name,
        "first_step": stage.first_step,
        "first_tokens": stage.first_tokens,
        "train": asdict(stage.state),
        "loader": stage.loader.state(stage.state.step),
        "best": stage.best if stage.best < math.inf else None,
        "waited": stage.waited,
        "done": stage.share_done() >= 1,
        "val_loss": row.get("val_loss"),
        "planned": planned,
    }
    stage.background.run(partial(_write, stage, row, snapshot, state, averaged))


def take_snapshot(stage: Stage) -> Snapshot:
    """Copies of this rank's pieces of weights, averages and optimizer state."""
    parameters, optim = stage.placed.parameters, stage.optim
    entries, pieces = _weights(stage)
    kind = entries[0].dtype
    names = [entry.parameter for entry in entries]
    if stage.average is not None:
        pieces |= {AVERAGE + name: tensor for name, tensor in stage.average.items()}
        entries += [Entry(AVERAGE + name, name, kind) for name in names]
    for name, slots in optim.state_dict().items():
        pieces |= {f"{OPTIM}{name}/{slot}": tensor for slot, tensor in slots.items()}
    for name in names:
        if parameters.trains(name):
            slots = optim.slots(name, len(parameters.shapes[name]))
            entries += [
                Entry(f"{OPTIM}{name}/{slot}", name, torch.float32 if scalar else kind, scalar)
                for slot, scalar in slots.items()
            ]
    return Snapshot(parameters, entries, pieces, stage.saving_group)


def whole_model(stage: Stage) -> Decoder | None:
    """The model in one piece: as it is in one process, else a copy that rank 0 puts together.

    A collective call; None on the other ranks.
    """
    placed = stage.placed
    if placed.mesh.layout.world == 1:
        return placed.model
    stage.background.wait()  # it uses the same group
    entries, pieces = _weights(stage)
    snapshot = Snapshot(placed.parameters, entries, pieces, stage.saving_group)
    if not placed.leads:
        stage.background.run(snapshot.offer)
        stage.background.wait()
        return None
    model = empty_decoder(placed.config, entries[0].dtype)
    lazies = snapshot.tensors(WEIGHTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(fetched(lazies[name]))
    return model.to(placed.device)


def _weights(stage: Stage) -> tuple[list[Entry], dict[str, torch.Tensor]]:
    parameters = stage.placed.parameters
    kind = torch.float64 if stage.recipe.train.dtype == "float64" else torch.float32
    saved = [name for name in parameters.shapes if name not in parameters.copies]
    entries = [Entry(WEIGHTS + name, name, kind) for name in saved]
    return entries, {WEIGHTS + name: tensor for name, tensor in parameters.state_dict().items()}


def _write(
    stage: Stage, row: dict[str, Any], snapshot: Snapshot, state: dict[str, Any], averaged: list[Path]
) -> None:
    config = stage.recipe.train
    weights = snapshot.tensors(WEIGHTS)
    average: Mapping[str, Any] | None = snapshot.tensors(AVERAGE) or None
    if config.average_last > 1:
        # the mean needs each of the new weights too: they are read once and kept
        whole = {name: fetched(lazy) for name, lazy in weights.items()}
        weights, average = whole, mean_of([whole, *(dict(exact_weights(path)) for path in averaged)])
    labels = {LABELS: stage.data.labels} if stage.data.labels else {}
    optim: dict[str, dict[str, Lazy]] = {}
    for key, lazy in snapshot.tensors(OPTIM).items():
        name, _, slot = key.rpartition("/")
        optim.setdefault(name, {})[slot] = lazy
    save_checkpoint(
        stage.run_dir,
        row["step"],
        weights=weights,
        config=stage.placed.config,
        tokenizer=stage.tokenizer,
        optim=optim,
        state=state,
        average=average,
        save_dtype=config.save_dtype,
        card=model_card(stage, row),
        generation=stage.generation | {LEARNED: stage.recipe.data.kind} | labels,
    )
    prune(stage.run_dir, config.keep_last, config.keep_best, also=averaged)


def _planned_before(stage: Stage) -> list[Path]:
    """The checkpoints that `train.average_last` takes in beside the one about to be saved."""
    others = stage.recipe.train.average_last - 1
    if others < 1:
        return []
    now = stage.first_step + stage.state.step
    steps = [path for path in step_directories(stage.run_dir) if step_of(path) < now]
    return [path for path in steps if read_state(path)["state"]["planned"]][-others:]


def restore(stage: Stage, checkpoint: Checkpoint) -> None:
    """Put a stage where a checkpoint of it left off, whatever layout wrote it.

    Raises:
        ConfigError: when the data are not those of the checkpoint.
    """
    saved, parameters = checkpoint.state, stage.placed.parameters
    stage.loader.check(saved["loader"])
    parameters.load(checkpoint.weights())
    state: dict[str, dict[str, torch.Tensor]] = {}
    by_source = parameters.by_source()
    for source, slot, whole in checkpoint.optim():
        for name in by_source.get(source, []):
            piece = parameters.pieces[name].of(whole) if whole.ndim else whole
            state.setdefault(name, {})[slot] = piece.clone()
    stage.optim.load_state_dict(state)
    stage.state = TrainState(**saved["train"])
    if stage.recipe.train.ema and checkpoint.has_average:
        stage.average = {
            name: parameters.pieces[name].of(whole).to(stage.placed.device, copy=True)
            for name, whole in checkpoint.average()
            if name in parameters.pieces
        }
    stage.best = saved["best"] if saved["best"] is not None else math.inf
    stage.waited = saved["waited"]


def model_card(stage: Stage, row: dict[str, Any]) -> str:
    """`README.md` of a checkpoint: what it is, what it was trained on, how well it does."""
    config, parameters = stage.placed.config, stage.placed.parameters
    shapes = parameters.shapes.items()
    count = sum(math.prod(shape) for name, shape in shapes if name not in parameters.copies)
    what, layers = "A decoder", f"{config.layers}"
    if config.encoder_layers:
        what, layers = "An encoder-decoder", f"{config.encoder_layers} + {config.layers}"
    lines = [
        f"# {stage.run_dir.name}",
        "",
        f"{what} of {count:,} parameters ({layers} layers, width {config.width}, context "
        f"{config.context}, {config.vocab:,} tokens), trained with plait for {row['step']:,} steps on "
        f"{row['tokens']:,} tokens.",
        "",
        f"- training loss: {row['loss']:.4f} nats per token",
    ]
    if "val_loss" in row:
        loss, bits = row["val_loss"], row["val_bits_per_byte"]
        lines.append(f"- held-out loss: {loss:.4f} nats per token, {bits:.4f} bits per byte")
    lines += [
        "",
        "It learned from the data named in the run's `recipe.yaml` and may be wrong about anything.",
    ]
    return "\n".join(lines) + "\n"
