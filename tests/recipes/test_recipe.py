import pytest

import plait
from plait.config import build, dump_yaml, merge, parse_yaml
from plait.errors import ConfigError, InputError
from plait.nn.config import ModelConfig
from plait.recipes.recipe import (
    FromModel,
    Recipe,
    check_resume,
    find_recipe,
    flatten,
    load_recipe,
    shipped_recipes,
)
from plait.recipes.show import show
from plait.text.tokenizer_config import TokenizerConfig

BASE = {"out": "runs/x", "data": {"text": "a.txt"}, "train": {"steps": 10}}
FROM = {"model": {"from": "runs/base", "dropout": 0.1}}


def recipe(**more) -> Recipe:
    return build(Recipe, merge(BASE, more))


def refusal(**more) -> str:
    with pytest.raises(ConfigError) as error:
        recipe(**more)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_begin_with_what_they_are(name):
    assert load_recipe(name).out.startswith(f"runs/{name}")
    assert shipped_recipes()[name].read_text(encoding="utf-8").startswith("# ")


def test_the_shipped_recipes_are_those_promised():
    assert {"shakespeare-small", "shakespeare", "tiny", "tiny-moe", "tang-poems"} <= set(shipped_recipes())
    tiny = load_recipe("tiny").model
    assert isinstance(tiny, ModelConfig)
    assert (tiny.width, tiny.layers, tiny.heads, tiny.kv_heads, tiny.context) == (64, 8, 8, 2, 64)


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(BASE), encoding="utf-8")
    loaded = load_recipe(path, ["train.lr=3e-4", "--model.width", "64", "out=elsewhere"])
    assert (loaded.train.lr, loaded.out, loaded.train.steps) == (3e-4, "elsewhere", 10)
    assert isinstance(loaded.model, ModelConfig)
    assert loaded.model.width == 64


def test_a_model_to_start_from_takes_the_place_of_the_one_described(tmp_path):
    loaded = load_recipe("translate", ["model.from=runs/old", "data.pairs=a.csv", "model.dropout=0.2"])
    assert loaded.model == FromModel.model_validate({"from": "runs/old", "dropout": 0.2})
    assert loaded.tokenizer == TokenizerConfig()
    show("translate", ["model.from=runs/old"])
    changes = {"model.dropout": 0.2, "model": {"from": "nowhere"}, "out": str(tmp_path / "x")}
    with pytest.raises(InputError, match=r"'pairs\.csv' does not exist"):  # so the recipe itself is good
        next(plait.train("translate", **changes))
    kept = load_recipe("chat", ["model.dropout=0.2"]).model
    assert kept == FromModel.model_validate({"from": "runs/complete", "dropout": 0.2})


def test_a_name_that_is_no_recipe_suggests_one():
    with pytest.raises(ConfigError, match=r"recipe 'tinny' does not exist; did you mean 'tiny'\?"):
        find_recipe("tinny")
    with pytest.raises(ConfigError, match=r"recipe 'zzz.yaml' does not exist; shipped recipes: .*tiny"):
        find_recipe("zzz.yaml")


def test_problems_name_the_file_and_the_part(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(BASE | {"model": {"width": 64, "hedas": 4}}), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert str(error.value) == f"{path}: unknown key 'model.hedas'; did you mean 'heads'?"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"trian": {"lr": 1}}, "unknown key 'trian'; did you mean 'train'?"),
        ({"train": {"lerning_rate": 1}}, "unknown key 'train.lerning_rate'"),
        ({"model": 5}, "model=5 is not valid: give it `key: value` pairs"),
        ({"model": "runs/base"}, "model='runs/base' is not valid: give it `key: value` pairs"),
        ({"tokenizer": 5}, "tokenizer=5 is not valid"),
        ({"tokenizer": {"kind": "bpx"}}, "tokenizer.kind='bpx' is not valid: input should be 'bpe'"),
        (
            {"model": {"from": "runs/base", "width": 64}},
            "unknown key 'model.width'; known keys: from, dropout",
        ),
        ({"model": {"width": 64, "heads": 7}}, "model: width=64 is not divisible by heads=7"),
        ({"out": "  "}, "out is empty; name a run directory such as runs/first"),
        ({"layout": {"dp": 0}}, "layout.dp"),
        ({"layout": {"pp": 2, "schedule": "zbv", "stages": 3}}, "schedule=zbv has 2 stage"),
        ({"train": {"steps": 1, "r_drop": 5}}, "set model.dropout, such as 0.1"),
        (
            {"train": {"steps": 1, "r_drop": 5}, "model": {"dropout": 0.1}, "layout": {"tp": 2}},
            "train.r_drop compares whole logits, which layout.tp=2 divides; use dp",
        ),
        (
            {"data": {"messages": "b.jsonl"}},
            "needs exactly one of text, messages and pairs, found text and messages",
        ),
    ],
)
def test_impossible_recipes_are_one_line(more, message):
    assert message in refusal(**more)


