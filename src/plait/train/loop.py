"""The training loop: a generator that yields after every optimizer step, with nothing in flight.

Saving, validating, sampling and logging happen where the steps are consumed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from plait.data.batch import StepBatch
from plait.data.loader import Loader
from plait.errors import TrainingError
from plait.parallel.placed import Objective, Placed
from plait.train.config import TrainConfig
from plait.train.objectives import laid_out
from plait.train.optim import Optimizer
from plait.train.schedule import lr_share

GROW_AFTER = 2000  # good steps before the float16 loss scale doubles


@dataclass
class TrainState:
    """What the loop needs to go on exactly; all of it is saved.

    Attributes:
        step: optimizer steps done in this stage.
        tokens: target tokens trained on.
        seconds: time spent in steps; the clock of `train.minutes`.
        worst: a loss far above this is an explosion; set at the first step.
        loss_scale: of float16; 1 otherwise.
        good_steps: since the loss scale last changed.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    worst: float = math.inf
    loss_scale: float = 1.0
    good_steps: int = 0


@dataclass(frozen=True)
class Step:
    """One optimizer step: `number` counts from 1; loss in nats per token, without smoothing or extras.

    `val_loss` is there where whoever consumes the steps validated after this one.
    """

    number: int
    tokens: int
    loss: float
    accuracy: float
    lr: float
    grad_norm: float
    seconds: float
    step_tokens: int
    aux_loss: float | None
    val_loss: float | None = None

    @property
    def tokens_per_s(self) -> float:
        """Target tokens per second of this step."""
        return self.step_tokens / max(self.seconds, 1e-9)


def train(
    placed: Placed,
    loader: Loader,
    objective: Objective,
    optim: Optimizer,
    config: TrainConfig,
    state: TrainState,
    *,
    total_steps: int | None,
    seed: int,
    at: Callable[[int, str], None] = lambda step, phase: None,
) -> Iterator[Step]:
    """Train until `total_steps` (or, when None, until `config.minutes` of steps have passed).

    `state` is advanced in place before each yield. Randomness of a step (dropout) depends on (seed, step)
    only, so whatever the consumer does between steps, and any resume, leaves the run as it was. On each of
    several ranks it is different, as each drops from a part of its own.

    Args:
        at: told what is being done: the step and the phase of it.

    Raises:
        TrainingError: a NaN or an exploding loss, before the weights are touched.
    """
    budget = config.minutes * 60 if config.minutes is not None else math.inf
    while state.step < total_steps if total_steps is not None else state.seconds < budget:
        start = time.perf_counter()
        at(state.step + 1, "data")
        batch = laid_out(loader.batch(state.step), config)
        torch.manual_seed(step_seed(seed, state.step, placed.mesh.rank))
        at(state.step + 1, "forward_backward")
        loss = placed.forward_backward(batch, objective, state.loss_scale)
        at(state.step + 1, "optimizer")
        grad_norm = float(placed.clip(config.clip, state.loss_scale))
        tokens = int(loss.tokens)
        mean = float(loss.nll) / tokens
        if state.loss_scale != 1.0 and math.isfinite(mean) and not math.isfinite(grad_norm):
            state.loss_scale, state.good_steps = state.loss_scale / 2, 0  # overflow: skip this update
            optim.skip()
        else:
            check_loss(mean, grad_norm, state, batch, tokens=tokens, untrained=math.log(placed.config.vocab))
            share = lr_share(config, *_progress(config, state, total_steps))
            optim.step(share)
            placed.update_biases()
            _grow_scale(state)
        state.step += 1
        state.tokens += tokens
        seconds = time.perf_counter() - start
        # one clock decides for all ranks when minutes are over
        state.seconds += seconds if total_steps is not None else placed.first(seconds)
        yield Step(
            number=state.step,
            tokens=state.tokens,
            loss=mean,
            accuracy=float(loss.correct) / tokens,
            lr=optim.lr,
            grad_norm=grad_norm,
            seconds=seconds,
            step_tokens=tokens,
            aux_loss=placed.aux_loss / tokens if placed.aux_loss else None,
        )


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of one step's randomness on a rank."""
    name = f"{seed}/step/{step}" + (f"/{rank}" if rank else "")
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


def check_loss(
    loss: float, grad_norm: float, state: TrainState, batch: StepBatch, *, tokens: int, untrained: float
) -> None:
    """Stop at a NaN, an infinite gradient, or a loss far above that of an untrained model.

    Args:
        tokens: how many the loss is the mean of; that of a few is noise, and may lie further off.
        untrained: the loss of a model that knows nothing, `ln(vocab)`; one that starts from a trained model
            may meet a batch that is far worse than its first.

    Raises:
        TrainingError: naming the step and the documents of its batch.
    """
    if state.worst == math.inf and math.isfinite(loss):
        state.worst = 2 * max(loss, untrained) + 2  # twice that is no noise
    limit = state.worst * (1 + 4 / math.sqrt(tokens))
    if math.isfinite(loss) and math.isfinite(grad_norm) and loss <= limit:
        return
    ids = batch.document_ids()
    shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    what = f"the loss is {loss:.4g} (it may reach {limit:.4g}) and the gradient norm {grad_norm:.4g}"
    raise TrainingError(
        f"step {state.step + 1}: {what}; its batch held {shown}; lower train.lr, lengthen train.warmup, "
        "or look at these documents"
    )


def _progress(config: TrainConfig, state: TrainState, total: int | None) -> tuple[float, int, int]:
    """How far the run is (0 to 1), steps done, and planned steps (under `minutes` an estimate)."""
    if total is not None:
        return state.step / total, state.step, total
    assert config.minutes is not None
    progress = min(state.seconds / (config.minutes * 60), 1.0)
    return progress, state.step, round(state.step / progress) if state.step else 1000


def _grow_scale(state: TrainState) -> None:
    if state.loss_scale == 1.0:
        return
    state.good_steps += 1
    if state.good_steps == GROW_AFTER:
        state.loss_scale, state.good_steps = state.loss_scale * 2, 0
