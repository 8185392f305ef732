"""README and tour stay true: files exist, commands and flags are real, recipes are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from plait.cli import app
from plait.config import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "README.zh.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/tour.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def commands(page: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line.rpartition("| ")[2] for block in blocks for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == "plait"]


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_every_command_of_the_readme_parses(page):
    found = commands(page)
    assert {line[0] for line in found} >= {
        "prepare",
        "tokenizer",
        "train",
        "evaluate",
        "generate",
        "chat",
        "serve",
    }
    for words in found:
        app.parse_args(words, exit_on_error=False, print_error=False)


def test_both_languages_show_the_same_commands():
    english, chinese = commands("README.md"), commands("README.zh.md")
    assert [line[0] for line in english] == [line[0] for line in chinese]
    assert [[word for word in line if word.startswith("-")] for line in english] == [
        [word for word in line if word.startswith("-")] for line in chinese
    ]


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_recipe_of_the_readme_is_valid(page, tmp_path):
    from plait.recipes.recipe import load_recipe

    block = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    assert parse_yaml(block, page)["tokenizer"] == "tok"
    path = tmp_path / "mine.yaml"
    path.write_text(block, encoding="utf-8")
    assert load_recipe(str(path), []).train.steps == 500
