"""Settings of sampling and of the search are checked where they are made, and described where stored."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from plait.config import build
from plait.errors import ConfigError
from plait.infer.generation_config import recommended, token_rules
from plait.infer.params import BeamParams, SamplingParams, TokenRules


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -0.1, "temperature=-0.1 is not valid: input should be greater than or equal to 0"),
        ("temperature", float("nan"), "temperature=nan is not valid"),
        ("top_p", -0.1, "top_p=-0.1 is not valid: input should be greater than or equal to 0"),
        ("top_p", 1.5, "top_p=1.5 is not valid: input should be less than or equal to 1"),
        ("top_k", -1, "top_k=-1 is not valid"),
        ("min_p", 2, "min_p=2 is not valid"),
        ("max_tokens", -1, "max_tokens=-1 is not valid"),
        ("frequency_penalty", 3, "frequency_penalty=3 is not valid"),
        ("repetition_penalty", 0, "repetition_penalty=0 is not valid"),
        ("n", 0, "n=0 is not valid"),
        ("logit_bias", {5: 101}, "=101 is not valid: input should be less than or equal to 100"),
        ("stop", ["a", ""], "stop: a stop string must not be empty"),
        ("top_q", 1, "unknown key 'top_q'; did you mean 'top_p'?"),
    ],
)
def test_an_impossible_setting_is_one_clear_line(field, value, message):
    with pytest.raises(ConfigError) as caught:
        build(SamplingParams, {field: value}, source="sampling")
    assert str(caught.value).startswith("sampling: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_stop_string_needs_no_list():
    assert SamplingParams(stop="END").stop == ("END",)  # type: ignore[arg-type]


def test_the_description_holds_what_differs_from_the_defaults():
    assert SamplingParams().describe() == "temperature:1"
    params = SamplingParams(temperature=0, max_tokens=9, stop=("\n",))
    assert params.describe() == "greedy|max_tokens:9|stop:('\\n',)"


def test_settings_load_without_torch():
    code = "import sys, plait.infer.params; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"do_sample": False, "temperature": 0.9}, {"temperature": 0.0}),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": None},
            {"temperature": 0.6, "top_k": 20},
        ),
        ({"temperature": 0.6}, {}),  # without do_sample it is not used elsewhere either
        ({"do_sample": True, "temperature": "hot"}, {}),
        ([1, 2], {}),
        (None, {}),
    ],
)
def test_what_a_model_recommends_is_taken_where_it_can_be_done(config, fields, tmp_path):
    if config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert recommended(tmp_path) == fields


def test_tokens_that_a_model_rules_out_or_forces_are_read_where_they_stand(tmp_path):
    def rules(file: str, **content) -> TokenRules:
        (tmp_path / file).write_text(json.dumps(content), "utf-8")
        return token_rules(tmp_path, frozenset([9]))

    assert token_rules(tmp_path, frozenset([9])) == TokenRules()
    old = {"forced_eos_token_id": 2, "bad_words_ids": [[7], [8, 9], [2], [3]], "eos_token_id": 3}
    assert rules("config.json", **old) == TokenRules(never=frozenset([7]), last=frozenset([2]))
    new = {
        "suppress_tokens": [1],
        "forced_bos_token_id": 5,
        "forced_eos_token_id": [2, 3],
        "bad_words_ids": None,
    }
    found = rules("generation_config.json", **new)
    assert found == TokenRules(never=frozenset([1]), first=5, last=frozenset([2, 3]))
    wrong = {"suppress_tokens": [True, -1, "a"], "forced_bos_token_id": True, "forced_eos_token_id": "a"}
    assert rules("generation_config.json", **wrong) == TokenRules()
    assert rules("generation_config.json", bad_words_ids=5, suppress_tokens={}) == TokenRules()
    # a model of ours that was saved before it said so
    assert rules("generation_config.json", trained_on="pairs") == TokenRules(never=frozenset([9]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beams": 0}, "beams=0 is not valid: input should be greater than or equal to 1"),
        ({"beams": 1001}, "beams=1001 is not valid: input should be less than or equal to 1000"),
        ({"n": 5}, "n=5 is more than beams=4; use n=4 or beams=5"),
        ({"n": 0}, "n=0 is not valid"),
        (
            {"length_penalty": -1},
            "length_penalty=-1 is not valid: input should be greater",
        ),
        ({"length_penalty": float("nan")}, "length_penalty=nan is not valid"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram=-1 is not valid"),
        ({"max_tokens": 0}, "max_tokens=0 is not valid"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens=9 is more than max_tokens=8; lower the first"),
        ({"num_beams": 4}, "unknown key 'num_beams'; did you mean 'beams'?"),
    ],
)
def test_an_impossible_search_is_one_clear_line(fields, message):
    with pytest.raises(ConfigError) as caught:
        build(BeamParams, fields, source="beam")
    assert str(caught.value).startswith(f"beam: {message}")


def test_the_description_of_a_search_holds_the_beams_and_what_differs_from_the_defaults():
    assert BeamParams().describe() == "beams:4"
    assert BeamParams(beams=5, n=2, max_tokens=None).describe() == "beams:5|max_tokens:None|n:2"
