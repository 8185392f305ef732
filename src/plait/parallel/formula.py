"""What a training step must send under a layout, by formula: calls and bytes of one rank, none of it run.

With b rows of a micro-batch, m micro-batches, t tokens in a row, w features, V tokens in the vocabulary, E
experts of which a token takes k, h heads and g key heads of size d, and on this rank L layers with P numbers
(of a matrix cut over tp, one part); s is bytes of a number: a weight's, a hidden state's, or a product's.
Where an axis is 1, what runs along it is not sent. Payloads are counted as by `plait.parallel.cost.Meter`.

| along | what | operation | numbers in a step |
| --- | --- | --- | --- |
| dp·cp·ep | gradients (of experts along dp·cp) | all-reduce | P, or P/fsdp |
| fsdp | parameters, of each block in forward and in backward, of the rest once | all-gather | 2m · P |
| fsdp | parameters where there is a pipeline | all-gather | P, each time a stage is gathered |
| fsdp | gradients | reduce-scatter | P |
| tp | hidden states in and out of attention and feed-forward, of embedding, into head | all-gather | m (4L+2) · btw/cp |
| tp | the same | reduce-scatter | m (4L+2) · btw/cp |
| tp | a maximum, two sums, a choice of each position | all-reduce | m · 4bt/cp |
| tp | gradients of norms, routers, and keys of fewer heads than ranks | all-reduce | these |
| cp ring | keys and values twice, their gradients once, round the ring | send | mL · 2btdg/(cp·tp) · (3cp-2) |
| cp gather | keys and values, and their gradients | all-gather, reduce-scatter | mL · 2btdg/tp each |
| cp exchange | queries, keys, values; results; all their gradients | all-to-all | mL · 2btd(2h+2g)/(cp·tp) |
| cp | a router's sums for the balancing loss | all-reduce | mL · b(1+2E) |
| ep | tokens to experts and back, and gradients | all-to-all | mL · 4btk/cp · w |
| ep | how many tokens | all-to-all | mL · E |
| pp | hidden states, and their gradients, at each boundary to another rank | send | m · btw/(cp·tp) each |
| pp | the gradient of a tied embedding, between first and last stage | send | Vw/tp |
| world | sums of the loss and loads of experts; the square of the gradient norm | all-reduce | 4 + E · layers; 1 |

`fsdp` fills up dimension 0 of each parameter to a multiple of its ranks (Zhao et al. 2023). The first step
of a pipeline sends a few numbers more, by which torch's stages agree on what they will send.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from plait.nn.config import ModelConfig
from plait.parallel.apply import HALF, _sharding
from plait.parallel.cost import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    REDUCE_SCATTER,
    SEND,
    UNSHARD,
    Costs,
    Count,
    actions_of,
    axes_name,
)
from plait.parallel.data import BUCKET
from plait.parallel.layout import AXES, Layout
from plait.parallel.part import stage_model
from plait.parallel.pieces import Sharding, chunk, even
from plait.parallel.pipeline import owner_of, split_layers, stages_of
from plait.parallel.placed import EMBEDDING, FROZEN, HEAD

INTEGER = 8  # bytes
Sent = tuple[tuple[str, ...], str, int, int]  # axes, operation, calls, bytes of one call


@dataclass(frozen=True)
class Work:
    """What one rank has to do in a step.

    Attributes:
        rows: of a micro-batch of this rank.
        microbatches: of this rank.
        context: tokens in a row, over all ranks of cp.
        dtype: as `plait.parallel.apply.apply_layout` takes it.
        packed: whether several documents share a row, so that batches have segments.
        smoothed: whether the loss has label smoothing.
        pairs: of (token, expert), how many left this rank and how many arrived, summed over layers and
            micro-batches; None: as many as tokens choose, and spread evenly.
    """

    rows: int
    microbatches: int
    context: int
    dtype: str = "float32"
    packed: bool = False
    smoothed: bool = False
    pairs: tuple[int, int] | None = None


def expected(config: ModelConfig, layout: Layout, work: Work, at: Mapping[str, int] | None = None) -> Costs:
    """Calls and bytes of `forward_backward` and `clip` of one rank in a step that is not the first.

    Args:
        at: the rank's place, by axis; 0 on those left out. Places differ in their pipeline stages, and in
            who holds the larger part of what does not divide.

    Returns:
        By axes and operation, what is sent; what is not sent is left out.
    """
    rank = _Rank(config, layout, work, dict.fromkeys(AXES, 0) | dict(at or {}))
    result: Costs = {}
    for kind in (_copies, _shares, _tensor, _context, _router, _experts, _pipeline, _world):
        for axes, operation, calls, size in kind(rank):
            name = axes_name(layout, axes)
            if name and calls:
                key = name, operation
                result[key] = result.get(key, Count()) + Count(calls, calls * size)
    return result


@dataclass(frozen=True)
class _Parameter:
    """One of a stage's parameters, as tp and ep leave it; `block`: of which layer, None for the rest."""

    shape: tuple[int, ...]
    sharding: Sharding
    block: str | None
    tied: bool

    def numbers(self, rows: int | None = None) -> int:
        """How many numbers it has, or has with so many rows."""
        return math.prod((self.shape[0] if rows is None else rows, *self.shape[1:]))


