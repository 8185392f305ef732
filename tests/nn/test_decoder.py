import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from plait.infer.cache import KVCache
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder, parameter_count
from plait.nn.initialize import initialize
from plait.nn.norm import LayerNorm, RMSNorm

POSITIONS = ["rope", "learned", "sinusoidal", "alibi", "t5", "none"]
FORMS = {
    **{position: {"position": position} for position in POSITIONS},
    "window": {"window": 3},
    "window pattern": {"window": 3, "window_pattern": 2},
    "multi-query": {"kv_heads": 1},
    "multi-head": {"kv_heads": 4, "qk_norm": False},
    "soft caps": {"attn_softcap": 5.0, "logit_softcap": 3.0},
    "gpt-2": {"norm": "layer", "position": "learned", "gated": False, "activation": "gelu_tanh",
              "qkv_bias": True, "out_bias": True, "mlp_bias": True, "kv_heads": 4},
    "post-norm": {"norm": "layer", "norm_place": "post", "position": "sinusoidal", "activation": "relu"},
    "gemma": {"norm_place": "sandwich", "norm_offset": True, "embed_scale": 4.0, "activation": "gelu_tanh"},
    "relu2 head": {"activation": "relu2", "gated": False, "tied": False, "head_bias": True},
    "experts": {"experts": 4, "experts_per_token": 2, "shared_experts": 1},
    "scaled rope": {"rope_scaling": {"kind": "yarn", "factor": 2, "original_context": 12}},
    "wide heads": {"head_dim": 10, "logit_scale": 0.5, "attn_scale": 0.2},
}  # fmt: skip


