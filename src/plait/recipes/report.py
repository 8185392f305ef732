"""`report.html`: what a run did, on one page that needs neither network nor script."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import plait
from plait.errors import InputError
from plait.files import write_text
from plait.recipes.charts import Series, line_chart, number, smooth
from plait.recipes.run_directory import LOG, read_log

SAMPLE_STEPS = 24  # steps shown with their samples, the first and the last among them
SCORE_ROWS = 60
STYLES = "abcdef"
Row = Mapping[str, Any]


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` from a run directory's log, recipe, data reports and scores; returns its path.

    Raises:
        InputError: the directory holds no log, or one that is no JSON lines.
    """
    run = Path(run_dir)
    rows = read_log(run)
    if not rows:
        raise InputError(f"{run / LOG} holds no row yet; train at least one step")
    style, script = (
        files("plait.recipes").joinpath(name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js")
    )
    sections = [
        _section("Curves", f'<div class="charts">{_charts(rows)}</div>'),
        _section("Scores", _scores(run)),
        _section("Validation", _validation(rows)),
        _section("Experts", _experts(rows)),
        _section("Layout", _layout(run)),
        _section("Samples", _samples(rows)),
        _section("Data", _data_reports(run)),
        _section("Configuration", _configuration(run)),
    ]
    name = escape(run.resolve().name)
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    made = f'<p class="soft">plait {escape(plait.__version__)}, report of {escape(made)}</p>'
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name} · plait</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>\n{style}</style></head>'
        f"<body><h1>{name}</h1>{made}{_facts(rows)}{''.join(sections)}<script>\n{script}</script></body></html>\n"
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def _facts(rows: Sequence[Row]) -> str:
    last = rows[-1]
    best = min((row for row in rows if _value(row, "val_loss") is not None), key=_val_loss, default=None)
    speeds = sorted(value for row in rows if (value := _value(row, "tokens_per_s")) is not None)
    facts = {"steps": f"{last['step']:,}"}
    if "tokens" in last:
        facts["tokens seen"] = f"{last['tokens']:,}"
    if (loss := _value(last, "loss")) is not None:
        facts["last loss"] = f"{loss:.3f}"
    if best is not None:
        facts["best validation loss"] = f"{best['val_loss']:.3f} (step {best['step']:,})"
        if (bits := _value(best, "val_bits_per_byte")) is not None:
            facts["bits per byte there"] = f"{bits:.3f}"
    if speeds:
        facts["median tokens/s"] = f"{speeds[len(speeds) // 2]:,.0f}"
    return (
        f'<dl class="facts">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items())}</dl>'
    )


def _charts(rows: Sequence[Row]) -> str:
    marks = [
        (row["step"], str(row["stage"]))
        for before, row in zip([{}, *rows], rows)
        if "stage" in row and row["stage"] != before.get("stage")
    ]
    steps, loss = _column(rows, "loss")
    validation = (
        [Series("validation", *_column(rows, "val_loss"), "b")] if _column(rows, "val_loss")[0] else []
    )
    trained = [Series("each step", steps, loss, "raw"), Series("smoothed", steps, _smooth(loss), "a")]
    span = (rows[0]["step"], rows[-1]["step"])
    charts = [line_chart("loss (nats per token)", trained + validation, marks, span=span)]
    names = sorted({name for row in rows for name in row.get("val_by") or {}})
    if names:
        by_name = [{"step": row["step"], **row["val_by"]} for row in rows if row.get("val_by")]
        lines = [
            Series(name, *_column(by_name, name), STYLES[place % len(STYLES)])
            for place, name in enumerate(names)
        ]
        charts.append(line_chart("validation loss by source", lines, marks, span=span))
    for key, title, smoothed in (
        ("val_bits_per_byte", "validation bits per byte", False),
        ("accuracy", "token accuracy", True),
        ("lr", "learning rate", False),
        ("grad_norm", "gradient norm", True),
        ("tokens_per_s", "tokens per second", True),
        ("peak_share", "share of the measured peak", True),
        ("aux_loss", "auxiliary loss", True),
    ):
        steps, values = _column(rows, key)
        lines = [Series("each step" if smoothed else title, steps, values, "raw" if smoothed else "a")]
        if smoothed:
            lines.append(Series("smoothed", steps, _smooth(values), "a"))
        charts.append(line_chart(title, lines, marks, span=span, may_be_log=key == "grad_norm"))
    return "".join(charts)


