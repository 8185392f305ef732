"""`plait train`: text → tokens → model → loss → checkpoint, in a directory that can always be resumed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import torch

from plait.checkpoint.directory import stored_weights
from plait.checkpoint.lock import lock
from plait.checkpoint.resolve import CHECKPOINTS, newest, resolve
from plait.checkpoint.run import trusted_checkpoint, versions
from plait.checkpoint.snapshot import saving_group
from plait.data.loader import Loader
from plait.data.prepare import EncodedData, open_data
from plait.device import measure, peak, pick_device
from plait.errors import ConfigError, PlaitError
from plait.log import say, warn
from plait.nn.config import ModelConfig
from plait.parallel.agreement import same_everywhere, shared_directory
from plait.parallel.apply import apply_layout
from plait.recipes.choices import batch_rows, size_of
from plait.recipes.fit import Stage, fit_steps
from plait.recipes.plan import Plan, config_from, of_source, prepare_run
from plait.recipes.ranks import Ranks, device_of, join
from plait.recipes.recipe import FromModel, Recipe, flatten
from plait.recipes.report import write_report
from plait.recipes.run_directory import refuse_foreign, save_recipe
from plait.recipes.samples import check_samples
from plait.recipes.saving import restore
from plait.text.tokenizer import Tokenizer
from plait.train.loop import Step
from plait.train.optim import optimizer_of


def train_recipe(recipe: Recipe, *, resume: bool = False) -> Path:
    """Run a recipe and return its last checkpoint; arguments and errors as `train_steps`."""
    for _ in train_steps(recipe, resume=resume):
        pass
    path = newest(Path(recipe.out))
    assert path is not None
    return path


def train_steps(recipe: Recipe, *, resume: bool = False) -> Generator[Step, None, None]:
    """Run a recipe step by step: each is logged and, where due, validated and saved before it is yielded.

    Every rank of a layout runs this; rank 0 prepares, writes and speaks.

    Args:
        resume: continue the run in `recipe.out` if there is one; without it such a run is an error.

    Raises:
        PlaitError: bad input, a busy directory, divergence, no memory or disk space.
    """
    run_dir = Path(recipe.out)
    recipe = on_one_kind(recipe)
    with ExitStack() as until_the_end:
        ranks = until_the_end.enter_context(join(recipe.layout, recipe.train.device))

        def prepare() -> str:
            refuse_foreign(run_dir)
            until_the_end.enter_context(lock(run_dir))
            return prepare_run(run_dir, recipe, resume).as_text()

        if ranks.store is not None:
            keys = flatten(recipe.model_dump(mode="json", by_alias=True))
            facts = versions() | {key: str(value) for key, value in keys.items()}
            same_everywhere(ranks.store, ranks.rank, ranks.size, facts)
        ranks.at(0, "preparation")
        plan = Plan.from_text(ranks.share(prepare))
        if plan.finished:
            say(f"{run_dir} is finished: {newest(run_dir)}")
            return
        if ranks.store is not None:
            shared_directory(ranks.store, ranks.rank, ranks.size, run_dir)
        stage = open_run(run_dir, plan, ranks)
        ranks.share(lambda: save_recipe(run_dir, plan.recipe) or "")
        try:
            yield from fit_steps(stage)
            ranks.share(str)  # the last checkpoint is there when any rank leaves
        finally:
            if ranks.leads:
                report(run_dir)


def on_one_kind(recipe: Recipe) -> Recipe:
    """The recipe with the device that all ranks of a layout have, as they must agree before they measure.

    Raises:
        ConfigError: ranks on a device that cannot talk to others.
    """
    if recipe.layout.world == 1:
        return recipe
    kind = pick_device(recipe.train.device)
    if recipe.train.device == "mps":
        raise ConfigError("train.device=mps cannot exchange tensors with other ranks; use device cpu")
    train = recipe.train.model_copy(update={"device": "cpu" if kind == "mps" else kind})
    return recipe.model_copy(update={"train": train})


def report(run_dir: Path) -> None:
    """Write `report.html`, also of a run that ended in an error, whose message must not be lost for it."""
    try:
        say(f"report: {write_report(run_dir)}")
    except PlaitError as error:
        warn(f"no report is written: {error}")


def open_run(run_dir: Path, plan: Plan, ranks: Ranks) -> Stage:
    """On every rank: open what rank 0 prepared, build this rank's parts, and fill them."""
    recipe = plan.recipe
    checkpoint = trusted_checkpoint(run_dir / CHECKPOINTS / plan.step) if plan.step else None
    source = None
    if checkpoint is not None:
        tokenizer, config = Tokenizer.load(checkpoint.path), checkpoint.config
    elif isinstance(recipe.model, FromModel):
        source = resolve(recipe.model.from_)
        config = config_from(recipe.model, source)
        tokenizer, config = of_source(recipe, config, Tokenizer.load(source))
    else:
        tokenizer, config = Tokenizer.load(run_dir / "tokenizer"), recipe.model
    data = open_data(run_dir / "data", tokenizer)
    stage = build_stage(run_dir, recipe, tokenizer, data, config, ranks=ranks)
    if checkpoint is not None:
        restore(stage, checkpoint)
        return stage
    if source is not None:
        with stored_weights(source) as (_, _, weights):
            stage.placed.parameters.load(weights)
        keep_average(stage)
    warn_repeats(stage.loader)
    return stage