@dataclass(frozen=True)
class _Rank:
    """A rank at a place, what it holds and how large the numbers are that it sends."""

    config: ModelConfig
    layout: Layout
    work: Work
    at: dict[str, int]

    @cached_property
    def stages(self) -> list[int]:
        return stages_of(self.layout, self.at["pp"])

    @cached_property
    def layers(self) -> dict[int, range]:
        """Of each stage here."""
        ranges = split_layers(self.config, self.layout.total_stages)
        return {stage: ranges[stage] for stage in self.stages}

    @property
    def depth(self) -> int:
        """Layers here."""
        return sum(map(len, self.layers.values()))

    @property
    def first(self) -> bool:
        return 0 in self.layers

    @property
    def last(self) -> bool:
        return self.layout.total_stages - 1 in self.layers

    @property
    def weight(self) -> int:
        """Bytes of a weight, and of its gradient."""
        return 8 if self.work.dtype == "float64" else 4

    @property
    def product(self) -> int:
        """Bytes of what a matrix product gives."""
        return 2 if self.work.dtype in HALF else self.weight

    @property
    def hidden(self) -> int:
        """Bytes of a hidden state: autocast keeps them wide, `fully_shard` does not."""
        return self.product if self.layout.fsdp > 1 else self.weight

    @property
    def wide(self) -> int:
        """Bytes of what is at least float32."""
        return max(4, self.product)

    @property
    def tokens(self) -> int:
        """Of a micro-batch, that the ranks of a tp group share."""
        return self.work.rows * self.work.context // self.layout.cp

    def parameters(self, stage: int) -> Iterator[_Parameter]:
        """Those with gradients, in the order of the model."""
        config, layout = self.config, self.layout
        last = stage == layout.total_stages - 1
        with torch.device("meta"):
            model = stage_model(config, self.layers[stage], first=stage == 0, last=last)
            model.tie()
        for name, parameter in model.named_parameters():
            if name.endswith(FROZEN):
                continue
            tied = config.tied and layout.pp > 1 and name in (EMBEDDING, HEAD)
            sharding = _sharding(EMBEDDING if tied else name, config, layout)
            shape = list(parameter.shape)
            for axis in ("ep", "tp"):
                dim = getattr(sharding, axis)
                if dim is not None:
                    shape[dim] = even(shape[dim], getattr(layout, axis), self.at[axis])[1]
            block = name.split(".")[1] if name.startswith("layers.") else None
            yield _Parameter(tuple(shape), sharding, block, tied)

    def own(self, parameter: _Parameter) -> int:
        """Numbers of a parameter that fsdp leaves to this rank."""
        return parameter.numbers(chunk(parameter.shape[0], self.layout.fsdp, self.at["fsdp"])[1])


