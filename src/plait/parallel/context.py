"""Context parallelism: attention over rows whose tokens are spread over the ranks of a process group.

Everything else in a Transformer works token by token. Each rank passes its tokens' `positions` (those of
`zigzag`, or its part of a packed row's own) and puts one of these cores in the place of `Attention.core`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from plait.nn.attention import Mask, fast_attention
from plait.parallel.collectives import Group, all_gather, all_to_all
from plait.parallel.ring import lowered, ring_attention, unfit

KINDS = ("auto", "ring", "gather", "exchange")
Core = Callable[..., Tensor]


def zigzag(time: int, ranks: int, rank: int) -> Tensor:
    """Which tokens of a row of `time` a rank holds: int64 `[time / ranks]`, in ascending order.

    Of 2n chunks rank r has the chunks r and 2n-1-r: an early one, whose queries see little, and a late one,
    whose queries see much, so that causal work is the same for all (Llama 3 report 2024, section 3.3.2).

    Raises:
        ValueError: `time` cannot be cut into 2 · ranks equal chunks.
    """
    if time % (2 * ranks):
        raise ValueError(
            f"{time} tokens cannot be cut into 2 chunks for each of {ranks} ranks; "
            f"use a context that is a multiple of {2 * ranks}"
        )
    chunks = torch.arange(time).view(2 * ranks, -1)
    return torch.cat((chunks[rank], chunks[2 * ranks - 1 - rank]))


def unzigzag(x: Tensor, dim: int, ranks: int) -> Tensor:
    """Put in order along `dim` (not negative) what the ranks' parts, joined in rank order, hold."""
    first, second = x.unflatten(dim, (ranks, 2, -1)).unbind(dim + 1)
    return torch.cat((first, second.flip(dim)), dim).flatten(dim, dim + 1)


