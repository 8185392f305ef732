"""config.json of the encoder-decoder families: Marian, BART, mBART, PEGASUS, T5 and mT5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
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
from plait.nn.config import ModelConfig

ONE_SIZE = ("{}_ffn_dim", "{}_attention_heads")  # plait's encoder and decoder have the same


def _decoder_start(values: Mapping[str, Any]) -> int:
    start = values.get("decoder_start_token_id")
    return -1 if start is None else start  # all of these begin with padding where they do not say


def _start_of(config: ModelConfig) -> dict[str, int]:
    return {"decoder_start_token_id": config.decoder_start} if config.decoder_start >= 0 else {}


# --- BART (Lewis et al. 2020), and what Marian, mBART and PEGASUS change of it -----------------------------


def _write_bart(config: ModelConfig) -> dict[str, Any]:
    values = {
        "d_model": config.width,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.layers,
        "max_position_embeddings": config.context,
        "activation_function": ACTIVATIONS[config.activation][0],
        "scale_embedding": math.isclose(config.embed_scale, config.width**0.5, rel_tol=1e-6),
        "dropout": config.dropout,
        "attention_dropout": attention_dropout(config),
        "activation_dropout": 0.0,
        "init_std": config.init_std,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "forced_eos_token_id": None,  # theirs would end a text that is cut off
        "use_cache": True,
        **_start_of(config),
    }
    for stack in ("encoder", "decoder"):
        values |= {f"{stack}_ffn_dim": config.ffn, f"{stack}_attention_heads": config.heads}
    return values


def _read_bart(values: Mapping[str, Any], norm_place: str = "post") -> dict[str, Any]:
    for pattern in ONE_SIZE:
        ours, other = pattern.format("encoder"), pattern.format("decoder")
        require(values, ours, other)
        if values[ours] != values[other]:
            raise refuse(ours, values[ours], f"{other}={values[other]}: both stacks are of one size")
    require(values, "vocab_size", "d_model", "encoder_layers", "decoder_layers")
    expect(values, "tie_word_embeddings", True)
    width, heads = values["d_model"], values["encoder_attention_heads"]
    if width % heads:
        raise refuse("encoder_attention_heads", heads, f"divisors of d_model={width} in this family")
    return {
        "width": width,
        "layers": values["decoder_layers"],
        "encoder_layers": _at_least_one(values, "encoder_layers"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": width // heads,
        "ffn": values["encoder_ffn_dim"],
        "context": values.get("max_position_embeddings", 1024),
        "norm": "layer",
        "norm_place": norm_place,
        "norm_eps": 1e-5,
        "qk_norm": False,
        "position": "learned",
        "embed_norm": True,
        "embed_scale": width**0.5 if values.get("scale_embedding") else 1.0,
        "activation": activation(values, "activation_function", "gelu"),
        "gated": False,
        "tied": True,
        "decoder_start": _decoder_start(values),
        "dropout": values.get("dropout", 0.1),
        "attn_dropout": values.get("attention_dropout", 0.0),
        "init_std": values.get("init_std", 0.02),
        **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
    }


def _read_pegasus(values: Mapping[str, Any]) -> dict[str, Any]:
    return _read_bart(values, norm_place="pre") | {"position": "sinusoidal", "embed_norm": False}


def _write_marian(config: ModelConfig) -> dict[str, Any]:
    return _write_bart(config) | {
        "decoder_vocab_size": config.vocab,
        "share_encoder_decoder_embeddings": config.shared_embeddings,
        # untied, transformers would take this for three embeddings where there is one
        "tie_word_embeddings": config.tied or config.shared_embeddings,
    }


def _read_marian(values: Mapping[str, Any]) -> dict[str, Any]:
    expect(values, "decoder_vocab_size", values.get("vocab_size"), None)
    shared = values.get("share_encoder_decoder_embeddings", True)
    if shared:
        expect(values, "tie_word_embeddings", True)
    return _read_bart({**values, "tie_word_embeddings": True}) | {
        "position": "sinusoidal",
        "embed_norm": False,
        "shared_embeddings": shared,
        "tied": values.get("tie_word_embeddings", True),
    }


# --- T5 (Raffel et al. 2020); version 1.1 is gated, and its head its own -----------------------------------


def _write_t5(config: ModelConfig) -> dict[str, Any]:
    name = ACTIVATIONS[config.activation][0]
    if config.gated:  # gated-gelu has always meant the approximation
        name = "gated-gelu" if config.activation == "gelu_tanh" else f"gated-{name}"
    return {
        "d_model": config.width,
        "d_kv": config.head_dim,
        "d_ff": config.ffn,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.layers,
        "num_heads": config.heads,
        "n_positions": config.context,
        "relative_attention_num_buckets": config.t5_buckets,
        "relative_attention_max_distance": config.t5_max_distance,
        "feed_forward_proj": name,
        "layer_norm_epsilon": config.norm_eps,
        "dropout_rate": config.dropout,
        "scale_decoder_outputs": math.isclose(config.logit_scale, config.width**-0.5, rel_tol=1e-6),
        "is_encoder_decoder": True,
        "use_cache": True,
        **_start_of(config),
    }


def _read_t5(values: Mapping[str, Any], proj: str = "relu", scaled: bool = True) -> dict[str, Any]:
    require(values, "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    gate, _, name = values.get("feed_forward_proj", proj).rpartition("-")
    if gate not in ("", "gated"):
        raise refuse("feed_forward_proj", values["feed_forward_proj"], "gated-gelu, relu and their like")
    tied = values.get("tie_word_embeddings", True)
    # configurations that do not say so scale where they tie
    scaled = scaled and values.get("scale_decoder_outputs", tied is not False)
    tanh = (gate, name) == ("gated", "gelu")
    width, heads = values["d_model"], values["num_heads"]
    return {
        "width": width,
        "layers": values.get("num_decoder_layers") or values["num_layers"],
        "encoder_layers": _at_least_one(values, "num_layers"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": values["d_kv"],
        "ffn": values["d_ff"],
        "context": values.get("n_positions", 512),
        "norm_eps": values.get("layer_norm_epsilon", 1e-6),
        "qk_norm": False,
        "position": "t5",
        "t5_buckets": values.get("relative_attention_num_buckets", 32),
        "t5_max_distance": values.get("relative_attention_max_distance", 128),
        "attn_scale": 1.0,
        "activation": "gelu_tanh"
        if tanh
        else activation({"feed_forward_proj": name}, "feed_forward_proj", ""),
        "gated": gate == "gated",
        "tied": tied,
        "logit_scale": width**-0.5 if scaled else 1.0,
        "decoder_start": _decoder_start(values),
        "dropout": values.get("dropout_rate", 0.1),
    }


def _at_least_one(values: Mapping[str, Any], field: str) -> int:
    if values[field] < 1:
        raise refuse(field, values[field], "1 or more in this family")
    return values[field]


BIAS, HEAD = frozenset({"head_bias"}), frozenset({"tied"})
# what a family has been chosen to write comes first; mT5 is T5 1.1 by another name, and so only read
ENCODER_DECODERS = {
    "marian": Family("MarianMTModel", _write_marian, _read_marian, BIAS),
    "bart": Family("BartForConditionalGeneration", _write_bart, _read_bart, BIAS),
    "mbart": Family(
        "MBartForConditionalGeneration", _write_bart, partial(_read_bart, norm_place="pre"), BIAS
    ),
    "pegasus": Family("PegasusForConditionalGeneration", _write_bart, _read_pegasus, BIAS),
    "t5": Family("T5ForConditionalGeneration", _write_t5, _read_t5, HEAD),
    "mt5": Family(
        "MT5ForConditionalGeneration", _write_t5, partial(_read_t5, proj="gated-gelu", scaled=False), HEAD
    ),
}
