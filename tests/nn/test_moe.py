import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.experts import DROPPED, Experts, dispatch_here
from plait.nn.moe import AddLoss, MoE, balance_loss, update_choice_bias, within_capacity

FIELDS = {"width": 8, "heads": 2, "ffn": 12, "experts": 5, "experts_per_token": 2}


def make_moe(**fields) -> MoE:
    layer = MoE(ModelConfig(**(FIELDS | fields))).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in layer.parameters() if p.requires_grad):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def x(rows: int = 2, time: int = 7) -> Tensor:
    return torch.randn(rows, time, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def one_token_at_a_time(layer: MoE, token: Tensor) -> Tensor:
    """The definition, for one vector: no batches, no sorting."""
    probabilities = (layer.gate.weight @ token).softmax(-1)
    chosen = probabilities.argsort(descending=True)[: layer.top_k]
    total = probabilities[chosen].sum() if layer.normalize else 1.0
    out = torch.zeros_like(token)
    for expert in chosen.tolist():
        hidden = token @ layer.experts.up_proj[expert]
        if layer.experts.gate_proj is None:
            hidden = layer.experts.activation(hidden)
        else:
            hidden = layer.experts.activation(token @ layer.experts.gate_proj[expert]) * hidden
        out = out + probabilities[expert] / total * (hidden @ layer.experts.down_proj[expert])
    return out if layer.shared_experts is None else out + layer.shared_experts(token)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gated": False, "activation": "gelu"},
        {"norm_topk": False},
        {"shared_experts": 2, "expert_ffn": 6},
        {"experts_per_token": 1},
        {"experts_per_token": 5},
    ],
)
def test_experts_equal_the_definition_token_by_token(fields):
    layer = make_moe(**fields)
    expected = torch.stack([one_token_at_a_time(layer, token) for token in x().flatten(0, 1)]).view(2, 7, 8)
    torch.testing.assert_close(layer(x()), expected)


def test_no_token_is_dropped_when_all_choose_the_same_expert():
    layer = make_moe(experts_per_token=1)
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.weight[3] = 10.0
    tokens = x().abs()
    expected = torch.stack([one_token_at_a_time(layer, token) for token in tokens.flatten(0, 1)])
    torch.testing.assert_close(layer(tokens).flatten(0, 1), expected)
    assert layer.load.tolist() == [0, 0, 0, 14, 0]


def test_a_token_does_not_depend_on_its_neighbours():
    layer = make_moe().eval()
    torch.testing.assert_close(layer(x())[1:, 2:5], layer(x()[1:, 2:5]))


def test_shared_experts_are_one_feed_forward_as_wide_as_all_of_them():
    layer = make_moe(shared_experts=3, expert_ffn=6)
    assert layer.shared_experts is not None
    assert layer.shared_experts.up_proj.weight.shape == (18, 8)


def test_a_perfectly_balanced_row_costs_one_per_token():
    even = torch.full((3, 8, 4), 0.25, dtype=torch.float64)
    chosen = torch.arange(8).remainder(4).expand(3, 8)[..., None]
    assert balance_loss(even, chosen).item() == pytest.approx(3 * 8)
    collapsed = torch.zeros(1, 8, 4, dtype=torch.float64)
    collapsed[..., 2] = 1
    assert balance_loss(collapsed, torch.full((1, 8, 1), 2)).item() == pytest.approx(8 * 4)


def test_the_balancing_loss_is_a_sum_over_rows_whatever_the_batch():
    together, apart = make_moe(), make_moe()
    together(x(4))
    for row in x(4):
        apart(row[None])
    torch.testing.assert_close(together.aux_sum, apart.aux_sum)
    assert torch.equal(together.load, apart.load)
    assert together.load.sum() == 4 * 7 * 2


