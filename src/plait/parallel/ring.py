"""Ring attention: keys and values travel round the ranks, and each rank attends to those it holds just then.

Liu et al. 2023 (ring attention), with the balanced causal shares of Brandon et al. 2023 (striped attention)
in the form of chunks: a rank holds chunk r and chunk 2n-1-r of 2n, see `plait.parallel.context.zigzag`.
Whatever keys a rank meets, half of the pairs are allowed, so that nobody waits; the others are not computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from plait.nn.attention import Mask
from plait.parallel.collectives import Group

KEYS, GRADIENTS = 0, 1  # tags of what travels
aten = torch.ops.aten


def ring_attention(group: Group) -> Callable[..., Tensor]:
    """A core for causal attention over whole rows, zig-zag over the ranks of a group of at least two.

    Memory grows with time / ranks: scores exist only inside of fused kernels. Keys and values travel with
    their own number of heads while the kernels run, and in the backward pass their gradients travel with
    them, home in the end. Blocks are put together in at least float32 by their log-sum-exp (Dao et al. 2022,
    section 3.1); float64 stays float64. On a GPU the kernel is torch's flash attention, for half precision
    only; written after torch's own ring attention, that path has not been run yet.

    Returns:
        `core(query, key, value, mask, *, softcap, dropout)`: query `[batch, heads, time / ranks, head_dim]`,
        key and value `[batch, kv_heads, time / ranks, head_dim]` → the shape of query. It raises ValueError
        for what a ring cannot do; `unfit` tells in advance.
    """

    def core(
        query: Tensor, key: Tensor, value: Tensor, mask: Mask, *, softcap: float = 0.0, dropout: float = 0.0
    ) -> Tensor:
        query, key, value = lowered(query, key, value)
        if reason := unfit(query, key, mask, softcap=softcap, dropout=dropout):
            raise ValueError(f"ring attention cannot do this: {reason}; use gathered_attention")
        with torch.autocast(query.device.type, enabled=False):
            return _Ring.apply(query, key, value, group)

    return core


def unfit(query: Tensor, key: Tensor, mask: Mask, *, softcap: float = 0.0, dropout: float = 0.0) -> str:
    """Why the ring cannot do an attention of these; empty where it can."""
    if not (mask.plain and mask.causal):
        return "the mask is more than causal attention over whole rows"
    if softcap or dropout:
        return f"softcap={softcap} and dropout={dropout} must both be 0"
    if query.shape[2] != key.shape[2] or query.shape[2] % 2:
        return f"a rank's {query.shape[2]} queries and {key.shape[2]} keys are not the same two chunks"
    device, dtype, size = query.device.type, query.dtype, query.shape[3]
    if device == "cuda" and dtype in (torch.float16, torch.bfloat16) and size % 8 == 0 and size <= 256:
        return ""
    return "" if device == "cpu" else f"no kernel on {device} for {dtype} and head_dim {size}"


def lowered(*parts: Tensor) -> list[Tensor]:
    """Tensors in the type that autocast would give the product of them; as they are without autocast."""
    device = parts[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(parts)
    return [part.to(torch.get_autocast_dtype(device)) for part in parts]


class _Ring(torch.autograd.Function):
    """At step s a rank holds the keys of the rank s places before it."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, group: Group) -> Tensor:
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        heads, half = query.shape[1], query.shape[2] // 2
        held = torch.stack((key, value))
        out, lse = _attend(query, *_repeated(held, heads), causal=True)
        out = out.to(torch.promote_types(query.dtype, torch.float32))
        for step in range(ranks):
            arriving = _shift(held, group, KEYS) if step < ranks - 1 else None
            if step:
                some, keys = _meeting(rank, (rank - step) % ranks, half)
                theirs = _repeated(held[:, :, :, keys], heads)
                part, part_lse = _attend(query[:, :, some].contiguous(), *theirs, causal=False)
                both = torch.logaddexp(lse[:, :, some], part_lse)
                out[:, :, some].lerp_(part.to(out.dtype), (part_lse - both).exp()[..., None].to(out.dtype))
                lse[:, :, some] = both
            if arriving is not None:
                held = arriving()
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.group = group
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor):
        query, key, value, out, lse = ctx.saved_tensors
        ranks, rank = dist.get_world_size(ctx.group), dist.get_rank(ctx.group)
        heads, kv_heads, half = query.shape[1], key.shape[1], query.shape[2] // 2
        wide = torch.promote_types(query.dtype, torch.float32)
        held = torch.stack((key, value))
        grad_query = torch.zeros_like(query, dtype=wide)
        travelling = None
        for step in range(ranks):
            arriving = _shift(held, ctx.group, KEYS) if step < ranks - 1 else None
            some, keys = _meeting(rank, (rank - step) % ranks, half)
            theirs = _repeated(held[:, :, :, keys], heads)
            ours = tuple(part[:, :, some].contiguous() for part in (query, grads[0], out, lse))
            of_query, *of_held = _attend_backward(ours, *theirs, causal=step == 0)
            grad_query[:, :, some] += of_query
            of_held = torch.stack(of_held).unflatten(2, (kv_heads, -1)).sum(3, dtype=wide)
            if travelling is None:
                grad_held = of_held
            else:
                grad_held = travelling()
                grad_held[:, :, :, keys] += of_held
            # each block's gradient goes where the block goes, and from its last stop home
            travelling = _shift(grad_held, ctx.group, GRADIENTS)
            if arriving is not None:
                held = arriving()
        assert travelling is not None
        grad_key, grad_value = travelling().unbind()
        return grad_query.to(query.dtype), grad_key.to(key.dtype), grad_value.to(value.dtype), None


