"""What a recipe leaves to plait: sizes that follow from the data, and choices made by measurement."""

from __future__ import annotations

from dataclasses import dataclass

from plait.device import Machine, choose, measure
from plait.errors import ConfigError
from plait.nn.config import ModelConfig
from plait.parallel.layout import Layout, microbatch_counts
from plait.recipes.recipe import Recipe

DEFAULT_BATCH_TOKENS = 4096
CACHE_BYTES = 1.5 * 2**20  # activations of one layer that a processor's cache should hold
TYPICAL_SHARE = 0.5  # of the matmul peak that training reaches, to predict its time


@dataclass(frozen=True)
class Size:
    """Numbers of a model that costs follow from.

    Attributes:
        parameters: tied ones once.
        active: parameters that multiply a token; embeddings do not, unused experts do not.
        flops_per_token: forward and backward, 6 · active + 6 · layers · heads · head_dim · context: Chowdhery
            et al. 2022, appendix B, with causal attention counted once; of an encoder-decoder, for a token of
            a target whose source is as long.
    """

    parameters: int
    active: int
    flops_per_token: float


def size_of(config: ModelConfig) -> Size:
    """Count parameters without building the model."""
    import torch

    from plait.nn.encoder_decoder import build

    with torch.device("meta"):
        model = build(config)
    shapes = dict(model.named_parameters())
    total = sum(parameter.numel() for parameter in shapes.values())
    multiply = [name for name in shapes if not name.removeprefix("encoder.").startswith("embed_")]
    active = sum(shapes[name].numel() for name in multiply)
    if config.tied:
        active += config.vocab * config.width  # the head reuses the embedding
    routed = sum(p.numel() for name, p in shapes.items() if ".experts." in name and ".shared_" not in name)
    if config.experts:
        active -= round(routed * (1 - config.experts_per_token / config.experts))
    layers = config.layers if not config.encoder_layers else 3 * config.layers + 2 * config.encoder_layers
    attention = 6 * layers * config.heads * config.head_dim * config.context
    return Size(total, active, 6.0 * active + attention)


def batch_rows(recipe: Recipe, context: int) -> int:
    """Rows of one optimizer step over all ranks.

    Raises:
        ConfigError: when `batch_tokens` is less than one row.
    """
    train = recipe.train
    if train.batch_size is not None:
        return train.batch_size
    if train.batch_tokens is not None and train.batch_tokens < context:
        raise ConfigError(
            f"train.batch_tokens={train.batch_tokens} is less than one row of model.context={context}; "
            "raise it or lower model.context"
        )
    return max(1, (train.batch_tokens or DEFAULT_BATCH_TOKENS) // context)


def micro_rows(config: ModelConfig, context: int, rows: int, kind: str, dtype: str) -> tuple[int, str]:
    """Rows of a micro-batch and the reason: on a CPU a layer's activations stay in cache, a GPU takes all."""
    if kind != "cpu":
        return rows, "the whole batch"
    size = {"float64": 8, "float32": 4}.get(dtype, 2)
    fitting = max(1, int(CACHE_BYTES / (size * config.width * context)))
    micro = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= fitting)
    return micro, "activations of a layer stay in the processor's cache"


def pipeline_rows(layout: Layout, rows: int) -> tuple[int, str]:
    """Rows of a micro-batch in a pipeline: four micro-batches for each stage's rank keep it mostly busy."""
    counts = microbatch_counts(layout, rows)
    count = next((n for n in counts if n >= 4 * layout.pp), counts[-1])
    return rows // count, f"{count} micro-batches fill a pipeline of {layout.pp}"


def graph_break(config: ModelConfig, kind: str, layout: Layout) -> str:
    """What in the model torch.compile cannot follow, so that it would not pay; empty: nothing."""
    if layout.tp > 1 or layout.cp > 1 or layout.ep > 1:
        return "ranks exchange tensors inside a layer, outside a compiled graph"
    if config.experts:
        return "which expert works on which token is decided by the data, outside a compiled graph"
    if kind == "cpu" and (config.dropout or config.attn_dropout > 0):
        return "dropout draws its masks outside a compiled graph"
    return ""


def settle(
    recipe: Recipe, config: ModelConfig, context: int, total_tokens: int | None
) -> tuple[Recipe, Machine, dict]:
    """Replace every `auto` that a measurement decides; the result is what `recipe.yaml` stores.

    Args:
        total_tokens: of the whole training, to predict its time; None under `train.minutes`.

    Returns:
        The recipe, the measured machine, and the reason of each choice.
    """
    train = recipe.train
    machine = measure(device=train.device)
    size = size_of(config)
    seconds = (train.minutes or 0) * 60
    if total_tokens is not None:
        seconds = total_tokens * size.flops_per_token / (TYPICAL_SHARE * max(machine.matmul.values()))
    broken = graph_break(config, machine.kind, recipe.layout) if train.compile == "auto" else ""
    chosen = choose(
        machine,
        dtype=train.dtype,
        parameters=size.parameters,
        predicted_seconds=seconds,
        compile=False if broken else train.compile,
    )
    rows = batch_rows(recipe, context)
    micro, why_micro = train.micro_batch, "asked for"
    if not isinstance(micro, int):
        share = rows // recipe.layout.data_ranks
        micro, why_micro = micro_rows(config, context, share, machine.kind, chosen.dtype)
        if recipe.layout.pp > 1:
            micro, why_micro = pipeline_rows(recipe.layout, share)
    threads = chosen.threads if train.threads == "auto" else train.threads
    update = {
        "device": machine.kind,
        "dtype": chosen.dtype,
        "compile": chosen.compile,
        "threads": threads,
        "micro_batch": micro,
        "batch_size": None if train.batch_tokens else rows,
        "save_dtype": save_dtype(train.save_dtype, chosen.dtype),
    }
    reasons = chosen.reasons | {"micro_batch": why_micro} | ({"compile": broken} if broken else {})
    settled = recipe.model_copy(update={"train": train.model_copy(update=update)})
    return settled, machine, reasons


def save_dtype(asked: str, dtype: str) -> str:
    """What files hold: float32, or float64 for a run that computes in it, unless asked otherwise."""
    if asked != "auto":
        return asked
    return "float64" if dtype == "float64" else "float32"
