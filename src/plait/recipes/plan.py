"""What is done before any rank builds a model: a run is begun, with tokenizer and data, or found again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from plait.checkpoint.directory import check_model, read_config
from plait.checkpoint.resolve import newest, resolve
from plait.checkpoint.run import (
    Checkpoint,
    load_checkpoint,
    point_last,
    versions,
)
from plait.config import build
from plait.data.inputs import inputs_of, standard_input_kept, training_texts
from plait.data.loader import check_division
from plait.data.prepare import EncodedData, open_data, prepare_data
from plait.device import pick_device
from plait.errors import ConfigError
from plait.log import say, warn
from plait.nn.config import ModelConfig
from plait.parallel.layout import check_layout
from plait.recipes.choices import batch_rows, settle
from plait.recipes.recipe import FREE_AT_RESUME, MACHINE_KEYS, FromModel, Recipe, check_resume
from plait.recipes.run_directory import read_recipe, refuse_existing
from plait.text.conversing import conversing
from plait.text.merges import from_merges
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train as learn_tokenizer
from plait.train.config import TrainConfig


@dataclass(frozen=True)
class Plan:
    """What rank 0 found and prepared, and every rank then opens.

    Attributes:
        recipe: settled: no `auto` left.
        step: name of the checkpoint to go on from; empty at the start.
        finished: nothing is left to do.
    """

    recipe: Recipe
    step: str = ""
    finished: bool = False

    def as_text(self) -> str:
        """For the other ranks."""
        recipe = self.recipe.model_dump(mode="json", by_alias=True)
        return json.dumps({"recipe": recipe, "step": self.step, "finished": self.finished})

    @staticmethod
    def from_text(text: str) -> Plan:
        """The inverse of `as_text`."""
        values = json.loads(text)
        return Plan(build(Recipe, values["recipe"]), values["step"], values["finished"])


def prepare_run(run_dir: Path, recipe: Recipe, resume: bool) -> Plan:
    """What rank 0 does before any rank builds a model: find the run's state, or make its data."""
    if not resume:
        refuse_existing(run_dir)
    saved = read_recipe(run_dir) if resume else None
    if saved is None or begins_anew(run_dir, saved, recipe):
        return begin(run_dir, recipe)
    point_last(run_dir)
    return resume_run(run_dir, saved, recipe)


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


def begin(run_dir: Path, recipe: Recipe) -> Plan:
    """Everything a new run needs, in order; `recipe.yaml` is written once all of it works."""
    pick_device(recipe.train.device)  # what cannot be is said before the data are encoded
    for source in inputs_of(recipe.data):
        if inside := next((name for name in source.file_names() if _within(run_dir, name)), None):
            raise ConfigError(f"the input {inside} lies in out={run_dir}; set `out` to another directory")
    with standard_input_kept(recipe.data, run_dir) as data_config:
        tokenizer, config = start(run_dir, recipe.model_copy(update={"data": data_config}))
        context = row_context(recipe, config)
        check_rows(recipe, config, context)
        data = prepare_data(
            data_config, tokenizer, run_dir / "data", context, recipe.seed, start_id=config.start_id
        )
    recipe, _, reasons = settle(recipe, config, context, planned_tokens(recipe, data, context))
    for choice, reason in reasons.items():
        say(f"{choice}: {getattr(recipe.train, choice)} ({reason})")
    if isinstance(recipe.model, ModelConfig):
        recipe = recipe.model_copy(update={"model": config})
    return Plan(recipe)


def check_rows(recipe: Recipe, config: ModelConfig, context: int) -> None:
    """Refuse a batch or a model that the layout cannot divide."""
    micro = recipe.train.micro_batch
    rows = batch_rows(recipe, context)
    check_layout(recipe.layout, config, context, rows, micro if isinstance(micro, int) else None)
    check_division(rows, micro, recipe.layout.data_ranks)


def _within(directory: Path, name: str) -> bool:
    return not name.startswith("hf://") and directory.resolve() in Path(name).resolve().parents


