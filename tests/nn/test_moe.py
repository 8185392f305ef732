import pytest
import torch
from torch import Tensor

from plait.nn.config import ModelConfig
from plait.nn.moe import AddLoss, MoE, balance_loss

FIELDS = {"width": 8, "heads": 2, "ffn": 12, "experts": 5, "experts_per_token": 2}


def make_moe(**fields) -> MoE:
    layer = MoE(ModelConfig(**(FIELDS | fields))).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
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
