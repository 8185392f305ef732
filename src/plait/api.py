"""What `import plait` offers beyond the parts themselves: train, generate and score in one call each."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from plait.config import build, merge, nested, read_yaml
from plait.eval.text import TextScore, score_text
from plait.infer.engine import Engine
from plait.infer.params import Completion, SamplingParams
from plait.recipes.recipe import Recipe, changed, find_recipe
from plait.recipes.train import train_steps
from plait.train.loop import Step


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe, /, *, resume: bool = False, **changes: Any
) -> Generator[Step, None, None]:
    """Train as a recipe says; yields after every optimizer step, once it is logged and, where due, saved.

    ```python
    for step in plait.train("recipe.yaml", out="runs/second", train={"lr": 3e-4}):
        print(step.number, step.loss, step.val_loss)
    model, tokenizer = plait.load("runs/second")
    ```

    Leaving the loop early saves the step it was left at; `resume=True` goes on from there. Steps kept in a
    variable hold the run until their `close()` or the end of the program.

    Args:
        recipe: a YAML file, the name of a shipped recipe, the same as a mapping, or a `Recipe`.
        resume: continue the run in `out` if there is one; without it such a run is an error.
        changes: keys of the recipe to change, nested as in the file; `**{"train.lr": 3e-4}` works too.

    Raises:
        PlaitError: at once for a bad recipe; at the first step for bad input or a busy directory; later for
            divergence, no memory or no disk space.
    """
    values, source = _values(recipe)
    given: dict[str, Any] = {}
    for key, value in changes.items():
        given = merge(given, nested(key, value))
    steps = train_steps(build(Recipe, changed(values, given), source=source), resume=resume)
    kept = weakref.ref(steps)  # a strong one would hold the run after the loop is left

    def close_at_exit() -> None:
        if (left := kept()) is not None:
            left.close()

    atexit.register(close_at_exit)
    return steps


def _values(recipe: str | Path | Mapping[str, Any] | Recipe) -> tuple[Mapping[str, Any], str]:
    if isinstance(recipe, Recipe):
        return recipe.model_dump(by_alias=True, exclude_unset=True), "recipe"
    if isinstance(recipe, Mapping):
        return recipe, "recipe"
    path = find_recipe(recipe)
    return read_yaml(path), str(path)


def generate(model: str | Path, prompts: str | list[str], **sampling: Any) -> list[Completion]:
    """Continue one prompt or several as a batch; an `Engine` kept at hand saves loading the model again.

    Args:
        model: a model, step or run directory (`RUN:best`, `RUN:average`).
        sampling: fields of `SamplingParams`, such as `max_tokens=50, temperature=0`.

    Raises:
        ModelError, PromptError, ConfigError: a model, prompt or field that cannot be used.
    """
    return Engine(model).generate(prompts, build(SamplingParams, sampling, source="generate"))


def score(model: str | Path, text: str) -> TextScore:
    """The log-probability of a text as the beginning of a document, in all and token by token.

    Raises:
        ModelError, InputError: a model that cannot be used, an empty text.
    """
    return score_text(Engine(model), text)
