"""One Transformer layer: attention and feed-forward, each with its residual and norm."""

from __future__ import annotations

from torch import Tensor, nn

from plait.nn.attention import Attention, KVCache, Mask
from plait.nn.config import ModelConfig
from plait.nn.dropout import Dropout
from plait.nn.mlp import MLP
from plait.nn.moe import MoE
from plait.nn.norm import make_norm


class Block(nn.Module):
    """pre: `x + f(norm(x))` · post: `norm(x + f(x))` · sandwich: `x + norm(f(norm(x)))`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.place, self.window = config.norm_place, config.window_of(layer)
        self.input_layernorm = make_norm(config, config.width)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = make_norm(config, config.width)
        self.mlp = MoE(config) if config.experts else MLP(config)
        sandwich = config.norm_place == "sandwich"
        self.attn_out_layernorm = make_norm(config, config.width) if sandwich else nn.Identity()
        self.mlp_out_layernorm = make_norm(config, config.width) if sandwich else nn.Identity()
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        rope: tuple[Tensor, Tensor] | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """`x` `[batch, time, width]` → same shape."""
        mask = mask.with_window(self.window)
        if self.place == "post":
            x = self.input_layernorm(x + self.dropout(self.self_attn(x, mask, rope, positions, cache)))
            return self.post_attention_layernorm(x + self.dropout(self.mlp(x)))
        attended = self.self_attn(self.input_layernorm(x), mask, rope, positions, cache)
        x = x + self.dropout(self.attn_out_layernorm(attended))
        return x + self.dropout(self.mlp_out_layernorm(self.mlp(self.post_attention_layernorm(x))))
