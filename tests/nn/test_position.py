import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.nn.config import ModelConfig, RopeScaling
from plait.nn.position import alibi_slopes, rope_frequencies, rope_table, rotate, sinusoids, t5_buckets


def rope(scaling: RopeScaling | None = None, **fields) -> tuple[torch.Tensor, float]:
    return rope_frequencies(ModelConfig(**({"width": 64, "heads": 1} | fields), rope_scaling=scaling))


def scaled(kind: str, factor: float = 4.0, original_context: int = 1024) -> RopeScaling:
    return RopeScaling(kind=kind, factor=factor, original_context=original_context)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 1000))
def test_rope_scores_depend_on_the_distance_only(query_at, key_at, shift):
    frequencies, factor = rope()
    query, key = torch.randn(2, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(shift: int) -> torch.Tensor:
        places = torch.tensor([[query_at + shift, key_at + shift]])
        cos, sin = rope_table(frequencies, factor, places, torch.float64)
        turned = rotate(torch.stack((query, key))[None, None], cos, sin)[0, 0]
        return turned[0] @ turned[1]

    torch.testing.assert_close(score(shift), score(0), rtol=1e-9, atol=1e-9)


def test_rope_turns_halves_by_the_published_angles():
    frequencies, factor = rope(rope_theta=100.0, width=4)
    assert frequencies.tolist() == pytest.approx([1.0, 0.1])
    cos, sin = rope_table(frequencies, factor, torch.tensor([[3]]), torch.float64)
    turned = rotate(torch.tensor([[[[1.0, 0.0, 0.0, 2.0]]]], dtype=torch.float64), cos, sin).flatten()
    # pair 0 is (x0, x2) turned by 3; pair 1 is (x1, x3) turned by 0.3
    expected = [math.cos(3), -2 * math.sin(0.3), math.sin(3), 2 * math.cos(0.3)]
    assert turned.tolist() == pytest.approx(expected)


def test_rope_keeps_its_precision_at_far_positions_of_narrow_models():
    frequencies, factor = rope()
    far = torch.tensor([[100_001]])
    narrow = rope_table(frequencies, factor, far, torch.bfloat16)[0].double()
    exact = rope_table(frequencies, factor, far, torch.float64)[0]
    torch.testing.assert_close(narrow, exact, rtol=0, atol=2e-2)


def test_linear_scaling_divides_positions():
    plain, _ = rope()
    assert torch.equal(rope(scaled("linear"))[0], plain / 4)


def test_ntk_keeps_the_fastest_pair_and_divides_the_slowest():
    plain, stretched = rope()[0], rope(scaled("ntk"))[0]
    ratio = plain / stretched
    assert ratio[0] == pytest.approx(1)
    assert ratio[-1] == pytest.approx(4)
    assert (ratio.diff() > 0).all()


@pytest.mark.parametrize("kind", ["llama3", "yarn"])
def test_ramps_keep_fast_pairs_and_divide_slow_ones(kind):
    plain, stretched = rope(width=128)[0], rope(scaled(kind), width=128)[0]
    ratio = plain / stretched
    assert ratio[0] == pytest.approx(1)
    assert ratio[-1] == pytest.approx(4)
    assert (ratio.diff() > -1e-12).all()
    assert ((ratio > 1.01) & (ratio < 3.99)).any()


def test_only_yarn_sharpens_attention():
    assert rope(scaled("yarn"))[1] == pytest.approx(0.1 * math.log(4) + 1)
    assert {rope(scaled(kind))[1] for kind in ("linear", "ntk", "llama3")} == {1.0}


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_scaling_agrees_with_transformers(kind):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = scaled(kind, 8.0, 512)
    parameters = {
        "rope_type": kind, "factor": 8.0, "original_max_position_embeddings": 512,
        "rope_theta": 10_000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    }  # fmt: skip
    theirs = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=4096, rope_parameters=parameters
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](theirs, torch.device("cpu"))
    ours, our_factor = rope(scaling, width=128, heads=2)
    torch.testing.assert_close(ours.float(), frequencies.float(), rtol=1e-5, atol=0)
    assert our_factor == pytest.approx(factor)


def test_sinusoids_are_all_sines_then_all_cosines():
    table = sinusoids(torch.tensor([[0, 1, 7]]), 6, torch.float64)[0]
    for row, position in zip(table, (0, 1, 7)):
        angles = [position / 10_000 ** (2 * i / 6) for i in range(3)]
        expected = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        assert row.tolist() == pytest.approx(expected)
    assert sinusoids(torch.tensor([[4]]), 5, torch.float64).shape == (1, 1, 5)


def test_alibi_slopes_of_powers_of_two_are_geometric():
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(1).tolist() == [2**-8]


@pytest.mark.parametrize("heads", [3, 6, 12])
def test_alibi_slopes_of_other_counts_fill_in_between(heads):
    slopes = alibi_slopes(heads).tolist()
    power = 2 ** int(math.log2(heads))
    assert slopes[:power] == alibi_slopes(power).tolist()
    assert slopes[power:] == alibi_slopes(2 * power).tolist()[0::2][: heads - power]
    assert len(set(slopes)) == heads


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 20)])
def test_t5_buckets_agree_with_transformers(bidirectional, buckets, farthest):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-300, 301)
    ours = t5_buckets(distance, buckets, farthest, bidirectional)
    theirs = T5Attention._relative_position_bucket(distance, bidirectional, buckets, farthest)
    assert torch.equal(ours, theirs)
