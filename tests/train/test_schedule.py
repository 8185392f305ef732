import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.train.config import TrainConfig
from plait.train.schedule import lr_share


def shares(total: int = 100, **fields) -> list[float]:
    config = TrainConfig(**({"steps": total, "warmup": 0, "min_lr": 0.1} | fields))
    return [lr_share(config, step / total, step, total) for step in range(total)]


def test_constant_stays():
    assert set(shares(schedule="constant")) == {1.0}


def test_linear_falls_evenly_to_the_floor():
    line = shares(schedule="linear")
    assert line[0] == 1
    assert line[50] == pytest.approx(0.55)
    assert line[-1] == pytest.approx(0.109)


def test_cosine_is_half_way_in_the_middle():
    curve = shares(schedule="cosine")
    assert curve[0] == 1
    assert curve[50] == pytest.approx(0.55)
    assert curve[25] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert curve[-1] == pytest.approx(0.1, abs=0.001)


def test_inverse_sqrt_falls_with_the_root_of_the_step():
    curve = shares(schedule="inverse_sqrt", warmup=25)
    assert curve[24] == pytest.approx(1, rel=0.05)
    assert curve[99] == pytest.approx(0.5)


def test_wsd_is_stable_and_decays_in_the_last_share_of_the_run():
    curve = shares(schedule="wsd", decay=0.2, warmup=10)
    assert set(curve[10:80]) == {1.0}
    assert curve[90] == pytest.approx(0.55)
    assert curve[99] == pytest.approx(0.145)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "inverse_sqrt", "wsd", "constant"])
@pytest.mark.parametrize("warmup", [20, 0.2])
def test_warmup_in_steps_or_as_a_share_rises_evenly_from_above_zero(schedule, warmup):
    curve = shares(schedule=schedule, warmup=warmup)
    assert curve[:20] == pytest.approx([(step + 1) / 21 for step in range(20)])
    assert curve[20] == pytest.approx(1, rel=0.03)
    assert max(curve) == curve[20]


def test_under_a_clock_progress_decides():
    config = TrainConfig(minutes=1, schedule="linear", warmup=0, min_lr=0.0)
    assert lr_share(config, 0.25, 3, 12) == pytest.approx(0.75)
    assert lr_share(config, 1.0, 40, 40) == 0


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(["cosine", "linear", "inverse_sqrt", "wsd", "constant"]),
    st.integers(1, 300),
    st.one_of(st.integers(0, 400), st.floats(0, 1)),
    st.floats(0.01, 1),
)
def test_every_share_is_positive_and_at_most_one(schedule, total, warmup, decay):
    curve = shares(total, schedule=schedule, warmup=warmup, decay=decay)
    assert all(0 < share <= 1 for share in curve)
