"""Dropout (Srivastava et al. 2014) that costs little on a CPU.

torch draws CPU dropout masks with one slow generator and leaves its fused attention kernel when attention
weights are dropped. Here masks are random bytes of a fast generator, so the rate is rounded to 1/256, and
attention works in causal blocks small enough to stay in cache.
"""

from __future__ import annotations

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
    drop, scale = drop_mask(x.shape, rate)
    return (x * scale).masked_fill(drop, 0.0)


def drop_mask(shape: torch.Size | tuple[int, ...], rate: float) -> tuple[Tensor, float]:
    """Bool mask, true where dropped (probability `rate` rounded to 1/256), and the scale of what is kept."""
    threshold = round(rate * 256)
    count = int(np.prod(shape))
    seed = int(torch.randint(2**63 - 1, ()).item())
    words = np.random.SFC64(seed).random_raw(-(-count // 8))
    drop = torch.from_numpy(words.view(np.uint8)[:count].reshape(shape) < threshold)
    return drop, 256 / (256 - threshold)


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
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, rate: float) -> Tensor:
        time, scale = query.shape[2], query.shape[-1] ** -0.5
        out = torch.empty_like(query)
        saved = []
        for start in range(0, time, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, time)
            scores = (query[:, :, start:stop] * scale) @ key[:, :, :stop].mT
            future = torch.ones(stop - start, stop - start, dtype=torch.bool).triu_(1)
            scores[..., start:].masked_fill_(future, float("-inf"))
            weights = scores.softmax(-1)
            drop, kept = drop_mask(weights.shape, rate)
            out[:, :, start:stop] = weights.masked_fill(drop, 0.0) @ value[:, :, :stop]
            saved += [weights, drop]
        out *= kept
        ctx.kept = kept
        ctx.save_for_backward(query, key, value, out, *saved)
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor):
        query, key, value, out, *saved = ctx.saved_tensors
        (grad,) = grads
        scale = query.shape[-1] ** -0.5
        # Σ_j dP_j P_j of each query, which the softmax's gradient subtracts, is dO · O also under dropout
        total = (grad * out).sum(-1, keepdim=True)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for start in range(0, query.shape[2], QUERY_BLOCK):
            weights, drop, saved = saved[0], saved[1], saved[2:]
            stop = start + weights.shape[2]
            part = grad[:, :, start:stop] * ctx.kept
            grad_value[:, :, :stop] += weights.masked_fill(drop, 0.0).mT @ part
            inner = (part @ value[:, :, :stop].mT).masked_fill_(drop, 0.0)
            inner = inner.sub_(total[:, :, start:stop]).mul_(weights)
            grad_query[:, :, start:stop] = (inner @ key[:, :, :stop]) * scale
            grad_key[:, :, :stop] += inner.mT @ (query[:, :, start:stop] * scale)
        return grad_query, grad_key, grad_value, None