def _meeting(rank: int, owner: int, half: int) -> tuple[slice, slice]:
    """Which of a rank's queries meet which of the owner's keys: the pairs between chunks that are allowed.

    Among its own tokens, which are in order, a rank's pairs are causal. Of another rank with chunk c and
    chunk 2n-1-c, one that is before this rank has one chunk that precedes both of ours; one that is after has
    two that precede the second of ours.
    """
    if owner == rank:
        return slice(None), slice(None)
    return (slice(None), slice(half)) if owner < rank else (slice(half, None), slice(None))


def _repeated(held: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Key and value of `[2, batch, kv_heads, time, head_dim]` with as many heads as the query."""
    times = heads // held.shape[2]
    key, value = held.repeat_interleave(times, dim=2) if times > 1 else held.contiguous()
    return key, value


def _shift(sent: Tensor, group: Group, tag: int) -> Callable[[], Tensor]:
    """Begin to send a tensor to the next rank; the function returned waits for that of the rank before."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    sent = sent.contiguous()
    received = torch.empty_like(sent)
    works = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, sent, group=group, tag=tag, group_peer=(rank + 1) % ranks),
            dist.P2POp(dist.irecv, received, group=group, tag=tag, group_peer=(rank - 1) % ranks),
        ]
    )

    def wait() -> Tensor:
        for work in works:
            work.wait()
        return received

    return wait


def _attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """One block: its output and the log-sum-exp of its scores, `[batch, heads, time_q]`."""
    if query.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal)
    return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal)[:2]


def _attend_backward(
    ours: tuple[Tensor, ...], key: Tensor, value: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value of one block, of which ours are the query and three of its output.

    With the gradient, the output and its log-sum-exp over *all* keys instead of the block's own, the weights
    that the kernel makes again are those of the whole softmax, and so are the gradients.
    """
    query, grad, out, lse = ours
    given = (grad, query, key, value, out, lse)
    if query.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(*given, 0.0, causal)
    lengths = (None, None, query.shape[2], key.shape[2])  # no packed sequences
    random = torch.empty(2, dtype=torch.int64, device=query.device)  # read under dropout only
    return aten._scaled_dot_product_flash_attention_backward(*given, *lengths, 0.0, causal, random, random)
