"""Causal attention for training on a CPU: blocks of queries, small enough for its cache, meet their keys.

torch's fused CPU kernel forgets the weights, makes them again for the gradient, and multiplies in float32.
Kept, and in the type of the model, they leave plain matrix products, for which processors are built. Keys
that no query of a block may see cost nothing, and dropout of weights fits in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plait.nn.dropout import keep_mask

BLOCK = 64  # queries
LONGEST = 1024  # of a row without a mask: the kept weights grow with the square of the length
Span = tuple[int, int, int]


def spans_of(time: int, allowed: Tensor | None) -> list[Span]:
    """Of each block of queries: the first key that any of them may see, its first query, and its end.

    Args:
        allowed: see `causal_attention`.
    """
    blocks = [(start, min(start + BLOCK, time)) for start in range(0, time, BLOCK)]
    if allowed is None or torch.compiler.is_compiling():  # a compiled graph knows no values
        return [(0, start, stop) for start, stop in blocks]
    seen = allowed.any(0)[0].to(torch.uint8)
    return [(int(seen[start:stop].amax(0).argmax()), start, stop) for start, stop in blocks]


def keeps_little(spans: list[Span]) -> bool:
    """Whether the weights of these blocks are no more than those of one row of `LONGEST`."""
    return sum((stop - start) * (stop - first) for first, start, stop in spans) <= kept_pairs(LONGEST)


def kept_pairs(time: int) -> int:
    """Weights of a row without a mask, a head."""
    return time * (time + BLOCK) // 2


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    spans: list[Span],
    dropout: float = 0.0,
    bias: Tensor | None = None,
) -> Tensor:
    """`dropout(softmax(QKᵀ/√d))V` over earlier keys and the query's own.

    Args:
        query, key, value: `[batch, heads, time, head_dim]`.
        allowed: bool `[batch or 1, 1, time, time]`, pairs that may meet, none with a later key; None: all but
            those.
        spans: `spans_of` these.
        dropout: probability of dropping a weight.
        bias: what is added to the scores, `[batch or 1, heads, time, time]`; no gradient reaches it.

    Returns:
        `[batch, heads, time, head_dim]`; zeros for a query that may look at nothing.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast("cpu", enabled=False):
        hidden = None if allowed is None else ~allowed
        return _CausalAttention.apply(query, key, value, hidden, bias, spans, dropout)


class _CausalAttention(torch.autograd.Function):
    """Keeps the weights of each block, and what dropout left of them, for the gradient."""

    @staticmethod
    def forward(
        ctx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        hidden: Tensor | None,
        bias: Tensor | None,
        spans: list[tuple[int, int, int]],
        dropout: float,
    ) -> Tensor:
        batch, heads, time, size = query.shape
        q, k, v = (part.reshape(-1, time, size) for part in (query, key, value))
        q = q * size**-0.5
        # as the projection that follows reads it, so that nothing is copied once more
        out = query.new_empty(batch, time, heads, size).transpose(1, 2)
        later = torch.full((BLOCK, BLOCK), float("-inf"), dtype=q.dtype).triu_(1)
        saved, scale = [], 1.0
        for first, start, stop in spans:
            scores = torch.bmm(q[:, start:stop], k[:, first:stop].mT)
            if bias is not None:
                scores.view(batch, heads, stop - start, -1).add_(bias[:, :, start:stop, first:stop])
            if hidden is None:
                scores[:, :, start:] += later[: stop - start, : stop - start]
            else:
                pairs = hidden[:, :, start:stop, first:stop]
                scores.view(batch, heads, stop - start, -1).masked_fill_(pairs, float("-inf"))
            weights = scores.softmax(-1)
            if hidden is not None:  # a softmax of nothing is NaN
                weights.view(batch, heads, stop - start, -1).masked_fill_(pairs.all(-1, keepdim=True), 0.0)
            saved.append(weights)
            if dropout:
                keep, scale = keep_mask(weights.shape, dropout)
                saved.append(keep)
                weights = weights * keep
            out[:, :, start:stop] = torch.bmm(weights, v[:, first:stop]).view(batch, heads, -1, size)
        if dropout:
            out *= scale
        ctx.scale, ctx.each, ctx.spans = scale, 2 if dropout else 1, spans
        ctx.save_for_backward(q, k, v, out, *saved)
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor):
        q, k, v, out, *saved = ctx.saved_tensors
        batch, heads, time, size = out.shape
        # Σ_j dP_j P_j of each query, which the softmax's gradient subtracts, is dO · O also under dropout
        total = (grads[0] * out).sum(-1).reshape(-1, time, 1)
        grad = grads[0].reshape(-1, time, size)
        grad = grad if ctx.scale == 1.0 else grad * ctx.scale
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        for number, (first, start, stop) in enumerate(ctx.spans):
            weights, *keep = saved[number * ctx.each : (number + 1) * ctx.each]
            part = grad[:, start:stop]
            left = weights * keep[0] if keep else weights
            grad_v[:, first:stop].baddbmm_(left.mT, part)
            inner = torch.bmm(part, v[:, first:stop].mT)
            if keep:
                inner *= keep[0]
            inner.sub_(total[:, start:stop]).mul_(weights)
            grad_q[:, start:stop] = torch.bmm(inner, k[:, first:stop])
            grad_k[:, first:stop].baddbmm_(inner.mT, q[:, start:stop])
        shape = (batch, heads, time, size)
        return (
            (grad_q * size**-0.5).view(shape),
            grad_k.view(shape),
            grad_v.view(shape),
            None,
            None,
            None,
            None,
        )
