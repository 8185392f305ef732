"""Tensor names of the Hugging Face families: one table a family, read in both directions.

Rows are `(ours, theirs, how)`. `#` stands for the layer, `@` for the expert, `*` for weight or bias, `%` for
what T5 calls a feed-forward matrix that has a gate beside it: `_1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from plait.checkpoint.tensors import Lazy, Source, fetched
from plait.nn.config import ModelConfig
from plait.nn.position import sinusoids

# same: as it is. transpose: [out, in] ↔ [in, out]. stack: our [experts, in, out] ↔ one [out, in] an expert.
# concat: several of ours joined along the output, then transposed (GPT-2's Conv1D of query, key, value).
# row: [vocab] ↔ [1, vocab]. offset: theirs has two rows before ours, never looked at, as BART counts its
# positions from behind the id of padding, 1; written as zeros.
How = Literal["same", "transpose", "stack", "concat", "row", "offset"]
Row = tuple[str | tuple[str, ...], str, How]

ATTENTION: tuple[Row, ...] = (
    ("embed_tokens.weight", "model.embed_tokens.weight", "same"),
    ("layers.#.input_layernorm.weight", "model.layers.#.input_layernorm.weight", "same"),
    ("layers.#.self_attn.q_proj.*", "model.layers.#.self_attn.q_proj.*", "same"),
    ("layers.#.self_attn.k_proj.*", "model.layers.#.self_attn.k_proj.*", "same"),
    ("layers.#.self_attn.v_proj.*", "model.layers.#.self_attn.v_proj.*", "same"),
    ("layers.#.self_attn.o_proj.*", "model.layers.#.self_attn.o_proj.*", "same"),
    ("layers.#.post_attention_layernorm.weight", "model.layers.#.post_attention_layernorm.weight", "same"),
    ("norm.weight", "model.norm.weight", "same"),
    ("lm_head.weight", "lm_head.weight", "same"),
)
QK_NORM: tuple[Row, ...] = (
    ("layers.#.self_attn.q_norm.weight", "model.layers.#.self_attn.q_norm.weight", "same"),
    ("layers.#.self_attn.k_norm.weight", "model.layers.#.self_attn.k_norm.weight", "same"),
)
MLP: tuple[Row, ...] = (
    ("layers.#.mlp.gate_proj.*", "model.layers.#.mlp.gate_proj.*", "same"),
    ("layers.#.mlp.up_proj.*", "model.layers.#.mlp.up_proj.*", "same"),
    ("layers.#.mlp.down_proj.*", "model.layers.#.mlp.down_proj.*", "same"),
)
EXPERTS: tuple[Row, ...] = (
    ("layers.#.mlp.gate.weight", "model.layers.#.mlp.gate.weight", "same"),
    ("layers.#.mlp.experts.gate_proj", "model.layers.#.mlp.experts.@.gate_proj.weight", "stack"),
    ("layers.#.mlp.experts.up_proj", "model.layers.#.mlp.experts.@.up_proj.weight", "stack"),
    ("layers.#.mlp.experts.down_proj", "model.layers.#.mlp.experts.@.down_proj.weight", "stack"),
)
QKV = ("layers.#.self_attn.q_proj.*", "layers.#.self_attn.k_proj.*", "layers.#.self_attn.v_proj.*")
GPT2: tuple[Row, ...] = (
    ("embed_tokens.weight", "transformer.wte.weight", "same"),
    ("embed_positions.weight", "transformer.wpe.weight", "same"),
    ("layers.#.input_layernorm.*", "transformer.h.#.ln_1.*", "same"),
    (QKV, "transformer.h.#.attn.c_attn.*", "concat"),
    ("layers.#.self_attn.o_proj.*", "transformer.h.#.attn.c_proj.*", "transpose"),
    ("layers.#.post_attention_layernorm.*", "transformer.h.#.ln_2.*", "same"),
    ("layers.#.mlp.up_proj.*", "transformer.h.#.mlp.c_fc.*", "transpose"),
    ("layers.#.mlp.down_proj.*", "transformer.h.#.mlp.c_proj.*", "transpose"),
    ("norm.*", "transformer.ln_f.*", "same"),
    ("lm_head.weight", "lm_head.weight", "same"),
)


def _rows(ours: str, theirs: str, *names: tuple[str, str]) -> tuple[Row, ...]:
    return tuple((f"{ours}.{mine}", f"{theirs}.{name}", "same") for mine, name in names)


def _bart_layers(ours: str, theirs: str) -> tuple[Row, ...]:
    projections = (*((f"{n}_proj.*", f"{n}_proj.*") for n in "qkv"), ("o_proj.*", "out_proj.*"))
    return (
        *_rows(f"{ours}.self_attn", f"{theirs}.self_attn", *projections),
        *_rows(f"{ours}.cross_attn", f"{theirs}.encoder_attn", *projections),
        *_rows(
            ours, theirs,
            ("input_layernorm.*", "self_attn_layer_norm.*"),
            ("cross_attn_layernorm.*", "encoder_attn_layer_norm.*"),
            ("post_attention_layernorm.*", "final_layer_norm.*"),
            ("mlp.up_proj.*", "fc1.*"),
            ("mlp.down_proj.*", "fc2.*"),
        ),
    )  # fmt: skip


SHARED: tuple[Row, ...] = (("embed_tokens.weight", "model.shared.weight", "same"),)
SEPARATE: tuple[Row, ...] = (
    ("embed_tokens.weight", "model.decoder.embed_tokens.weight", "same"),
    ("encoder.embed_tokens.weight", "model.encoder.embed_tokens.weight", "same"),
)
BART: tuple[Row, ...] = (
    ("embed_positions.weight", "model.decoder.embed_positions.weight", "offset"),
    ("embed_norm.*", "model.decoder.layernorm_embedding.*", "same"),
    *_bart_layers("layers.#", "model.decoder.layers.#"),
    ("norm.*", "model.decoder.layer_norm.*", "same"),
    ("encoder.embed_positions.weight", "model.encoder.embed_positions.weight", "offset"),
    ("encoder.embed_norm.*", "model.encoder.layernorm_embedding.*", "same"),
    *_bart_layers("encoder.layers.#", "model.encoder.layers.#"),
    ("encoder.norm.*", "model.encoder.layer_norm.*", "same"),
    ("lm_head.weight", "lm_head.weight", "same"),
    ("lm_head.bias", "final_logits_bias", "row"),
)


def _t5_layers(ours: str, theirs: str, last: int) -> tuple[Row, ...]:
    projections = tuple((f"{n}_proj.weight", f"{n}.weight") for n in "qkvo")
    return (
        *_rows(f"{ours}.self_attn", f"{theirs}.0.SelfAttention", *projections),
        *_rows(f"{ours}.cross_attn", f"{theirs}.1.EncDecAttention", *projections),
        *_rows(
            ours, theirs,
            ("input_layernorm.weight", "0.layer_norm.weight"),
            ("cross_attn_layernorm.weight", "1.layer_norm.weight"),
            ("post_attention_layernorm.weight", f"{last}.layer_norm.weight"),
            ("mlp.gate_proj.weight", f"{last}.DenseReluDense.wi_0.weight"),
            ("mlp.up_proj.weight", f"{last}.DenseReluDense.wi%.weight"),
            ("mlp.down_proj.weight", f"{last}.DenseReluDense.wo.weight"),
        ),
    )  # fmt: skip


T5_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
T5: tuple[Row, ...] = (
    ("embed_tokens.weight", "shared.weight", "same"),
    ("relative_bias.weight", f"decoder.{T5_BIAS}", "same"),
    *_t5_layers("layers.#", "decoder.block.#.layer", last=2),
    ("norm.weight", "decoder.final_layer_norm.weight", "same"),
    ("encoder.relative_bias.weight", f"encoder.{T5_BIAS}", "same"),
    *_t5_layers("encoder.layers.#", "encoder.block.#.layer", last=1),
    ("encoder.norm.weight", "encoder.final_layer_norm.weight", "same"),
    ("lm_head.weight", "lm_head.weight", "same"),
)
TABLES: dict[str, tuple[Row, ...]] = {
    "qwen3": ATTENTION + QK_NORM + MLP,
    "qwen3_moe": ATTENTION + QK_NORM + EXPERTS,
    "llama": ATTENTION + MLP,
    "gpt2": GPT2,
    "marian": BART,
    "bart": BART,
    "mbart": BART,
    "pegasus": BART,
    "t5": T5,
    "mt5": T5,
}
PREFIXES: dict[str, str] = {
    **dict.fromkeys(("qwen3", "qwen3_moe", "llama", "marian", "bart", "mbart", "pegasus"), "model."),
    "gpt2": "transformer.",
}
# what files carry beside the weights: constants, tables of sinusoids, the zeros of a head without a
# bias, a matrix that T5 never used
BUFFERS = (
    ".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "final_logits_bias", "coder.version",
    "coder.embed_positions.weight", ".EncDecAttention.relative_attention_bias.weight",
)  # fmt: skip


@dataclass(frozen=True)
class Link:
    """One row filled in: tensors of ours and of theirs that hold the same numbers."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    how: How