def build_stage(
    run_dir: Path,
    recipe: Recipe,
    tokenizer: Tokenizer,
    data: EncodedData,
    config: ModelConfig,
    *,
    ranks: Ranks | None = None,
    name: str = "",
    first_step: int = 0,
    first_tokens: int = 0,
) -> Stage:
    """Place the model and gather what training it needs. `recipe` is settled."""
    ranks, settings = ranks or Ranks(), recipe.train
    assert isinstance(settings.threads, int)
    assert isinstance(settings.micro_batch, int)
    torch.set_num_threads(settings.threads)
    placed = apply_layout(
        config,
        recipe.layout,
        device_of(ranks, settings.device),
        dtype=settings.dtype,
        seed=recipe.seed,
        compiled=bool(settings.compile),
    )
    loader = Loader(
        data.train,
        batch_size=batch_rows(recipe, data.context),
        micro_batch=settings.micro_batch,
        seed=recipe.seed,
        rank=placed.data_rank,
        ranks=recipe.layout.data_ranks,
        attend_across=recipe.data.attend_across,
    )
    stage = Stage(
        run_dir=run_dir,
        recipe=recipe,
        tokenizer=tokenizer,
        data=data,
        placed=placed,
        loader=loader,
        optim=optimizer_of(placed, settings),
        peak=peak(measure(device=settings.device), settings.dtype) * ranks.size,
        flops_per_token=size_of(config).flops_per_token,
        name=name,
        first_step=first_step,
        first_tokens=first_tokens,
        ranks=ranks,
        saving_group=saving_group(placed.mesh),
    )
    check_samples(stage)
    if settings.dtype == "float16":
        stage.state.loss_scale = 2.0**16
    keep_average(stage)
    return stage


def keep_average(stage: Stage) -> None:
    """Begin the moving average of the weights, where the recipe wants one, at the weights as they are."""
    if stage.recipe.train.ema:
        stage.average = {key: value.clone() for key, value in stage.placed.state_dict().items()}


def warn_repeats(loader: Loader) -> None:
    """Say when a batch is larger than the data, so that its first step already holds a row twice."""
    rows = loader.rows_of(0)
    different = len(set(rows))
    if different < len(rows):
        warn(
            f"the {len(rows):,} rows of a step are only {different:,} different ones, as the data makes "
            f"{loader.rows_per_epoch:,} rows; add text, or lower the batch"
        )