def test_padding_counts_for_nothing():
    alone, padded = make_moe(), make_moe()
    alone(x(2, 4))
    padded.held = (torch.arange(7) < 4).expand(2, 7)
    padded(torch.cat((x(2, 4), x(2, 3)), dim=1))
    torch.testing.assert_close(padded.aux_sum, alone.aux_sum)
    assert torch.equal(padded.load, alone.load)


def test_a_row_of_padding_alone_is_no_sequence():
    layer, empty = make_moe(capacity_factor=1.0), make_moe(capacity_factor=1.0)
    layer(x(1))
    empty.held = torch.tensor([[True] * 7, [False] * 7])
    empty(torch.cat((x(1), x(1))))
    torch.testing.assert_close(empty.aux_sum, layer.aux_sum)
    assert torch.equal(empty.load, layer.load)


def test_the_balancing_loss_enters_the_gradient_where_it_arises():
    layer, same = make_moe(balance_loss=0.3), make_moe(balance_loss=0.0)
    layer.aux_scale.fill_(0.25)
    layer(x()).square().sum().backward()
    out = same(x())
    probabilities = same.gate(x()).softmax(-1)
    loss = 0.3 * balance_loss(probabilities, probabilities.topk(2).indices)
    (out.square().sum() + 0.25 * loss).backward()
    for ours, theirs in zip(layer.parameters(), same.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(layer.aux_sum, loss.detach())


def test_add_loss_changes_no_value():
    value, loss = x().requires_grad_(), torch.tensor(5.0, requires_grad=True)
    out = AddLoss.apply(value, loss, torch.tensor(0.5))
    assert torch.equal(out, value)
    out.sum().backward()
    assert torch.equal(value.grad, torch.ones_like(value))
    assert loss.grad == 0.5


def test_evaluation_counts_nothing():
    layer = make_moe().eval()
    layer(x())
    assert layer.aux_sum == 0
    assert not layer.load.any()


# --- capacity ----------------------------------------------------------------------------------------------


def kept_one_by_one(chosen: Tensor, held: Tensor, factor: float, experts: int) -> Tensor:
    """The definition: every pair of one sequence asks for room in turn. `chosen` is `[time, k]`."""
    time, k = chosen.shape
    room = math.ceil(factor * int(held.sum()) * k / experts)
    taken: Counter[int] = Counter()
    kept = torch.zeros_like(chosen, dtype=torch.bool)
    for choice in range(k):
        for token in range(time):
            expert = int(chosen[token, choice])
            if held[token] and taken[expert] < room:
                taken[expert] += 1
                kept[token, choice] = True
    return kept


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3),
    time=st.integers(1, 12),
    experts=st.integers(1, 6),
    factor=st.sampled_from([0.25, 0.5, 1.0, 1.25, 2.0, 8.0]),
    data=st.data(),
)
def test_capacity_equals_the_definition_pair_by_pair(rows, time, experts, factor, data):
    k = data.draw(st.integers(1, experts))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    chosen = torch.rand(rows, time, experts, generator=generator).topk(k).indices
    held = torch.rand(rows, time, generator=generator) < 0.8
    expected = [kept_one_by_one(row, real, factor, experts) for row, real in zip(chosen, held)]
    assert torch.equal(within_capacity(chosen, held, factor, experts), torch.stack(expected))


def test_the_factor_of_a_capacity_is_a_decimal_number():
    chosen = torch.zeros(1, 100, 1, dtype=torch.long)
    held = torch.ones(1, 100, dtype=torch.bool)
    assert math.ceil(1.1 * 100 * 1 / 10) == 12
    assert within_capacity(chosen, held, 1.1, 10).sum() == 11


def test_first_choices_come_before_second_ones_and_earlier_tokens_before_later():
    chosen = torch.tensor([[[0, 1], [1, 0], [1, 0], [0, 1]]])
    held = torch.ones(1, 4, dtype=torch.bool)
    kept = within_capacity(chosen, held, 0.75, 2)  # room for 3
    assert kept.tolist() == [[[True, True], [True, True], [True, False], [True, False]]]


