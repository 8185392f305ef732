"""The feed-forward half of a block: plain (Vaswani et al. 2017, eq. 2) or gated (Shazeer 2020, eq. 5-6)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.nn.config import ModelConfig


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The element-wise function of a configuration's `activation`; relu2 is So et al. 2021."""
    return {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
        "relu2": _SquaredReLU.apply,
    }[name]


class _SquaredReLU(torch.autograd.Function):
    """`max(x, 0)²` in two passes over memory, and two back."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        positive = x.clamp_min(0)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (positive,) = ctx.saved_tensors
        return (grads[0] * positive).mul_(2)


class MLP(nn.Module):
    """`down(act(gate(x)) * up(x))`, or `down(act(up(x)))` without gating."""

    def __init__(self, config: ModelConfig, ffn: int = 0) -> None:
        super().__init__()
        ffn = ffn or config.ffn
        self.gate_proj = nn.Linear(config.width, ffn, bias=config.mlp_bias) if config.gated else None
        self.up_proj = nn.Linear(config.width, ffn, bias=config.mlp_bias)
        self.down_proj = nn.Linear(ffn, config.width, bias=config.mlp_bias)
        self.activation = activation(config.activation)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(x)))
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
