"""`plait train`: text → tokens → model → loss → checkpoint, in a directory that can always be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor

from plait.checkpoint.directory import load
from plait.checkpoint.resolve import newest
from plait.checkpoint.run import Checkpoint, load_checkpoint, lock, point_last, versions
from plait.data.inputs import inputs_of, standard_input_kept, training_texts
from plait.data.loader import Loader, check_division
from plait.data.prepare import EncodedData, open_data, prepare_data
from plait.device import Machine, peak, pick_device
from plait.errors import ConfigError, PlaitError
from plait.log import say, warn
from plait.nn.config import ModelConfig
from plait.parallel.apply import apply_layout
from plait.recipes.choices import batch_rows, settle, size_of
from plait.recipes.fit import Stage, check_samples, fit_steps, restore
from plait.recipes.recipe import FREE_AT_RESUME, MACHINE_KEYS, FromModel, Recipe, check_resume
from plait.recipes.report import write_report
from plait.recipes.run_directory import read_recipe, refuse_existing, refuse_foreign, save_recipe
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train as learn_tokenizer
from plait.train.config import TrainConfig
from plait.train.loop import Step
from plait.train.optim import Optimizer


def train_recipe(recipe: Recipe, *, resume: bool = False) -> Path:
    """Run a recipe and return its last checkpoint; arguments and errors as `train_steps`."""
    for _ in train_steps(recipe, resume=resume):
        pass
    path = newest(Path(recipe.out))
    assert path is not None
    return path


def train_steps(recipe: Recipe, *, resume: bool = False) -> Generator[Step, None, None]:
    """Run a recipe step by step: each is logged and, where due, validated and saved before it is yielded.

    Args:
        resume: continue the run in `recipe.out` if there is one; without it such a run is an error.

    Raises:
        PlaitError: bad input, a busy directory, divergence, no memory or disk space.
    """
    run_dir = Path(recipe.out)
    refuse_foreign(run_dir)
    with lock(run_dir):
        if not resume:
            refuse_existing(run_dir)
        saved = read_recipe(run_dir) if resume else None
        if saved is None or begins_anew(run_dir, saved, recipe):
            stage = begin(run_dir, recipe)
        else:
            point_last(run_dir)
            stage = resume_run(run_dir, saved, recipe)
            if stage.finished:
                say(f"{run_dir} is finished: {newest(run_dir)}")
                return
        try:
            yield from fit_steps(stage)
        finally:
            report(run_dir)


def begins_anew(run_dir: Path, saved: Recipe, asked: Recipe) -> bool:
    """Whether nothing would be lost by a changed recipe, as no step of the run was ever saved."""
    if newest(run_dir) is not None:
        return False
    try:
        check_resume(saved, asked)
    except ConfigError as error:
        say(f"{error}; as no step was saved, the run begins anew")
        return True
    return False


def report(run_dir: Path) -> None:
    """Write `report.html`, also of a run that ended in an error, whose message must not be lost for it."""
    try:
        say(f"report: {write_report(run_dir)}")
    except PlaitError as error:
        warn(f"no report is written: {error}")


def begin(run_dir: Path, recipe: Recipe) -> Stage:
    """Everything a new run needs, in order; `recipe.yaml` is written once all of it works."""
    pick_device(recipe.train.device)  # what cannot be is said before the data are encoded
    for source in inputs_of(recipe.data):
        if inside := next((name for name in source.file_names() if _within(run_dir, name)), None):
            raise ConfigError(f"the input {inside} lies in out={run_dir}; set `out` to another directory")
    with standard_input_kept(recipe.data, run_dir) as data_config:
        tokenizer, config, weights = start(run_dir, recipe.model_copy(update={"data": data_config}))
        context = row_context(recipe, config)
        check_division(batch_rows(recipe, context), recipe.train.micro_batch)
        data = prepare_data(data_config, tokenizer, run_dir / "data", context, recipe.seed)
    recipe, machine, reasons = settle(recipe, config, context, planned_tokens(recipe, data, context))
    for choice, reason in reasons.items():
        say(f"{choice}: {getattr(recipe.train, choice)} ({reason})")
    if weights is None:
        recipe = recipe.model_copy(update={"model": config})
    stage = build_stage(run_dir, recipe, tokenizer, data, config, machine, weights)
    warn_repeats(stage.loader)
    save_recipe(run_dir, recipe)
    return stage


def _within(directory: Path, name: str) -> bool:
    return not name.startswith("hf://") and directory.resolve() in Path(name).resolve().parents


def resume_run(run_dir: Path, saved: Recipe, asked: Recipe) -> Stage:
    """The stage of an interrupted run at its newest checkpoint, or at step 0 if it has none."""
    check_resume(saved, asked)
    recipe = saved.model_copy(update={"out": asked.out, "train": resumed(saved.train, asked.train)})
    path = newest(run_dir)
    checkpoint = load_checkpoint(path) if path else None
    weights: dict[str, Tensor] | None = None
    if checkpoint is not None:
        warn_versions(checkpoint)
        tokenizer, config = Tokenizer.load(checkpoint.path), checkpoint.config
    elif isinstance(recipe.model, FromModel):
        tokenizer, config, weights = start(run_dir, recipe)
    else:
        tokenizer, config = Tokenizer.load(run_dir / "tokenizer"), recipe.model
    data = reopen_data(run_dir, recipe, tokenizer, config)
    recipe, machine, _ = settle(recipe, config, data.context, None)
    stage = build_stage(run_dir, recipe, tokenizer, data, config, machine, weights)
    if checkpoint is not None:
        restore(stage, checkpoint)
    save_recipe(run_dir, recipe)
    say(f"resuming {run_dir} after step {stage.first_step + stage.state.step}")
    return stage


def resumed(saved: TrainConfig, asked: TrainConfig) -> TrainConfig:
    """The settings a run began with, but for those that may change on the way."""
    names = [key.partition(".")[2] for key in FREE_AT_RESUME if key.startswith("train.")]
    changed = {name: getattr(asked, name) for name in names if getattr(asked, name) != "auto"}
    for key in MACHINE_KEYS:
        name = key.partition(".")[2]
        if changed.get(name, getattr(saved, name)) != getattr(saved, name):
            warn(f"{key} was {getattr(saved, name)}: from here on the run may differ in the last bits")
    return saved.model_copy(update=changed)


def reopen_data(run_dir: Path, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig) -> EncodedData:
    """The data of a run as it left them; encoded again, from inputs that must still be there, if deleted."""
    directory = run_dir / "data"
    if directory.exists():
        return open_data(directory, tokenizer)
    say(f"{directory} is gone: encoding the data again")
    return prepare_data(recipe.data, tokenizer, directory, row_context(recipe, config), recipe.seed)


def start(run_dir: Path, recipe: Recipe) -> tuple[Tokenizer, ModelConfig, dict[str, Tensor] | None]:
    """Tokenizer, model configuration, and weights where the recipe starts from a model."""
    if isinstance(recipe.model, FromModel):
        if "tokenizer" in recipe.model_fields_set:
            raise ConfigError("model.from brings its tokenizer; take the key `tokenizer` out of the recipe")
        model, tokenizer = load(recipe.model.from_)
        weights = {name: parameter.data for name, parameter in model.named_parameters()}
        rate, config = recipe.model.dropout, model.config
        if rate is not None:  # of attention's weights too, which a family may have set apart
            config = config.model_copy(update={"dropout": rate, "attn_dropout": -1.0})
        return tokenizer, config, weights
    tokenizer = make_tokenizer(run_dir, recipe)
    config = recipe.model
    if config.vocab and config.vocab < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab={config.vocab} is smaller than the tokenizer's {tokenizer.vocab_size}; leave it out"
        )
    return tokenizer, config.model_copy(update={"vocab": config.vocab or tokenizer.vocab_size}), None


def make_tokenizer(run_dir: Path, recipe: Recipe) -> Tokenizer:
    """Load the recipe's tokenizer directory, or learn one from its data; `tokenizer/` then holds it."""
    directory = run_dir / "tokenizer"
    if isinstance(recipe.tokenizer, str):
        tokenizer = Tokenizer.load(recipe.tokenizer)
        if directory.exists() and directory.samefile(recipe.tokenizer):
            return tokenizer
    else:
        # from training text only: held-out text unseen, or its bits per byte look better than they are
        tokenizer = learn_tokenizer(training_texts(recipe.data, recipe.seed), **recipe.tokenizer.model_dump())
    shutil.rmtree(directory, ignore_errors=True)  # of an attempt that never became a run
    directory.mkdir(parents=True)
    tokenizer.save(directory)
    return tokenizer


