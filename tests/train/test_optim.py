import math
from functools import partial

import pytest
import torch
from torch import nn

from plait.nn.config import ModelConfig
from plait.nn.encoder_decoder import EncoderDecoder, build
from plait.nn.initialize import initialize, scale_of
from plait.nn.loss import cross_entropy
from plait.train.config import TrainConfig
from plait.train.optim import Muon, Optimizer, is_hidden_matrix, orthogonalize

OPTIMIZERS = {
    "adamw": {"optimizer": "adamw"},
    "adam": {"optimizer": "adam", "weight_decay": 0.05},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "nesterov": False},
    "nesterov": {"optimizer": "sgd", "momentum": 0.9},
    "plain sgd": {"optimizer": "sgd", "momentum": 0.0},
    "muon": {"optimizer": "muon"},
}


def config(**fields) -> TrainConfig:
    return TrainConfig(**({"steps": 10, "lr": 0.01} | fields))


def layer() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"layers": nn.Linear(6, 4)}).double()


def targets(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (6, 4))  # type: ignore


def train(module: nn.Module, optim: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x, y = targets(step)
        (module["layers"](x) - y).square().mean().backward()
        optim.step(1 - step / 20)


def reference(name: str, module: nn.Module) -> list[torch.optim.Optimizer]:
    weight, bias = module["layers"].weight, module["layers"].bias
    if name == "adamw":
        groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, betas=(0.9, 0.95))]
    if name == "adam":
        groups = [{"params": [weight], "weight_decay": 0.05}, {"params": [bias], "weight_decay": 0.0}]
        return [torch.optim.Adam(groups, betas=(0.9, 0.95))]
    momentum = 0.0 if name == "plain sgd" else 0.9
    return [torch.optim.SGD([weight, bias], momentum=momentum, nesterov=name == "nesterov")]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "nesterov", "plain sgd"])
