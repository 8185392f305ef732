"""Each step from logits to a token, against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.infer.params import SamplingParams
from plait.infer.sampling import Sampler, draw, penalize, truncate

INF = -math.inf


def kept(logits: list[float], **params) -> list[int]:
    result = truncate(torch.tensor([logits]), SamplingParams(**params))[0]
    return [token for token, value in enumerate(result.tolist()) if value != INF]


def logs(*probabilities: float) -> list[float]:
    return [math.log(value) for value in probabilities]


def test_top_k_keeps_the_best_and_their_equals():
    assert kept([1.0, 3.0, 2.0, 0.0], top_k=2) == [1, 2]
    assert kept([1.0, 3.0, 2.0, 2.0], top_k=2) == [1, 2, 3]
    assert kept([1.0, 3.0], top_k=9) == [0, 1]


def test_top_p_keeps_the_fewest_that_reach_the_mass():
    spread = logs(0.1, 0.5, 0.15, 0.25)
    assert kept(spread, top_p=0.4) == [1]
    assert kept(spread, top_p=0.74) == [1, 3]
    assert kept(spread, top_p=0.76) == [1, 2, 3]
    assert kept(spread, top_p=0.9999) == [0, 1, 2, 3]
    assert kept([0.0, 0.0, 0.0], top_p=0.01) == [0]  # the lowest id among equals


def test_min_p_is_relative_to_the_best():
    assert kept(logs(0.6, 0.3, 0.07, 0.03), min_p=0.1) == [0, 1, 2]
    assert kept(logs(0.6, 0.4), min_p=1.0) == [0]


def test_top_p_counts_the_mass_of_what_top_k_left():
    # of 0.4, 0.3, 0.2, 0.1 top-k leaves 4/7 and 3/7
    assert kept(logs(0.4, 0.3, 0.2, 0.1), top_k=2, top_p=0.5) == [0]
    assert kept(logs(0.4, 0.3, 0.2, 0.1), top_p=0.5) == [0, 1]


def test_penalties_follow_their_definitions():
    logits = torch.tensor([[2.0, -2.0, 2.0, 2.0, -1.0]])
    in_prompt = torch.tensor([[True, True, False, False, False]])
    counts = torch.tensor([[0.0, 0.0, 3.0, 0.0, 1.0]])

    def after(**params) -> list[float]:
        return penalize(logits, in_prompt, counts, SamplingParams(**params))[0].tolist()

    assert after(repetition_penalty=2.0) == [1.0, -4.0, 1.0, 2.0, -2.0]
    assert after(frequency_penalty=0.5) == [2.0, -2.0, 0.5, 2.0, -1.5]
    assert after(presence_penalty=0.5) == [2.0, -2.0, 1.5, 2.0, -1.5]
    assert after(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=1.0) == [
        1,
        -4,
        -1.5,
        2,
        -3.5,
    ]


def test_a_sampler_counts_what_it_chose_and_forgets_finished_rows():
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=1.0), [[0], [0]], [0, 0], 3)
    logits = torch.tensor([[0.0, 1.0, 0.9], [0.5, 0.0, 0.0]])
    assert sampler.choose(logits) == [1, 0]
    assert sampler.choose(logits) == [2, 1]
    sampler.select([1])
    assert sampler.choose(logits[1:]) == [2]  # all equal after penalties but the untouched one
    assert Sampler(SamplingParams(temperature=0, repetition_penalty=9.0), [[1]], [0], 3).choose(
        logits[:1]
    ) == [2]


def test_greedy_takes_the_lowest_id_among_equals():
    sampler = Sampler(SamplingParams(temperature=0), [[0]], [0], 4)
    assert sampler.choose(torch.tensor([[1.0, 2.0, 2.0, 2.0, 9.0]])) == [1]


def test_logit_bias_bans_and_forces():
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    assert Sampler(SamplingParams(temperature=0, logit_bias={0: -100}), [[0]], [0], 3).choose(logits) == [1]
    forced = Sampler(SamplingParams(logit_bias={2: 100}, seed=0), [[0]], [0], 3)
    assert {forced.choose(logits)[0] for _ in range(50)} == {2}
    assert logits.tolist() == [[3.0, 2.0, 1.0]]


def test_a_tiny_temperature_and_half_precision_do_not_overflow():
    logits = torch.tensor([[60000.0, 59000.0, -60000.0]], dtype=torch.float16)
    for temperature in (1.1e-5, 1e-300, 1.0):
        assert Sampler(SamplingParams(temperature=temperature), [[0]], [0], 3).choose(logits) == [0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.just(INF), st.floats(-30, 30)), min_size=1, max_size=9).filter(
        lambda x: max(x) > INF
    ),
    st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, math.nextafter(1.0, 0.0)])),
)
def test_a_draw_is_the_inverse_of_the_cumulative_sum(logits, uniform):
    token = int(draw(torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64)))
    probabilities = torch.tensor(logits, dtype=torch.float32).double().softmax(-1)
    assert probabilities[token] > 0
    assert float(probabilities[:token].sum()) <= uniform + 1e-12
    assert float(probabilities[: token + 1].sum()) >= uniform - 1e-12


def test_samples_have_the_frequencies_asked_for():
    sampler = Sampler(SamplingParams(temperature=2.0, seed=5), [[0]], [0], 3)
    logits = torch.tensor([logs(0.64, 0.32, 0.04)])  # square roots 0.8, 0.566, 0.2
    counts = [0, 0, 0]
    for _ in range(4000):
        counts[sampler.choose(logits)[0]] += 1
    shares = [math.sqrt(p) for p in (0.64, 0.32, 0.04)]
    assert [n / 4000 for n in counts] == pytest.approx([s / sum(shares) for s in shares], abs=0.03)
