"""RMSNorm (Zhang & Sennrich 2019, eq. 4) and LayerNorm (Ba et al. 2016, eq. 4), as configured."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.nn.config import ModelConfig


class RMSNorm(nn.Module):
    """`x / rms(x) * weight` over the last dimension (`* (1 + weight)` with `offset`)."""

    def __init__(self, width: int, eps: float, offset: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width) if offset else torch.ones(width))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        weight = 1 + self.weight if self.offset else self.weight
        return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), self.eps)


class LayerNorm(nn.Module):
    """`(x - mean) / std * weight + bias` over the last dimension."""

    def __init__(self, width: int, eps: float, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def make_norm(config: ModelConfig, width: int) -> nn.Module:
    """The configuration's normalization over `width` features."""
    if config.norm == "rms":
        return RMSNorm(width, config.norm_eps, config.norm_offset)
    return LayerNorm(width, config.norm_eps, config.norm_bias)
