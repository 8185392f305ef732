"""`config.json` of the Hugging Face families ↔ `ModelConfig`, in both directions.

A family expresses a configuration when writing and reading it back loses nothing that changes the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from plait.checkpoint.rope import read_rope, refuse, scaled_theta, write_rope
from plait.errors import ModelError, did_you_mean
from plait.nn.config import ModelConfig

TRAINING_ONLY = frozenset({"dropout", "attn_dropout", "balance_loss", "capacity_factor", "init_std"})
# the first name is written, all are read
ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "gelu": ("gelu",),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh"),
    "relu": ("relu",),
    "relu2": ("relu2",),
}
ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
SLIDING = ("full_attention", "sliding_attention")
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def _expect(values: Mapping[str, Any], field: str, *allowed: object) -> None:
    if field in values and values[field] not in allowed:
        raise refuse(field, values[field], " or ".join(map(repr, allowed)))


def _activation(values: Mapping[str, Any], field: str, default: str) -> str:
    name = values.get(field, default)
    for ours, theirs in ACTIVATIONS.items():
        if name in theirs:
            return ours
    raise refuse(field, name, ", ".join(theirs[0] for theirs in ACTIVATIONS.values()))


# --- Llama, and what Qwen3 and Qwen3-MoE change of it ------------------------------------------------------


def _write_llama(config: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": ACTIVATIONS[config.activation][0],
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "attention_dropout": _attention_dropout(config),
        "use_cache": True,
        **write_rope(config),
    }


def _read_llama(values: Mapping[str, Any], kv_heads: int = 0, head_dim: int = 0) -> dict[str, Any]:
    missing = [field for field in REQUIRED if not isinstance(values.get(field), int)]
    if missing:
        raise ModelError(f"config.json has no {missing[0]}; restore the file the weights came with")
    heads, width = values["num_attention_heads"], values["hidden_size"]
    if values["model_type"] == "llama" and width % heads:
        raise refuse("num_attention_heads", heads, f"divisors of hidden_size={width} in this family")
    return {
        "width": width,
        "layers": values["num_hidden_layers"],
        "heads": heads,
        "kv_heads": values.get("num_key_value_heads") or kv_heads or heads,
        "head_dim": values.get("head_dim") or head_dim or width // heads,
        "ffn": values["intermediate_size"],
        "context": values.get("max_position_embeddings", 2048),
        "norm_eps": values.get("rms_norm_eps", 1e-6),
        "activation": _activation(values, "hidden_act", "silu"),
        "tied": values.get("tie_word_embeddings", False),
        "qkv_bias": values.get("attention_bias", False),
        "out_bias": values.get("attention_bias", False),
        "mlp_bias": values.get("mlp_bias", False),
        "attn_dropout": values.get("attention_dropout") or -1.0,
        "qk_norm": False,
        **read_rope(values),
    }


def _write_qwen3(config: ModelConfig) -> dict[str, Any]:
    values = _write_llama(config)
    del values["mlp_bias"]
    sliding = [config.window_of(layer) > 0 for layer in range(config.layers)]
    return values | {
        "use_sliding_window": any(sliding),
        "sliding_window": config.window or None,
        "max_window_layers": 0 if any(sliding) else config.layers,
        "layer_types": [SLIDING[slides] for slides in sliding],
    }


def _read_qwen3(values: Mapping[str, Any]) -> dict[str, Any]:
    fields = _read_llama(values, kv_heads=32, head_dim=128) | {"qk_norm": True, "mlp_bias": False}
    layers, window = fields["layers"], values.get("sliding_window", 4096)
    if not values.get("use_sliding_window") or not window:
        return fields
    first = values.get("max_window_layers", 28)
    types = values.get("layer_types") or [SLIDING[layer >= first] for layer in range(layers)]
    for pattern in range(1, layers + 2):
        guess = ModelConfig(layers=layers, window=window, window_pattern=pattern)
        if [SLIDING[guess.window_of(n) > 0] for n in range(layers)] == types:
            return fields | {"window": window, "window_pattern": pattern}
    if SLIDING[True] not in types:
        return fields
    raise refuse("layer_types", types, "sliding windows in all layers, or in all but every n-th")


def _write_qwen3_moe(config: ModelConfig) -> dict[str, Any]:
    values = _write_qwen3(config)
    del values["layer_types"]
    return values | {
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "moe_intermediate_size": config.expert_ffn or config.ffn,
        "norm_topk_prob": config.norm_topk,
        "router_aux_loss_coef": config.balance_loss,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _read_qwen3_moe(values: Mapping[str, Any]) -> dict[str, Any]:
    _expect(values, "decoder_sparse_step", 1)
    _expect(values, "mlp_only_layers", [], None)
    fields = _read_llama(values, kv_heads=4) | {"qk_norm": True, "mlp_bias": False}
    if values.get("use_sliding_window"):  # this family slides in every layer or in none
        fields["window"] = values.get("sliding_window", 4096) or 0
    return fields | {
        "experts": values.get("num_experts", values.get("num_local_experts", 128)),
        "experts_per_token": values.get("num_experts_per_tok", 8),
        "expert_ffn": values.get("moe_intermediate_size", 768),
        "norm_topk": values.get("norm_topk_prob", False),
        "balance_loss": values.get("router_aux_loss_coef", 0.001),
    }


# --- GPT-2 -------------------------------------------------------------------------------------------------


def _write_gpt2(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.ffn,
        "n_positions": config.context,
        "activation_function": ACTIVATIONS[config.activation][0],
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": _attention_dropout(config),
        "scale_attn_weights": True,
        "use_cache": True,
    }


def _read_gpt2(values: Mapping[str, Any]) -> dict[str, Any]:
    for field, only in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        _expect(values, field, only)
    _expect(values, "add_cross_attention", False)
    width, heads = values.get("n_embd", 768), values.get("n_head", 12)
    if width % heads:
        raise refuse("n_head", heads, f"divisors of n_embd={width} in this family")
    return {
        "width": width,
        "layers": values.get("n_layer", 12),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": width // heads,
        "ffn": values.get("n_inner") or 4 * width,
        "context": values.get("n_positions", 1024),
        "norm": "layer",
        "norm_eps": values.get("layer_norm_epsilon", 1e-5),
        "qk_norm": False,
        "position": "learned",
        "activation": _activation(values, "activation_function", "gelu_new"),
        "gated": False,
        "tied": values.get("tie_word_embeddings", True),
        "dropout": values.get("resid_pdrop", 0.1),
        "attn_dropout": values.get("attn_pdrop", 0.1),
        **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
    }


# --- all families ------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {
    "qwen3": _write_qwen3, "qwen3_moe": _write_qwen3_moe, "llama": _write_llama, "gpt2": _write_gpt2,
}  # fmt: skip
READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "qwen3": _read_qwen3, "qwen3_moe": _read_qwen3_moe, "llama": _read_llama, "gpt2": _read_gpt2,
}  # fmt: skip


def to_hf_config(
    config: ModelConfig, *, dtype: str = "float32", tokens: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of config.json; what the family has no field for goes under `plait`, which others ignore.

    Args:
        config: with `vocab` set.
        dtype: name of the dtype the weights are stored in.
        tokens: `bos_token_id`, `eos_token_id`, `pad_token_id`, those there are.
    """
    family = choose_family(config)
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    shared = {"dtype": dtype, "torch_dtype": dtype, **ids, **(tokens or {})}
    if family == "plait":
        head = {"model_type": "plait", "architectures": ["PlaitDecoder"], "vocab_size": config.vocab}
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
    if not isinstance(family, str) or family not in READERS:
        known = [*READERS, "plait"]
        raise ModelError(
            f"config.json: model_type={family!r} is not a family plait knows ({', '.join(known)})"
            + did_you_mean(str(family), known)
        )
    config = _read(values, family)
    return _with_vocab(_validated(config.model_dump() | dict(ours)) if ours else config), family