def _copies(rank: _Rank) -> Iterator[Sent]:
    """Gradients are summed over those who hold copies, in buckets; see `Placed._reduce`."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for stage in rank.stages:
        for parameter in rank.parameters(stage):
            cut = {axis for axis in ("ep", "tp") if getattr(parameter.sharding, axis) is not None}
            axes = tuple(axis for axis in ("dp", "ep", "cp", "tp") if axis not in cut)
            alike.setdefault(axes, []).append(rank.own(parameter))
    for axes, sizes in alike.items():
        buckets = [0]
        for number, size in enumerate(sizes):
            if number and buckets[-1] + size > BUCKET:
                buckets.append(0)
            buckets[-1] += size
        for bucket in buckets:
            yield axes, ALL_REDUCE, 1, bucket * rank.weight


def _shares(rank: _Rank) -> Iterator[Sent]:
    """`fully_shard` gathers the parameters of a block together, and scatters their gradients so."""
    layout, micro = rank.layout, rank.work.microbatches
    if layout.fsdp == 1:
        return
    for stage in rank.stages:
        groups: dict[str | None, int] = {}
        for parameter in rank.parameters(stage):
            rows = -(-parameter.shape[0] // layout.fsdp) * layout.fsdp
            groups[parameter.block] = groups.get(parameter.block, 0) + parameter.numbers(rows)
        for block, size in groups.items():
            if layout.pp > 1:
                plan = actions_of(layout, micro)[rank.at["pp"]]
                times = sum(action.kind == UNSHARD and action.stage == stage for action in plan)
            else:
                times = micro * (1 if block is None else 2)
            yield ("fsdp",), ALL_GATHER, times, size * rank.product
            yield ("fsdp",), REDUCE_SCATTER, 1, size * max(4, rank.product)


def _tensor(rank: _Rank) -> Iterator[Sent]:
    """What is gathered in a forward pass is scattered in the backward pass, and the other way round."""
    micro, depth = rank.work.microbatches, rank.depth
    into, out = 2 * depth + rank.last, 2 * depth  # matrices' inputs are gathered, outputs scattered
    mixed = depth if rank.config.experts else 0  # outputs of experts are as wide as their inputs
    for count, size in ((into + rank.first + mixed, rank.hidden), (out - mixed, rank.product)):
        for operation in (ALL_GATHER, REDUCE_SCATTER):
            yield ("tp",), operation, micro * count, rank.tokens * rank.config.width * size
    if rank.last:
        sums = 4 if rank.work.smoothed else 3  # the maximum among them
        yield ("tp",), ALL_REDUCE, micro * sums, rank.tokens * rank.wide
        yield ("tp",), ALL_REDUCE, micro, rank.tokens * INTEGER


def _context(rank: _Rank) -> Iterator[Sent]:
    """Attention over rows that are spread, see `plait.parallel.context`."""
    config, layout, work = rank.config, rank.layout, rank.work
    ranks, times = layout.cp, work.microbatches * rank.depth
    heads, kv_heads = config.heads // layout.tp, max(config.kv_heads // layout.tp, 1)
    head = rank.tokens * config.head_dim  # numbers of one head
    kind = _attention(config, layout, packed=work.packed)
    if kind == "ring":
        both = 2 * kv_heads * head
        yield ("cp",), SEND, 2 * times * (ranks - 1), both * rank.product
        yield ("cp",), SEND, times * ranks, both * rank.wide
        return
    if kind == "gather":
        both = 2 * kv_heads * head * ranks * rank.product
        yield ("cp",), ALL_GATHER, times, both
        yield ("cp",), REDUCE_SCATTER, times, both
    else:
        repeated = math.lcm(kv_heads, ranks)
        yield ("cp",), ALL_TO_ALL, 2 * times, (heads + 2 * repeated) * head * rank.product
        yield ("cp",), ALL_TO_ALL, 2 * times, heads * head * rank.product
    yield from _masks(rank, plain=_plain(config, packed=work.packed), gathers=kind == "gather")


def _masks(rank: _Rank, *, plain: bool, gathers: bool) -> Iterator[Sent]:
    """Positions and segments of all keys, once for all layers that share a window."""
    work = rank.work
    rows = 1 if plain else work.rows  # without positions of their own all rows are alike
    lists = 0 if plain and not gathers else 2 if work.packed else 1
    for layers in rank.layers.values():
        masks = len({rank.config.window_of(layer) for layer in layers})
        yield ("cp",), ALL_GATHER, work.microbatches * masks * lists, rows * work.context * INTEGER


def _plain(config: ModelConfig, *, packed: bool) -> bool:
    return not (packed or config.window or config.position in ("alibi", "t5"))


def _attention(config: ModelConfig, layout: Layout, *, packed: bool) -> str:
    """How rows that are spread attend: what `auto` stands for."""
    if layout.attention != "auto":
        return layout.attention
    dropout = config.dropout if config.attn_dropout < 0 else config.attn_dropout
    fits = _plain(config, packed=packed) and not config.attn_softcap and not dropout
    return "ring" if fits else "gather"


def _router(rank: _Rank) -> Iterator[Sent]:
    """Sums over a sequence for the balancing loss, and choices of a sequence for the capacity."""
    config, work = rank.config, rank.work
    times = work.microbatches * rank.depth if config.experts else 0
    if config.balance_loss:
        yield ("cp",), ALL_REDUCE, times, work.rows * (1 + 2 * config.experts) * rank.wide
    if config.capacity_factor:
        tokens = work.rows * work.context
        yield ("cp",), ALL_GATHER, times, tokens * config.experts_per_token * INTEGER
        yield ("cp",), ALL_GATHER, times, tokens  # which count, a byte each


def _experts(rank: _Rank) -> Iterator[Sent]:
    """Tokens travel to their experts and back, and their gradients the other way."""
    config = rank.config
    times = rank.work.microbatches * rank.depth if config.experts else 0
    if not times:
        return
    chosen = times * rank.tokens * config.experts_per_token
    left, arrived = rank.work.pairs or (chosen, chosen)
    yield ("ep",), ALL_TO_ALL, times, config.experts * INTEGER
    bytes_each_way = config.width * (rank.hidden + rank.product)
    yield from _spread(("ep",), ALL_TO_ALL, 4 * times, (left + arrived) * bytes_each_way)


def _spread(axes: tuple[str, ...], operation: str, calls: int, total: int) -> Iterator[Sent]:
    """Calls that differ in size, of which the sum is known."""
    each, more = divmod(total, calls)
    yield axes, operation, calls - 1, each
    yield axes, operation, 1, each + more


def _pipeline(rank: _Rank) -> Iterator[Sent]:
    """Hidden states to the next stage, gradients to the one before, where those are on another rank."""
    layout, config = rank.layout, rank.config
    if layout.pp == 1:
        return
    size = rank.tokens // layout.tp * config.width * rank.hidden
    for stage in rank.stages:
        for other in (stage - 1, stage + 1):
            if 0 <= other < layout.total_stages and owner_of(layout, other) != rank.at["pp"]:
                yield ("pp",), SEND, rank.work.microbatches, size
        if owner_of(layout, 0) != owner_of(layout, layout.total_stages - 1):
            for parameter in rank.parameters(stage):
                if parameter.tied:
                    yield ("pp",), SEND, 1, rank.own(parameter) * rank.weight


def _world(rank: _Rank) -> Iterator[Sent]:
    """Sums of the loss with the loads of all experts, and the square of the gradient norm; float64."""
    loads = rank.config.layers * rank.config.experts
    yield AXES, ALL_REDUCE, 1, (4 + loads) * 8
    yield AXES, ALL_REDUCE, 1, 8
