"""The decoder: token ids in, logits out. Knows nothing of devices, ranks, checkpoints or training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from plait.nn.attention import KVCache, Mask
from plait.nn.block import Block
from plait.nn.config import ModelConfig
from plait.nn.dropout import Dropout
from plait.nn.loss import LossSum, cross_entropy
from plait.nn.norm import make_norm
from plait.nn.position import Sinusoids, alibi_slopes, rope_frequencies, rope_table, t5_buckets


class Decoder(nn.Module):
    """A decoder-only Transformer (Radford et al. 2018) in the variations of `ModelConfig`.

    Layers carry their global number as name, so a pipeline stage may hold any of them; what a stage lacks
    (`embed_tokens`, `norm`, `lm_head`) is None there.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab < 1:
            raise ValueError("ModelConfig.vocab must be set before a Decoder is built")
        self.config = config
        self.embed_tokens: nn.Embedding | None = nn.Embedding(config.vocab, config.width)
        self.embed_positions: nn.Module | None = None
        if config.position == "learned":
            self.embed_positions = nn.Embedding(config.context, config.width)
        elif config.position == "sinusoidal":
            self.embed_positions = Sinusoids(config.width)
        t5 = config.position == "t5"
        self.relative_bias = nn.Embedding(config.t5_buckets, config.heads) if t5 else None
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleDict({str(n): Block(config, n) for n in range(config.layers)})
        self.norm: nn.Module | None = None if config.norm_place == "post" else make_norm(config, config.width)
        self.lm_head: Head | None = Head(config)
        self.tie()
        self._frequencies, self._rope_factor = (
            rope_frequencies(config) if config.position == "rope" else (None, 1.0)
        )

    def tie(self) -> None:
        """Make the head share the embedding's weight where the configuration says so."""
        if self.config.tied and self.embed_tokens is not None and self.lm_head is not None:
            self.lm_head.weight = self.embed_tokens.weight

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
    ) -> Tensor:
        """Final hidden states `[batch, time, width]`.

        Args:
            tokens: ids `[batch, time]`, or hidden states `[batch, time, width]` on a later pipeline stage.
            positions: `[batch, time]`, restarting at each document; None: 0, 1, 2, ...
            segments: `[batch, time]` document numbers of packed rows; None: one document a row.
            cache: keys and values of earlier tokens; then `positions` is required, -1 marks padding.
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
            x = layer(x, mask, rope, where, cache)
        return x if self.norm is None else self.norm(x)

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits `[batch, time, vocab]` (hidden states where `lm_head` is absent)."""
        x = self.hidden(tokens, positions=positions, segments=segments, cache=cache)
        return x if self.lm_head is None else self.lm_head(x)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        assert self.embed_tokens is not None
        x = self.embed_tokens(tokens)
        if self.config.embed_scale != 1.0:
            x = x * self.config.embed_scale
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions.clamp(min=0)).to(x.dtype)
        return self.dropout(x)

    def _mask(
        self, where: Tensor, positions: Tensor | None, segments: Tensor | None, cache: KVCache | None
    ) -> Mask:
        bias = self._bias if self.config.position in ("alibi", "t5") else None
        if cache is not None:
            return Mask(positions_q=where, positions_k=cache.extend(where), bias=bias)
        if segments is None and bias is None and not self.config.window:
            return Mask()  # the order within a row is the order of its one document
        return Mask(positions_q=where, segments_q=segments, bias=bias)

    def _bias(self, query: Tensor, key: Tensor) -> Tensor:
        distance = key[:, None, :] - query[:, :, None]
        if self.relative_bias is None:
            slopes = alibi_slopes(self.config.heads).float().to(distance.device)
            return slopes[None, :, None, None] * distance[:, None].clamp(max=0)
        buckets = t5_buckets(distance, self.config.t5_buckets, self.config.t5_max_distance)
        return self.relative_bias(buckets).permute(0, 3, 1, 2)


class Head(nn.Linear):
    """Hidden states to logits, with the configuration's scale and soft cap (Gemma 2, section 2).

    `loss` is the cross-entropy of these logits; where each process has a part of the vocabulary, one that
    knows the others' is put in its place.
    """

    loss: Callable[..., LossSum]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.width, config.vocab, bias=config.head_bias)
        self.scale, self.softcap = config.logit_scale, config.logit_softcap
        self.loss = cross_entropy

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if self.scale != 1.0:
            logits = logits * self.scale
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