def row_context(recipe: Recipe, config: ModelConfig) -> int:
    """Tokens in a row: the model's context, or fewer where the recipe says so."""
    asked = recipe.model.context if isinstance(recipe.model, FromModel) else None
    if asked is not None and asked > config.context:
        raise ConfigError(f"model.context={asked} is more than the model's {config.context}; lower it")
    return asked or config.context


def planned_tokens(recipe: Recipe, data: EncodedData, context: int) -> int | None:
    """Tokens the whole run will see; None where the clock decides."""
    train = recipe.train
    if train.steps is not None:
        return train.steps * batch_rows(recipe, context) * context
    rows = sum(source.rows.count for source in data.train)
    return round(train.epochs * rows * context) if train.epochs is not None else None


def build_stage(
    run_dir: Path,
    recipe: Recipe,
    tokenizer: Tokenizer,
    data: EncodedData,
    config: ModelConfig,
    machine: Machine,
    weights: dict[str, Tensor] | None,
    *,
    name: str = "",
    first_step: int = 0,
    first_tokens: int = 0,
) -> Stage:
    """Place the model and gather what training it needs. `recipe` is settled."""
    settings = recipe.train
    assert isinstance(settings.threads, int)
    assert isinstance(settings.micro_batch, int)
    torch.set_num_threads(settings.threads)
    placed = apply_layout(
        config,
        recipe.layout,
        torch.device(machine.kind),
        dtype=settings.dtype,
        seed=recipe.seed,
        compiled=bool(settings.compile),
    )
    if weights is not None:
        placed.load_state_dict(weights)
    loader = Loader(
        data.train,
        batch_size=batch_rows(recipe, data.context),
        micro_batch=settings.micro_batch,
        seed=recipe.seed,
        attend_across=recipe.data.attend_across,
    )
    stage = Stage(
        run_dir=run_dir,
        recipe=recipe,
        tokenizer=tokenizer,
        data=data,
        placed=placed,
        loader=loader,
        optim=Optimizer(placed.named_parameters(), settings),
        peak=peak(machine, settings.dtype),
        flops_per_token=size_of(config).flops_per_token,
        name=name,
        first_step=first_step,
        first_tokens=first_tokens,
    )
    check_samples(stage)
    if settings.dtype == "float16":
        stage.state.loss_scale = 2.0**16
    if settings.ema:
        stage.average = {key: value.clone() for key, value in placed.state_dict().items()}
    return stage


def warn_repeats(loader: Loader) -> None:
    """Say when a batch is larger than the data, so that its first step already holds a row twice."""
    rows = loader.rows_of(0)
    different = len(set(rows))
    if different < len(rows):
        warn(
            f"the {len(rows):,} rows of a step are only {different:,} different ones, as the data makes "
            f"{loader.rows_per_epoch:,} rows; add text, or lower the batch"
        )


def warn_versions(checkpoint: Checkpoint) -> None:
    """Say when another plait or torch wrote a checkpoint: then a resume is not equal to the last bit."""
    now = versions()
    for name in ("plait", "torch"):
        if checkpoint.versions[name] != now[name]:
            warn(
                f"{checkpoint.path} was written with {name} {checkpoint.versions[name]}, "
                f"this is {now[name]}: the run goes on, but may differ in the last bits"
            )
