"""Tensor names of the Hugging Face families: one table a family, read in both directions.

Rows are `(ours, theirs, how)`. `#` stands for the layer, `@` for the expert, `*` for weight or bias.
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

# same: as it is. transpose: [out, in] ↔ [in, out]. stack: our [experts, in, out] ↔ one [out, in] an expert.
# concat: several of ours joined along the output, then transposed (GPT-2's Conv1D of query, key, value).
How = Literal["same", "transpose", "stack", "concat"]
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
TABLES: dict[str, tuple[Row, ...]] = {
    "qwen3": ATTENTION + QK_NORM + MLP,
    "qwen3_moe": ATTENTION + QK_NORM + EXPERTS,
    "llama": ATTENTION + MLP,
    "gpt2": GPT2,
}
PREFIXES = {"qwen3": "model.", "qwen3_moe": "model.", "llama": "model.", "gpt2": "transformer."}
# constants that older files carry beside the weights
BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


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
    table = (link for row in TABLES[family] for link in _filled(row, config))
    result = [link for link in table if present.issuperset(link.ours)]
    left = present.difference(*(link.ours for link in result))
    if left:
        raise KeyError(f"family {family} has no row for {sorted(left)}")
    return result


def _filled(row: Row, config: ModelConfig) -> Iterator[Link]:
    ours, theirs, how = row
    ours = (ours,) if isinstance(ours, str) else ours
    for layer in range(config.layers if "#" in theirs else 1):
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
    return [(tensors[0] if link.how == "transpose" else torch.cat(list(tensors))).t()]


def to_ours(link: Link, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Their tensors of a link as ours; `sizes` are the first dimensions of ours."""
    if link.how == "same":
        return list(tensors)
    if link.how == "stack":
        return [torch.stack([expert.t() for expert in tensors])]
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
