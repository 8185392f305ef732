"""What `plait prove` found, on one page that needs neither network nor script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path

import plait
from plait.files import write_text
from plait.log import duration, say
from plait.recipes.proof import GRADIENTS, WEIGHTS
from plait.recipes.proof_report import (
    COSTS,
    INFORMATION,
    REFUSED,
    STEPS,
    SUMMARY,
    WHY,
    Outcome,
    Tried,
    cost_rows,
    information,
    memory,
    steps_of,
    summary,
)

WIDTH, LEFT, RIGHT, ROW, TOP = 1000, 300, 20, 18, 34
LOWEST, HIGHEST = -18, 2  # powers of ten; what is less is drawn at the left edge
STYLE = """
.equal { color: var(--c); font-weight: 600; } .wrong { color: var(--e); font-weight: 600; }
td.number { white-space: nowrap; } th.number { text-align: right; }
.limit { stroke-width: 1.5; stroke-dasharray: 4 3; stroke: currentColor; }
svg text.name { fill: var(--ink); font-size: 12px; } svg text.limit { fill: currentColor; stroke: none; }
"""


def write_page(outcome: Outcome, path: Path) -> None:
    """Write a page of the verdict, the differences of each layout, its steps and its costs."""
    css = files("plait.recipes").joinpath("report.css").read_text(encoding="utf-8")
    title = f"layouts of {escape(outcome.recipe)}"
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    sections = [
        f'<p class="{"equal" if outcome.holds else "wrong"}">{escape(outcome.verdict)}.</p>',
        _facts(outcome),
        "<h2>Differences from one process</h2>",
        f'<p class="soft">{escape(WHY)}</p>',
        _chart(outcome.tried),
        _table(SUMMARY, map(summary, outcome.tried), verdicts=True),
        *_failures(outcome),
        *_information(outcome),
        "<h2>Each layout</h2>",
        *(_details(one) for one in outcome.tried),
        *_refused(outcome),
    ]
    made = f'<p class="soft">plait {escape(plait.__version__)}, proof of {escape(made)}</p>'
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title} · plait</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>\n{css}{STYLE}</style>'
        f"</head><body><h1>{title}</h1>{made}{''.join(sections)}</body></html>\n"
    )
    write_text(path, page)
    say(f"wrote {path}")


def _facts(outcome: Outcome) -> str:
    problem = outcome.problem
    facts = {
        "layouts": f"{sum(one.holds for one in outcome.tried)} of {len(outcome.tried)} equal",
        "steps": str(problem.steps),
        "optimizer": problem.train.optimizer,
        "rows of a step": f"{problem.rows} of {problem.context} tokens",
        "losses": ", ".join(f"{loss:.4f}" for loss in outcome.losses),
        "time": duration(outcome.seconds),
    }
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    changed = ", ".join(outcome.changed)
    return (
        f'<dl class="facts">{cells}</dl><p class="soft">As the recipe says, but for: {escape(changed)}.</p>'
    )


def _chart(tried: Sequence[Tried]) -> str:
    """Each layout's three largest differences on a logarithmic scale, with the two tolerances."""
    shown = [one for one in tried if one.proof is not None]
    if not shown:
        return ""
    height = TOP + ROW * len(shown) + 8
    parts = []
    for power in range(LOWEST, HIGHEST + 1, 2):
        x = _x(10.0**power)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{height}"/>')
        parts.append(f'<text x="{x}" y="{TOP - 12}" text-anchor="middle">1e{power}</text>')
    for tolerance, style in ((GRADIENTS, "a"), (WEIGHTS, "b")):
        x = _x(tolerance)
        parts.append(
            f'<g class="{style}"><line class="limit" x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{height}"/></g>'
        )
    for number, one in enumerate(shown):
        assert one.proof is not None
        y, steps = TOP + ROW * number + ROW / 2, one.proof.steps
        place = f'x="{LEFT - 12}" y="{y + 4}" text-anchor="end"'
        dots = (
            (max(step.loss_apart for step in steps), "c", "loss"),
            (one.proof.gradient, "a", "gradient of step 1"),
            (max(step.weights_apart for step in steps), "b", "weights"),
        )
        parts.append(f'<text class="name" {place}>{escape(one.layout.name)}</text>')
        for value, style, what in dots:
            title = f"<title>{what}: {value:.1e}</title>"
            parts.append(f'<g class="{style}"><circle cx="{_x(value)}" cy="{y}" r="4">{title}</circle></g>')
    legend = "".join(
        f'<li class="{style}">{text}</li>'
        for style, text in (
            ("a", f"gradients of step 1, at most {GRADIENTS:.0e}"),
            ("b", f"weights, at most {WEIGHTS:.0e}"),
            ("c", "loss"),
        )
    )
    return (
        f'<figure><ul class="legend">{legend}</ul><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="largest differences of each layout">{"".join(parts)}</svg></figure>'
    )


def _x(value: float) -> float:
    power = HIGHEST if not math.isfinite(value) else math.log10(max(value, 10.0**LOWEST))
    share = (min(power, HIGHEST) - LOWEST) / (HIGHEST - LOWEST)
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _failures(outcome: Outcome) -> list[str]:
    bad = [one for one in outcome.tried if not one.holds]
    if not bad:
        return []
    rows = [(one.layout.name, one.reason) for one in bad]
    return ["<h2>What is wrong</h2>", _table(("layout", "what differs first"), rows)]


def _information(outcome: Outcome) -> list[str]:
    rows = information(outcome.tried)
    if not rows:
        return []
    return ["<h2>For information: other number types</h2>", _table(INFORMATION, rows)]


def _refused(outcome: Outcome) -> list[str]:
    if not outcome.refused:
        return []
    return ["<h2>Layouts that do not fit</h2>", _table(REFUSED, outcome.refused)]


def _details(one: Tried) -> str:
    opened = "" if one.holds else " open"
    word = f'<span class="{"equal" if one.holds else "wrong"}">{one.verdict}</span>'
    body = f"<pre>{escape(one.traceback or one.error)}</pre>" if one.proof is None else ""
    if one.proof is not None:
        body += _table(STEPS, steps_of(one))
    if one.cost:
        body += (
            f"<h3>What the busiest rank sends in step {one.cost['step']}</h3>{_table(COSTS, cost_rows(one))}"
        )
        body += f'<p class="soft">{escape(memory(one))}</p>'
    return f"<details{opened}><summary>{escape(one.layout.name)} {word}</summary>{body}</details>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, verdicts: bool = False) -> str:
    """Cells as text, numbers to the right; `verdicts`: the last column is one."""
    rows = [*rows]
    styles = [
        "number" if any(row[place][:1].isdigit() for row in rows) and place else ""
        for place in range(len(columns))
    ]
    head = "".join(f'<th class="{style}">{escape(column)}</th>' for column, style in zip(columns, styles))
    body = ""
    for row in rows:
        if verdicts:
            styles[-1] = "equal" if row[-1] == "equal" else "wrong"
        cells = (f'<td class="{style}">{escape(cell)}</td>' for cell, style in zip(row, styles))
        body += f"<tr>{''.join(cells)}</tr>"
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