def tokens(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(31, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("form", FORMS)
def test_packed_documents_give_the_logits_they_give_alone(make_decoder, form):
    model = make_decoder(**FORMS[form])
    documents = tokens(5, 9, 4)
    positions = torch.cat(
        [torch.arange(len(each)) for each in documents] + [torch.zeros(2, dtype=torch.long)]
    )
    segments = torch.tensor([0] * 5 + [1] * 9 + [2] * 4 + [-1] * 2)
    row = torch.cat([*documents, torch.tensor([1, 1])])
    packed = model(row[None], positions=positions[None], segments=segments[None])[0, :18]
    alone = torch.cat([model(each[None])[0] for each in documents])
    torch.testing.assert_close(packed, alone)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_causal_and_uses_every_parameter(make_decoder, form):
    model = make_decoder(**FORMS[form])
    (row,) = tokens(12)
    other = row.clone()
    other[8:] = (other[8:] + 5) % 31
    before, after = model(row[None]), model(other[None])
    torch.testing.assert_close(after[:, :8], before[:, :8])
    assert not torch.allclose(after[:, 8:], before[:, 8:])
    model(torch.stack(tokens(12, 12, 12))).square().sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@pytest.mark.parametrize("position", POSITIONS)
def test_order_matters_with_positions_and_only_with_them(make_decoder, position):
    model = make_decoder(position=position, layers=1)
    (row,) = tokens(6)
    swapped = row[[1, 0, 2, 3, 4, 5]]
    same = torch.allclose(model(row[None])[0, -1], model(swapped[None])[0, -1])
    assert same == (position == "none")


def test_a_window_hides_what_lies_before_it(make_decoder):
    model = make_decoder(window=3, layers=1)
    (row,) = tokens(10)
    other = row.clone()
    other[:5] = (other[:5] + 3) % 31
    torch.testing.assert_close(model(row[None])[0, 7:], model(other[None])[0, 7:])
    assert not torch.allclose(model(row[None])[0, 6], model(other[None])[0, 6])


def test_every_nth_layer_of_a_window_pattern_attends_in_full():
    config = ModelConfig(layers=6, window=8, window_pattern=3)
    assert [config.window_of(n) for n in range(6)] == [8, 8, 0, 8, 8, 0]
    assert [ModelConfig(window=8).window_of(n) for n in range(2)] == [8, 8]


def test_explicit_positions_equal_the_implied_ones(make_decoder):
    for position in POSITIONS:
        model = make_decoder(position=position)
        rows = torch.stack(tokens(8, 8))
        torch.testing.assert_close(model(rows, positions=torch.arange(8).expand(2, 8)), model(rows))


def test_initialization_depends_on_names_and_seed_only():
    small, large = (Decoder(ModelConfig(vocab=31, width=16, heads=4, layers=n)) for n in (2, 4))
    torch.manual_seed(99)
    initialize(large, 5)
    torch.manual_seed(1)
    initialize(small, 5)
    ours, theirs = dict(small.named_parameters()), dict(large.named_parameters())
    for name, parameter in ours.items():
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        ratio = (4 / 2) ** 0.5 if residual else 1.0
        torch.testing.assert_close(parameter, theirs[name] * ratio)
    first = ours["layers.0.mlp.up_proj.weight"].clone()
    assert not torch.equal(first, ours["layers.1.mlp.up_proj.weight"])
    initialize(small, 6)
    assert not torch.equal(first, small.layers["0"].mlp.up_proj.weight)


def test_initialization_has_the_published_spread():
    model = Decoder(ModelConfig(vocab=400, width=128, heads=2, layers=8, experts=2, qkv_bias=True))
    initialize(model, 0)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert (parameter == (0 if name.endswith("bias") else 1)).all()
        elif ".gate.weight" not in name:  # two rows are no statistics
            writes = name.endswith(("o_proj.weight", "down_proj"))
            assert parameter.std().item() == pytest.approx(0.02 / (4 if writes else 1), rel=0.05)


def test_tied_weights_are_one_parameter(make_decoder):
    tied, untied = make_decoder(), make_decoder(tied=False)
    assert tied.lm_head.weight is tied.embed_tokens.weight
    assert "lm_head.weight" not in dict(tied.named_parameters())
    assert parameter_count(untied) - parameter_count(tied) == 31 * 16


def test_stages_of_a_pipeline_compose_to_the_whole(make_decoder):
    model, first, last = make_decoder(), make_decoder(), make_decoder()
    del first.layers["1"]
    first.norm = first.lm_head = None
    del last.layers["0"]
    last.embed_tokens = None
    rows = torch.stack(tokens(9, 9))
    torch.testing.assert_close(last(first(rows)), model(rows))
    assert first(rows).shape == (2, 9, 16)


def test_a_decoder_without_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"ModelConfig.vocab must be set"):
        Decoder(ModelConfig())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rms_norm_is_its_formula(dtype):
    x = torch.randn(3, 5, 8, dtype=dtype)
    norm = RMSNorm(8, 1e-6).to(dtype)
    torch.nn.init.normal_(norm.weight)
    wide = x.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    torch.testing.assert_close(norm(x), expected.to(dtype))


def test_an_offset_norm_multiplies_by_one_plus_its_weight():
    x = torch.randn(3, 8, dtype=torch.float64)
    plain, offset = RMSNorm(8, 1e-6).double(), RMSNorm(8, 1e-6, offset=True).double()
    torch.testing.assert_close(offset(x), plain(x))
    torch.nn.init.constant_(offset.weight, 0.5)
    torch.testing.assert_close(offset(x), 1.5 * plain(x))


def test_layer_norm_is_its_formula():
    x = torch.randn(3, 8, dtype=torch.float64)
    norm = LayerNorm(8, 1e-5).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), scaled * norm.weight + norm.bias)
    assert LayerNorm(8, 1e-5, bias=False).bias is None


@pytest.mark.parametrize("form", ["rope", "experts", "alibi", "gpt-2"])
def test_autocast_to_bfloat16_trains_with_dropout(form):
    model = Decoder(
        ModelConfig(vocab=31, width=16, heads=4, layers=2, context=24, dropout=0.1, **FORMS[form])
    )
    initialize(model, 0)
    rows = torch.stack(tokens(9, 9))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(rows).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


class _NoFloat64(TorchDispatchMode):
    """Apple's GPUs have no float64; the meta device stands in for one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                assert tensor.dtype != torch.float64, func
        return out


@pytest.mark.parametrize("position", ["rope", "alibi", "t5", "learned", "sinusoidal"])
def test_no_float64_reaches_the_device(position):
    model = Decoder(ModelConfig(vocab=31, width=16, heads=4, layers=2, context=24, position=position)).to(
        "meta"
    )
    with _NoFloat64():
        assert model(torch.zeros(2, 10, dtype=torch.long, device="meta")).shape == (2, 10, 31)


def test_a_cache_needs_positions():
    model = Decoder(ModelConfig(vocab=31, width=16, heads=4, layers=2, context=24))
    with pytest.raises(ValueError, match="with a cache positions are needed"):
        model(torch.zeros(1, 2, dtype=torch.long), cache=KVCache(1))
