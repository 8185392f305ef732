"""What a training step must send under a layout, by formula: calls and bytes of one rank, nothing run.

With b rows of a micro-batch and m micro-batches on a rank, t tokens in a row, w features, V tokens in the
vocabulary, E experts of which a token chooses k, h heads and g key heads of size d, and on this rank L layers
and P parameters (tp and ep cut already). Payloads are those that `plait.parallel.cost.Meter` counts; along an
axis of 1 nothing is sent. A step sends so many numbers:

| along    | what                                                | operation      | numbers                |
| -------- | --------------------------------------------------- | -------------- | ---------------------- |
| dp·ep·cp | gradients; those of experts along dp·cp             | all-reduce     | P / fsdp               |
| tp       | gradients of what tp does not cut, with the above   | all-reduce     | these / fsdp           |
| fsdp     | parameters of blocks, twice; last and rest, once    | all-gather     | m (2 blocks + rest)    |
| fsdp     | with pp: a stage, each time the schedule gathers it | all-gather     | P                      |
| fsdp     | gradients, each padded as parameters are            | reduce-scatter | P                      |
| tp       | hidden states into and out of matrices, both ways   | all-gather     | m (4L + 2) btw/cp      |
| tp       | the same                                            | reduce-scatter | m (4L + 2) btw/cp      |
| tp       | of each place: maximum, two sums                    | all-reduce     | m · 3 bt/cp            |
| cp ring  | keys and values twice, their gradients once         | send           | mL (3cp-2) 2btgd/cp/tp |
| cp       | gather: keys and values                             | all-gather     | mL · 2btgd/tp          |
| cp       | gather: their gradients                             | reduce-scatter | mL · 2btgd/tp          |
| cp       | exchange: queries, keys, values, results; gradients | all-to-all     | mL · 4bt(h+g)d/cp/tp   |
| cp       | masks: positions, and segments of packed rows       | all-gather     | m · bt each            |
| cp       | sums of a router for the balancing loss             | all-reduce     | mL · b(1 + 2E)         |
| cp       | capacity: a token's choices, and whether it counts  | all-gather     | mL · bt(k + 1)         |
| ep       | tokens to experts and back, and gradients           | all-to-all     | mL · 4btkw/cp, if even |
| ep       | how many tokens go to each expert                   | all-to-all     | mL · E                 |
| pp       | hidden states or gradients for another rank's stage | send           | m · btw/cp/tp each     |
| pp       | a tied embedding's gradient, first and last stage   | send           | Vw / tp / fsdp         |
| world    | sums of the loss and loads; square of the norm      | all-reduce     | 4 + E · layers; 1      |

An encoder-decoder sends 6L + 2 for each token of a target, and for each of a source 4L + 2, L counting the
encoder's layers. The last stage alone has the head (one of the two beside 4L) and the loss, the first alone
the embedding.
`fully_shard` pads dimension 0 of each parameter to a multiple of its ranks. fsdp is Rajbhandari et al. 2020
(stage 3), tp Korthikanti et al. 2022 (section 4.2), the ring Liu et al. 2023, exchange Jacobs et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from plait.nn.config import ModelConfig
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
from plait.parallel.pipeline import owner_of
from plait.parallel.work import Share, Work

INTEGER = 8  # bytes, as of float64
Sent = tuple[tuple[str, ...], str, int, int]  # axes, operation, calls, bytes of all of them


def expected(config: ModelConfig, layout: Layout, work: Work, at: Mapping[str, int] | None = None) -> Costs:
    """Calls and bytes of `Placed.forward_backward` and `Placed.clip` on one rank, by axes and operation.

    It is a step after the first, in which torch's pipelines also agree on what they are about to send.

    Args:
        at: the rank's place on the axes, 0 where left out. Places differ in the stages that they hold and,
            where something does not divide, in who has the larger part.
    """
    rank = Share(config, layout, work, dict.fromkeys(AXES, 0) | dict(at or {}))
    result: Costs = {}
    for kind in (_gradients, _shares, _tensor, _context, _router, _experts, _pipeline, _world):
        for axes, operation, calls, size in kind(rank):
            if calls and (name := axes_name(layout, axes)):
                result[name, operation] = result.get((name, operation), Count()) + Count(calls, size)
    return result


def _gradients(rank: Share) -> Iterator[Sent]:
    """Summed over those who hold copies, and over tp what it does not cut, in buckets."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for parameter in (each for stage in rank.parameters.values() for each in stage):
        cut = {axis for axis in ("ep", "tp") if getattr(parameter.sharding, axis) is not None}
        axes = tuple(axis for axis in AXES if axis in {"dp", "ep", "cp", "tp"} - cut)
        alike.setdefault(axes, []).append(rank.own(parameter))
    for axes, sizes in alike.items():
        buckets, full = 1, 0
        for number, size in enumerate(sizes):
            if number and full + size > BUCKET:
                buckets, full = buckets + 1, 0
            full += size
        yield axes, ALL_REDUCE, buckets, sum(sizes) * rank.weight


