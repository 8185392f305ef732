"""One Transformer layer: attention and feed-forward, each with its residual and norm."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from plait.nn.attention import Attention, KVCache, Mask, Memory
from plait.nn.config import ModelConfig
from plait.nn.dropout import Dropout
from plait.nn.mlp import MLP
from plait.nn.moe import MoE
from plait.nn.norm import make_norm


class Block(nn.Module):
    """pre: `x + f(norm(x))` · post: `norm(x + f(x))` · sandwich: `x + norm(f(norm(x)))`.

    Args:
        cross: between the two, look at a memory (Vaswani et al. 2017, section 3.1).
    """

    def __init__(self, config: ModelConfig, layer: int, *, cross: bool = False) -> None:
        super().__init__()
        self.place, self.window = config.norm_place, config.window_of(layer)
        sandwich = config.norm_place == "sandwich"
        self.input_layernorm = make_norm(config, config.width)
        self.self_attn = Attention(config, layer)
        self.cross_attn_layernorm = make_norm(config, config.width) if cross else None
        self.cross_attn = Attention(config, layer) if cross else None
        self.post_attention_layernorm = make_norm(config, config.width)
        self.mlp = MoE(config) if config.experts else MLP(config)
        self.attn_out_layernorm = make_norm(config, config.width) if sandwich else nn.Identity()
        self.cross_out_layernorm = make_norm(config, config.width) if sandwich and cross else nn.Identity()
        self.mlp_out_layernorm = make_norm(config, config.width) if sandwich else nn.Identity()
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        rope: tuple[Tensor, Tensor] | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """`x` `[batch, time, width]` → same shape."""
        mask = mask.with_window(self.window)
        x = self._add(
            x,
            lambda x: self.self_attn(x, mask, rope, positions, cache),
            self.input_layernorm,
            self.attn_out_layernorm,
        )
        if self.cross_attn is not None:
            assert memory is not None
            assert self.cross_attn_layernorm is not None
            attend, seen = self.cross_attn, memory
            x = self._add(
                x,
                lambda x: attend(x, seen.mask, cache=cache, memory=seen),
                self.cross_attn_layernorm,
                self.cross_out_layernorm,
            )
        return self._add(x, self.mlp, self.post_attention_layernorm, self.mlp_out_layernorm)

    def _add(self, x: Tensor, layer: Callable[[Tensor], Tensor], norm: nn.Module, after: nn.Module) -> Tensor:
        if self.place == "post":
            return norm(x + self.dropout(layer(x)))
        return x + self.dropout(after(layer(norm(x))))