def _column(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows that have `key`; a value that is no number becomes NaN."""
    held = [row for row in rows if key in row]
    return [row["step"] for row in held], [math.nan if (v := _value(row, key)) is None else v for row in held]


def _value(row: Row, key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _val_loss(row: Row) -> float:
    return row["val_loss"]


def _smooth(values: list[float]) -> list[float]:
    return smooth(values, len(values) / 100)


def _validation(rows: Sequence[Row]) -> str:
    measured = [row for row in rows if "val_loss" in row]
    keys = [key for key in ("val_loss", "val_bits_per_byte") if any(key in row for row in measured)]
    shown = [
        {"step": row["step"], **{key: row.get(key) for key in keys}} for row in spread(measured, SCORE_ROWS)
    ]
    return (
        f"<details><summary>{len(measured)} measurements</summary>{render(shown)}</details>" if shown else ""
    )


def _experts(rows: Sequence[Row]) -> str:
    """How evenly experts were used at the last evaluation: 1 is a fair share of the choices."""
    last = next((row for row in reversed(rows) if row.get("expert_loads")), None)
    if last is None:
        return ""
    table = [
        {"layer": layer, **{f"expert {number}": share for number, share in enumerate(shares)}}
        for layer, shares in enumerate(last["expert_loads"])
    ]
    return f"<p>step {last['step']:,}; 1 is an even share of the choices</p>{render(table)}"


def _layout(run: Path) -> str:
    """What a step sends over ranks, beside the formula; how long a pipeline waits, and memory."""
    cost = _read_json(run / "layout.json")
    return render(cost) if cost else ""


def _scores(run: Path) -> str:
    scores = _read_json(run / "scores.json")
    return render(scores.get("results", scores) if isinstance(scores, dict) else scores) if scores else ""


def _samples(rows: Sequence[Row]) -> str:
    held = [row for row in rows if row.get("samples")]
    parts = []
    for row in reversed(spread(held, SAMPLE_STEPS)):
        texts = "".join(f"<blockquote>{escape(str(text))}</blockquote>" for text in row["samples"])
        opened = "" if parts else " open"  # the newest
        parts.append(f"<details{opened}><summary>step {row['step']:,}</summary>{texts}</details>")
    return "".join(parts)


def _data_reports(run: Path) -> str:
    parts = []
    for path in sorted(run.glob("*/report.json")):
        report = _read_json(path)
        if report:
            parts.append(f"<h3>{escape(path.parent.name)}</h3>{render(report)}")
    return "".join(parts)


def _configuration(run: Path) -> str:
    path = run / "recipe.yaml"
    return f"<pre>{escape(path.read_text(encoding='utf-8'))}</pre>" if path.is_file() else ""


def render(value: Any) -> str:
    """Any JSON value as HTML: mappings and rows of mappings become tables, texts are escaped."""
    if isinstance(value, Mapping):
        if len(value) > 1 and _is_table(list(value.values())):
            return _table([{"": key, **row} for key, row in value.items()])
        lines = "".join(f"<tr><th>{escape(str(key))}</th>{_cell(one)}</tr>" for key, one in value.items())
        return f'<div class="scroll"><table>{lines}</table></div>'
    if isinstance(value, list):
        if _is_table(value):
            return _table(value)
        if all(isinstance(one, (int, float)) for one in value):
            return ", ".join(map(render, value))
        return "".join(f"<div>{render(one)}</div>" for one in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else escape(str(value))


def _is_table(values: list[Any]) -> bool:
    return len(values) > 0 and all(isinstance(value, Mapping) and value for value in values)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{escape(str(column))}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(_cell(row.get(column, "")) for column in columns) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: Any) -> str:
    right = ' class="number"' if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
    return f"<td{right}>{render(value)}</td>"


def spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}" if body else ""


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {"unreadable": str(path)}