def test_a_dropped_pair_contributes_nothing_and_is_not_computed(monkeypatch):
    layer = make_moe(capacity_factor=0.5)
    chosen = (x().double() @ layer.gate.weight.T).softmax(-1).topk(2).indices
    kept = within_capacity(chosen, torch.ones(2, 7, dtype=torch.bool), 0.5, 5)
    probabilities = layer.gate(x()).softmax(-1).gather(-1, chosen)
    weights = probabilities / probabilities.sum(-1, keepdim=True) * kept
    rows, each = [], Experts.each
    monkeypatch.setattr(Experts, "each", lambda self, x, sizes: rows.append(len(x)) or each(self, x, sizes))
    out = layer(x())
    assert rows == [kept.sum()]
    expected = dispatch_here(layer.experts, x().flatten(0, 1), chosen.flatten(0, 1), weights.flatten(0, 1))
    torch.testing.assert_close(out.flatten(0, 1), expected)
    assert layer.load.sum() == 2 * 7 * 2  # what was wanted, not what there was room for


def test_capacity_is_of_each_sequence_whatever_the_batch_and_the_padding():
    layer = make_moe(capacity_factor=1.0)
    together = layer(x(3))
    apart = torch.cat([layer(row[None]) for row in x(3)])
    torch.testing.assert_close(together, apart)
    layer.held = (torch.arange(11) < 7).expand(3, 11)
    torch.testing.assert_close(layer(torch.cat((x(3), x(3, 4)), dim=1))[:, :7], together)


def test_nothing_is_dropped_outside_training():
    layer, free = make_moe(capacity_factor=0.25), make_moe()
    assert not torch.allclose(layer(x()), free(x()))
    assert torch.equal(layer.eval()(x()), free.eval()(x()))


def test_all_pairs_may_be_dropped():
    experts, tokens = make_moe().experts, x().flatten(0, 1).requires_grad_()
    chosen = torch.full((14, 2), DROPPED)
    out = experts(tokens, chosen, torch.rand(14, 2, dtype=torch.float64))
    assert not out.any()
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in [tokens, *experts.parameters()])


# --- a bias on the choice ----------------------------------------------------------------------------------


def test_the_bias_changes_who_is_chosen_and_no_weight():
    layer = make_moe(balance_bias=0.1, experts_per_token=2)
    plain = make_moe(experts_per_token=2)
    assert layer.choice_bias is not None
    assert torch.equal(layer(x()), plain(x()))
    layer.choice_bias[3] = 5.0
    out = layer(x())
    assert layer.load[3] == 14 + plain.load[3]
    probabilities = layer.gate(x()).softmax(-1)
    chosen = (probabilities + layer.choice_bias).topk(2).indices
    weights = probabilities.gather(-1, chosen)
    weights = weights / weights.sum(-1, keepdim=True)
    expected = dispatch_here(plain.experts, x().flatten(0, 1), chosen.flatten(0, 1), weights.flatten(0, 1))
    torch.testing.assert_close(out.flatten(0, 1), expected)


def test_the_bias_moves_a_step_towards_experts_with_less_than_their_share():
    layer = make_moe(balance_bias=0.1)
    layer.load.copy_(torch.tensor([0, 4, 2, 3, 1]))
    update_choice_bias(layer)
    update_choice_bias(layer)
    expected = torch.tensor([0.2, -0.2, 0, -0.2, 0.2]).double()
    torch.testing.assert_close(layer.get_parameter("choice_bias").data, expected)
    update_choice_bias(make_moe())  # without a bias there is nothing to do


def test_the_bias_alone_evens_out_a_lopsided_router():
    layer = make_moe(balance_bias=0.002, balance_loss=0.0)
    with torch.no_grad():
        layer.gate.weight.mul_(0.1)[2] += 0.3
    tokens = x(8, 32).abs()

    def worst() -> float:
        layer.load.zero_()
        layer(tokens)
        return (layer.load.max() / layer.load.mean()).item()

    before = worst()
    for _ in range(160):
        update_choice_bias(layer)
        worst()
    assert before > 2
    assert worst() < 1.3