def resume_run(run_dir: Path, saved: Recipe, asked: Recipe) -> Plan:
    """The plan of an interrupted run: from its newest checkpoint, or from step 0 if it has none."""
    check_resume(saved, asked)
    update = {"out": asked.out, "layout": asked.layout, "train": resumed(saved, asked)}
    recipe = saved.model_copy(update=update)
    path = newest(run_dir)
    checkpoint = load_checkpoint(path) if path else None
    if checkpoint is not None:
        warn_versions(checkpoint)
        tokenizer, config = Tokenizer.load(checkpoint.path), checkpoint.config
    elif isinstance(recipe.model, FromModel):
        tokenizer, config = start(run_dir, recipe)
    else:
        tokenizer, config = Tokenizer.load(run_dir / "tokenizer"), recipe.model
    data = reopen_data(run_dir, recipe, tokenizer, config)
    check_rows(recipe, config, data.context)
    recipe, _, _ = settle(recipe, config, data.context, None)
    plan = Plan(recipe, path.name if path else "", finished(recipe, checkpoint))
    if not plan.finished:
        say(f"resuming {run_dir} after step {checkpoint.step if checkpoint else 0}")
    return plan


def finished(recipe: Recipe, checkpoint: Checkpoint | None) -> bool:
    """Whether a checkpoint is where the recipe's training ends."""
    if checkpoint is None:
        return False
    state, train = checkpoint.state, recipe.train
    step = state["train"]["step"]
    stopped = train.stop_after is not None and step >= train.stop_after
    return state["done"] or stopped or 0 < train.patience <= state["waited"]


def resumed(saved: Recipe, asked: Recipe) -> TrainConfig:
    """The settings a run began with, but for those that may change on the way.

    On another number of ranks micro-batches and threads are chosen anew, unless they are asked for.
    """
    names = [key.partition(".")[2] for key in FREE_AT_RESUME if key.startswith("train.")]
    spread = saved.layout.world != asked.layout.world or saved.layout.data_ranks != asked.layout.data_ranks
    anew = ("micro_batch", "threads") if spread or asked.layout.pp > 1 else ()
    changed = {
        name: getattr(asked.train, name)
        for name in names
        if getattr(asked.train, name) != "auto" or name in anew
    }
    for key in MACHINE_KEYS:
        name = key.partition(".")[2]
        before, after = getattr(saved.train, name), changed.get(name, getattr(saved.train, name))
        if after not in (before, "auto"):
            warn(f"{key} was {before}: from here on the run may differ in the last bits")
    return saved.train.model_copy(update=changed)


def reopen_data(run_dir: Path, recipe: Recipe, tokenizer: Tokenizer, config: ModelConfig) -> EncodedData:
    """The data of a run as it left them; encoded again, from inputs that must still be there, if deleted."""
    directory = run_dir / "data"
    if directory.exists():
        return open_data(directory, tokenizer)
    say(f"{directory} is gone: encoding the data again")
    context = row_context(recipe, config)
    return prepare_data(recipe.data, tokenizer, directory, context, recipe.seed, start_id=config.start_id)


def start(run_dir: Path, recipe: Recipe) -> tuple[Tokenizer, ModelConfig]:
    """Tokenizer and model configuration: made here, or those of the model that the recipe starts from.

    Raises:
        ConfigError: data that the model cannot learn from.
    """
    if isinstance(recipe.model, FromModel):
        if "tokenizer" in recipe.model_fields_set:
            raise ConfigError("model.from brings its tokenizer; take the key `tokenizer` out of the recipe")
        source = resolve(recipe.model.from_)
        tokenizer = check_model(source)
        config = config_from(recipe.model, source)
        check_kind(recipe, config)
        if not tokenizer.chat_template and teaches_to_converse(recipe, config):
            say(f"{source.name} has no chat template; conversations are written as `User:` and `Assistant:`")
        return of_source(recipe, config, tokenizer)
    config = recipe.model
    check_kind(recipe, config)  # before a tokenizer is learned
    tokenizer = make_tokenizer(run_dir, recipe)
    if tokenizer.closes and not config.encoder_layers:
        raise ConfigError(
            f"tokenizer={recipe.tokenizer!r} puts the end token behind each text, as encoders read it, and "
            "a decoder cannot go on from there; give one that does not, such as RUN/tokenizer of its run"
        )
    if config.vocab and config.vocab < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab={config.vocab} is smaller than the tokenizer's {tokenizer.vocab_size}; leave it out"
        )
    config = config.model_copy(update={"vocab": config.vocab or tokenizer.vocab_size})
    return tokenizer, with_start(config, tokenizer)


