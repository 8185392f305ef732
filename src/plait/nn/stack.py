"""A stack of layers: ids in, hidden states out. A decoder is one with a head, an encoder one without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from plait.nn.attention import KVCache, Mask, Memory
from plait.nn.block import Block
from plait.nn.config import ModelConfig
from plait.nn.dropout import Dropout
from plait.nn.norm import make_norm
from plait.nn.position import Sinusoids, alibi_slopes, rope_frequencies, rope_table, t5_buckets


class Stack(nn.Module):
    """Embedding, layers and last norm.

    Layers carry their global number as name, so a pipeline stage may hold any of them; what a stage lacks
    (`embed_tokens`, `norm`) is None there.

    Args:
        causal: a token sees those before it; False: all of its row.
        cross: each layer looks at a memory too.
    """

    def __init__(self, config: ModelConfig, layers: int, *, causal: bool = True, cross: bool = False) -> None:
        super().__init__()
        self.config, self.causal = config, causal
        self.embed_tokens: nn.Embedding | None = nn.Embedding(config.vocab, config.width)
        self.embed_positions: nn.Module | None = None
        if config.position == "learned":
            self.embed_positions = nn.Embedding(config.context, config.width)
        elif config.position == "sinusoidal":
            self.embed_positions = Sinusoids(config.width)
        self.embed_norm = make_norm(config, config.width) if config.embed_norm else None
        t5 = config.position == "t5"
        self.relative_bias = nn.Embedding(config.t5_buckets, config.heads) if t5 else None
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleDict({str(n): Block(config, n, cross=cross) for n in range(layers)})
        self.norm: nn.Module | None = None if config.norm_place == "post" else make_norm(config, config.width)
        self._frequencies, self._rope_factor = (
            rope_frequencies(config) if config.position == "rope" else (None, 1.0)
        )

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """The layers that are here, with their global numbers."""
        for number, block in self.layers.items():
            yield int(number), cast(Block, block)

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Final hidden states `[batch, time, width]`.

        Args:
            tokens: ids `[batch, time]`, or hidden states `[batch, time, width]` on a later pipeline stage.
            positions: `[batch, time]`, restarting at each document, -1 where a place is padding; None: 0, 1,
                2, ...
            segments: `[batch, time]` document numbers of packed rows; None: one document a row.
            cache: keys and values of earlier tokens; then `positions` is required.
            memory: what each layer's cross-attention looks at.
        """
        where = positions
        if where is None:
            if cache is not None:
                raise ValueError("with a cache positions are needed: where do these tokens stand?")
            where = torch.arange(tokens.shape[1], device=tokens.device)[None]
        x = self._embed(tokens, where) if self.embed_tokens is not None else tokens
        rope = None
        if self._frequencies is not None:
            rope = rope_table(self._frequencies, self._rope_factor, where, x.dtype)
        mask = self._mask(where, positions, segments, cache)
        for layer in self.layers.values():
            x = layer(x, mask, rope, where, cache, memory)
        return x if self.norm is None else self.norm(x)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        assert self.embed_tokens is not None
        x = self.embed_tokens(tokens)
        if self.config.embed_scale != 1.0:
            x = x * self.config.embed_scale
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions.clamp(min=0)).to(x.dtype)
        return self.dropout(x if self.embed_norm is None else self.embed_norm(x))

    def _mask(
        self, where: Tensor, positions: Tensor | None, segments: Tensor | None, cache: KVCache | None
    ) -> Mask:
        bias = self._bias if self.config.position in ("alibi", "t5") else None
        if cache is not None:
            return Mask(positions_q=where, positions_k=cache.extend(where), bias=bias)
        as_written = self.causal or positions is None
        if segments is None and bias is None and not self.config.window and as_written:
            return Mask(self.causal)  # the order within a row is the order of its one document
        return Mask(self.causal, positions_q=where, segments_q=segments, bias=bias)

    def _bias(self, query: Tensor, key: Tensor) -> Tensor:
        if self.relative_bias is None:
            slopes = alibi_slopes(self.config.heads).float().to(query.device)
            query, key = query.to(slopes.dtype), key.to(slopes.dtype)  # a product of mixed types is slow
            return -slopes[None, :, None, None] * (key[:, None, None, :] - query[:, None, :, None]).abs()
        distance = key[:, None, :] - query[:, :, None]
        buckets = t5_buckets(
            distance, self.config.t5_buckets, self.config.t5_max_distance, bidirectional=not self.causal
        )
        return self.relative_bias(buckets).permute(0, 3, 1, 2)