def links(family: str, config: ModelConfig, names: Iterable[str]) -> list[Link]:
    """The family's table filled in for a model that has the parameters `names`.

    Raises:
        KeyError: for a parameter the family has no row for (the family was then not `choose_family`'s).
    """
    if family == "plait":
        return [Link((name,), (name,), "same") for name in names]
    present = set(names)
    rows = TABLES[family]
    if rows is BART:
        rows = (SHARED if config.shared_embeddings else SEPARATE) + rows
    table = (link for row in rows for link in _filled(row, config))
    result = [link for link in table if present.issuperset(link.ours)]
    left = present.difference(*(link.ours for link in result))
    if left:
        raise KeyError(f"family {family} has no row for {sorted(left)}")
    return result


def copies(family: str, config: ModelConfig) -> tuple[str, ...]:
    """Their names of the target's embedding, all the same numbers; files hold one of them or several."""
    coders = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    if family == "plait":
        names = ("embed_tokens.weight",)
        if config.encoder_layers and config.shared_embeddings:
            names += ("encoder.embed_tokens.weight",)
    elif TABLES[family] is T5:
        names = ("shared.weight", *coders)
    elif TABLES[family] is BART and config.shared_embeddings:
        names = ("model.shared.weight", *(f"model.{name}" for name in coders))
    elif TABLES[family] is BART:
        names = ("model.decoder.embed_tokens.weight",)
    else:
        names = ("transformer.wte.weight" if family == "gpt2" else "model.embed_tokens.weight",)
    return names + (("lm_head.weight",) if config.tied else ())


