"""docs/results.md says what the scores in benchmarks/results say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_tables_are_made_from_the_scores(monkeypatch):
    spec = importlib.util.spec_from_file_location(
        "applications", REPOSITORY / "benchmarks" / "applications.py"
    )
    assert spec is not None
    assert spec.loader is not None
    applications = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "applications", applications)
    spec.loader.exec_module(applications)
    page = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    lines = applications.table_lines()
    assert len(lines) > 5
    assert [line for line in page if line.startswith("| `")] == lines
    first = page.index(next(line for line in page if line.startswith("| task |")))
    tasks = applications.task_lines()
    assert page[first : first + len(tasks)] == tasks
    assert len(tasks) == 2 + 20