def context_core(group: Group, kind: str = "auto") -> Core:
    """What to put in the place of `Attention.core` where rows are spread zig-zag over a group.

    Args:
        kind: auto, ring: a ring, which needs the least memory, where it can do what is asked (see
            `plait.parallel.ring.unfit`), else gather. gather: `gathered_attention`. exchange:
            `exchanged_attention`. All ranks must be asked for the same, as they are when they hold parts of
            the same rows.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is none of {', '.join(KINDS)}")
    if dist.get_world_size(group) == 1:
        return fast_attention
    if kind == "exchange":
        return exchanged_attention(group)
    gathered, ring = gathered_attention(group), ring_attention(group)
    if kind == "gather":
        return gathered

    def core(
        query: Tensor, key: Tensor, value: Tensor, mask: Mask, *, softcap: float = 0.0, dropout: float = 0.0
    ) -> Tensor:
        query, key, value = lowered(query, key, value)
        suits = not unfit(query, key, mask, softcap=softcap, dropout=dropout)
        return (ring if suits else gathered)(query, key, value, mask, softcap=softcap, dropout=dropout)

    return core


def gathered_attention(group: Group) -> Core:
    """A core that gathers the keys and values of all ranks (Llama 3 report 2024, section 3.3.2).

    It knows every mask, bias, soft cap and dropout. Memory grows with time for keys, and with time² / ranks
    for the mask, which torch's kernels want in full.

    Returns:
        `core(query, key, value, mask, *, softcap, dropout)`: query `[batch, heads, time / ranks, head_dim]`,
        key and value `[batch, kv_heads, time / ranks, head_dim]` → the shape of query. Positions and segments
        of the mask are those of this rank's tokens; without positions they are zig-zag. ValueError for keys
        that are not the queries' own tokens.
    """

    def core(
        query: Tensor, key: Tensor, value: Tensor, mask: Mask, *, softcap: float = 0.0, dropout: float = 0.0
    ) -> Tensor:
        mask = _keys_of_all(mask, query, key, group)
        query, key, value = lowered(query, key, value)
        key, value = all_gather(torch.stack((key, value)), 3, group)
        return fast_attention(query, key, value, mask, softcap=softcap, dropout=dropout)

    return core


def exchanged_attention(group: Group) -> Core:
    """A core that gives each rank whole rows of some heads, and gives back (Jacobs et al. 2023, Ulysses).

    It knows every mask, bias, soft cap and dropout, and is attention in one process but for the number of
    heads. Key and value heads that the ranks cannot share evenly are repeated.

    Returns:
        `core(query, key, value, mask, *, softcap, dropout)` with the shapes and the mask of
        `gathered_attention`. ValueError where the ranks do not divide the heads, and for keys that are not
        the queries' own tokens.
    """
    ranks = dist.get_world_size(group)
    each = [1] * ranks

    def core(
        query: Tensor, key: Tensor, value: Tensor, mask: Mask, *, softcap: float = 0.0, dropout: float = 0.0
    ) -> Tensor:
        heads, kv_heads = query.shape[1], key.shape[1]
        if heads % ranks:
            raise ValueError(
                f"{heads} heads cannot be exchanged among {ranks} ranks, which do not divide them; "
                "use gathered_attention, or ring_attention where it fits"
            )
        mask = _rows_in_order(mask, query, key, group)
        query, key, value = lowered(query, key, value)
        times = math.lcm(kv_heads, ranks) // kv_heads
        if times > 1:
            key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
        # [batch, ranks, its heads, time / ranks, head_dim], to be sent rank by rank
        parts = [part.unflatten(1, (ranks, -1)) for part in (query, key, value)]
        received = all_to_all(torch.cat(parts, dim=2).transpose(0, 1), each, each, group)
        rows = unzigzag(received.movedim(0, 2).flatten(2, 3), 2, ranks)
        query, key, value = rows.split([part.shape[2] for part in parts], dim=1)
        out = fast_attention(query, key, value, mask, softcap=softcap, dropout=dropout)
        first, second = out.unflatten(2, (2, ranks, -1)).unbind(2)
        sent = torch.cat((first, second.flip(2)), dim=3).movedim(2, 0)
        return all_to_all(sent, each, each, group).transpose(0, 1).flatten(1, 2)

    return core


def _once_per_mask(
    make: Callable[[Mask, Tensor, Group], Mask],
) -> Callable[[Mask, Tensor, Tensor, Group], Mask]:
    """Call `make` once for all layers that share a mask; what it made lives as long as that mask does.

    What a mask derives from its positions (`Mask.dense`, `Mask.added`) is then also made once.
    """
    made = WeakIdKeyDictionary()

    def get(mask: Mask, query: Tensor, key: Tensor, group: Group) -> Mask:
        if mask.positions_k is not None or query.shape[2] != key.shape[2]:
            raise ValueError(
                f"context parallelism attends to the keys of its own {query.shape[2]} queries, but there are "
                f"{key.shape[2]} or a cache; run with cp=1"
            )
        if mask not in made:
            made[mask] = {}
        known = made[mask]
        what = (group, query.shape[1], query.shape[2], query.device)
        if what not in known:
            known[what] = make(mask, query, group)
        return known[what]

    return get


@_once_per_mask
def _keys_of_all(mask: Mask, query: Tensor, group: Group) -> Mask:
    """The mask of this rank's queries and all ranks' keys, in rank order: masks compare positions only."""
    if mask.plain and not mask.causal:
        return replace(mask)  # what is kept as long as the mask must not keep the mask
    positions = mask.positions_q
    if positions is None:
        ranks = dist.get_world_size(group)
        positions = zigzag(query.shape[2] * ranks, ranks, dist.get_rank(group)).to(query.device)[None]
    segments = mask.segments_q
    return replace(
        mask,
        positions_q=positions,
        positions_k=all_gather(positions, 1, group),
        segments_k=None if segments is None else all_gather(segments, 1, group),
    )


@_once_per_mask
def _rows_in_order(mask: Mask, query: Tensor, group: Group) -> Mask:
    """The mask of whole rows in their order, with the bias of this rank's share of the heads."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    bias, share = mask.bias, query.shape[1] // ranks

    def rows(x: Tensor | None) -> Tensor | None:
        return None if x is None else unzigzag(all_gather(x, 1, group), 1, ranks)

    def of_share(positions_q: Tensor, positions_k: Tensor) -> Tensor:
        assert bias is not None
        return bias(positions_q, positions_k)[:, rank * share : (rank + 1) * share]

    return replace(
        mask,
        positions_q=rows(mask.positions_q),
        segments_q=rows(mask.segments_q),
        bias=None if bias is None else of_share,
    )
