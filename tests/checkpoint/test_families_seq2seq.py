import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.checkpoint.directory import load_model, read_config, save
from plait.checkpoint.families import (
    FAMILIES,
    choose_family,
    from_hf_config,
    function_of,
    nearest_family,
    to_hf_config,
)
from plait.errors import ModelError
from plait.nn.config import ModelConfig
from plait.nn.encoder_decoder import build
from plait.nn.initialize import initialize
from plait.text.train_tokenizer import train

SMALL = {
    "vocab": 300,
    "width": 32,
    "layers": 2,
    "encoder_layers": 3,
    "heads": 4,
    "kv_heads": 4,
    "context": 20,
}
SMALL |= {"qk_norm": False}
BIASES = dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True)
PLAIN = SMALL | BIASES | {"norm": "layer", "norm_eps": 1e-5, "norm_place": "post", "gated": False}
MARIAN = PLAIN | {"position": "sinusoidal"}
BART = PLAIN | {"position": "learned", "embed_norm": True}
T5 = SMALL | {"position": "t5", "attn_scale": 1.0, "gated": False, "activation": "relu"}
T5_HEAD = {"tied": False, "gated": True, "activation": "gelu_tanh"}


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("marian", MARIAN),
        ("marian", MARIAN | {"embed_scale": math.sqrt(32), "activation": "gelu", "head_bias": True}),
        ("marian", MARIAN | {"embed_scale": 5.65685}),  # written down by hand
        ("marian", MARIAN | {"shared_embeddings": False, "tied": False}),
        ("bart", BART | {"dropout": 0.1, "decoder_start": 5}),
        ("mbart", BART | {"norm_place": "pre", "embed_scale": math.sqrt(32)}),
        ("pegasus", MARIAN | {"norm_place": "pre", "embed_scale": math.sqrt(32)}),
        ("t5", T5 | {"logit_scale": 32**-0.5}),
        ("t5", T5 | T5_HEAD | {"head_dim": 6}),
        ("t5", T5),
    ],
)
def test_family_of_a_configuration(family, fields):
    assert choose_family(ModelConfig(**fields)) == family


@pytest.mark.parametrize(
    ("fields", "near", "lacking"),
    [
        (MARIAN | {"embed_scale": 5.6}, "marian", ["embed_scale"]),
        (MARIAN | {"kv_heads": 2}, "marian", ["kv_heads"]),
        (MARIAN | {"tied": False}, "marian", ["tied"]),
        (MARIAN | {"norm_eps": 1e-6}, "marian", ["norm_eps"]),
        (BART | {"norm_place": "sandwich"}, "bart", ["norm_place"]),
        (BART | {"tied": False}, "bart", ["tied"]),
        (T5 | {"logit_scale": 0.5}, "t5", ["logit_scale"]),
        (T5 | {"attn_scale": 0.0}, "t5", ["attn_scale"]),
        (T5 | {"gated": True, "activation": "gelu"}, "t5", ["activation"]),
        (T5 | {"shared_embeddings": False}, "t5", ["shared_embeddings"]),
        (SMALL | {"position": "rope"}, "t5", ["position"]),
    ],
)
def test_what_no_family_has_is_saved_as_plait_and_named(fields, near, lacking, tmp_path):
    config = ModelConfig(**fields)
    assert choose_family(config) == "plait"
    found, missing = nearest_family(config)
    assert found == near
    assert set(lacking) <= set(missing)
    model = build(config)
    initialize(model, seed=0)
    save(model, None, tmp_path / "model")
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (values["model_type"], values["architectures"]) == ("plait", ["PlaitEncoderDecoder"])
    back = load_model(tmp_path / "model")
    assert back.config == config
    for (name, mine), (other, theirs) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(mine, theirs)


def test_a_decoder_is_never_taken_for_half_an_encoder_decoder():
    assert choose_family(ModelConfig(**MARIAN | {"encoder_layers": 0})) == "plait"
    with pytest.raises(ModelError, match=r"encoder_layers=0 is not something .* 1 or more"):
        from_hf_config(to_hf_config(ModelConfig(**MARIAN)) | {"encoder_layers": 0})


