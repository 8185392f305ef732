"""docs/concepts/scores.md, word for word: its snippets print what it says."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "scores.md"


def test_the_page_computes_what_it_says(capsys):
    namespace: dict = {}
    printed = said = ""
    for language, text in re.findall(r"```(python|text)\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL):
        if language == "python":
            exec(compile(text, PAGE.name, "exec"), namespace)
            printed += capsys.readouterr().out
        else:
            said += text
    unversioned = re.compile(r"version:[\d.]+")  # of sacrebleu
    assert unversioned.sub("", printed) == unversioned.sub("", said)
    assert said.count("\n") > 10