def test_the_bias_is_saved_with_the_parameters_and_has_no_gradient():
    config = ModelConfig(vocab=31, layers=1, balance_bias=0.1, **FIELDS)
    model = Decoder(config)
    named = dict(model.named_parameters())
    assert not named["layers.0.mlp.choice_bias"].requires_grad
    assert "layers.0.mlp.choice_bias" in model.state_dict()
    without = Decoder(config.model_copy(update={"balance_bias": 0.0}))
    assert "layers.0.mlp.choice_bias" not in without.state_dict()


# --- sequences in parts ------------------------------------------------------------------------------------


class Half:
    """One of two halves of every sequence. What the other half says was recorded in an earlier run."""

    def __init__(self, number: int, said: list[list[Tensor]]) -> None:
        self.number, self.other, self.said = number, iter(said[1 - number]), []

    def sum(self, x: Tensor) -> Tensor:
        self.said.append(x.detach())
        return x + next(self.other, torch.zeros_like(x))

    def gather(self, x: Tensor) -> Tensor:
        self.said.append(x)
        other = next(self.other, torch.zeros_like(x))
        return torch.cat((x, other) if self.number == 0 else (other, x), dim=1)

    def own(self, x: Tensor) -> Tensor:
        return x.chunk(2, dim=1)[self.number]


@pytest.mark.parametrize("padded", [False, True])
def test_how_a_sequence_is_spread_changes_nothing(padded):
    fields = {"capacity_factor": 0.75, "balance_loss": 0.3, "balance_bias": 0.1}
    held = torch.arange(8).lt(6).expand(3, 8) if padded else None
    scale = 0.25

    def run(parts: Half | None, of) -> tuple[MoE, Tensor]:
        layer = make_moe(**fields)
        layer.get_parameter("choice_bias").copy_(torch.arange(5) / 10)
        layer.aux_scale.fill_(scale)
        layer.held = None if held is None else of(held)
        if parts is not None:
            layer.parts = parts
        out = layer(of(x(3, 8)))
        out.square().sum().backward()
        return layer, out

    whole, expected = run(None, lambda tensor: tensor)
    said: list[list[Tensor]] = [[], []]
    for _ in range(2):  # the first round only records
        halves = [Half(number, said) for number in range(2)]
        layers, outs = zip(*[run(half, half.own) for half in halves])
        said = [half.said for half in halves]
    torch.testing.assert_close(torch.cat(outs, dim=1), expected)
    for layer in layers:
        torch.testing.assert_close(layer.aux_sum, whole.aux_sum)
    assert torch.equal(layers[0].load + layers[1].load, whole.load)
    for parameter, first, second in zip(whole.parameters(), *(layer.parameters() for layer in layers)):
        if parameter.grad is not None:
            torch.testing.assert_close(first.grad + second.grad, parameter.grad)


# --- one kernel for all experts ----------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [True, False])
def test_the_grouped_product_equals_the_loop(dtype, autocast, gated):
    runs = []
    for grouped in (True, False):
        layer = make_moe(ffn=16, experts=6, gated=gated).to(dtype)
        layer.experts.grouped = grouped
        tokens = x().to(dtype).requires_grad_()
        chosen = torch.randint(5, (14, 2), generator=torch.Generator().manual_seed(0))  # the last has none
        weights = torch.rand(14, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = layer.experts(tokens.flatten(0, 1), chosen, weights)
        out.square().sum().backward()
        runs.append([out, tokens.grad, *(parameter.grad for parameter in layer.experts.parameters())])
    for ours, theirs in zip(*runs):
        torch.testing.assert_close(ours, theirs)


def test_float64_and_the_cpu_use_the_loop(monkeypatch):
    monkeypatch.setattr(Experts, "_together", None)
    make_moe()(x())
    make_moe().float()(x().float())