def check_kind(recipe: Recipe, config: ModelConfig) -> None:
    """Refuse data that an encoder-decoder cannot learn from, and a batch it cannot count.

    Raises:
        ConfigError: with what to give instead.
    """
    if not config.encoder_layers:
        return
    if recipe.data.kind != "pairs":
        other = "" if isinstance(recipe.model, FromModel) else ", or set model.encoder_layers=0"
        raise ConfigError(
            f"an encoder-decoder learns from pairs, not from data.{recipe.data.kind}; give data.pairs{other}"
        )
    if recipe.train.batch_tokens is not None:
        raise ConfigError(
            "train.batch_tokens counts rows of one length, and every pair has its own; set train.batch_size, "
            "the pairs of a step"
        )


def of_source(recipe: Recipe, config: ModelConfig, tokenizer: Tokenizer) -> tuple[Tokenizer, ModelConfig]:
    """Tokenizer and configuration of the model that a recipe starts from, with what its data need of them."""
    ready = conversing(tokenizer) if teaches_to_converse(recipe, config) else tokenizer
    return ready, with_start(config, tokenizer)


def teaches_to_converse(recipe: Recipe, config: ModelConfig) -> bool:
    """Whether the data are shown to the model as conversations."""
    return recipe.data.kind != "text" and not config.encoder_layers


def with_start(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The same, with the padding as what a target begins with, where an encoder-decoder names nothing."""
    if not config.encoder_layers or config.decoder_start >= 0:
        return config
    return config.model_copy(update={"decoder_start": tokenizer.pad_id or 0})


def config_from(model: FromModel, source: Path) -> ModelConfig:
    """The configuration of the model to start from, with the recipe's dropout."""
    config, _ = read_config(source)
    if model.dropout is None:
        return config
    # of attention's weights too, which a family may have set apart
    return config.model_copy(update={"dropout": model.dropout, "attn_dropout": -1.0})


def make_tokenizer(run_dir: Path, recipe: Recipe) -> Tokenizer:
    """Load the recipe's tokenizer directory, or learn one from its data; `tokenizer/` then holds it."""
    directory = run_dir / "tokenizer"
    if isinstance(recipe.tokenizer, str):
        tokenizer = Tokenizer.load(recipe.tokenizer)
        if directory.exists() and directory.samefile(recipe.tokenizer):
            return tokenizer
    else:
        # from training text only: held-out text unseen, or its bits per byte look better than they are
        texts, settings = training_texts(recipe.data, recipe.seed), recipe.tokenizer.model_dump()
        merges = settings.pop("merges_file")
        tokenizer = from_merges(merges, texts) if merges else learn_tokenizer(texts, **settings)
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
    train, rows = recipe.train, sum(source.rows.count for source in data.train)
    each = sum(source.rows.target_tokens for source in data.train) / rows if data.paired else context
    if train.steps is not None:
        return round(train.steps * batch_rows(recipe, context) * each)
    return round(train.epochs * rows * each) if train.epochs is not None else None


def warn_versions(checkpoint: Checkpoint) -> None:
    """Say when another plait or torch wrote a checkpoint: then a resume is not equal to the last bit."""
    now = versions()
    for name in ("plait", "torch"):
        if checkpoint.versions[name] != now[name]:
            warn(
                f"{checkpoint.path} was written with {name} {checkpoint.versions[name]}, "
                f"this is {now[name]}: the run goes on, but may differ in the last bits"
            )
