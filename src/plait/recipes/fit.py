"""One stage of training, from a placed model to its last checkpoint: validate, sample, log, save, stop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plait.checkpoint.background import Background
from plait.checkpoint.resolve import newest
from plait.checkpoint.run import disk_use
from plait.data.loader import Loader
from plait.data.prepare import EncodedData
from plait.errors import TrainingError
from plait.log import Progress, bytes_text, progress, say, warn
from plait.parallel.placed import Placed
from plait.recipes.pace import Pace
from plait.recipes.ranks import Ranks
from plait.recipes.recipe import Recipe
from plait.recipes.run_directory import NoLog, RunLog, stop_on_signals, wants_tensorboard
from plait.recipes.samples import samples
from plait.recipes.saving import save
from plait.text.tokenizer import Tokenizer
from plait.train.average import update_ema
from plait.train.loop import Step, TrainState, train
from plait.train.objectives import objective_of
from plait.train.optim import Optimizer
from plait.train.validate import Validation, validate

if TYPE_CHECKING:
    from plait.recipes.step_cost import StepCost

TENTHS = 10  # evaluations and saves of a run that names no interval


@dataclass
class Stage:
    """A stage under way.

    Attributes:
        recipe: settled: no `auto` left.
        first_step: steps that earlier stages of the run took.
        peak: FLOP/s of the measured matmul peak, and what a token costs, for the log's `peak_share`.
        best, waited: lowest val_loss so far, and evaluations since.
        generation: how the model is best asked, for its generation_config.json.
        ranks: the processes of the run; saving_group: of those, for checkpoints.
        background: writes checkpoints.
    """

    run_dir: Path
    recipe: Recipe
    tokenizer: Tokenizer
    data: EncodedData
    placed: Placed
    loader: Loader
    optim: Optimizer
    peak: float
    flops_per_token: float
    name: str = ""
    first_step: int = 0
    first_tokens: int = 0
    state: TrainState = field(default_factory=TrainState)
    average: dict[str, Tensor] | None = None
    best: float = math.inf
    waited: int = 0
    generation: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    saving_group: Any = None
    background: Background = field(init=False)

    def __post_init__(self) -> None:
        # a save hands over to rank 0, which may take long, but not fall silent for long
        self.background = Background(partial(self.ranks.look, self.recipe.layout.timeout))

    @property
    def total_steps(self) -> int | None:
        """Planned steps; None under `train.minutes`."""
        config = self.recipe.train
        return self.loader.steps_for(config.epochs) if config.epochs is not None else config.steps

    @property
    def gave_up(self) -> bool:
        """Whether val_loss has not improved for `train.patience` evaluations."""
        return 0 < self.recipe.train.patience <= self.waited

    def share_done(self) -> float:
        """How far the stage is, 0 to 1."""
        if self.total_steps is not None:
            return self.state.step / self.total_steps
        assert self.recipe.train.minutes is not None
        return self.state.seconds / (60 * self.recipe.train.minutes)


def fit(stage: Stage) -> Path:
    """Train a stage to its end (or `stop_after`) and return its last checkpoint; raises as `fit_steps`."""
    for _ in fit_steps(stage):
        pass
    path = newest(stage.run_dir)
    assert path is not None
    return path


def fit_steps(stage: Stage) -> Iterator[Step]:
    """Train a stage, yielding each step once it is logged and, where due, saved.

    Whoever leaves before the end leaves a checkpoint of the last step behind.

    Raises:
        TrainingError: divergence, no memory, no disk space; the message names the last good checkpoint.
        KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM, once the state is saved.
    """
    config = stage.recipe.train
    label = f"train {stage.name}".strip()
    minutes = stage.total_steps is None
    goal = 60 * (config.minutes or 0) if minutes else stage.total_steps
    done = stage.state.seconds if minutes else stage.state.step
    if stage.total_steps is not None and config.warmup >= stage.total_steps:
        warn(
            f"train.warmup={config.warmup} is as long as the run of {stage.total_steps:,} steps, so train.lr "
            "is never reached; use a share such as 0.1, or train longer"
        )
    bars = progress(label, goal, before=done)
    with _log(stage) as log, stop_on_signals() as stop, bars as bar, stage.background:
        before = stage.share_done()
        pace = Pace(stage.placed, stage.ranks)
        cost = watch_cost(stage)
        for step in _steps(stage):
            if stage.average is not None and config.ema:
                update_ema(stage.average, stage.placed.state_dict(), config.ema, step.number)
            pace.note(step)
            stage.background.check()
            if cost is not None and cost.step == cost.counted:
                cost.write(stage.run_dir)
                cost = None
            share = stage.share_done()
            end = share >= 1
            last = end or step.number == config.stop_after
            row = _row(stage, step)
            improved = False
            if end or _due(config.eval_every, step.number, before, share):
                stage.ranks.at(step.number, "evaluation")
                improved = _evaluate(stage, row, bar)
            log.write(row)
            _show(bar, stage, step, row)
            planned = end or _due(config.save_every, step.number, before, share)
            leaving = last or stage.gave_up or stage.placed.any(bool(stop))
            saving = leaving or planned or (improved and config.keep_best)
            if saving:
                stage.ranks.at(step.number, "saving")
                save(stage, row, planned)
            before = share
            try:
                yield replace(step, val_loss=row.get("val_loss"))
            except GeneratorExit:
                if not saving:
                    save(stage, row, planned)
                raise
            if leaving:
                break
    if stage.gave_up:
        say(f"stopped: val_loss has not improved in {config.patience} evaluations")
    if stage.placed.leads:
        used = bytes_text(disk_use(stage.run_dir))
        say(f"saved {newest(stage.run_dir)} ({used} of checkpoints in {stage.run_dir})")
    stop.raise_if_set()


def watch_cost(stage: Stage) -> StepCost | None:
    """Count what an early step sends, where there are others to send to."""
    if stage.placed.mesh.layout.world == 1:
        return None
    from plait.recipes.step_cost import StepCost  # it imports what one process has no use for

    cost = StepCost(stage.placed.config, stage.recipe.train, stage.loader.context, stage.placed.mesh)
    cost.watch(stage.placed)
    return cost


def _log(stage: Stage) -> RunLog | NoLog:
    if not stage.placed.leads:
        return NoLog()
    done = stage.first_step + stage.state.step
    return RunLog(stage.run_dir, done, wants_tensorboard(stage.recipe.train.tensorboard))


def _steps(stage: Stage) -> Iterator[Step]:
    """The training loop, with errors that name the last good checkpoint."""
    loop = train(
        stage.placed,
        stage.loader,
        objective_of(stage.recipe.train),
        stage.optim,
        stage.recipe.train,
        stage.state,
        total_steps=stage.total_steps,
        seed=stage.recipe.seed + stage.first_step,
        at=stage.ranks.at,
    )
    try:
        yield from loop
    except TrainingError as error:
        stage.background.wait()
        stage.ranks.share(str)  # all ranks are here, and what rank 0 was writing is there
        good = newest(stage.run_dir)
        raise TrainingError(f"{error}; last good checkpoint: {good or 'none yet'}") from None
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        train_config = stage.recipe.train
        raise TrainingError(
            f"out of memory at step {stage.state.step + 1}; lower train.micro_batch "
            f"({train_config.micro_batch} now), then model.context or model.width"
        ) from None


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _due(every: int | None, step: int, before: float, share: float) -> bool:
    if every is not None:
        return step % every == 0
    return math.floor(before * TENTHS) != math.floor(share * TENTHS)


def _row(stage: Stage, step: Step) -> dict[str, Any]:
    row: dict[str, Any] = {"step": stage.first_step + step.number}
    if stage.name:
        row["stage"] = stage.name
    row |= {
        "tokens": stage.first_tokens + step.tokens,
        "loss": step.loss,
        "accuracy": step.accuracy,
        "lr": step.lr,
        "grad_norm": step.grad_norm,
        "tokens_per_s": round(step.tokens_per_s, 1),
        "peak_share": round(step.tokens_per_s * stage.flops_per_token / stage.peak, 4),
    }
    if step.aux_loss is not None:
        row["aux_loss"] = step.aux_loss
    return row


def _evaluate(stage: Stage, row: dict[str, Any], bar: Progress) -> bool:
    """Validate and sample into `row`; whether val_loss is the lowest so far."""
    row["samples"] = samples(stage)
    if stage.placed.loads.numel():
        row["expert_loads"] = shares_of(stage.placed.loads)
    if not stage.data.validation:
        return False
    config = stage.recipe.train
    parts: dict[str, Validation] = {}
    for source in stage.data.validation:
        bar.update(bar.done, f"validating {source.name}")
        parts[source.name] = validate(
            stage.placed,
            source,
            batch_size=stage.loader.micro_batch,
            rows=config.eval_rows,
            attend_across=stage.recipe.data.attend_across,
        )
    whole = sum(parts.values(), Validation())
    row["val_loss"], row["val_bits_per_byte"] = whole.loss, whole.bits_per_byte
    row["val_accuracy"] = whole.accuracy
    if len(parts) > 1:
        row["val_by"] = {name: part.loss for name, part in parts.items()}
    improved = whole.loss < stage.best
    stage.best, stage.waited = min(stage.best, whole.loss), 0 if improved else stage.waited + 1
    return improved


def shares_of(loads: torch.Tensor) -> list[list[float]]:
    """Of each layer, the share of the last step's choices that went to each expert; 1 is an even load."""
    mean = loads.mean(1, keepdim=True).clamp(min=1)
    return [[round(float(share), 3) for share in layer] for layer in loads / mean]


def _show(bar: Progress, stage: Stage, step: Step, row: dict[str, Any]) -> None:
    note = f"loss {step.loss:.3f}, {step.tokens_per_s:,.0f} tokens/s"
    if stage.best < math.inf:
        note += f", best val {stage.best:.3f}"
    bar.update(stage.state.seconds if stage.total_steps is None else step.number, note)
    if "val_loss" in row and bar.plain:
        say(f"step {row['step']}: loss {step.loss:.4f}, val_loss {row['val_loss']:.4f}")