def test_it_is_torchs_optimizer_with_decay_on_matrices_only(name):
    ours, theirs = layer(), layer()
    optim = Optimizer(ours.named_parameters(), config(**OPTIMIZERS[name]))
    train(ours, optim, 0, 8)
    (plain,) = reference(name, theirs)
    for step in range(8):
        x, y = targets(step)
        plain.zero_grad()
        (theirs["layers"](x) - y).square().mean().backward()
        for group in plain.param_groups:
            group["lr"] = 0.01 * (1 - step / 20)
        plain.step()
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(mine, other)
    assert optim.lr == pytest.approx(0.01 * (1 - 7 / 20))
    assert all(parameter.grad is None for parameter in ours.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_state_continues_exactly(name):
    whole, first = layer(), layer()
    train(whole, Optimizer(whole.named_parameters(), config(**OPTIMIZERS[name])), 0, 9)
    before = Optimizer(first.named_parameters(), config(**OPTIMIZERS[name]))
    train(first, before, 0, 5)
    second = layer()
    second.load_state_dict(first.state_dict())
    after = Optimizer(second.named_parameters(), config(**OPTIMIZERS[name]))
    after.load_state_dict({key: value for key, value in before.state_dict().items() if value})
    train(second, after, 5, 9)
    for mine, other in zip(second.parameters(), whole.parameters()):
        assert torch.equal(mine, other)


def test_state_that_is_missing_or_of_another_shape_is_refused():
    module = layer()
    optim = Optimizer(module.named_parameters(), config())
    train(module, optim, 0, 1)
    state = optim.state_dict()
    assert set(state) == {"layers.weight", "layers.bias"}
    with pytest.raises(ValueError, match=r"optimizer state of 'layers.bias' is missing"):
        optim.load_state_dict({"layers.weight": state["layers.weight"]})
    state["layers.weight"]["exp_avg"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"exp_avg of 'layers.weight' has shape \[3, 3\], not \[4, 6\]"):
        optim.load_state_dict(state)


def test_before_the_first_update_there_is_no_state_to_restore():
    optim = Optimizer(layer().named_parameters(), config())
    optim.load_state_dict(optim.state_dict())
    assert optim.state_dict() == {}


def test_a_skipped_step_changes_nothing_and_clears_the_gradient():
    module = layer()
    optim = Optimizer(module.named_parameters(), config())
    before = module["layers"].weight.clone()
    module["layers"](targets(0)[0]).sum().backward()
    optim.skip()
    assert torch.equal(module["layers"].weight, before)
    assert module["layers"].weight.grad is None


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4), (3, 6, 9), (2, 9, 5)])
def test_orthogonalizing_leaves_directions_and_brings_every_singular_value_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = orthogonalize(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert ((left @ right) * result).sum((-2, -1)).min() > 0.8 * min(shape[-2:])


def test_muon_orthogonalizes_stacked_experts_one_by_one_and_scales_by_out_over_in():
    generator = torch.Generator().manual_seed(2)
    gradient = torch.randn(3, 4, 16, generator=generator, dtype=torch.float64)  # [experts, in, out]
    stacked = nn.Parameter(torch.zeros_like(gradient))
    single = [nn.Parameter(torch.zeros(16, 4, dtype=torch.float64)) for _ in range(3)]  # [out, in]
    named = {"stacked": stacked} | {f"single.{number}": each for number, each in enumerate(single)}
    muon = Muon(
        named,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0,
        on_whole=lambda name, piece, function: function(piece),
    )
    stacked.grad = gradient
    for parameter, part in zip(single, gradient):
        parameter.grad = part.mT.contiguous()
    for group in muon.param_groups:
        group["lr"] = 0.1
    muon.step()
    for parameter, part in zip(single, stacked):
        torch.testing.assert_close(part.mT, parameter)
    assert torch.linalg.svdvals(stacked.detach()).max() == pytest.approx(0.1 * 2, rel=0.3)


def test_muon_trains_the_matrices_of_layers_and_adamw_the_rest(make_placed):
    placed = make_placed(experts=4, qkv_bias=True)
    parameters = dict(placed.named_parameters())
    by_muon = {name for name, parameter in parameters.items() if is_hidden_matrix(name, parameter.ndim)}
    kinds = {name.split(".", 2)[-1] for name in by_muon}
    assert kinds == {
        *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
        *(f"mlp.experts.{part}_proj" for part in ("gate", "up", "down")),
    }
    optim = Optimizer(parameters.items(), config(optimizer="muon"))
    sizes = [sum(p.numel() for group in part.param_groups for p in group["params"]) for part in optim.parts]
    assert sizes[0] == sum(parameters[name].numel() for name in by_muon)
    assert sum(sizes) == sum(parameter.numel() for parameter in parameters.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_a_batch_by_heart(make_placed, make_step, name):
    from plait.train.objectives import next_token

    lr = {"sgd": 0.3, "nesterov": 0.3, "plain sgd": 3.0}.get(name, 0.02)
    placed = make_placed("float32")
    optim = Optimizer(
        placed.named_parameters(), config(**(OPTIMIZERS[name] | {"lr": lr, "weight_decay": 0.0}))
    )
    losses = []
    for _ in range(40):
        loss = placed.forward_backward(make_step(), next_token)
        losses.append(float(loss.nll) / int(loss.tokens))
        placed.clip(1.0)
        optim.step(1.0)
    assert losses[0] == pytest.approx(math.log(31), rel=0.05)
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_without_gradient_are_left_alone(name):
    module = layer()
    module["layers"].register_parameter("frozen", nn.Parameter(torch.ones(3), requires_grad=False))
    optim = Optimizer(module.named_parameters(), config(**OPTIMIZERS[name]))
    train(module, optim, 0, 3)
    assert set(optim.names) == {"layers.weight", "layers.bias"}
    assert torch.equal(module["layers"].frozen, torch.ones(3))
    state = optim.state_dict()
    Optimizer(module.named_parameters(), config(**OPTIMIZERS[name])).load_state_dict(state)
    assert "layers.frozen" not in state


T5 = {
    "vocab": 40, "width": 32, "layers": 2, "encoder_layers": 1, "heads": 4, "kv_heads": 4, "qk_norm": False,
    "position": "t5", "init_std": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_factors_in_the_weights_train_as_factors_in_the_formula(name):
    """T5's queries and embeddings hold 1/√head_dim and √width, which others multiply by."""
    tokens = torch.arange(24).view(2, 12).mul(7).remainder(40)
    positions = torch.arange(12).expand(2, -1)
    losses = []
    for fields in ({"attn_scale": 1, "logit_scale": 0}, {"attn_scale": 0, "embed_scale": 0}):
        settings = ModelConfig(**T5, **fields)
        model = build(settings).double()
        assert isinstance(model, EncoderDecoder)
        initialize(model, seed=0)
        # tiny eps: it is what notices the size of a gradient
        optim = Optimizer(
            model.named_parameters(),
            config(**OPTIMIZERS[name], eps=1e-30),
            scale=partial(scale_of, settings),
        )
        each = []
        for _ in range(5):
            logits = model(tokens[:, :-1], memory=model.encode(tokens, positions))
            loss = cross_entropy(logits, tokens[:, 1:]).total / tokens[:, 1:].numel()
            loss.backward()
            optim.step(1.0)
            each.append(loss.item())
        losses.append(each)
    assert losses[0][-1] < losses[0][0] - 0.5
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # begun in float32
