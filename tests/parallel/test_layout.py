"""Layouts: what divides, what is refused and with which words, and how parameters and layers are cut."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plait.config import build
from plait.errors import ConfigError
from plait.nn.config import ModelConfig
from plait.parallel.layout import Layout, check_layout, every_layout, parse_layout
from plait.parallel.mesh import Mesh
from plait.parallel.pieces import Sharding, chunk, copies_of, even, holders, piece
from plait.parallel.pipeline import owner_of, split_layers, stages_of
from plait.recipes.start_ranks import smaller_layout

CONFIG = ModelConfig(vocab=64, width=32, layers=8, heads=8, kv_heads=2, context=32)


def mesh_of(layout: Layout, rank: int = 0) -> Mesh:
    """A mesh without processes."""
    mesh = Mesh.__new__(Mesh)
    mesh.layout = layout
    mesh.sizes = {axis: getattr(layout, axis) for axis in ("pp", "dp", "fsdp", "ep", "cp", "tp")}
    mesh.rank, mesh.at = rank, mesh.coordinates(rank)
    return mesh


def test_names_and_sizes():
    layout = build(Layout, {"dp": 2, "tp": 2, "pp": 2})
    assert (layout.world, layout.data_ranks, layout.total_stages) == (8, 2, 2)
    assert layout.name == "pp=2,dp=2,tp=2,schedule=1f1b"
    assert Layout().name == "one process"
    assert parse_layout("dp=2, tp=4,") == ["layout.dp=2", "layout.tp=4"]
    assert Layout(pp=2, schedule="zbv").total_stages == 4


@pytest.mark.parametrize("ranks", [1, 2, 6, 8, 12])
def test_every_layout_is_there_once(ranks):
    found = [layout.model_dump_json() for layout in every_layout(ranks, experts=True)]
    assert len(found) == len(set(found))
    assert all(layout.world == ranks for layout in every_layout(ranks, experts=True))
    assert all(layout.ep == 1 for layout in every_layout(ranks, experts=False))
    if ranks < 8:
        sizes = itertools.product(range(1, ranks + 1), repeat=6)
        assert len(found) == sum(math.prod(each) == ranks for each in sizes)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"tp": 3}, r"layout.tp=3 does not divide model.heads=8; use tp from \[1, 2, 4, 8\]"),
        ({"cp": 5}, r"layout.cp=5 does not divide half of the context=16; use cp from \[1, 2, 4, 8, 16\]"),
        ({"pp": 3}, r"does not divide model.layers=8; use pp from \[1, 2, 4, 8\]"),
        ({"pp": 16}, "makes 16 stages of model.layers=8"),
        ({"pp": 8, "schedule": "interleaved"}, "makes 16 stages of model.layers=8"),
        ({"ep": 2}, "model.experts=0"),
        (
            {"dp": 3},
            "rows of a batch cannot be divided among the 3 ranks of dp; use train.batch_size=15 or 18",
        ),
        ({"dp": 32}, "use train.batch_size=32"),
        ({"dp": 8, "pp": 4}, "needs at least 4 micro-batches"),
        ({"cp": 2, "tp": 4, "attention": "exchange"}, None),
        ({"cp": 4, "tp": 4, "attention": "exchange"}, "does not divide the heads of a tp rank=2"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_would(layout, message):
    made = Layout(**layout)
    if message is None:
        check_layout(made, CONFIG, 32, 16, None)
        return
    with pytest.raises(ConfigError, match=message):
        check_layout(made, CONFIG, 32, 16, None)


def test_a_micro_batch_that_leaves_a_pipeline_without_enough_is_refused():
    with pytest.raises(ConfigError, match=r"train.micro_batch=8 makes 1 micro-batches of a rank's 8 rows"):
        check_layout(Layout(dp=2, pp=2), CONFIG, 32, 16, 8)
    check_layout(Layout(dp=2, pp=2), CONFIG, 32, 16, 4)


def test_heads_that_neither_divide_nor_repeat_are_refused():
    config = ModelConfig(vocab=64, width=48, layers=2, heads=12, kv_heads=6, context=32)
    with pytest.raises(ConfigError, match=r"layout.tp=4 neither divides model.kv_heads=6"):
        check_layout(Layout(tp=4), config, 32, 16, None)


def test_experts_that_do_not_divide_are_refused():
    config = CONFIG.model_copy(update={"experts": 6})
    with pytest.raises(ConfigError, match=r"layout.ep=4 does not divide model.experts=6; use ep from \[1, 2"):
        check_layout(Layout(ep=4), config, 32, 16, None)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"cp": 2}, r"^layout.cp=2: an encoder-decoder has no context parallelism; use dp, fsdp and tp$"),
        ({"pp": 2, "dp": 2}, r"^layout.pp=2: an encoder-decoder has no pipeline parallelism; use dp, fsdp"),
        ({"ep": 4, "tp": 2}, r"^layout.ep=4: an encoder-decoder has no expert parallelism; use dp, fsdp"),
    ],
)
def test_an_encoder_decoder_is_not_cut_where_it_cannot_be(layout, message):
    config = CONFIG.model_copy(update={"encoder_layers": 3, "heads": 16})
    check_layout(Layout(dp=2, fsdp=2, tp=4), config, 32, 16, None)
    check_layout(Layout(tp=16), config, 32, 16, None)
    with pytest.raises(ConfigError, match=message):
        check_layout(Layout(**layout), config, 32, 16, None)


@given(st.integers(0, 50), st.integers(1, 9))
def test_parts_cover_everything_once(size, parts):
    for cut in (even, chunk):
        at = 0
        for index in range(parts):
            start, length = cut(size, parts, index)
            assert start == at
            at += length
        assert at == size


SHARDINGS = [Sharding(), Sharding(tp=0), Sharding(tp=1), Sharding(ep=0, tp=2), Sharding(fsdp=False)]


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize(
    "layout",
    [Layout(), Layout(fsdp=3, tp=2), Layout(dp=2, fsdp=2, ep=2, tp=2, cp=2), Layout(ep=4, tp=2, pp=2)],
)
def test_pieces_of_the_holders_make_the_whole_and_every_rank_has_one(sharding, layout):
    shape = (8, 6, 10)[: 3 if sharding.ep == 0 else 2]
    mesh = mesh_of(layout)
    seen = torch.zeros(shape, dtype=torch.int64)
    for at in holders(sharding, mesh, 0):
        piece("p", shape, sharding, mesh, at).of(seen).add_(1)
    assert (seen == 1).all()
    every = torch.zeros(shape, dtype=torch.int64)
    for rank in range(layout.world):
        at = mesh.coordinates(rank)
        assert mesh.number(at) == rank
        if at["pp"] == 0:
            piece("p", shape, sharding, mesh, at).of(every).add_(1)
    assert (every == copies_of(sharding, mesh)).all()


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zbv"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_stage_has_one_owner(schedule, ranks):
    layout = Layout(pp=ranks, schedule=schedule)
    owners = {stage: rank for rank in range(ranks) for stage in stages_of(layout, rank)}
    assert sorted(owners) == list(range(layout.total_stages))
    assert all(owner_of(layout, stage) == rank for stage, rank in owners.items())


@pytest.mark.parametrize("head", [0.0, 0.7, 2.0, 5.0])
@pytest.mark.parametrize("stages", [1, 2, 3, 4, 8])
def test_stages_cost_as_little_as_they_can(stages, head):
    ranges = split_layers(CONFIG, stages, head)
    assert [n for each in ranges for n in each] == list(range(8))
    assert all(ranges)
    cost = max(len(each) + head * (each is ranges[-1]) for each in ranges)
    others = itertools.combinations(range(1, 8), stages - 1)
    best = min(max(b - a + head * (b == 8) for a, b in itertools.pairwise((0, *cuts, 8))) for cuts in others)
    assert cost == best


def test_the_head_counts_as_the_layers_it_is_worth():
    wide = CONFIG.model_copy(update={"vocab": 4096})
    first, last = split_layers(wide, 2)
    assert len(first) > len(last)


@pytest.mark.parametrize(
    ("layout", "left", "rows", "expected"),
    [
        (Layout(dp=4), 3, 8, (2, 1)),
        (Layout(dp=4), 3, 12, (3, 1)),
        (Layout(fsdp=4), 3, 8, (1, 2)),
        (Layout(dp=2, fsdp=2), 3, 8, (1, 2)),
        (Layout(dp=2, tp=2), 3, 8, (1, 1)),
        (Layout(tp=2), 1, 8, None),
    ],
)
def test_elastic_runs_shrink_to_the_largest_that_divides(layout, left, rows, expected):
    found = smaller_layout(layout, left, CONFIG, 32, rows)
    assert (found and (found.dp, found.fsdp)) == expected