def _filled(row: Row, config: ModelConfig) -> Iterator[Link]:
    ours, theirs, how = row
    ours = (ours,) if isinstance(ours, str) else ours
    theirs = theirs.replace("%", "_1" if config.gated else "")
    layers = config.encoder_layers if ours[0].startswith("encoder.") else config.layers
    for layer in range(layers if "#" in theirs else 1):
        for kind in ("weight", "bias") if "*" in theirs else ("",):
            mine = tuple(_fill(name, layer, kind) for name in ours)
            name = _fill(theirs, layer, kind)
            parts = range(config.experts) if how == "stack" else range(1)
            yield Link(mine, tuple(name.replace("@", str(expert)) for expert in parts), how)


def _fill(pattern: str, layer: int, kind: str) -> str:
    return pattern.replace("#", str(layer)).replace("*", kind)


def to_theirs(link: Link, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Our tensors of a link as theirs; views wherever possible."""
    if link.how == "same":
        return list(tensors)
    if link.how == "stack":
        return [expert.t() for expert in tensors[0]]
    if link.how == "row":
        return [tensors[0][None]]
    if link.how == "offset":
        return [torch.cat((tensors[0].new_zeros(2, tensors[0].shape[1]), tensors[0]))]
    return [(tensors[0] if link.how == "transpose" else torch.cat(list(tensors))).t()]


def to_ours(link: Link, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Their tensors of a link as ours; `sizes` are the first dimensions of ours."""
    if link.how == "same":
        return list(tensors)
    if link.how == "stack":
        return [torch.stack([expert.t() for expert in tensors])]
    if link.how == "row":
        return [tensors[0][0]]
    if link.how == "offset":
        return [tensors[0][2:]]
    return list(tensors[0].t().split(list(sizes)))


def export(family: str, config: ModelConfig, weights: Mapping[str, Source]) -> dict[str, Source]:
    """Weights under our names → under the family's names; lazy ones stay so."""
    result: dict[str, Source] = {}
    for link in links(family, config, weights):
        sources = [weights[name] for name in link.ours]
        if any(isinstance(source, Lazy) for source in sources):
            result.update(zip(link.theirs, _lazily(link, sources), strict=True))
        else:
            tensors = [fetched(source) for source in sources]
            result.update(zip(link.theirs, to_theirs(link, tensors), strict=True))
    if family == "pegasus":  # its files hold the sinusoids, and transformers misses them where they do not
        for stack in ("encoder", "decoder"):
            table = sinusoids(torch.arange(config.context), config.width, torch.float32)
            result[f"model.{stack}.embed_positions.weight"] = table
    return result


def _lazily(link: Link, sources: Sequence[Source]) -> list[Lazy]:
    """Their tensors, made when the first is read, and given up when the last was."""
    shapes = to_theirs(link, [torch.empty(s.shape, dtype=s.dtype, device="meta") for s in sources])
    made: dict[int, Tensor] = {}

    def read(number: int) -> Tensor:
        if not made:
            made.update(enumerate(to_theirs(link, [fetched(source) for source in sources])))
        return made.pop(number)

    return [Lazy(tuple(m.shape), m.dtype, partial(read, number)) for number, m in enumerate(shapes)]
