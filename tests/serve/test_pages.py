"""The page's files and what it is told about the model, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from plait.infer.engine import Engine
from plait.serve.pages import model_facts, page_files, read_note


def text_of(name: str) -> str:
    return page_files()[name].content.decode("utf-8")


def keys(language: str) -> list[str]:
    block = re.search(rf"export const {language} = {{(.*?)^}};", text_of(f"{language}.js"), re.S | re.M)
    assert block
    return re.findall(r"^  (\w+):", block[1], re.M)


def test_every_word_is_in_both_languages_and_every_key_has_a_word():
    assert keys("en") == keys("zh")
    scripts = "".join(text_of(name) for name in page_files() if name.endswith(".js"))
    used = set(re.findall(r'(?:\bt|words)\("(\w+)"', scripts))
    used |= set(re.findall(r'data-t(?:-\w+)?"?[=:] ?"(\w+)"', scripts + text_of("index.html")))
    assert used - set(keys("en")) == set()


def test_model_text_can_never_become_markup():
    for name in page_files():
        if name.endswith(".js"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text_of(name)
            ), name


def test_the_page_asks_nobody_else_and_carries_no_inline_style_or_script():
    page = text_of("index.html")
    assert re.findall(r"<script>|<style|\bon\w+=|style=", page) == []
    for name in page_files():
        links = re.findall(r"https?://[^\"' )]+", text_of(name))
        assert set(links) <= {"http://www.w3.org/2000/svg"}, name
    for linked in re.findall(r'(?:src|href)="/static/([^"]+)"', page):
        assert linked in page_files()


def test_facts_come_from_the_model_and_from_files_beside_it(engine: Engine, tmp_path: Path):
    run, step = tmp_path, tmp_path / "step"
    step.mkdir()
    (run / "scores.json").write_text(
        json.dumps({"results": [{"metric": "loss", "value": 1.5}, "?"]}), encoding="utf-8"
    )
    (step / "suggestions.json").write_text('{"chat": ["你好"]}', encoding="utf-8")
    facts = model_facts(engine, [step, run])
    assert facts["parameters"] == sum(parameter.numel() for parameter in engine.model.parameters())
    assert (facts["vocabulary"], facts["context"], facts["chat"]) == (261, 256, True)
    assert facts["scores"] == [{"metric": "loss", "value": 1.5}]
    assert facts["suggestions"] == {"chat": ["你好"]}
    assert model_facts(engine, [])["suggestions"] == []


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"value": NaN}', b'"\\ud800"'])
def test_a_note_that_cannot_be_read_is_left_out_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
):
    (tmp_path / "scores.json").write_bytes(content)
    assert read_note([tmp_path], "scores.json") is None
    assert "scores.json is left out of the page" in capsys.readouterr().err
