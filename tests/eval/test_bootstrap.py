"""Intervals and paired tests by resampling: against theory, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from plait.eval.bootstrap import Statistics, interval, paired
from plait.eval.means import mean_score, mean_statistics, wilson


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    statistics = mean_statistics(list(values))
    low, high = interval(statistics.at, 400) or (0, 0)
    middle, reach = 100 * values.mean(), 1.96 * 100 * values.std() / 20
    assert (low, high) == pytest.approx((middle - reach, middle + reach), abs=0.15)
    assert interval(statistics.at, 400) == (low, high)
    assert interval(statistics.at, 400, seed=1) != (low, high)


def test_any_statistic_of_the_samples_can_be_resampled():
    values = np.arange(101.0)
    low, high = interval(lambda drawn: float(np.median(values[drawn])), 101) or (0, 0)
    assert 25 < low < 50 < high < 75
    assert interval(lambda drawn: 1.0, 1) is None


def test_numbers_that_add_up_give_the_score_of_the_samples_drawn():
    samples = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    statistics = Statistics(samples, lambda sums: float(sums[0] / sums[1]))
    drawn = np.array([2, 0, 2])
    assert statistics.at(drawn) == pytest.approx((5 + 1 + 5) / (7 + 2 + 7))
    assert statistics.at(np.arange(3)) == pytest.approx(9 / 13)


def test_a_better_system_is_told_from_an_equal_one():
    random = np.random.default_rng(1)
    first = (random.random(300) < 0.8).astype(float)
    worse = first * (random.random(300) < 0.9)
    better = paired(mean_statistics(list(first)).at, mean_statistics(list(worse)).at, 300)
    assert better.difference == pytest.approx(100 * (first.mean() - worse.mean()))
    assert better.p_value == pytest.approx(1 / 1001)
    assert better.difference_interval is not None
    assert 0 < better.difference_interval[0] < better.difference < better.difference_interval[1]
    same = paired(mean_statistics(list(first)).at, mean_statistics(list(first)).at, 300)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    other = mean_statistics([*random.permutation(first)[:299], 1.0 - first[0]])
    noise = paired(mean_statistics(list(first)).at, other.at, 300)
    assert noise.p_value > 0.05
    turned = paired(mean_statistics(list(worse)).at, mean_statistics(list(first)).at, 300)
    assert (turned.difference, turned.p_value) == (-better.difference, better.p_value)
    alone = paired(mean_statistics([1]).at, mean_statistics([0]).at, 1)
    assert (alone.intervals, alone.p_value) == (None, 1.0)


def test_wilsons_interval_by_hand():
    # 8 of 10: centre (0.8 + 0.19207) / 1.38415, reach 1.95996 · sqrt(0.016 + 0.0096036) / 1.38415
    assert wilson(8, 10) == pytest.approx((49.016, 94.331), abs=0.002)
    assert wilson(0, 5)[0] == pytest.approx(0, abs=1e-9)
    assert wilson(5, 5)[1] == pytest.approx(100)
    score = mean_score("x", "y", [1, 0, 1, 1], right_or_wrong=True, case="mixed")
    assert (score.value, score.interval, score.n) == (75.0, wilson(3, 4), 4)
    assert score.signature.startswith("case:mixed|interval:95% Wilson|plait:")
