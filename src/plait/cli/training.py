"""Verbs that train: quickstart, train, prove."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plait.cli.app import Override, Words, fields_of
from plait.errors import ConfigError, did_you_mean
from plait.parallel.launch import launched
from plait.parallel.layout import parse_layout

FLAGS = ("--resume", "--dry-run", "--layout")
PROVE_FLAGS = ("--layout", "--all", "--schedule", "--steps", "--data", "--information", "--json", "--html")


def quickstart(
    *,
    text: Words = None,
    field: Words = None,
    minutes: float = 4,
    out: str = "runs/quickstart",
    serve: Annotated[bool, Parameter(negative="--no-serve")] = True,
    port: int = 8000,
    open_browser: Annotated[bool, Parameter(negative="--no-open-browser")] = True,
) -> None:
    """Train a language model from raw text in minutes and talk to it in the browser.

    Interrupted, it resumes at the stage where it was.

    For example:

        plait quickstart
        plait quickstart --text ~/novels --minutes 10 --out runs/novels

    Args:
        text: Your files or folders; without it, the Python documentation on this machine.
        field: Rename a column of your tables: text=body; a number for a headerless table.
        minutes: Time for both training stages together.
        out: Run directory.
        serve: Serve the page at the end.
        port: Port of the page.
        open_browser: Open the page in a browser when it answers.
    """
    from plait.recipes.quickstart import quickstart as run

    run(
        text=text, fields=fields_of(field), minutes=minutes, out=out, serve=serve, port=port,
        open_browser=open_browser,
    )  # fmt: skip


def train(
    recipe: str,
    /,
    *overrides: Override,
    layout: str | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> None:
    """Train a model as a recipe says.

    key=value or --key value changes any of the recipe's keys.

    For example:

        plait train recipe.yaml train.lr=3e-4 out=runs/second
        plait train shakespeare-small data.text=input.txt --dry-run
        plait train recipe.yaml --resume
        plait train recipe.yaml --layout dp=2,tp=2

    Ranks of a layout are started on this machine; torchrun, Slurm or Kubernetes start them on several.

    Args:
        recipe: A YAML file, or the name of a shipped recipe (plait config list).
        overrides: Changed keys, such as train.lr=3e-4.
        layout: Ranks per kind of parallelism, such as dp=2,tp=2.
        resume: Continue the run in the directory out if there is one, else start it.
        dry_run: Show parameters, memory, predicted time and the first batch; train nothing.
    """
    from plait.recipes.recipe import load_recipe

    _check_words(overrides, FLAGS)
    words = [*overrides, *parse_layout(layout or "")]
    loaded = load_recipe(recipe, words)
    if dry_run:
        from plait.recipes.dry_run import dry_run as run

        run(loaded)
        return
    if loaded.layout.world > 1 and not launched():
        from plait.recipes.start_ranks import launch_training

        given = ["--resume"] if resume else []
        sys.exit(launch_training(loaded, [recipe, *words, *given]))
    from plait.recipes.train import train_recipe

    print(train_recipe(loaded, resume=resume))


def prove(
    recipe: str,
    /,
    *overrides: Override,
    layout: list[str] | None = None,
    all_: Annotated[int | None, Parameter(name="--all")] = None,
    schedule: str | None = None,
    steps: int = 3,
    data: bool = False,
    information: bool = False,
    json: Path | None = None,
    html: Path | None = None,
) -> None:
    """Prove that layouts train a recipe as one process does.

    The recipe's model takes a few steps in one process and under each layout,
    whose ranks are started here: in float64, without compilation and dropout,
    on random tokens in rows of unequal lengths. Losses, gradient norms,
    gradients and weights must agree. Exit code 1: a layout does not agree.

    For example:

        plait prove recipe.yaml --layout dp=2,tp=2
        plait prove tiny --layout pp=2,schedule=zbv --layout cp=4
        plait prove tiny-moe --all 8 --html proof.html --json proof.json
        plait prove recipe.yaml --layout pp=4 --schedule all train.batch_size=32

    Args:
        recipe: A YAML file, or the name of a shipped recipe (plait config list).
        overrides: Changed keys, such as model.layers=8.
        layout: Ranks per kind of parallelism, such as dp=2,tp=2; may be given several times.
        all_: Every layout of so many ranks that fits the recipe.
        schedule: For pipelines: 1f1b, gpipe, interleaved, looped_bfs, zero_bubble, zbv, dualpipev, or all.
        steps: How many steps are compared.
        data: Train on the recipe's data instead of random tokens.
        information: Show the differences in float32 and bfloat16 too, which prove nothing.
        json: Write all numbers to this file.
        html: Write a page with tables and a chart to this file.
    """
    from plait.recipes.proof_layouts import Asked
    from plait.recipes.prove import prove as run

    _check_words(overrides, PROVE_FLAGS)
    asked = Asked(
        layouts=tuple(layout or ()), every=all_, schedule=schedule, steps=steps, data=data,
        information=information,
    )  # fmt: skip
    sys.exit(0 if run(recipe, overrides, asked, json_file=json, page=html) else 1)


def _check_words(overrides: Sequence[str], flags: Sequence[str]) -> None:
    """Refuse a misspelt option, which would be read as a key of the recipe."""
    for word in overrides:
        if word.startswith("--") and "." not in word and (hint := did_you_mean(word, flags)):
            raise ConfigError(f"unknown option {word!r}{hint}")
