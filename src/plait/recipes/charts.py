"""Line charts as inline SVG: no library, no network, readable with five points or a hundred thousand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 30
POINTS = 600  # drawn at most; more than that a screen does not show
LOG_ABOVE = 20.0  # highest over median value from which a logarithmic scale shows more


@dataclass(frozen=True)
class Series:
    """One line: values over steps. `style` is a CSS class of the page (`raw`, `a`, `b`, ...)."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    style: str = "a"


def line_chart(
    title: str,
    series: Sequence[Series],
    marks: Sequence[tuple[float, str]] = (),
    *,
    span: tuple[float, float],
    may_be_log: bool = False,
) -> str:
    """A figure with axes, legend and lines; values that are not finite leave a gap.

    Args:
        marks: steps at which a vertical line with a label stands, such as the start of a stage.
        span: first and last step of the axis, the same for every chart of a page.
        may_be_log: use a logarithmic scale where a few values tower over the rest.
    """
    lines = [thin(one) for one in series]
    finite = [value for line in lines for value in line.values if math.isfinite(value)]
    if not finite:
        return ""
    log = may_be_log and min(finite) > 0 and max(finite) > LOG_ABOVE * sorted(finite)[len(finite) // 2]
    x_low, x_high = _padded(*span, 0.0)
    y_low, y_high = _padded(_scale(min(finite), log), _scale(max(finite), log), 0.05)

    def x_at(step: float) -> float:
        return LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_at(value: float) -> float:
        return HEIGHT - BOTTOM - (_scale(value, log) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in _log_ticks(y_low, y_high) if log else ticks(y_low, y_high):
        y = y_at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in ticks(x_low, x_high, 8):
        if value == int(value):
            place = f'x="{x_at(value):.1f}" y="{HEIGHT - 10}"'
            parts.append(f'<text {place} text-anchor="middle">{number(value)}</text>')
    for step, label in marks:
        x = x_at(step)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="mark" x="{x + 4:.1f}" y="{TOP + 10}">{escape(label)}</text>')
    for line in lines:
        parts.append(_line(line, x_at, y_at))
    data = {
        "x": [x_low, x_high, LEFT, WIDTH - RIGHT],
        "lines": [[line.name, _rounded(line.steps), _rounded(line.values)] for line in lines],
    }
    entries = lines if len(lines) > 1 else []
    legend = "".join(f'<li class="{line.style}">{escape(line.name)}</li>' for line in entries)
    scale = " (logarithmic)" if log else ""
    return (
        f'<figure><figcaption>{escape(title)}{scale}</figcaption><ul class="legend">{legend}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} over steps" '
        f'data-chart="{escape(json.dumps(data), quote=True)}">{"".join(parts)}'
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="-9" x2="-9"/></svg>'
        f"<output></output></figure>"
    )


def smooth(values: Sequence[float], span: float) -> list[float]:
    """Exponential moving average over about `span` values, unbiased from the first; gaps stay gaps."""
    keep, total, weight, result = 1 - 1 / max(1.0, span), 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        result.append(total / weight if math.isfinite(value) else math.nan)
    return result


def thin(series: Series) -> Series:
    """At most about POINTS points: the lowest and highest of each stretch, so that spikes stay visible."""
    count = len(series.steps)
    if count <= POINTS:
        return series
    edges = [round(place * count / (POINTS // 2)) for place in range(POINTS // 2 + 1)]
    chosen: set[int] = {0, count - 1}
    for start, end in pairwise(edges):
        stretch = [place for place in range(start, end) if math.isfinite(series.values[place])]
        if stretch:
            chosen |= {
                min(stretch, key=series.values.__getitem__),
                max(stretch, key=series.values.__getitem__),
            }
        else:
            chosen.add(start)  # keeps the gap
    places = sorted(chosen)
    steps, values = [series.steps[place] for place in places], [series.values[place] for place in places]
    return Series(series.name, steps, values, series.style)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between `low` and `high`, about as many as asked for."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Short: `0.001`, `2.5`, `12k`, `1.5M`, `3e-06`."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    return f"{value:.0e}" if 0 < size < 1e-4 else f"{value:.4g}"


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 3 else (1,)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in values if low <= math.log10(value) <= high]


def _scale(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """A range of non-zero width, a little wider than what it holds."""
    if high <= low:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low - share * (high - low), high + share * (high - low)


def _line(line: Series, x_at, y_at) -> str:
    path, joined = [], False
    for step, value in zip(line.steps, line.values):
        if not math.isfinite(value):
            joined = False
            continue
        path.append(f"{'L' if joined else 'M'}{x_at(step):.1f} {y_at(value):.1f}")
        joined = True
    dots = ""
    if len(line.steps) <= 40:
        shown = ((step, value) for step, value in zip(line.steps, line.values) if math.isfinite(value))
        dots = "".join(
            f'<circle cx="{x_at(step):.1f}" cy="{y_at(value):.1f}" r="2.5"/>' for step, value in shown
        )
    return f'<g class="{line.style}"><path d="{"".join(path)}"/>{dots}</g>'


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
