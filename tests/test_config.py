from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from plait.config import Config, build, dump_yaml, merge, nested, parse_overrides, parse_yaml, read_yaml
from plait.errors import ConfigError, did_you_mean


class Part(Config):
    size: int = Field(ge=1)
    kind: Literal["round", "square"] = "round"


class Whole(Config):
    name: str
    part: Part | None = None
    parts: dict[str, Part] = Field(default_factory=dict)
    from_: str = Field(default="here", alias="from")


def refusal(**value) -> str:
    with pytest.raises(ConfigError) as error:
        build(Whole, value, source="file.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_valid_values_become_a_frozen_type():
    whole = build(Whole, {"name": "a", "part": {"size": 2}, "from": "there"})
    assert whole == Whole(**{"name": "a", "part": Part(size=2), "from": "there"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frozen"):
        whole.name = "b"  # type: ignore[misc]


def test_an_unknown_key_comes_before_a_missing_one_and_suggests():
    assert refusal(nam="a") == "file.yaml: unknown key 'nam'; did you mean 'name'?"
    assert did_you_mean("learning_rate", ["n", "lr"]) == "; did you mean 'lr'?"
    assert did_you_mean("learning", ["l", "lr"]) == ""
    assert refusal() == "file.yaml: missing key 'name'"


def test_nested_keys_are_named_with_their_path():
    assert refusal(name="a", part={"sise": 1}) == "file.yaml: unknown key 'part.sise'; did you mean 'size'?"
    assert refusal(name="a", part={}) == "file.yaml: missing key 'part.size'"
    assert refusal(name="a", parts={"mine": {"sise": 1}}).endswith("'parts.mine.sise'; did you mean 'size'?")


def test_without_a_close_name_the_known_keys_are_listed_as_they_are_written():
    assert refusal(name="a", zzz=1) == "file.yaml: unknown key 'zzz'; known keys: name, part, parts, from"


@pytest.mark.parametrize("key", ["my key", "a.b", "list", "str", "", "并行"])
def test_any_spelling_of_an_unknown_key_is_named(key):
    assert refusal(**{"name": "a", key: 1}).startswith(f"file.yaml: unknown key {key!r}")


def test_a_key_that_is_no_word_is_named():
    with pytest.raises(ConfigError, match=r"^r: key 3 is not a name"):
        build(Whole, {3: "a"}, source="r")  # type: ignore[dict-item]


def test_values_are_shown_with_what_would_be_accepted():
    assert refusal(name="a", part={"size": 0}) == (
        "file.yaml: part.size=0 is not valid: input should be greater than or equal to 1"
    )
    assert "part.kind='oval' is not valid: input should be 'round' or 'square'" in refusal(
        name="a", part={"size": 1, "kind": "oval"}
    )
    assert refusal(name="a", part=5) == "file.yaml: part=5 is not valid: give it `key: value` pairs"
    with pytest.raises(ConfigError, match=r"^w=\[1\] is not valid: give it `key: value` pairs$"):
        build(Whole, [1], source="w")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("-1e3", -1000.0), ("1_000", 1000), ("2.5E+2", 250.0), ("e3", "e3"), ("1e", "1e")],
)
def test_numbers_as_people_write_them(text, value):
    assert parse_yaml(text, "x") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1", "f.yaml:2 is not valid YAML: expected ',' or ']'"),
        ("a: 1\nb: 2\na: 3", "f.yaml:3 is not valid YAML: key 'a' is written twice"),
        ("a:\n  b: 1\n  b: 2", "f.yaml:3 is not valid YAML: key 'b' is written twice"),
        ("a:\n\t- b", "f.yaml:2 is not valid YAML: found character '\\t'"),
        ("x: 1\n? [1]\n: 2", "f.yaml:2 is not valid YAML: a key must be a word"),
        (
            "a: !!python/object/apply:os.getcwd []",
            "f.yaml:1 is not valid YAML: could not determine a constructor",
        ),
    ],
)
def test_broken_yaml_names_the_line(text, message):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "f.yaml")
    assert str(error.value).startswith(message)


def test_anchors_and_merges_work():
    text = "base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\n"
    assert parse_yaml(text, "x")["other"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; a recipe holds at least out, data and train"),
        (b"- 1\n", "must hold `key: value` lines, not list"),
        (b"a: \xff\n", "is not UTF-8 text (byte 3); save it as UTF-8"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content, message):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    assert str(error.value) == f"{path} {message}"


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"recipe '.*none.yaml' does not exist"):
        read_yaml(tmp_path / "none.yaml")


def test_overrides_in_both_spellings():
    words = ["train.lr=3e-4", "--train.steps", "10", "--out=x", "data=[a, b]", "note=a=b", "seed="]
    assert parse_overrides(words) == {
        "train": {"lr": 3e-4, "steps": 10}, "out": "x", "data": ["a", "b"], "note": "a=b", "seed": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.lr"], "override 'train.lr' has no value; write key=value, for example train.lr=3e-4"),
        (["--train.lr"], "override '--train.lr' has no value"),
        (["=3"], "override '=3' names no key"),
        (["train..lr=3"], "override 'train..lr=3' names no key"),
        (["a=[1"], "override a:1 is not valid YAML"),
    ],
)
def test_overrides_that_are_none(words, message):
    with pytest.raises(ConfigError) as error:
        parse_overrides(words)
    assert str(error.value).startswith(message)


def test_merging_is_deep_in_mappings_and_whole_elsewhere():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert merge(base, {"a": {"c": [3]}, "d": {"e": 2}}) == {"a": {"b": 1, "c": [3]}, "d": {"e": 2}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert nested("a.b.c", 1) == {"a": {"b": {"c": 1}}}


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.dictionaries(st.text(min_size=1), st.recursive(scalars, lambda inner: st.lists(inner, max_size=3)))


@settings(deadline=None, max_examples=60)
@given(trees)
@example({"out": "1e5", "samples": ["\n", "\x85", "3e-4", "no", "2024-01-01", " x "]})
def test_what_is_dumped_reads_back_the_same(tree):
    assert parse_yaml(dump_yaml(tree), "x") == tree


def test_a_dumped_type_builds_again_under_the_names_it_is_written_with():
    whole = build(Whole, {"name": "并行", "parts": {"x": {"size": 3}}, "from": "there"})
    text = dump_yaml(whole)
    assert "并行" in text
    assert "\nfrom: there" in text
    assert build(Whole, parse_yaml(text, "x")) == whole
