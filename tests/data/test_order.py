import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.data.order import LONGEST_PERIOD, Mixture, order


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 300))
def test_an_order_is_a_permutation(seed, epoch, count):
    assert sorted(order(seed, epoch, count)) == list(range(count))


def test_the_order_is_fixed_for_all_time():
    # written down once: a run resumed on another machine, or with another numpy, must go on in this order
    assert order(1337, 0, 10).tolist() == EXPECTED
    assert order(1337, 1, 10).tolist() != EXPECTED
    assert order(1338, 0, 10).tolist() != EXPECTED
    assert order(1337, 0, 10, "wiki").tolist() != EXPECTED


EXPECTED = [9, 0, 5, 8, 3, 6, 1, 4, 7, 2]


def test_every_place_is_equally_likely():
    first = np.array([order(seed, 0, 4) for seed in range(2000)])
    counts = np.stack([(first == value).sum(0) for value in range(4)])
    assert np.all(abs(counts - 500) < 100)  # 5 standard deviations


def counted(mixture, rows):
    """How often each source occurs in each prefix, [rows + 1, sources]."""
    source = mixture.source(np.arange(rows))
    return np.cumsum(np.eye(len(mixture.counts), dtype=int)[source], axis=0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9))
def test_every_prefix_is_within_one_row_of_the_exact_shares(weights):
    total = sum(weights)
    rows = 2 * total + 3
    taken, row = counted(Mixture(weights), rows), np.arange(1, rows + 1)[:, None]
    assert np.all(abs(taken * total - row * np.array(weights)) < total)  # in whole numbers: exact


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 10**9))
def test_a_row_far_away_is_found_without_walking_there(weights, start):
    mixture = Mixture(weights)
    rows = np.arange(start, start + 50)
    source, within = mixture.source(rows), mixture.number_within(rows)
    for number in range(len(weights)):
        mine = within[source == number]
        assert np.all(np.diff(mine) == 1)
        if len(mine):
            assert abs(mine[0] - start * weights[number] / sum(weights)) < 1.001


def test_decimal_weights_are_exact():
    assert Mixture([0.7, 0.2, 0.1]).counts == [7, 2, 1]
    assert Mixture([3e-5, 1e-5]).counts == [3, 1]
    assert Mixture([0.3]).counts == [1]


@pytest.mark.parametrize("weights", [[1234567.0, 7654321.0], [1 / 3, 1e-9, 2.5]])
def test_unwieldy_weights_are_rounded_to_a_bounded_period(weights):
    mixture = Mixture(weights)
    assert mixture.period == LONGEST_PERIOD
    assert min(mixture.counts) >= 1
    shares = np.array(weights) / sum(weights)
    assert np.allclose(np.array(mixture.counts) / mixture.period, shares, atol=2 / LONGEST_PERIOD)
