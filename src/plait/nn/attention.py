"""Attention (Vaswani et al. 2017, eq. 1): who may look at whom, the plain formula, and the fast path.

`softmax_attention` is the definition; `fast_attention` must equal it and is what `Attention` uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.nn.causal import LONGEST, causal_attention, keeps_little, spans_of
from plait.nn.config import ModelConfig
from plait.nn.dropout import dropout as drop
from plait.nn.norm import make_norm
from plait.nn.position import rotate


@dataclass(frozen=True)
class Mask:
    """Who may look at whom, described; `dense` is formed only by a core that needs it.

    Without positions and segments the rows are whole documents, queries and keys the same tokens.

    Attributes:
        causal: a query sees keys at its own or an earlier position.
        window: a query sees only the last `window` positions, itself included; 0 means all.
        positions_q, positions_k: `[batch, time]` positions; a key position of -1 is an empty cache slot.
            Without positions_k the keys are the queries' own tokens, in the order of their positions.
        segments_q, segments_k: `[batch, time]` document numbers; queries see keys of their own document.
        bias: of (positions_q, positions_k), what is added to the scores (ALiBi, T5),
            `[batch or 1, heads, time_q, time_k]`.
    """

    causal: bool = True
    window: int = 0
    positions_q: Tensor | None = None
    positions_k: Tensor | None = None
    segments_q: Tensor | None = None
    segments_k: Tensor | None = None
    bias: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def plain(self) -> bool:
        """Causal or full attention over whole rows: what fused kernels do without a mask."""
        fields = (self.positions_q, self.segments_q, self.bias)
        return not self.window and all(field is None for field in fields)

    def with_window(self, window: int) -> Mask:
        """The same mask under another sliding window, one for all layers that have it."""
        if window == self.window:
            return self
        if window not in self._windows:
            self._windows[window] = replace(self, window=window)
        return self._windows[window]

    @cached_property
    def _windows(self) -> dict[int, Mask]:
        return {}

    @cached_property
    def dense(self) -> Tensor:
        """Allowed pairs, bool `[batch, 1, time_q, time_k]`; needs positions (see `placed`)."""
        assert self.positions_q is not None
        positions_k = self.positions_q if self.positions_k is None else self.positions_k
        query, key = self.positions_q[:, None, :, None], positions_k[:, None, None, :]
        result = key >= 0
        if self.causal:
            result = result & (key <= query)
        if self.window:
            result = result & (key > query - self.window)
        if self.segments_q is not None:
            segments_k = self.segments_q if self.segments_k is None else self.segments_k
            result = result & (self.segments_q[:, None, :, None] == segments_k[:, None, None, :])
        return result

    @cached_property
    def added(self) -> Tensor | None:
        """The bias of these positions, made once for all layers; needs positions (see `placed`)."""
        if self.bias is None:
            return None
        assert self.positions_q is not None
        return self.bias(self.positions_q, self.positions_q if self.positions_k is None else self.positions_k)

    def placed(self, query: Tensor, key: Tensor) -> Mask:
        """The same mask, with positions 0, 1, 2, ... where none were given."""
        if self.positions_q is not None:
            return self
        steps = torch.arange(key.shape[2], device=key.device)[None]
        return replace(self, positions_q=steps[:, -query.shape[2] :], positions_k=steps)


@dataclass(frozen=True)
class Memory:
    """What cross-attention looks at.

    Attributes:
        states: an encoder's hidden states `[batch, time, width]`.
        positions: `[batch, time]`, -1 where a place is padding; None: no place is.
    """

    states: Tensor
    positions: Tensor | None = None

    @cached_property
    def mask(self) -> Mask:
        """Every query sees every place that is no padding."""
        if self.positions is None:
            return Mask(causal=False)
        # which position asks makes no difference: one stands for all
        return Mask(causal=False, positions_q=self.positions[:, :1], positions_k=self.positions)

    def select(self, rows: Tensor) -> Memory:
        """The memory of some rows, in this order."""
        return Memory(self.states[rows], None if self.positions is None else self.positions[rows])


class KVCache(Protocol):
    """Keys and values of earlier tokens, owned by the inference engine."""

    def extend(self, positions: Tensor) -> Tensor:
        """Make room for new tokens at `positions` `[batch, time]` (-1: padding).

        Returns the positions of all keys, the new ones included, `[batch, time_k]`; -1 where a slot is empty.
        """
        ...

    def update(self, layer: int, key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Store new `[batch, kv_heads, time, head_dim]`; return all of the layer so far."""
        ...

    def of_memory(self, layer: int, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer's memory, made at the first call and kept."""
        ...


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Mask, *, softcap: float = 0.0, dropout: float = 0.0
) -> Tensor:
    """`softmax(QKᵀ/√d)V` in plain mathematics: the reference every other core is tested against.

    Args:
        query: `[batch, heads, time_q, head_dim]`.
        key, value: `[batch, kv_heads, time_k, head_dim]`, kv_heads dividing heads.
        softcap: scores become `softcap * tanh(scores / softcap)`; 0 leaves them.
        dropout: probability of dropping an attention weight.

    Returns:
        `[batch, heads, time_q, head_dim]`; zeros for a query that may look at nothing.
    """
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    mask = mask.placed(query, key)
    if mask.added is not None:
        scores = scores + mask.added.to(scores.dtype)
    allowed = mask.dense
    scores = scores.masked_fill(~allowed, float("-inf"))
    weights = torch.softmax(scores, dim=-1).masked_fill(~allowed.any(-1, keepdim=True), 0.0)
    return F.dropout(weights, dropout) @ value


