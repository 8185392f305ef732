"""Collectives that autograd can walk through, on plain tensors: each is the other's gradient.

Sums over ranks stay sums. Every tensor on the ranks of a group has the same shape, except in `all_to_all`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup
# torch 2.13 gave them new names and warns of the old ones
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def all_gather(x: Tensor, dim: int, group: Group) -> Tensor:
    """The ranks' parts joined along `dim`, in rank order; its gradient is `reduce_scatter`."""
    return _AllGather.apply(x, dim, group)


def reduce_scatter(x: Tensor, dim: int, group: Group) -> Tensor:
    """This rank's part, along `dim`, of the sum over ranks; its gradient is `all_gather`."""
    return _ReduceScatter.apply(x, dim, group)


def all_reduce(x: Tensor, group: Group) -> Tensor:
    """The sum over ranks, of which each rank then computes the same; its gradient is the identity."""
    return _AllReduce.apply(x, group)


def all_to_all(x: Tensor, output_splits: Sequence[int], input_splits: Sequence[int], group: Group) -> Tensor:
    """Send `input_splits[r]` rows to each rank r and receive `output_splits[r]`; dimension 0."""
    return _AllToAll.apply(x, list(output_splits), list(input_splits), group)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return _gathered(x, dim, group)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return _scattered(grads[0], ctx.dim, ctx.group), None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return _scattered(x, dim, group)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return _gathered(grads[0], ctx.dim, ctx.group), None, None


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: Group) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return grads[0], None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, output_splits: list[int], input_splits: list[int], group: Group) -> Tensor:
        ctx.splits, ctx.group = (output_splits, input_splits), group
        return _exchanged(x, output_splits, input_splits, group)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        output_splits, input_splits = ctx.splits
        return _exchanged(grads[0], input_splits, output_splits, ctx.group), None, None, None


def _gathered(x: Tensor, dim: int, group: Group) -> Tensor:
    ranks = dist.get_world_size(group)
    joined = x.new_empty(ranks * x.shape[0], *x.shape[1:])
    _all_gather(joined, x.contiguous(), group=group)
    return joined if dim == 0 else torch.cat(joined.chunk(ranks), dim)


def _scattered(x: Tensor, dim: int, group: Group) -> Tensor:
    ranks = dist.get_world_size(group)
    parts = x.chunk(ranks, dim)
    out = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
    _reduce_scatter(out, torch.cat(parts), group=group)
    return out


def _exchanged(x: Tensor, output_splits: list[int], input_splits: list[int], group: Group) -> Tensor:
    out = x.new_empty(sum(output_splits), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), output_splits, input_splits, group=group)
    return out
