"""config.json of the decoder families: Llama, Qwen3, Qwen3-MoE and GPT-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plait.checkpoint.families_fields import (
    ACTIVATIONS,
    Family,
    activation,
    attention_dropout,
    expect,
    refuse,
    require,
)
from plait.checkpoint.rope import read_rope, write_rope
from plait.nn.config import ModelConfig

SLIDING = ("full_attention", "sliding_attention")
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


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
        "attention_dropout": attention_dropout(config),
        "use_cache": True,
        **write_rope(config),
    }


def _read_llama(values: Mapping[str, Any], kv_heads: int = 0, head_dim: int = 0) -> dict[str, Any]:
    require(values, *REQUIRED)
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
        "activation": activation(values, "hidden_act", "silu"),
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
    expect(values, "decoder_sparse_step", 1)
    expect(values, "mlp_only_layers", [], None)
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
        "attn_pdrop": attention_dropout(config),
        "scale_attn_weights": True,
        "use_cache": True,
    }


def _read_gpt2(values: Mapping[str, Any]) -> dict[str, Any]:
    for field, only in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        expect(values, field, only)
    expect(values, "add_cross_attention", False)
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
        "activation": activation(values, "activation_function", "gelu_new"),
        "gated": False,
        "tied": values.get("tie_word_embeddings", True),
        "dropout": values.get("resid_pdrop", 0.1),
        "attn_dropout": values.get("attn_pdrop", 0.1),
        **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
    }


DECODERS = {
    "qwen3": Family("Qwen3ForCausalLM", _write_qwen3, _read_qwen3),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", _write_qwen3_moe, _read_qwen3_moe),
    "llama": Family("LlamaForCausalLM", _write_llama, _read_llama),
    "gpt2": Family("GPT2LMHeadModel", _write_gpt2, _read_gpt2),
}