def test_an_unknown_key_is_told_before_a_missing_one():
    with pytest.raises(ConfigError, match="unknown key 'dta'; did you mean 'data'"):
        build(Recipe, {"dta": {}, "out": "x"})


def test_an_empty_block_is_the_default():
    assert recipe(model=None, tokenizer=None) == recipe()


@pytest.mark.parametrize("more", [{}, FROM, {"tokenizer": "runs/tok"}, {"train": {"samples": ["\n", "1e5"]}}])
def test_a_stored_recipe_reads_back_the_same(more):
    made = recipe(**more)
    assert build(Recipe, parse_yaml(dump_yaml(made), "recipe.yaml")) == made


def settled(made: Recipe, **train) -> Recipe:
    """As `settle` and `begin` leave a recipe."""
    chosen = {"device": "cpu", "dtype": "float32", "compile": False, "threads": 2, "micro_batch": 4}
    chosen |= {"save_dtype": "float32"} | train
    model = (
        made.model.model_copy(update={"vocab": 300}) if isinstance(made.model, ModelConfig) else made.model
    )
    return made.model_copy(update={"train": made.train.model_copy(update=chosen), "model": model})


def test_what_was_left_open_and_settled_resumes():
    check_resume(settled(recipe(), batch_size=16), recipe())
    check_resume(settled(recipe(**FROM), batch_size=16), recipe(**FROM))
    rows = recipe(train={"batch_tokens": 1024})
    check_resume(settled(rows), rows)


@pytest.mark.parametrize(
    "free",
    [
        {"out": "runs/moved"},
        {"train": {"save_every": 5}},
        {"train": {"keep_last": 7, "keep_best": False}},
        {"train": {"stop_after": 5}},
    ],
)
def test_what_may_change_at_resume_does(free):
    check_resume(settled(recipe(), batch_size=16), recipe(**free))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"train": {"lr": 0.5}}, "train.lr was 0.001 when this run began and is 0.5 now"),
        ({}, {"train": {"dtype": "float64"}}, "train.dtype was 'float32' when this run "),
        ({}, {"seed": 1}, "seed was 1337"),
        ({}, {"data": {"text": "b.txt"}}, "data.text was 'a.txt'"),
        ({}, {"tokenizer": {"vocab_size": 300}}, "tokenizer.vocab_size was None"),
        ({}, {"model": {"layers": 3}}, "model.layers was 4"),
        ({}, FROM, "model.width was 256 when this run began and is None now"),
        # nothing that merely looks empty counts as left open
        ({"model": {"dropout": 0.1}}, {}, "model.dropout was 0.1 when this run began and is 0.0 now"),
        ({}, {"train": {"nesterov": False}}, "train.nesterov was True when this run began and is False now"),
        ({}, {"train": {"weight_decay": 0}}, "train.weight_decay was 0.1 when this run began and is 0.0 now"),
        ({"train": {"eval_every": 5}}, {}, "train.eval_every was 5 when this run began and is None now"),
    ],
)  # fmt: skip
def test_what_may_not_change_is_refused_with_both_values(before, after, message):
    with pytest.raises(ConfigError) as error:
        check_resume(settled(recipe(**before), batch_size=16), recipe(**after))
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("resume with the old value, or set another `out` for a new run")


def test_flattening_names_every_leaf():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_from_is_spelled_as_in_the_file():
    model = recipe(**FROM).model
    assert isinstance(model, FromModel)
    assert (model.from_, model.dropout, model.context) == ("runs/base", 0.1, None)
