import pytest
import torch

from plait.checkpoint.directory import parameter_shapes
from plait.checkpoint.names import TABLES, export, links, to_ours, to_theirs
from plait.nn.config import ModelConfig

SMALL = {"vocab": 20, "width": 16, "layers": 2, "heads": 4, "context": 8, "ffn": 24}
COARSE = {
    "encoder_layers": 3, "kv_heads": 4, "norm": "layer", "norm_place": "post", "qk_norm": False,
    "gated": False, "qkv_bias": True, "out_bias": True, "mlp_bias": True,
}  # fmt: skip
CONFIGS = {
    "qwen3": ModelConfig(**SMALL, tied=False),
    "qwen3_moe": ModelConfig(**SMALL, experts=3, expert_ffn=12),
    "llama": ModelConfig(**SMALL, qk_norm=False, qkv_bias=True, out_bias=True, mlp_bias=True),
    "gpt2": ModelConfig(
        **SMALL, kv_heads=4, norm="layer", position="learned", qk_norm=False, gated=False,
        qkv_bias=True, out_bias=True, mlp_bias=True,
    ),
    "marian": ModelConfig(**SMALL, **COARSE, position="sinusoidal", shared_embeddings=False, tied=False),
    "bart": ModelConfig(**SMALL, **COARSE, position="learned", embed_norm=True, head_bias=True),
    "mbart": ModelConfig(**SMALL, **COARSE | {"norm_place": "pre"}, position="learned", embed_norm=True),
    "pegasus": ModelConfig(**SMALL, **COARSE | {"norm_place": "pre"}, position="sinusoidal"),
    "t5": ModelConfig(**SMALL, encoder_layers=3, qk_norm=False, position="t5", gated=False),
    "mt5": ModelConfig(**SMALL, encoder_layers=1, qk_norm=False, position="t5", tied=False),
}  # fmt: skip


def weights_of(config: ModelConfig) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in parameter_shapes(config).items()}


@pytest.mark.parametrize("family", TABLES)
def test_every_row_read_backwards_gives_the_tensors_back(family):
    config = CONFIGS[family]
    weights = weights_of(config)
    seen = set()
    for link in links(family, config, weights):
        theirs = to_theirs(link, [weights[name] for name in link.ours])
        back = to_ours(link, theirs, [len(weights[name]) for name in link.ours])
        for name, tensor in zip(link.ours, back, strict=True):
            assert torch.equal(tensor, weights[name])
            seen.add(name)
    assert seen == weights.keys()


def test_gpt2_joins_query_key_and_value_as_its_convolution_has_them():
    weights = weights_of(CONFIGS["gpt2"])
    theirs = export("gpt2", CONFIGS["gpt2"], weights)
    joined = theirs["transformer.h.1.attn.c_attn.weight"]
    assert joined.shape == (16, 48)
    assert torch.equal(joined[:, 16:32], weights["layers.1.self_attn.k_proj.weight"].T)
    assert theirs["transformer.h.0.attn.c_attn.bias"].shape == (48,)


def test_experts_become_one_matrix_each():
    weights = weights_of(CONFIGS["qwen3_moe"])
    theirs = export("qwen3_moe", CONFIGS["qwen3_moe"], weights)
    one = theirs["model.layers.1.mlp.experts.2.down_proj.weight"]
    assert torch.equal(one, weights["layers.1.mlp.experts.down_proj"][2].T)
    assert len([name for name in theirs if ".experts." in name]) == 2 * 3 * 3


def test_positions_of_bart_begin_behind_two_rows_that_are_never_seen():
    weights = weights_of(CONFIGS["bart"])
    theirs = export("bart", CONFIGS["bart"], weights)
    positions = theirs["model.encoder.embed_positions.weight"]
    assert positions.shape == (10, 16)
    assert not positions[:2].any()
    assert torch.equal(positions[2:], weights["encoder.embed_positions.weight"])
    assert torch.equal(theirs["final_logits_bias"], weights["lm_head.bias"][None])


def test_a_gate_renames_the_matrix_beside_it_in_t5():
    names = {kind: export(kind, CONFIGS[kind], weights_of(CONFIGS[kind])) for kind in ("t5", "mt5")}
    assert "encoder.block.2.layer.1.DenseReluDense.wi.weight" in names["t5"]
    assert "decoder.block.1.layer.2.DenseReluDense.wi_0.weight" in names["mt5"]
    assert "decoder.block.1.layer.2.DenseReluDense.wi_1.weight" in names["mt5"]


def test_a_parameter_without_a_row_is_a_bug_that_shows():
    weights = weights_of(CONFIGS["qwen3"])
    with pytest.raises(KeyError, match=r"llama has no row for .*k_norm"):
        links("llama", CONFIGS["qwen3"], weights)
