"""Dropout (Srivastava et al. 2014) that costs little on a CPU.

torch draws CPU dropout masks with one slow generator and leaves its fused attention kernel when attention
weights are dropped. Here masks are random bytes of a fast generator, so the rate is rounded to 1/256, and
attention works in causal blocks small enough to stay in cache.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUERY_BLOCK = 64  # queries per block of attention with dropout


class Dropout(nn.Module):
    """Zero each element with probability `rate` while training and scale the others by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate) if self.training and self.rate else x


def dropout(x: Tensor, rate: float) -> Tensor:
    """`x` with dropped elements; on CPU torch's default generator gives one seed a call."""
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    return _Dropped.apply(x, *keep_mask(x.shape, rate))


def keep_mask(shape: torch.Size | tuple[int, ...], rate: float) -> tuple[Tensor, float]:
    """uint8 mask, 0 where dropped (probability `rate` rounded to 1/256), else 1; and the scale of what stays.

    A product with uint8 is one fast pass; torch's bool masks take ten times as long.
    """
    threshold = round(rate * 256)
    count = math.prod(shape)
    seed = int(torch.randint(2**63 - 1, ()).item())
    words = np.random.SFC64(seed).random_raw(-(-count // 8))
    keep = words.view(np.uint8)[:count] >= threshold
    return torch.from_numpy(keep.view(np.uint8)).view(shape), 256 / (256 - threshold)


class _Dropped(torch.autograd.Function):
    """`x * keep * scale`, keeping only the byte mask for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return (x * keep).mul_(scale)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (keep,) = ctx.saved_tensors
        return (grads[0] * keep).mul_(ctx.scale), None, None


def attention_with_dropout(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool, rate: float
) -> Tensor:
    """`dropout(softmax(QKᵀ/√d + bias))V` for `[batch, heads, time, head_dim]`; `bias` also bool (allowed).

    With `causal` and no bias, blocks of queries meet only the keys they may see.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query, key, value, bias, rate, is_causal=causal and bias is None
        )
    if bias is None:
        return (
            _CausalDropoutAttention.apply(query, key, value, rate)
            if causal
            else _whole(query, key, value, None, rate)
        )
    return _whole(query, key, value, bias, rate)


def _whole(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, rate: float) -> Tensor:
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else scores + bias
    return dropout(scores.softmax(-1), rate) @ value


class _CausalDropoutAttention(torch.autograd.Function):
    """Causal attention in query blocks; keeps each block's weights and mask for the backward pass."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, rate: float) -> Tensor:
        time = query.shape[2]
        scaled = query * query.shape[-1] ** -0.5
        out = torch.empty_like(query)
        saved = []
        for start in range(0, time, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, time)
            scores = scaled[:, :, start:stop] @ key[:, :, :stop].mT
            size = stop - start
            scores[..., start:] += torch.full((size, size), float("-inf"), dtype=scores.dtype).triu_(1)
            weights = scores.softmax(-1)
            keep, scale = keep_mask(weights.shape, rate)
            out[:, :, start:stop] = (weights * keep) @ value[:, :, :stop]
            saved += [weights, keep]
        out *= scale
        ctx.scale = scale
        ctx.save_for_backward(scaled, key, value, out, *saved)
        return out

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, *grads: Tensor):
        scaled, key, value, out, *saved = ctx.saved_tensors
        # Σ_j dP_j P_j of each query, which the softmax's gradient subtracts, is dO · O also under dropout
        total = (grads[0] * out).sum(-1, keepdim=True)
        grad = grads[0] * ctx.scale
        grad_query = torch.empty_like(scaled)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for start, weights, keep in zip(range(0, scaled.shape[2], QUERY_BLOCK), saved[::2], saved[1::2]):
            stop = start + weights.shape[2]
            part = grad[:, :, start:stop]
            grad_value[:, :, :stop] += (weights * keep).mT @ part
            inner = (part @ value[:, :, :stop].mT).mul_(keep)
            inner = inner.sub_(total[:, :, start:stop]).mul_(weights)
            grad_query[:, :, start:stop] = inner @ key[:, :, :stop]
            grad_key[:, :, :stop] += inner.mT @ scaled[:, :, start:stop]
        return grad_query.mul_(scaled.shape[-1] ** -0.5), grad_key, grad_value, None
