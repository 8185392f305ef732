"""How long ranks of a pipeline wait, by the schedules that torch runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch.distributed import pipelining

from plait.parallel.cost import Action, actions_of, bubble
from plait.parallel.layout import Layout, Schedule

SIZES = [(2, 2), (2, 8), (3, 6), (4, 4), (4, 8), (4, 32), (8, 16)]
SCHEDULES = Schedule.__args__


def layout(ranks: int, schedule: str, stages: int = 0) -> Layout:
    return Layout(pp=ranks, schedule=schedule, stages=stages)


def test_no_pipeline_no_bubble():
    assert bubble(Layout(dp=4), 3) == 0


@pytest.mark.parametrize(("ranks", "micro"), SIZES)
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_one_stage_on_each_rank(schedule, ranks, micro):
    assert bubble(layout(ranks, schedule), micro) == pytest.approx((ranks - 1) / (micro + ranks - 1))


@pytest.mark.parametrize(("ranks", "micro"), SIZES)
@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("schedule", ["interleaved", "looped_bfs"])
def test_several_stages_shorten_it(schedule, stages, ranks, micro):
    told = (ranks - 1) / (stages * micro + ranks - 1)
    assert bubble(layout(ranks, schedule, stages), micro) == pytest.approx(told)


@pytest.mark.parametrize(
    ("schedule", "ranks", "micro"),
    [
        (schedule, ranks, micro)
        for schedule in ("zero_bubble", "zbv", "dualpipev")
        for ranks, micro in SIZES
        if schedule != "dualpipev" or micro >= 2 * ranks  # it works with so many
    ],
)
def test_halves_of_backward_passes_fill_gaps(schedule, ranks, micro):
    found = bubble(layout(ranks, schedule), micro)
    assert 0 < found < bubble(layout(ranks, "interleaved"), micro)
    if micro >= 2 * ranks:  # filled: a unit of time is left for each rank but one
        assert found == pytest.approx((ranks - 1) / (3 * 2 * micro + ranks - 1))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_micro_batch_passes_each_stage_once(schedule):
    here, micro = layout(2, schedule), 4
    actions = actions_of(here, micro)
    assert set(actions) == {0, 1}
    done = [action for rank in actions.values() for action in rank if action.microbatch >= 0]
    assert len(done) == len(set(done))
    each = {(stage, number) for stage in range(here.total_stages) for number in range(micro)}
    assert {(a.stage, a.microbatch) for a in done if a.kind == "F"} == each
    assert {(a.stage, a.microbatch) for a in done if a.kind in ("B", "I")} == each
    assert {(a.stage, a.microbatch) for a in done if a.kind in ("B", "W")} == each
    assert {a.stage for rank in actions.values() for a in rank if a.kind == "UNSHARD"} == {s for s, _ in each}


class Recorder(SimpleNamespace):
    """A stage that notes what a schedule makes it do, and sends nothing."""

    def __getattr__(self, name: str):
        if name.startswith(("get_", "_prepare", "perform")):
            return lambda *args, **kwargs: []
        raise AttributeError(name)

    def forward_one_chunk(self, number, *args, **kwargs):
        self.did.append(("F", number))

    def backward_one_chunk(self, number, **kwargs):
        self.did.append(("B", number))


@pytest.mark.parametrize(("ranks", "micro"), SIZES)
@pytest.mark.parametrize("kind", [pipelining.ScheduleGPipe, pipelining.Schedule1F1B])
def test_the_order_is_that_of_torchs_loops(monkeypatch, kind, ranks, micro):
    monkeypatch.setattr(kind, "_initialize_stage", lambda *args: None)
    name = "gpipe" if kind is pipelining.ScheduleGPipe else "1f1b"
    for rank in range(ranks):
        stage = Recorder(
            did=[], stage_index=rank, num_stages=ranks, group_size=ranks, group_rank=rank, submod=None,
            is_first=rank == 0, is_last=rank == ranks - 1, has_backward=True,
        )  # fmt: skip
        schedule = kind(stage, micro, scale_grads=False)
        schedule._step_microbatches([()] * micro, [{}] * micro)
        expected = [(a.kind, a.microbatch) for a in actions_of(layout(ranks, name), micro)[rank][1:]]
        assert stage.did == expected


def test_a_schedule_that_waits_for_itself(monkeypatch):
    backward_first = [Action("B", 0, 0), Action("F", 0, 0)]
    monkeypatch.setattr("plait.parallel.cost.actions_of", lambda *_: {0: backward_first, 1: []})
    with pytest.raises(RuntimeError, match="schedule 1f1b with 1 micro-batches waits for itself"):
        bubble(layout(2, "1f1b"), 1)
