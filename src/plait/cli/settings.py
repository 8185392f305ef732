"""Verbs that show what plait would do: config, device."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from plait.cli.app import Device, Override

config = App(name="config", help="Recipes: every value and where it came from.")


def device(*, remeasure: bool = False, device: Device = "auto", json: bool = False) -> None:
    """What was measured on this machine, what was chosen, and why.

    For example:

        plait device --remeasure

    Args:
        remeasure: Measure again instead of reading the cache.
        device: Which device.
        json: Print JSON.
    """
    from plait.device import describe, measure
    from plait.log import table

    machine = measure(remeasure=remeasure, device=device)
    if json:
        print(machine.model_dump_json(indent=2))
    else:
        table("this machine", ("what", "value"), describe(machine), stdout=True)


@config.command(name="show")
def config_show(recipe: str, /, *overrides: Override) -> None:
    """Every value of a recipe and where it came from.

    For example:

        plait config show recipe.yaml train.lr=3e-4

    Args:
        recipe: A YAML file or the name of a shipped recipe.
        overrides: Changed keys, such as train.lr=3e-4.
    """
    from plait.recipes.show import show

    show(recipe, list(overrides))


@config.command(name="list")
def config_list() -> None:
    """The recipes that come with plait.

    For example:

        plait config list
    """
    from plait.recipes.show import list_recipes

    list_recipes()


@config.command(name="copy")
def config_copy(recipe: str, to: Path | None = None, /) -> None:
    """Copy a shipped recipe here to change it.

    For example:

        plait config copy tiny mine.yaml

    Args:
        recipe: Its name.
        to: File to write; default NAME.yaml.
    """
    from plait.recipes.show import copy

    copy(recipe, to)
