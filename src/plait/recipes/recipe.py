"""`Recipe`: everything a run depends on, composed of the parts' own configurations. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from plait.config import Config, build, build_part, merge, parse_overrides, read_yaml
from plait.data.config import DataConfig
from plait.errors import ConfigError, did_you_mean
from plait.nn.config import ModelConfig
from plait.parallel.layout import Layout
from plait.text.tokenizer_config import TokenizerConfig
from plait.train.config import TrainConfig

SHIPPED = Path(__file__).parent / "shipped"  # in a wheel
SOURCE = Path(__file__).parents[3] / "recipes"  # in a source tree


class FromModel(Config):
    """Start from the weights, tokenizer and configuration of a model."""

    from_: str = Field(alias="from")
    dropout: float | None = Field(default=None, ge=0, lt=1)
    context: int | None = Field(default=None, ge=1, description="shorter rows than the model's context")


class Recipe(Config):
    """One YAML file: data, tokenizer, model, training and layout of a run."""

    out: str
    seed: int = Field(default=1337, ge=0)
    data: DataConfig
    tokenizer: TokenizerConfig | str = TokenizerConfig()
    model: ModelConfig | FromModel = ModelConfig()
    train: TrainConfig
    layout: Layout = Layout()

    @field_validator("out")
    @classmethod
    def _home(cls, value: str) -> str:
        return str(Path(value).expanduser()) if value.startswith("~") else value

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _tokenizer(cls, value: Any) -> Any:
        return (
            value
            if isinstance(value, str | TokenizerConfig)
            else build_part(TokenizerConfig, {} if value is None else value, "tokenizer")
        )

    @field_validator("model", mode="before")
    @classmethod
    def _model(cls, value: Any) -> Any:
        if isinstance(value, Config):
            return value
        if isinstance(value, Mapping) and "from" in value:
            return build_part(FromModel, value, "model")
        return build_part(ModelConfig, {} if value is None else value, "model")

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if not self.out.strip():
            raise ValueError("out is empty; name a run directory such as runs/first")
        if self.data.fim and isinstance(self.model, ModelConfig) and not getattr(self.tokenizer, "fim", True):
            raise ValueError(
                f"data.fim={self.data.fim:g} needs the tokens of a middle to fill in; set tokenizer.fim=true"
            )
        if self.train.r_drop and self.layout.tp > 1:
            raise ValueError(
                f"train.r_drop compares whole logits, which layout.tp={self.layout.tp} divides; use dp"
            )
        if self.train.r_drop and not self.model.dropout:
            raise ValueError(
                "train.r_drop compares what dropout makes different; set model.dropout, such as 0.1"
            )
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file (or a shipped recipe by name) and apply dotted overrides.

    Raises:
        ConfigError: naming the file, the key and the remedy.
    """
    path = find_recipe(path)
    return build(Recipe, changed(read_yaml(path), parse_overrides(overrides)), source=str(path))


def changed(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's content with changes; `model.from` takes the place of another model and its tokenizer."""
    if _starts_from(changes) and not _starts_from(recipe):
        recipe = {name: part for name, part in recipe.items() if name not in ("model", "tokenizer")}
    return merge(recipe, changes)


def _starts_from(recipe: Mapping[str, Any]) -> bool:
    model = recipe.get("model")
    return isinstance(model, Mapping) and "from" in model


def find_recipe(name: str | Path) -> Path:
    """A recipe's file: a path, or the name of a shipped one.

    Raises:
        ConfigError: with the closest shipped name.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    names = ", ".join(shipped)
    hint = did_you_mean(path.stem, shipped) or f"; shipped recipes: {names}"
    raise ConfigError(f"recipe {str(name)!r} does not exist{hint}")


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with plait, by name."""
    folder = SHIPPED if SHIPPED.is_dir() else SOURCE
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


# keys that change how a run is computed and not what: they may differ at a resume, `auto` keeps them
MACHINE_KEYS = ("train.micro_batch", "train.device", "train.threads", "train.compile")
# keys of a recipe that may differ when a run is resumed
FREE_AT_RESUME = (
    "out",
    "train.save_every",
    "train.keep_last",
    "train.keep_best",
    "train.stop_after",
    "train.samples",
    "train.sample_tokens",
    "layout",
    *MACHINE_KEYS,
)


# values that leave a choice to plait, which `recipe.yaml` then holds; beside `auto` anywhere in `train`
LEFT_OPEN = {"train.batch_size": None, "model.vocab": 0, "model.decoder_start": -1}


def check_resume(saved: Recipe, now: Recipe) -> None:
    """Refuse to resume a run whose recipe changed, save for what may change.

    What the recipe leaves open was settled when the run began and counts as equal.

    Raises:
        ConfigError: naming the first key that changed and both values.
    """
    before, after = (
        flatten(saved.model_dump(mode="json", by_alias=True)),
        flatten(now.model_dump(mode="json", by_alias=True)),
    )
    for key in {**before, **after}:
        if any(key == free or key.startswith(free + ".") for free in FREE_AT_RESUME):
            continue
        old, new = before.get(key), after.get(key)
        if {} in (old, new):  # the keys of the other are compared
            continue
        left_open = new == "auto" and key.startswith("train.")
        left_open = left_open or (key in LEFT_OPEN and new == LEFT_OPEN[key])
        if old != new and not left_open:
            raise ConfigError(
                f"{key} was {old!r} when this run began and is {new!r} now; resume with the old value, "
                "or set another `out` for a new run"
            )


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`; an empty mapping stays."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            result |= flatten(item, f"{prefix}{key}.")
        else:
            result[prefix + key] = item
    return result
