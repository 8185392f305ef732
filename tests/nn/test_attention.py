import pytest
import torch
from torch import Tensor

from plait.nn.attention import Attention, Mask, fast_attention, softmax_attention
from plait.nn.config import ModelConfig
from plait.nn.position import alibi_slopes

TIME = 12


def random_heads(heads: int, kv_heads: int, *, time_q: int = TIME, dtype=torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(heads + kv_heads)
    shapes = [(2, heads, time_q, 8), (2, kv_heads, TIME, 8), (2, kv_heads, TIME, 8)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def positions(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


STEPS = torch.arange(TIME).expand(2, TIME)
SEGMENTS = positions([0] * 5 + [1] * 7, [0] * 3 + [1] * 6 + [-1] * 3)
BIAS = alibi_slopes(4)[None, :, None, None] * (STEPS[:, None, None, :] - STEPS[:, None, :, None]).clamp(max=0)
MASKS = {
    "causal": Mask(),
    "full": Mask(causal=False),
    "window": Mask(window=3),
    "window over positions": Mask(window=4, positions_q=STEPS),
    "segments": Mask(positions_q=STEPS, segments_q=SEGMENTS),
    "full segments": Mask(causal=False, positions_q=STEPS, segments_q=SEGMENTS),
    "window and segments": Mask(window=2, positions_q=STEPS, segments_q=SEGMENTS),
    "bias": Mask(bias=lambda query, key: BIAS),
    "bias and segments": Mask(positions_q=STEPS, segments_q=SEGMENTS, bias=lambda query, key: BIAS),
    "full bias": Mask(causal=False, bias=lambda query, key: BIAS),
}


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("name", MASKS)
def test_the_fast_path_equals_the_formula_and_so_do_its_gradients(name, kv_heads):
    results = []
    for core in (softmax_attention, fast_attention):
        query, key, value = random_heads(4, kv_heads)
        out = core(query, key, value, MASKS[name])
        out.square().sum().backward()
        results.append([out, query.grad, key.grad, value.grad])
    for formula, fast in zip(*results):
        torch.testing.assert_close(fast, formula, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_path_agrees_in_narrow_types(dtype):
    heads = random_heads(4, 2, dtype=dtype)
    exact = softmax_attention(*(part.double() for part in heads), Mask())
    error = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(fast_attention(*heads, Mask()).double(), exact, rtol=0, atol=error)


@pytest.mark.parametrize("name", ["causal", "segments", "bias"])
def test_soft_capped_scores_agree_and_differ_from_uncapped(name):
    heads = random_heads(4, 2)
    capped = softmax_attention(*heads, MASKS[name], softcap=0.5)
    torch.testing.assert_close(fast_attention(*heads, MASKS[name], softcap=0.5), capped)
    assert not torch.allclose(capped, softmax_attention(*heads, MASKS[name]))
    # a cap far above every score changes nothing
    torch.testing.assert_close(
        softmax_attention(*heads, MASKS[name], softcap=1e6), softmax_attention(*heads, MASKS[name])
    )


def test_fewer_queries_than_keys_are_the_last_ones():
    query, key, value = random_heads(4, 2)
    whole = softmax_attention(query, key, value, Mask())[:, :, -3:]
    for core in (softmax_attention, fast_attention):
        torch.testing.assert_close(core(query[:, :, -3:], key, value, Mask()), whole)


def test_empty_cache_slots_are_never_seen():
    query, key, value = random_heads(4, 2, time_q=2)
    slots = positions([*range(10), -1, -1], [-1, -1, *range(10)])
    mask = Mask(positions_q=positions([8, 9], [8, 9]), positions_k=slots)
    wild = torch.where((slots < 0)[:, None, :, None], 1e6, value)
    for core in (softmax_attention, fast_attention):
        torch.testing.assert_close(core(query, key, wild, mask), core(query, key, value, mask))


def test_a_query_that_may_look_at_nothing_gets_zeros_and_no_nan_gradients():
    mask = Mask(positions_q=positions([-1] * 2 + [*range(10)], [*range(12)]))
    for core in (softmax_attention, fast_attention):
        query, key, value = random_heads(4, 2)
        out = core(query, key, value, mask)
        assert (out[0, :, :2] == 0).all()
        out.sum().backward()
        assert query.grad is not None
        assert torch.isfinite(query.grad).all()


def test_causal_means_later_tokens_change_nothing_before_them():
    query, key, value = random_heads(4, 2)
    before = fast_attention(query, key, value, Mask())
    with torch.no_grad():
        key[:, :, 7:], value[:, :, 7:] = 5.0, -5.0
    after = fast_attention(query, key, value, Mask())
    torch.testing.assert_close(after[:, :, :7], before[:, :, :7])
    assert not torch.allclose(after[:, :, 7:], before[:, :, 7:])


def test_a_scale_of_its_own_replaces_the_root_of_head_dim():
    x, scale = torch.randn(1, 6, 16, dtype=torch.float64), 0.37
    fields = {"width": 16, "heads": 2, "qk_norm": False}
    plain, scaled = (Attention(ModelConfig(**fields, attn_scale=value), 0).double() for value in (0.0, scale))
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        plain.q_proj.weight *= scale * 8**0.5
    torch.testing.assert_close(scaled(x, Mask()), plain(x, Mask()))


def test_the_core_can_be_replaced_from_outside():
    layer = Attention(ModelConfig(width=16, heads=2), 0)
    seen = []

    def recording(query, key, value, mask, **options):
        seen.append((query.shape, mask, options))
        return fast_attention(query, key, value, mask, **options)

    layer.core = recording
    layer(torch.randn(1, 5, 16), Mask())
    assert seen == [((1, 2, 5, 8), Mask(), {"softcap": 0.0, "dropout": 0.0})]