def fast_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Mask, *, softcap: float = 0.0, dropout: float = 0.0
) -> Tensor:
    """Equal to `softmax_attention`, through torch's fused kernels where they can express the mask."""
    if softcap:
        return softmax_attention(query, key, value, mask, softcap=softcap, dropout=dropout)
    group = query.shape[1] // key.shape[1]
    if group > 1:
        # the kernels want equal heads; expanding is a copy of the small side only
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    own = mask.causal and mask.positions_k is None and query.shape[2] == key.shape[2]
    on_cpu = query.device.type == "cpu"
    if own and on_cpu and (dropout or query.requires_grad):
        placed = None if mask.plain else mask.placed(query, key)
        allowed, bias = (placed.dense, placed.added) if placed else (None, None)
        spans = spans_of(query.shape[2], allowed)
        if (bias is None or not bias.requires_grad) and (dropout or keeps_little(spans)):
            return causal_attention(query, key, value, allowed, spans, dropout, bias)
    if mask.plain and (own or not mask.causal):
        added = None
    else:
        added = _additive(mask.placed(query, key), query.dtype)
    if on_cpu and (dropout or (query.requires_grad and query.shape[2] <= LONGEST)):
        return _all_pairs(query, key, value, added, dropout)
    causal = mask.causal and added is None
    return F.scaled_dot_product_attention(query, key, value, added, dropout, is_causal=causal)


def _additive(mask: Mask, dtype: torch.dtype) -> Tensor:
    """Allowed pairs (bool), or the bias with `-inf` elsewhere."""
    if mask.added is None:
        return mask.dense
    return mask.added.to(dtype).masked_fill(~mask.dense, float("-inf"))


def _all_pairs(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, rate: float) -> Tensor:
    """Attention under any mask, all pairs at once, which on a CPU trains faster than torch's own."""
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if added is not None:
        scores = scores.masked_fill(~added, float("-inf")) if added.dtype == torch.bool else scores + added
    weights = scores.softmax(-1)
    return (drop(weights, rate) if rate else weights) @ value


class Attention(nn.Module):
    """Multi-head (kv_heads = heads), grouped-query (Ainslie 2023) or multi-query (Shazeer 2019) attention."""

    core: Callable[..., Tensor]

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.softcap = config.attn_softcap
        self.dropout = config.dropout if config.attn_dropout < 0 else config.attn_dropout
        # cores divide by sqrt(head_dim); another scale goes into the query
        self.query_scale = config.attn_scale * config.head_dim**0.5 if config.attn_scale else 1.0
        width, size = config.width, config.head_dim
        self.q_proj = nn.Linear(width, config.heads * size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, config.kv_heads * size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, config.kv_heads * size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.heads * size, width, bias=config.out_bias)
        self.q_norm = make_norm(config, size) if config.qk_norm else None
        self.k_norm = make_norm(config, size) if config.qk_norm else None
        self.core = fast_attention

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        rope: tuple[Tensor, Tensor] | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """`x` `[batch, time, width]` → same shape.

        Args:
            rope: the (cos, sin) table of these positions.
            memory: attend to it in place of `x`.
        """
        query = self._heads(self.q_proj(x))
        if self.q_norm is not None:
            query = self.q_norm(query)
        if memory is not None:
            states = memory.states
            key, value = (
                cache.of_memory(self.layer, lambda: self._keys(states)) if cache else self._keys(states)
            )
        else:
            key, value = self._keys(x)
            if rope is not None:
                query, key = rotate(query, *rope), rotate(key, *rope)
            if cache is not None:
                assert positions is not None
                key, value = cache.update(self.layer, key, value, positions)
        if self.query_scale != 1.0:
            query = query * self.query_scale
        rate = self.dropout if self.training else 0.0
        out = self.core(query, key, value, mask, softcap=self.softcap, dropout=rate)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        return (key if self.k_norm is None else self.k_norm(key)), value

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