def _shares(rank: Share) -> Iterator[Sent]:
    """`fully_shard` gathers the parameters of a block together, and scatters their gradients so."""
    layout, micro = rank.layout, rank.work.microbatches
    if layout.fsdp == 1:
        return
    plan = actions_of(layout, micro)[rank.at["pp"]] if layout.pp > 1 else []
    for stage, parameters in rank.parameters.items():
        groups: dict[str | None, int] = {}
        for parameter in parameters:
            rows = -(-parameter.shape[0] // layout.fsdp) * layout.fsdp
            groups[parameter.block] = groups.get(parameter.block, 0) + parameter.numbers(rows)
        for block, size in groups.items():
            times = micro if block in (None, str(rank.config.layers - 1)) else 2 * micro
            if layout.pp > 1:
                times = sum((action.kind, action.stage) == (UNSHARD, stage) for action in plan)
            yield ("fsdp",), ALL_GATHER, times, times * size * rank.product
            yield ("fsdp",), REDUCE_SCATTER, 1, size * rank.wide


def _tensor(rank: Share) -> Iterator[Sent]:
    """What is gathered in a forward pass is scattered in the backward pass, and the other way round."""
    config, micro = rank.config, rank.work.microbatches
    ends = (0 in rank.layers) + rank.last
    yield from _stack(rank, rank.depth * (3 if config.encoder_layers else 2), ends, rank.places)
    if config.encoder_layers:  # its embedding, and what the decoder looks at
        yield from _stack(rank, 2 * config.encoder_layers, 2, rank.source_places)
    if rank.last:
        sums = 4 if rank.work.smoothed else 3  # the maximum among them
        yield ("tp",), ALL_REDUCE, micro * sums, sums * rank.places * rank.wide


def _stack(rank: Share, sublayers: int, ends: int, places: int) -> Iterator[Sent]:
    """Into and out of each attention and feed-forward, and of what lies before and behind them."""
    # outputs of experts are as wide as their inputs
    narrow = sublayers // 2 if rank.config.experts else sublayers
    for count, size in ((2 * sublayers + ends - narrow, rank.hidden), (narrow, rank.product)):
        for operation in (ALL_GATHER, REDUCE_SCATTER):
            numbers = count * places * rank.config.width
            yield ("tp",), operation, rank.work.microbatches * count, numbers * size


def _context(rank: Share) -> Iterator[Sent]:
    """Attention over rows that are spread; `auto` is a ring, unless `plait.parallel.ring.unfit`."""
    config, layout, work = rank.config, rank.layout, rank.work
    ranks, times = layout.cp, work.microbatches * rank.depth
    plain = not (work.packed or config.window or config.position in ("alibi", "t5"))
    dropout = config.dropout if config.attn_dropout < 0 else config.attn_dropout
    head = rank.tokens * config.head_dim  # numbers of a head
    heads, kv_heads = config.heads // layout.tp, max(config.kv_heads // layout.tp, 1)
    kind = layout.attention
    if kind == "auto":
        kind = "ring" if plain and not config.attn_softcap and not dropout else "gather"
    if kind == "ring":
        keys, gradients = 2 * times * (ranks - 1), times * ranks
        size = keys * rank.product + gradients * rank.wide
        yield ("cp",), SEND, keys + gradients, 2 * kv_heads * head * size
        return
    if kind == "gather":
        for operation in (ALL_GATHER, REDUCE_SCATTER):
            yield ("cp",), operation, times, times * ranks * 2 * kv_heads * head * rank.product
    else:
        numbers = 2 * heads + 2 * math.lcm(kv_heads, ranks)  # some keys are repeated, if they must
        yield ("cp",), ALL_TO_ALL, 4 * times, 2 * times * numbers * head * rank.product
    # masks: for each micro-batch and window, of each row where rows may differ
    lists = (1 if kind == "gather" else 0) if plain else 1 + work.packed
    windows = sum(len(set(map(config.window_of, layers))) for layers in rank.layers.values())
    calls = work.microbatches * windows * lists
    yield ("cp",), ALL_GATHER, calls, calls * (1 if plain else work.rows) * work.context * INTEGER


def _router(rank: Share) -> Iterator[Sent]:
    """Sums over a sequence for the balancing loss, and the choices of a sequence for the capacity."""
    config, work = rank.config, rank.work
    times = work.microbatches * rank.depth if config.experts else 0
    if config.balance_loss:
        yield ("cp",), ALL_REDUCE, times, times * work.rows * (1 + 2 * config.experts) * rank.wide
    if config.capacity_factor:
        each = config.experts_per_token * INTEGER + 1  # whether a token counts is a byte
        yield ("cp",), ALL_GATHER, 2 * times, times * work.rows * work.context * each


def _experts(rank: Share) -> Iterator[Sent]:
    """Tokens travel to their experts and back, and their gradients the other way."""
    config = rank.config
    times = rank.work.microbatches * rank.depth if config.experts else 0
    chosen = times * rank.tokens * config.experts_per_token
    left, arrived = rank.work.pairs or (chosen, chosen)
    size = (left + arrived) * config.width * (rank.hidden + rank.product)
    yield ("ep",), ALL_TO_ALL, 5 * times, size + times * config.experts * INTEGER


def _pipeline(rank: Share) -> Iterator[Sent]:
    """Hidden states to the stage after, gradients to the stage before, where another rank has it."""
    layout, micro = rank.layout, rank.work.microbatches
    stages, here = layout.total_stages, rank.at["pp"]
    others = [stage + step for stage in rank.layers for step in (-1, 1) if 0 <= stage + step < stages]
    calls = micro * sum(owner_of(layout, stage) != here for stage in others)
    yield ("pp",), SEND, calls, calls * rank.tokens // layout.tp * rank.config.width * rank.hidden
    if owner_of(layout, 0) != owner_of(layout, stages - 1):
        for parameter in (each for held in rank.parameters.values() for each in held if each.tied):
            yield ("pp",), SEND, 1, rank.own(parameter) * rank.weight


def _world(rank: Share) -> Iterator[Sent]:
    """Sums of the loss with the loads of all experts, then the square of the gradient's norm; float64."""
    yield AXES, ALL_REDUCE, 2, (4 + rank.config.layers * rank.config.experts + 1) * 8
