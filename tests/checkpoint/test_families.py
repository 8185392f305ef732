import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.checkpoint.families import (
    choose_family,
    differences,
    from_hf_config,
    function_of,
    nearest_family,
    to_hf_config,
)
from plait.errors import ModelError
from plait.nn.config import ModelConfig, RopeScaling

QWEN3 = to_hf_config(ModelConfig(vocab=100))
GPT2 = {"model_type": "gpt2", "vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4}
PLAIN = {"norm": "layer", "position": "learned", "qk_norm": False, "gated": False, "activation": "gelu_tanh"}
BIASES = dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("qwen3", {}),
        ("qwen3", {"width": 64, "layers": 8, "heads": 8, "kv_heads": 2, "context": 64, "dropout": 0.1}),
        ("qwen3", {"window": 8, "window_pattern": 2, "tied": False}),
        ("qwen3_moe", {"experts": 8}),
        ("qwen3_moe", {"experts": 8, "window": 8, "balance_loss": 0.0}),
        ("qwen3_moe", {"experts": 8, "capacity_factor": 1.25}),  # a matter of training
        ("qwen3", {"balance_bias": 0.001}),  # there is no choice to bias
        ("llama", {"qk_norm": False}),
        ("llama", {"qk_norm": False, **BIASES}),
        ("gpt2", {**PLAIN, **BIASES, "kv_heads": 4, "dropout": 0.2}),
        ("gpt2", {**PLAIN, **BIASES, "kv_heads": 4, "activation": "relu2"}),
    ],
)
def test_family_of_a_configuration(family, fields):
    assert choose_family(ModelConfig(vocab=100, **fields)) == family


@pytest.mark.parametrize(
    ("fields", "lacking"),
    [
        ({"activation": "relu2", "gated": False}, ["gated"]),
        ({"experts": 4, "shared_experts": 1}, ["shared_experts"]),
        ({"experts": 4, "balance_bias": 0.001}, ["balance_bias"]),
        ({"experts": 4, "window": 8, "window_pattern": 2}, ["window_pattern"]),
        ({"norm_offset": True}, ["norm_offset"]),
        ({"norm_place": "sandwich"}, ["norm_place"]),
        ({"logit_softcap": 30.0}, ["logit_softcap"]),
        ({"attn_scale": 0.5}, ["attn_scale"]),
        ({"qkv_bias": True}, ["out_bias"]),
        ({"position": "alibi"}, ["position"]),
        ({**PLAIN, **BIASES, "kv_heads": 2}, ["kv_heads"]),
        ({**PLAIN, **BIASES, "kv_heads": 4, "norm_bias": False}, ["norm_bias"]),
    ],
)
def test_what_no_family_has_is_saved_as_plait_and_named(fields, lacking):
    config = ModelConfig(vocab=100, **fields)
    assert choose_family(config) == "plait"
    assert set(lacking) <= set(nearest_family(config)[1])
    values = json.loads(json.dumps(to_hf_config(config)))
    assert values["model_type"] == "plait"
    assert from_hf_config(values) == (config, "plait")


def test_llama_needs_heads_that_divide_the_width_as_transformers_does():
    config = ModelConfig(vocab=100, width=100, heads=3, head_dim=32, qk_norm=False)
    assert differences(config, "llama") == {"heads": 1}
    assert choose_family(config) == "plait"


ROPES = st.none() | st.builds(
    RopeScaling,
    kind=st.sampled_from(["linear", "ntk", "yarn", "llama3"]),
    factor=st.floats(1.5, 16),
    original_context=st.integers(8, 64),
    beta_fast=st.sampled_from([32.0, 8.0]),
)
CONFIGS = st.builds(
    ModelConfig,
    vocab=st.integers(1, 500),
    width=st.just(32),
    heads=st.sampled_from([2, 4]),
    head_dim=st.sampled_from([0, 6, 8]),
    kv_heads=st.sampled_from([0, 1, 2]),
    norm=st.sampled_from(["rms", "layer"]),
    qk_norm=st.booleans(),
    position=st.sampled_from(["rope", "learned", "alibi"]),
    rope_scaling=ROPES,
    activation=st.sampled_from(["silu", "gelu", "gelu_tanh", "relu", "relu2"]),
    gated=st.booleans(),
    qkv_bias=st.booleans(),
    out_bias=st.booleans(),
    mlp_bias=st.booleans(),
    tied=st.booleans(),
    window=st.sampled_from([0, 5]),
    window_pattern=st.integers(1, 4),
    experts=st.sampled_from([0, 4]),
    expert_ffn=st.sampled_from([0, 16]),
    balance_bias=st.sampled_from([0.0, 0.001]),
    capacity_factor=st.sampled_from([0.0, 1.25]),
    dropout=st.sampled_from([0.0, 0.1]),
    attn_dropout=st.sampled_from([-1.0, 0.0, 0.3]),
)


