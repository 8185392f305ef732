import pytest
import torch

from plait.nn.attention import Mask, fast_attention, softmax_attention
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.dropout import Dropout, dropout
from plait.nn.initialize import initialize


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_it_drops_at_its_rate_and_keeps_the_mean(rate):
    torch.manual_seed(0)
    out = dropout(torch.ones(400, 500), rate)
    dropped = (out == 0).float().mean().item()
    assert dropped == pytest.approx(rate, abs=1 / 256)
    kept = out[out != 0]
    assert kept.unique().numel() == 1
    assert kept[0].item() == pytest.approx(1 / (1 - rate), rel=0.01)
    assert out.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rate", [0.0001, 0.9999])
def test_rates_near_the_ends_still_drop_some_and_keep_some(rate):
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400, 500), rate) != 0).float().mean().item()
    assert 0 < kept < 1


def test_masks_follow_torchs_generator():
    x = torch.ones(64, 65)
    torch.manual_seed(1)
    first, second = dropout(x, 0.3), dropout(x, 0.3)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.3), first)
    assert torch.equal(dropout(x, 0.3), second)
    assert not torch.equal(first, second)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(2)
    gone = (dropout(torch.ones(1000, 200), 0.5) == 0).float() - 0.5
    for shifted in (gone[:, 1:] * gone[:, :-1], gone[1:] * gone[:-1], gone[:, 8:] * gone[:, :-8]):
        assert abs(shifted.mean().item()) < 0.005


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(3)
    x = torch.randn(50, 50, dtype=torch.float64, requires_grad=True)
    out = dropout(x, 0.25)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out)


def test_outside_training_nothing_is_touched_or_drawn():
    layer, x = Dropout(0.5), torch.randn(3, 4)
    before = torch.get_rng_state()
    assert layer.eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def heads(time: int = 9, *, batch: int = 1, count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shape = (batch, count, time, 4)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


STEPS = torch.arange(6)[None]
FAR = torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
MASKS = {
    "causal": Mask(),
    "window": Mask(window=3),
    "segments": Mask(positions_q=STEPS, segments_q=torch.tensor([[0, 0, 0, 1, 1, 1]])),
    "full": Mask(causal=False),
    "bias": Mask(bias=lambda query, key: FAR),
    "full bias": Mask(causal=False, bias=lambda query, key: FAR),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_gradient_of_attention_with_dropout_is_exact(name):
    def attend(query, key, value):
        torch.manual_seed(6)
        return fast_attention(query, key, value, MASKS[name], dropout=0.25)

    assert torch.autograd.gradcheck(attend, heads(6, count=1))


def test_the_gradient_is_exact_over_several_blocks_of_queries():
    query, key, value = heads(150, count=1)

    def total() -> torch.Tensor:
        torch.manual_seed(7)
        return fast_attention(query, key, value, Mask(), dropout=0.25).square().sum()

    total().backward()
    step = 1e-6
    for leaf in (query, key, value):
        for place in [(0, 0, 3, 1), (0, 0, 70, 2), (0, 0, 149, 0)]:
            sums = []
            for sign in (1, -1):
                with torch.no_grad():
                    leaf[place] += sign * step
                    sums.append(total())
                    leaf[place] -= sign * step
            assert leaf.grad is not None
            assert leaf.grad[place].item() == pytest.approx(
                ((sums[0] - sums[1]) / (2 * step)).item(), rel=1e-5, abs=1e-8
            )


@pytest.mark.parametrize("mask", [Mask(), Mask(causal=False), Mask(window=5)])
@pytest.mark.parametrize("time", [9, 130])
def test_attention_with_dropout_is_right_on_average(time, mask):
    query, key, value = (part.detach() for part in heads(time))
    exact = softmax_attention(query, key, value, mask)
    torch.manual_seed(8)
    rows = [part.expand(400, -1, -1, -1) for part in (query, key, value)]
    mean = fast_attention(*rows, mask, dropout=0.2).mean(0, keepdim=True)
    assert (mean - exact).abs().max() < 0.25  # five standard deviations of a mean of 400
    assert (mean - exact).abs().mean() < 0.03


def test_attention_drops_weights_and_not_outputs():
    query, key, _ = (part.detach() for part in heads())
    ones = torch.ones_like(query)
    torch.manual_seed(9)
    out = fast_attention(query, key, ones, Mask(), dropout=0.5)
    # every feature of a query is the same sum of the weights that were left
    assert torch.allclose(out, out[..., :1].expand_as(out))
    assert (out[..., 0] - 1).abs().max() > 0.1


@pytest.mark.parametrize("mask", [Mask(), Mask(window=3), Mask(causal=False)])
def test_the_fast_path_drops_only_when_asked(mask):
    query, key, value = (part.detach() for part in heads())
    torch.manual_seed(10)
    assert not torch.allclose(
        fast_attention(query, key, value, mask, dropout=0.5), fast_attention(query, key, value, mask)
    )


@pytest.mark.parametrize("fields", [{}, {"position": "alibi"}, {"attn_softcap": 3.0}, {"attn_dropout": 0.0}])
def test_a_model_with_dropout_repeats_itself_from_one_seed_and_is_exact_in_evaluation(fields):
    config = ModelConfig(
        vocab=31, width=16, heads=4, layers=2, context=24, dropout=0.3, init_std=0.3, **fields
    )
    model = Decoder(config)
    plain = Decoder(config.model_copy(update={"dropout": 0.0, "attn_dropout": 0.0}))
    initialize(model, 0)
    initialize(plain, 0)
    rows = torch.arange(20).view(2, 10)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(model.train()(rows))
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])
    assert torch.equal(model.eval()(rows), plain.eval()(rows))
