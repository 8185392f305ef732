from dataclasses import replace

import pytest
import torch

from plait.hardware import compiler
from plait.nn.attention import Mask, fast_attention, softmax_attention
from plait.nn.causal import BLOCK, causal_attention, spans_of

LONG = 2 * BLOCK + 7


def heads(time: int = LONG, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(time)
    made = [torch.randn(2, time, 3, 8, generator=generator, dtype=dtype) for _ in range(3)]
    return [part.transpose(1, 2).detach().requires_grad_() for part in made]  # as projections give them


def packed(time: int) -> Mask:
    """Rows of three documents, the first row ending in padding."""
    place = torch.arange(time)
    segments = torch.stack((place // (time // 2 + 1), (place > 5).long() + (place > 80).long()))
    segments[0, -4:] = -1
    return Mask(positions_q=place.expand(2, time), segments_q=segments)


def blind(time: int) -> Mask:
    """The first two queries may look at nothing."""
    return Mask(positions_q=(torch.arange(time) - 2).clamp(min=-1).expand(2, time))


def biased(time: int) -> Mask:
    """Three documents, and scores that fall with distance."""
    slopes = torch.tensor([0.5, 0.1, 0.0], dtype=torch.float64)[:, None, None]
    return replace(packed(time), bias=lambda q, k: slopes * (k[:, None, None, :] - q[:, None, :, None]))


MASKS = {
    "whole": lambda _: Mask(),
    "window": lambda _: Mask(window=10),
    "packed": packed,
    "blind": blind,
    "biased": biased,
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("time", [1, BLOCK, BLOCK + 1, LONG])
def test_blocks_equal_the_formula_and_so_do_their_gradients(name, time):
    mask = MASKS[name](time)
    results = []
    for core in (softmax_attention, fast_attention):
        query, key, value = heads(time)
        out = core(query, key, value, mask)
        out.square().sum().backward()
        results.append([out, query.grad, key.grad, value.grad])
    for formula, blocks in zip(*results):
        torch.testing.assert_close(blocks, formula, rtol=1e-10, atol=1e-10)


def test_training_takes_this_path_and_reading_does_not(monkeypatch):
    taken = []

    def noted(*words):
        taken.append(words[0].shape[2])
        return causal_attention(*words)

    monkeypatch.setattr("plait.nn.attention.causal_attention", noted)
    query, key, value = heads()
    fast_attention(query, key, value, Mask())
    assert taken == [LONG]
    with torch.no_grad():
        fast_attention(query.detach(), key, value, Mask())
    fast_attention(query, key, value, Mask(causal=False))
    fast_attention(query[:, :, -3:], key, value, Mask())
    learned = torch.zeros(1, 3, LONG, LONG, dtype=torch.float64, requires_grad=True)
    fast_attention(query, key, value, Mask(bias=lambda query, key: learned))  # this needs a gradient
    assert taken == [LONG]
    monkeypatch.setattr("plait.nn.causal.LONGEST", LONG - 3)  # the kept weights would take too much
    fast_attention(query, key, value, Mask())
    assert taken == [LONG]
    fast_attention(query, key, value, packed(LONG))  # these are fewer
    assert taken == [LONG, LONG]


def test_keys_that_no_query_of_a_block_may_see_are_passed_over():
    allowed = packed(LONG).dense
    half = LONG // 2 + 1
    assert spans_of(LONG, allowed) == [(0, 0, BLOCK), (0, BLOCK, 2 * BLOCK), (half, 2 * BLOCK, LONG)]
    assert spans_of(LONG, allowed[1:])[1][0] == 6
    assert spans_of(LONG, None)[-1] == (0, 2 * BLOCK, LONG)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_are_kept_and_stay_close(dtype):
    narrow = heads(dtype=dtype)
    out = fast_attention(*narrow, Mask())
    out.float().sum().backward()
    assert {part.dtype for part in (out, *(leaf.grad for leaf in narrow))} == {dtype}
    exact = softmax_attention(*(part.detach().double() for part in narrow), Mask())
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-5 if dtype == torch.float32 else 3e-2)


def test_under_autocast_it_computes_in_the_narrow_type():
    wide = heads(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = fast_attention(*wide, Mask())
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert {leaf.grad.dtype for leaf in wide if leaf.grad is not None} == {torch.float32}


@pytest.mark.skipif(not compiler("cpu")[0], reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, about its older compiler
def test_compiled_it_is_the_same():
    results = []
    spans = spans_of(LONG, None)
    for attend in (causal_attention, torch.compile(causal_attention)):
        query, key, value = heads()
        out = attend(query, key, value, None, spans, 0.0)
        out.square().sum().backward()
        results.append([out, query.grad, key.grad, value.grad])
    for eager, compiled in zip(*results):
        torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)
