import pytest

from plait.config import build
from plait.errors import ConfigError
from plait.nn.config import ModelConfig


def model(**fields) -> ModelConfig:
    return build(ModelConfig, fields, source="model")


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 1), (4, 2), (6, 3), (7, 1), (9, 3), (12, 6)])
def test_kv_heads_are_the_largest_divisor_up_to_half(heads, kv_heads):
    assert model(width=heads * 8, heads=heads).kv_heads == kv_heads


def test_derived_sizes():
    config = model(width=192, heads=6)
    assert (config.head_dim, config.ffn) == (32, 512)
    assert model(width=192, heads=6, gated=False).ffn == 768
    assert model(width=100, heads=4, head_dim=32).ffn == 288  # 266.7 rounded up to a multiple of 32


@pytest.mark.parametrize("zero", [0, 0.0, "0", "0.0"])
def test_embeddings_begin_with_numbers_of_about_one_at_any_width(zero):
    config = model(width=64, embed_scale=zero, init_std=zero)
    assert (config.embed_scale, config.init_std) == (8.0, 0.125)
    assert model(width=64, logit_scale=zero).logit_scale == 0.125
    assert (model().embed_scale, model().init_std) == (1.0, 0.02)


def test_the_derived_values_survive_a_round_trip():
    config = model(width=96, heads=3, experts=4)
    assert model(**config.model_dump()) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"width": 64, "heads": 7},
            "width=64 is not divisible by heads=7; use heads from [1, 2, 4, 8, 16] or",
        ),
        ({"heads": 4, "kv_heads": 3}, "heads=4 is not divisible by kv_heads=3; use kv_heads from [1, 2, 4]"),
        ({"width": 12, "heads": 4}, "rope rotates pairs, so head_dim=3 must be even; set head_dim"),
        ({"experts": 2, "experts_per_token": 3}, "experts_per_token=3 is more than experts=2; lower it"),
        ({"layers": 0}, "layers=0 is not valid: input should be greater than or equal to 1"),
        ({"hedas": 4}, "unknown key 'hedas'; did you mean 'heads'?"),
        ({"norm": "batch"}, "norm='batch' is not valid: input should be 'rms' or 'layer'"),
        ({"width": "wide"}, "width='wide' is not valid: input should be a valid integer"),
        ({"dropout": 1}, "dropout=1 is not valid: input should be less than 1"),
        ({"rope_scaling": {"kind": "ntk", "factor": 2}}, "missing key 'rope_scaling.original_context'"),
        (
            {"width": 8, "heads": 4, "rope_scaling": {"kind": "ntk", "factor": 2, "original_context": 8}},
            "ntk scaling needs head_dim of at least 4, not 2",
        ),
        (
            {"position": "t5", "t5_max_distance": 16},
            "t5_max_distance=16 must be more than t5_buckets/2=16; raise it or lower t5_buckets",
        ),
    ],
)
def test_impossible_sizes_say_what_would_be_possible(fields, message):
    with pytest.raises(ConfigError) as error:
        model(**fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("heads", [8, "8", 8.0])
def test_numbers_are_derived_however_a_whole_number_is_written(heads):
    assert ModelConfig(width=512.0, heads=heads) == ModelConfig(width=512, heads=8)
    assert ModelConfig(heads=heads, kv_heads="0", head_dim="0", ffn="0") == ModelConfig(heads=8)


@pytest.mark.parametrize("heads", ["many", 2.5, None, float("nan"), float("inf"), [8]])
def test_what_is_no_whole_number_is_refused_by_name(heads):
    with pytest.raises(
        ConfigError, match=r"^recipe: heads=.* is not valid: input should be a (valid|finite)"
    ):
        build(ModelConfig, {"heads": heads})