@settings(max_examples=150, deadline=None)
@given(CONFIGS)
def test_every_configuration_comes_back_equal_and_without_our_key_computes_the_same(config):
    values = json.loads(json.dumps(to_hf_config(config)))
    back, family = from_hf_config(values)
    assert (back, family) == (config, choose_family(config))
    if family != "plait":
        values.pop("plait", None)
        assert function_of(from_hf_config(values)[0]) == function_of(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen4"}, "model_type='qwen4' is not a family plait knows .*did you mean 'qwen3'"),
        ({"model_type": None}, "model_type=None is not a family"),
        (
            {"hidden_act": "mish"},
            "hidden_act='mish' is not something plait can express; it can do silu",
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type='dynamic'.*linear, yarn, llama3",
        ),
        ({"rope_parameters": None, "rope_scaling": {"type": "longrope"}}, "rope_type='longrope'"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one setting for all layers"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0}},
            r"attention_factor=2.0.*it can do 1.1386",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0}}, "mscale=1.0"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "truncate": False}}, "truncate=False"),
        (
            {"use_sliding_window": True, "sliding_window": 4, "layer_types": None, "max_window_layers": 2},
            "layer_types=.*in all layers, or in all but every n-th",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set; plait reads unquantized"),
        ({"hidden_size": None}, "config.json has no hidden_size"),
        ({"num_key_value_heads": 3}, "heads=4 is not divisible by kv_heads=3"),
        ({"head_dim": "eight"}, "config.json: head_dim"),
        ({"plait": {"dropuot": 0.1}}, "config.json: dropuot"),
        ({"plait": 3}, "plait=3 must be a mapping"),
        ({"rope_theta": "big", "rope_parameters": {}}, "rope_theta"),
    ],
)
def test_what_a_foreign_configuration_says_and_plait_cannot_do_is_named(change, message):
    with pytest.raises(ModelError, match=message):
        from_hf_config(QWEN3 | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True.*it can do False"),
        ({"scale_attn_weights": False}, "scale_attn_weights=False"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"n_head": 5}, "n_head=5"),
        ({"vocab_size": 0}, "no vocab_size"),
    ],
)
def test_gpt2_settings_that_plait_cannot_express(change, message):
    with pytest.raises(ModelError, match=message):
        from_hf_config(GPT2 | change)


@pytest.mark.parametrize("change", [{"decoder_sparse_step": 2}, {"mlp_only_layers": [0]}])
def test_moe_with_dense_layers_is_refused(change):
    values = to_hf_config(ModelConfig(vocab=100, experts=4)) | change
    with pytest.raises(ModelError, match=next(iter(change))):
        from_hf_config(values)


def test_older_spelling_of_rope_is_read():
    values = QWEN3 | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    del values["rope_parameters"]
    config, _ = from_hf_config(values)
    assert config.rope_theta == 5e5
    assert config.rope_scaling == RopeScaling(kind="linear", factor=2.0, original_context=256)


def test_both_spellings_are_written():
    scaling = RopeScaling(kind="yarn", factor=4.0, original_context=64)
    values = to_hf_config(ModelConfig(vocab=100, rope_scaling=scaling, rope_theta=5e5))
    old, new = values["rope_scaling"], values["rope_parameters"]
    assert values["rope_theta"] == 5e5
    assert new == old | {"rope_theta": 5e5}
    assert old["rope_type"] == "yarn"
    assert values["dtype"] == values["torch_dtype"] == "float32"


def test_special_tokens_are_written():
    values = to_hf_config(ModelConfig(vocab=9), tokens={"eos_token_id": [0, 5], "pad_token_id": 1})
    assert (values["bos_token_id"], values["eos_token_id"], values["pad_token_id"]) == (None, [0, 5], 1)
