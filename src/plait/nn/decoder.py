"""The decoder: token ids in, logits out. Knows nothing of devices, ranks, checkpoints or training."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.nn.attention import KVCache, Memory
from plait.nn.config import ModelConfig
from plait.nn.loss import LossSum, cross_entropy
from plait.nn.stack import Stack


class Decoder(Stack):
    """A decoder-only Transformer (Radford et al. 2018) in the variations of `ModelConfig`.

    On a pipeline stage without the head `lm_head` is None.
    """

    def __init__(self, config: ModelConfig, *, cross: bool = False) -> None:
        if config.vocab < 1:
            raise ValueError("ModelConfig.vocab must be set before a model is built")
        super().__init__(config, config.layers, cross=cross)
        self.lm_head: Head | None = Head(config)
        self.tie()

    def tie(self) -> None:
        """Make the head share the embedding's weight where the configuration says so."""
        if self.config.tied and self.embed_tokens is not None and self.lm_head is not None:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Logits `[batch, time, vocab]` (hidden states where `lm_head` is absent); see `hidden`."""
        x = self.hidden(tokens, positions=positions, segments=segments, cache=cache, memory=memory)
        return x if self.lm_head is None else self.lm_head(x)


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
        if self.scale == 1.0:
            logits = super().forward(x)
        else:  # there are fewer hidden states than logits to multiply
            bias = None if self.bias is None else self.bias * self.scale
            logits = F.linear(x * self.scale, self.weight, bias)
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
