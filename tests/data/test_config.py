import subprocess
import sys

import pytest

from plait.config import build, dump_yaml, parse_yaml
from plait.data.config import DataConfig, MixtureEntry
from plait.errors import ConfigError


def test_one_path_is_a_mixture_of_one():
    assert DataConfig(text="notes/").mixture() == {"text": MixtureEntry(path="notes/", weight=1.0)}
    assert DataConfig(messages=["a.jsonl", "b.jsonl"]).mixture()["messages"].path == ["a.jsonl", "b.jsonl"]


def test_a_mixture_keeps_names_and_weights():
    config = build(DataConfig, {"text": {"wiki": {"path": "w", "weight": 0.7}, "诗": {"path": "s"}}})
    assert config.mixture() == {"wiki": MixtureEntry(path="w", weight=0.7), "诗": MixtureEntry(path="s")}
    assert build(DataConfig, parse_yaml(dump_yaml(config), "dump")) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of text, messages and pairs, found none"),
        ({"text": "a", "messages": "b"}, "exactly one of text, messages and pairs, found text and messages"),
        ({"text": []}, "text: is empty"),
        ({"text": "a", "validation": 1.5}, "validation=1.5 must be at least 0 and below 1"),
        ({"text": {"../x": {"path": "a"}}}, "the source name '../x' may hold letters"),
        ({"text": {"a": {"path": "a", "weight": 0}}}, "text.a.weight=0 is not valid"),
        ({"text": {"a": {"path": "a", "wieght": 1}}}, "unknown key 'text.a.wieght'"),
        ({"text": {"validation": {"path": "a"}}, "validation": "b"}, "rename the source of that name"),
        ({"messages": "a", "split": "tail"}, "would cut a conversation in two"),
        ({"pairs": "a", "split": "tail"}, "split=tail would cut a pair in two; use split: document"),
        ({"pairs": "a", "text": "b"}, "exactly one of text, messages and pairs, found text and pairs"),
        ({"pairs": []}, "pairs: is empty; give a path"),
        ({"text": "a", "truncate": True}, "truncate is for pairs, and the data are text; leave it out"),
        ({"text": "a", "splitt": "tail"}, "unknown key 'splitt'; did you mean 'split'"),
    ],
)
def test_a_wrong_block_is_one_clear_line(given, message):
    with pytest.raises(ConfigError) as caught:
        build(DataConfig, given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_the_configuration_does_not_import_torch():
    code = "import sys, plait.data.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