CONFIGS = st.builds(
    ModelConfig,
    vocab=st.integers(10, 500),
    width=st.just(32),
    layers=st.integers(1, 3),
    encoder_layers=st.integers(1, 3),
    heads=st.just(4),
    kv_heads=st.just(4),
    head_dim=st.sampled_from([0, 0, 6]),
    norm=st.sampled_from(["rms", "layer"]),
    norm_place=st.sampled_from(["pre", "post"]),
    norm_eps=st.sampled_from([1e-5, 1e-6]),
    qk_norm=st.just(False),
    position=st.sampled_from(["learned", "sinusoidal", "t5"]),
    activation=st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"]),
    gated=st.booleans(),
    qkv_bias=st.booleans(),
    out_bias=st.booleans(),
    mlp_bias=st.booleans(),
    head_bias=st.booleans(),
    tied=st.booleans(),
    shared_embeddings=st.booleans(),
    embed_norm=st.booleans(),
    decoder_start=st.integers(-1, 9),
    embed_scale=st.sampled_from([1.0, 32**0.5]),
    logit_scale=st.sampled_from([1.0, 32**-0.5]),
    attn_scale=st.sampled_from([0.0, 1.0]),
    dropout=st.sampled_from([0.0, 0.1]),
    attn_dropout=st.sampled_from([-1.0, 0.3]),
    init_std=st.sampled_from([0.02, 0.01]),
)


def like(family: dict) -> st.SearchStrategy[ModelConfig]:
    """Configurations near a family, which chance alone would hardly meet."""
    near = {name: family[name] for name in family if name not in ("vocab", "layers", "encoder_layers")}
    return CONFIGS.map(lambda any_: ModelConfig(**(any_.model_dump(exclude={"head_dim", "ffn"}) | near)))


@settings(max_examples=150, deadline=None)
@given(CONFIGS | like(MARIAN) | like(BART) | like(T5), st.sampled_from([{}, {"pad_token_id": 3}]))
def test_every_configuration_comes_back_equal_and_without_our_key_computes_the_same(config, tokens):
    values = json.loads(json.dumps(to_hf_config(config, tokens=tokens)))
    back, family = from_hf_config(values)
    assert (back, family) == (config, choose_family(config))
    if family != "plait":
        values.pop("plait", None)
        theirs, mine = function_of(from_hf_config(values)[0]), function_of(config)
        for name in FAMILIES[family].in_weights:
            del theirs[name], mine[name]
        assert theirs == mine


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (MARIAN, {"decoder_ffn_dim": 64}, "encoder_ffn_dim=128.*decoder_ffn_dim=64: both stacks are of one"),
        (BART, {"decoder_attention_heads": 2}, "encoder_attention_heads=4.*decoder_attention_heads=2"),
        (MARIAN, {"decoder_vocab_size": 400}, "decoder_vocab_size=400.*it can do 300"),
        (MARIAN, {"tie_word_embeddings": False}, "tie_word_embeddings=False.*it can do True"),
        (BART, {"activation_function": "tanh"}, "activation_function='tanh'"),
        (BART, {"encoder_attention_heads": 5, "decoder_attention_heads": 5}, "encoder_attention_heads=5"),
        (BART, {"d_model": None}, "config.json has no d_model"),
        (T5, {"feed_forward_proj": "swi-glu"}, "feed_forward_proj='swi-glu'"),
        (T5, {"feed_forward_proj": "gated-mish"}, "feed_forward_proj='mish'"),
        (T5, {"num_layers": 0}, "num_layers=0"),
        (T5, {"model_type": "umt5"}, "model_type='umt5' is not a family plait knows"),
    ],
)
def test_what_a_foreign_configuration_says_and_plait_cannot_do_is_named(kind, change, message):
    with pytest.raises(ModelError, match=message):
        from_hf_config(to_hf_config(ModelConfig(**kind)) | change)


def test_what_a_target_begins_with_is_written_for_others_and_kept_for_us(tmp_path):
    tokenizer = train(["a"], kind="byte")
    for start, written in ((-1, tokenizer.pad_id), (7, 7)):
        config = ModelConfig(**MARIAN, decoder_start=start)
        model = build(config)
        initialize(model, seed=0)
        save(model, tokenizer, tmp_path / "model")
        for file in ("config.json", "generation_config.json"):
            values = json.loads((tmp_path / "model" / file).read_text())
            assert values["decoder_start_token_id"] == written
        assert read_config(tmp_path / "model")[0] == config


def test_the_card_says_what_it_is(tmp_path):
    save(build(ModelConfig(**T5)), None, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "pipeline_tag: text2text-generation" in card
    assert "An encoder-decoder of" in card
    assert "(3 + 2 layers" in card
