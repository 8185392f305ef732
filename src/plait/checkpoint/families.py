"""`config.json` of the Hugging Face families ↔ `ModelConfig`, in both directions.

A family expresses a configuration when writing and reading it back loses nothing that changes the function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from plait.checkpoint.families_decoder import DECODERS
from plait.checkpoint.families_fields import Family
from plait.checkpoint.families_seq2seq import ENCODER_DECODERS
from plait.checkpoint.rope import scaled_theta, write_rope
from plait.errors import ModelError, did_you_mean
from plait.nn.config import ModelConfig

TRAINING_ONLY = frozenset({"dropout", "attn_dropout", "balance_loss", "capacity_factor", "init_std"})
FAMILIES: dict[str, Family] = DECODERS | ENCODER_DECODERS


def to_hf_config(
    config: ModelConfig, *, dtype: str = "float32", tokens: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of config.json; what the family has no field for goes under `plait`, which others ignore.

    Args:
        config: with `vocab` set.
        dtype: name of the dtype the weights are stored in.
        tokens: `bos_token_id`, `eos_token_id`, `pad_token_id`, `decoder_start_token_id`, those there are.
    """
    family = choose_family(config)
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    shared = {"dtype": dtype, "torch_dtype": dtype, **ids, **(tokens or {})}
    if family == "plait":
        name = "PlaitEncoderDecoder" if config.encoder_layers else "PlaitDecoder"
        head = {"model_type": "plait", "architectures": [name], "vocab_size": config.vocab}
        head |= {"is_encoder_decoder": True} if config.encoder_layers else {}
        return head | shared | {"plait": config.model_dump(mode="json")}
    values = _write(config, family) | shared
    back, fields = _read(values, family).model_dump(mode="json"), config.model_dump(mode="json")
    rest = {name: value for name, value in fields.items() if back[name] != value}
    return values | ({"plait": rest} if rest else {})


def from_hf_config(values: Mapping[str, Any]) -> tuple[ModelConfig, str]:
    """The configuration and family (`plait` for our own) of a config.json.

    Raises:
        ModelError: naming the field that is missing, not valid, or not expressible.
    """
    family, ours = values.get("model_type"), values.get("plait", {})
    if not isinstance(ours, Mapping):
        raise ModelError(f"config.json: plait={ours!r} must be a mapping of model settings")
    if values.get("quantization_config"):
        raise ModelError("config.json: quantization_config is set; plait reads unquantized weights only")
    if family == "plait":
        return _with_vocab(_validated(dict(ours))), "plait"
    if not isinstance(family, str) or family not in FAMILIES:
        known = [*FAMILIES, "plait"]
        raise ModelError(
            f"config.json: model_type={family!r} is not a family plait knows ({', '.join(known)})"
            + did_you_mean(str(family), known)
        )
    config = _read(values, family)
    return _with_vocab(_validated(config.model_dump() | dict(ours)) if ours else config), family


def choose_family(config: ModelConfig) -> str:
    """The first family that expresses the configuration exactly, else `plait`."""
    return next((family for family in _kind(config) if not differences(config, family)), "plait")


def differences(config: ModelConfig, family: str) -> dict[str, Any]:
    """Fields that change the function and that `family` cannot hold, with the values it has for them.

    Empty where it expresses all; None for what it has no use for.
    """
    try:
        theirs = function_of(_read(_write(config, family), family))
    except ModelError:  # only a head count that does not divide the width is refused by a reader
        return {"heads": math.gcd(config.heads, config.width)}
    ours, stored = function_of(config), FAMILIES[family].in_weights
    different = (name for name in ours | theirs if ours.get(name) != theirs.get(name))
    return {name: theirs.get(name) for name in different if name not in stored}


def nearest_family(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """The family that lacks the fewest of the configuration's fields, and its `differences`."""
    found = ((name, differences(config, name)) for name in _kind(config))
    return min(found, key=lambda one: len(one[1]))


def _kind(config: ModelConfig) -> dict[str, Family]:
    return ENCODER_DECODERS if config.encoder_layers else DECODERS


def function_of(config: ModelConfig) -> dict[str, Any]:
    """The fields that decide what the model computes, in one spelling; unused ones are left out."""
    fields = config.model_dump(mode="json", exclude=set(TRAINING_ONLY))
    fields["attn_scale"] = config.attn_scale or config.head_dim**-0.5
    root = config.width**0.5
    for name, exact in (("embed_scale", root), ("logit_scale", 1 / root)):
        if math.isclose(fields[name], exact, rel_tol=1e-6):  # a root that someone wrote down
            fields[name] = exact
    unused = {"norm_bias"} if config.norm == "rms" else {"norm_offset"}
    if config.position != "rope":
        unused |= {"rope_theta", "rope_scaling"}
    elif config.rope_scaling and config.rope_scaling.kind == "ntk":
        fields |= {"rope_theta": scaled_theta(config), "rope_scaling": None}
    elif config.rope_scaling:
        fields["rope_scaling"] = write_rope(config)["rope_parameters"]
    if config.position != "t5":
        unused |= {"t5_buckets", "t5_max_distance"}
    if not config.window:
        unused.add("window_pattern")
    if config.experts:
        fields["expert_ffn"] = config.expert_ffn or config.ffn
        unused.add("ffn")
    else:
        unused |= {"experts_per_token", "shared_experts", "expert_ffn", "norm_topk", "balance_bias"}
    unused.add("decoder_start")  # what a target begins with is no part of the function
    if not config.encoder_layers:
        unused.add("shared_embeddings")
    return {name: value for name, value in fields.items() if name not in unused}


def _write(config: ModelConfig, family: str) -> dict[str, Any]:
    kind = FAMILIES[family]
    head = {"model_type": family, "architectures": [kind.architecture], "vocab_size": config.vocab}
    head |= {"tie_word_embeddings": config.tied, "initializer_range": config.init_std}
    return head | kind.write(config)


def _read(values: Mapping[str, Any], family: str) -> ModelConfig:
    try:
        fields = FAMILIES[family].read(values)
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ModelError(f"config.json: a value is not of the kind {family} has ({error})") from None
    vocab = values.get("vocab_size", 50257)
    return _validated({"vocab": vocab, "init_std": values.get("initializer_range", 0.02)} | fields)


def _with_vocab(config: ModelConfig) -> ModelConfig:
    if config.vocab < 1:
        raise ModelError("config.json has no vocab_size; restore the file the weights came with")
    return config


def _validated(fields: dict[str, Any]) -> ModelConfig:
    try:
        return ModelConfig(**fields)
    except (ValidationError, TypeError) as error:
        problems = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
        where, message = ".".join(map(str, problems[0]["loc"])), problems[0]["msg"]
        raise ModelError(f"config.json: {where + ': ' if where else ''}{message}") from None
