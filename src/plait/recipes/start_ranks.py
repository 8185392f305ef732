"""Starting the ranks of a run on this machine, and starting fewer of them when one is lost."""

from __future__ import annotations

from collections.abc import Sequence

from plait.data.loader import check_division
from plait.errors import ConfigError
from plait.log import say
from plait.nn.config import ModelConfig
from plait.parallel.launch import launch
from plait.parallel.layout import Layout, check_layout
from plait.recipes.choices import batch_rows
from plait.recipes.plan import check_rows
from plait.recipes.recipe import FromModel, Recipe


def launch_training(recipe: Recipe, words: Sequence[str]) -> int:
    """Run `plait train WORDS` in as many processes as the recipe's layout has ranks; the exit status.

    Raises:
        ConfigError: what the layout cannot divide, before any process is started.
    """
    config, context = model_of(recipe)
    check_rows(recipe, config, context)
    rows = batch_rows(recipe, context)
    micro = recipe.train.micro_batch if isinstance(recipe.train.micro_batch, int) else None
    sizes = recipe.layout

    def smaller(ranks: int) -> tuple[list[str], int] | None:
        nonlocal sizes
        found = smaller_layout(sizes, ranks, config, context, rows, micro)
        if found is None:
            return None
        say(f"layout {sizes.name} goes on as {found.name}")
        sizes = found
        return ["train", *words, f"layout.dp={found.dp}", f"layout.fsdp={found.fsdp}"], found.world

    return launch(
        ["train", *words],
        recipe.layout.world,
        restarts=recipe.layout.restarts,
        smaller=smaller if recipe.layout.elastic else None,
    )


def model_of(recipe: Recipe) -> tuple[ModelConfig, int]:
    """The configuration that a layout divides, and the tokens of a row; the vocabulary may still be open."""
    if isinstance(recipe.model, FromModel):
        from plait.checkpoint.directory import read_config
        from plait.checkpoint.resolve import resolve

        config, _ = read_config(resolve(recipe.model.from_))
        return config, recipe.model.context or config.context
    return recipe.model, recipe.model.context


def smaller_layout(
    layout: Layout, ranks: int, config: ModelConfig, context: int, rows: int, micro: int | None = None
) -> Layout | None:
    """The layout of at most so many ranks with the most dp · fsdp, no more of either than before.

    The other axes stay; the batch must divide. Among equals dp shrinks first: sharing out saves memory.
    """
    found: list[Layout] = []
    for dp in range(1, layout.dp + 1):
        for fsdp in range(1, layout.fsdp + 1):
            smaller = layout.model_copy(update={"dp": dp, "fsdp": fsdp})
            if smaller.world > ranks:
                continue
            try:
                check_layout(smaller, config, context, rows, micro)
                check_division(rows, micro, smaller.data_ranks)
            except ConfigError:
                continue
            found.append(smaller)
    return max(found, key=lambda each: (each.dp * each.fsdp, each.fsdp), default=None)