def choose_family(config: ModelConfig) -> str:
    """The first family that expresses the configuration exactly, else `plait`."""
    return next((family for family in WRITERS if not differences(config, family)), "plait")


def differences(config: ModelConfig, family: str) -> list[str]:
    """Fields that change the function and that `family` cannot hold; empty where it expresses all."""
    try:
        theirs = function_of(_read(_write(config, family), family))
    except ModelError:
        return ["heads"]  # only a head count that does not divide the width is refused by a reader
    ours = function_of(config)
    return [name for name in ours | theirs if ours.get(name) != theirs.get(name)]


def nearest_family(config: ModelConfig) -> tuple[str, list[str]]:
    """The family that lacks the fewest of the configuration's fields, and those fields."""
    return min(((name, differences(config, name)) for name in WRITERS), key=lambda found: len(found[1]))


def function_of(config: ModelConfig) -> dict[str, Any]:
    """The fields that decide what the model computes, in one spelling; unused ones are left out."""
    fields = config.model_dump(mode="json", exclude=set(TRAINING_ONLY))
    fields["attn_scale"] = config.attn_scale or config.head_dim**-0.5
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
    return {name: value for name, value in fields.items() if name not in unused}


def _write(config: ModelConfig, family: str) -> dict[str, Any]:
    head = {"model_type": family, "architectures": [ARCHITECTURES[family]], "vocab_size": config.vocab}
    tied = {"tie_word_embeddings": config.tied, "initializer_range": config.init_std}
    return head | WRITERS[family](config) | tied


def _read(values: Mapping[str, Any], family: str) -> ModelConfig:
    try:
        fields = READERS[family](values)
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ModelError(f"config.json: a value is not of the kind {family} has ({error})") from None
    vocab = values.get("vocab_size", 50257)
    return _validated(fields | {"vocab": vocab, "init_std": values.get("initializer_range", 0.02)})


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


def _attention_dropout(config: ModelConfig) -> float:
    return config.dropout if config.attn_dropout < 0 else config.attn_dropout
