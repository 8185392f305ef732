"""`plait config`: the shipped recipes, and every value of a recipe with where it came from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plait.config import build, parse_overrides, read_yaml
from plait.errors import BusyError, ConfigError, did_you_mean
from plait.log import say, table
from plait.recipes.recipe import Recipe, changed, find_recipe, flatten, shipped_recipes

MEASURED = ("train.device", "train.dtype", "train.compile", "train.threads", "train.micro_batch")


def show(recipe: str | Path, overrides: Sequence[str] = ()) -> None:
    """Print each key, its value, and whether the file, the command line or a default gave it."""
    path = find_recipe(recipe)
    written, given = read_yaml(path), parse_overrides(overrides)
    built = build(Recipe, changed(written, given), source=str(path))
    in_file, on_line = flatten(written), flatten(given)

    def origin(key: str, value: Any) -> str:
        if key in on_line:
            return "command line"
        if key in in_file:
            return path.name
        if key in ("model.kv_heads", "model.head_dim", "model.ffn"):
            return "derived"
        if key == "model.vocab":
            return "the tokenizer"
        return "measured at start" if value == "auto" and key in MEASURED else "default"

    values = flatten(built.model_dump(mode="json", by_alias=True))
    rows = [(key, value, origin(key, value)) for key, value in values.items()]
    table(str(path), ("key", "value", "from"), rows, stdout=True)


def list_recipes() -> None:
    """Print the shipped recipes with the comment each begins with."""
    rows = []
    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        rows.append((name, first.removeprefix("#").strip()))
    table("shipped recipes (plait config copy NAME)", ("recipe", "what it is"), rows, stdout=True)


def copy(recipe: str, to: Path | None = None) -> Path:
    """Copy a shipped recipe into the working directory.

    Raises:
        ConfigError: no such recipe.
        BusyError: the file is there already.
    """
    shipped = shipped_recipes()
    if recipe not in shipped:
        hint = did_you_mean(recipe, shipped) or f"; there are {', '.join(shipped)}"
        raise ConfigError(f"no shipped recipe is called {recipe!r}{hint}")
    target = to or Path(f"{recipe}.yaml")
    target = target / f"{recipe}.yaml" if target.is_dir() else target
    if target.exists():
        raise BusyError(f"{target} exists; name another file: plait config copy {recipe} FILE")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shipped[recipe], target)
    say(f"wrote {target}")
    return target
