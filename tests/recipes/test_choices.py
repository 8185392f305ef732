import pytest

from plait.config import build, merge
from plait.errors import ConfigError
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder, parameter_count
from plait.recipes.choices import batch_rows, micro_rows, save_dtype, settle, size_of
from plait.recipes.recipe import Recipe


def recipe(**train) -> Recipe:
    base = {"out": "x", "data": {"text": "a"}, "train": {"steps": 10}}
    return build(Recipe, merge(base, {"train": train}))


@pytest.mark.parametrize(
    "fields",
    [{}, {"tied": False}, {"experts": 4, "shared_experts": 1}, {"position": "learned", "norm": "layer"}],
)
def test_parameters_are_counted_without_building_the_model(fields):
    config = ModelConfig(vocab=50, width=32, heads=4, layers=2, context=16, **fields)
    assert size_of(config).parameters == parameter_count(Decoder(config))


def test_active_parameters_are_those_that_multiply_a_token():
    dense = ModelConfig(vocab=50, width=32, heads=4, kv_heads=2, ffn=64, layers=2, context=16)
    norms = 2 * (2 * 32 + 2 * 8) + 32
    matrices = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 50 * 32
    size = size_of(dense)
    assert size.active == matrices + norms
    assert size.flops_per_token == 6 * size.active + 6 * 2 * 32 * 16
    untied = dense.model_copy(update={"tied": False})
    assert size_of(untied).active == size.active
    assert size_of(untied).parameters == size.parameters + 50 * 32


def test_of_the_experts_only_the_chosen_are_active():
    fields = {"vocab": 50, "width": 32, "heads": 4, "ffn": 64, "layers": 2, "context": 16, "experts": 8}
    one, two = (size_of(ModelConfig(**fields, experts_per_token=k)) for k in (1, 2))
    assert two.active - one.active == 2 * 3 * 32 * 64
    assert one.parameters == two.parameters


def test_rows_of_a_step():
    assert batch_rows(recipe(batch_size=7), 64) == 7
    assert batch_rows(recipe(batch_tokens=1000), 64) == 15
    assert batch_rows(recipe(), 64) == 64
    assert batch_rows(recipe(), 10_000) == 1
    with pytest.raises(ConfigError, match=r"train.batch_tokens=63 is less than one row of model.context=64"):
        batch_rows(recipe(batch_tokens=63), 64)


@pytest.mark.parametrize("rows", [1, 7, 12, 64])
def test_a_micro_batch_divides_the_rows(rows):
    config = ModelConfig(width=128)
    for dtype in ("float64", "float32", "bfloat16"):
        assert rows % micro_rows(config, 64, rows, "cpu", dtype)[0] == 0
    assert micro_rows(config, 64, rows, "cuda", "float32")[0] == rows
    assert micro_rows(ModelConfig(width=4096, heads=32), 4096, rows, "cpu", "float32")[0] == 1


def test_narrow_numbers_leave_room_for_more_rows():
    config = ModelConfig(width=384)
    rows = [micro_rows(config, 256, 64, "cpu", dtype)[0] for dtype in ("float64", "float32", "bfloat16")]
    assert rows == [2, 4, 8]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dropout": 0.1}, "dropout draws its masks outside a compiled graph"),
        ({"attn_dropout": 0.1}, "dropout draws its masks outside a compiled graph"),
        ({"experts": 4}, "which expert works on which token is decided by the data"),
    ],
)
def test_what_compiling_cannot_follow_is_not_compiled_unless_asked(fields, reason):
    config = ModelConfig(vocab=50, width=32, heads=4, **fields)
    hours = 10**15  # tokens
    settled, _, reasons = settle(recipe(device="cpu"), config, 64, hours)
    assert not settled.train.compile
    assert reasons["compile"].startswith(reason)
    plain = ModelConfig(vocab=50, width=32, heads=4)
    found, machine, _ = settle(recipe(device="cpu"), plain, 64, hours)
    assert found.train.compile == machine.compiler
    if machine.compiler:
        assert settle(recipe(device="cpu", compile=True), config, 64, hours)[0].train.compile


def test_settling_leaves_nothing_open_and_keeps_what_was_asked():
    config = ModelConfig(vocab=50, width=32, heads=4)
    settled, machine, reasons = settle(recipe(dtype="float64", micro_batch=2, threads=1), config, 64, 10_000)
    train = settled.train
    assert (train.dtype, train.micro_batch, train.threads, train.save_dtype) == ("float64", 2, 1, "float64")
    assert train.batch_size == 64
    assert train.device == machine.kind
    assert "auto" not in {train.device, train.dtype, train.compile, train.threads, train.micro_batch}
    assert reasons["micro_batch"] == "asked for"
    again, _, _ = settle(settled, config, 64, None)
    assert again == settled
    assert settle(recipe(batch_tokens=640), config, 64, None)[0].train.batch_tokens == 640


def test_files_hold_float32_unless_the_run_computes_wider():
    assert [save_dtype("auto", dtype) for dtype in ("float32", "bfloat16", "float16", "float64")] == [
        "float32", "float32", "float32", "float64",
    ]  # fmt: skip
    assert save_dtype("bfloat16", "float64") == "bfloat16"
