"""Initial weights are a function of seed, name and place, so that any part of them can be made anywhere."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import CHUNK, initial, initialize, normal

CONFIG = ModelConfig(vocab=31, width=16, layers=3, heads=4, context=8)


@given(st.integers(0, 3 * CHUNK), st.integers(0, 40))
def test_any_part_of_the_stream_is_the_same(first, count):
    whole = normal("a", max(0, first - 7), count + 20)
    start = first - max(0, first - 7)
    assert torch.equal(normal("a", first, count), whole[start : start + count])


def test_parts_that_cross_a_chunk_are_the_same():
    whole = normal("b", 0, 2 * CHUNK + 9)
    assert torch.equal(normal("b", CHUNK - 3, CHUNK + 7), whole[CHUNK - 3 : 2 * CHUNK + 4])


def test_the_numbers_are_normal_and_streams_unlike():
    numbers = normal("c", 0, 400_000).double()
    assert torch.isfinite(numbers).all()
    assert numbers.mean().abs() < 0.01
    assert numbers.std() == pytest.approx(1, abs=0.01)
    assert (numbers**4).mean() == pytest.approx(3, abs=0.1)
    assert torch.corrcoef(torch.stack((numbers, normal("d", 0, 400_000).double())))[0, 1].abs() < 0.01
    assert torch.corrcoef(torch.stack((numbers[1:], numbers[:-1])))[0, 1].abs() < 0.01


@pytest.mark.parametrize("start", [(0, 0), (5, 0), (0, 7), (3, 2)])
def test_a_box_is_a_slice_of_the_whole(start):
    whole = initial(CONFIG, 1, "layers.0.mlp.up_proj.weight", (20, 16))
    size = (4, 3)
    box = initial(CONFIG, 1, "layers.0.mlp.up_proj.weight", (20, 16), start, size)
    assert torch.equal(box, whole[start[0] : start[0] + 4, start[1] : start[1] + 3])


def test_an_expert_of_a_stack_is_a_slice_too():
    name, shape = "layers.1.mlp.experts.down_proj", (4, 6, 16)
    whole = initial(CONFIG, 1, name, shape)
    assert torch.equal(initial(CONFIG, 1, name, shape, (2, 1, 0), (2, 3, 16)), whole[2:, 1:4])


def test_what_writes_into_the_residual_stream_is_smaller_by_its_depth():
    down = initial(CONFIG, 0, "layers.0.mlp.down_proj.weight", (256, 256)).std()
    up = initial(CONFIG, 0, "layers.0.mlp.up_proj.weight", (256, 256)).std()
    assert up == pytest.approx(CONFIG.init_std, rel=0.05)
    assert down == pytest.approx(CONFIG.init_std / 6**0.5, rel=0.05)


def test_each_stack_of_an_encoder_decoder_has_its_own_depth():
    config = CONFIG.model_copy(update={"encoder_layers": 5})
    for name, writers in (("encoder.layers.4.self_attn", 10), ("layers.0.cross_attn", 9)):
        out = initial(config, 0, f"{name}.o_proj.weight", (256, 256)).std()
        assert out == pytest.approx(config.init_std / writers**0.5, rel=0.05)


@pytest.mark.parametrize("offset", [False, True])
def test_vectors_begin_as_their_modules_want(offset):
    config = CONFIG.model_copy(update={"norm_offset": offset, "qkv_bias": True})
    fresh, filled = Decoder(config), Decoder(config)
    with torch.no_grad():
        for parameter in filled.parameters():
            parameter.fill_(7)
    initialize(filled, 0)
    for (name, before), after in zip(fresh.named_parameters(), filled.parameters()):
        if before.ndim < 2:
            expected = torch.zeros_like(before) if name.endswith("bias") else before
            assert torch.equal(after, expected), name
