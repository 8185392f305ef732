"""What `plait prove` found, for people who read tables and for programs that read JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import plait
from plait.files import write_text
from plait.log import bytes_text, duration, say
from plait.parallel.layout import Layout
from plait.recipes.proof import GRADIENTS, WEIGHTS, Problem, Proof

WHY = (
    f"tolerance: {GRADIENTS:.0e} for the gradients of step 1, which are float64 sums in another order; "
    f"{WEIGHTS:.0e} for losses, gradient norms and weights after any step, as Adam divides by the size of "
    "gradients and makes rounding larger by that. Mistakes are larger by many powers of ten."
)
DETAILED = 4  # layouts that are shown step by step; of more only those that fail


@dataclass(frozen=True)
class Tried:
    """One layout, and what came of it.

    Attributes:
        proof: None where its ranks failed.
        error, traceback: of such a failure.
        cost: see `plait.recipes.step_cost.StepCost`.
        information: differences by number type.
    """

    layout: Layout
    proof: Proof | None
    error: str = ""
    traceback: str = ""
    seconds: float = 0.0
    cost: dict[str, Any] = field(default_factory=dict)
    information: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether it trains as one process does."""
        return self.proof is not None and self.proof.holds

    @property
    def verdict(self) -> str:
        """In a word."""
        return "equal" if self.holds else "DIFFERS" if self.proof else "FAILED"

    @property
    def reason(self) -> str:
        """What is wrong, in a line; empty where nothing is."""
        return self.error if self.proof is None else str(self.proof.first or "")


@dataclass(frozen=True)
class Outcome:
    """All that a call of `plait prove` found.

    Attributes:
        changed: what of the recipe was otherwise, as overrides.
        losses, norms: of each step in one process.
        refused: layouts that do not fit the recipe, with the reason.
    """

    recipe: str
    changed: list[str]
    problem: Problem
    losses: list[float]
    norms: list[float]
    tried: list[Tried]
    refused: list[tuple[str, str]]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every layout trains as one process does."""
        return all(tried.holds for tried in self.tried)

    @property
    def verdict(self) -> str:
        """In a sentence."""
        count, bad = len(self.tried), sum(not tried.holds for tried in self.tried)
        which = "the layout" if count == 1 else f"{bad} of {count} layouts" if bad else f"all {count} layouts"
        one = bad == 1 or count == 1
        trains = f"{'does' if one else 'do'} not train" if bad else "trains" if one else "train"
        return f"{which} {trains} {self.recipe} as one process does"


def print_outcome(outcome: Outcome) -> None:
    """Tables and the verdict on standard output."""
    tried = outcome.tried
    few = len(tried) <= DETAILED
    for one in tried:
        if one.proof is not None and (few or not one.holds):
            _print(one.layout.name, STEPS, steps_of(one))
            print(f"gradients of step 1: apart by {small(one.proof.gradient)} at most\n")
        if one.cost and few:
            _print(f"the busiest rank of {one.layout.name} in step {one.cost['step']}", COSTS, cost_rows(one))
            print(f"{memory(one)}\n")
    if not few or len(tried) > 1:
        _print(f"{outcome.recipe}: largest differences from one process", SUMMARY, map(summary, tried))
        print()
    if any(one.information for one in tried):
        _print("for information: in other number types", INFORMATION, information(tried))
        print()
    if outcome.refused:
        _print("layouts that do not fit", REFUSED, outcome.refused)
        print()
    print(WHY)
    for one in tried:
        if not one.holds:
            print(f"{one.layout.name}: {one.reason}")
    print(f"{outcome.verdict} ({duration(outcome.seconds)})")


def _print(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as it needs to be, in files and pipes too."""
    lines = [columns, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    print(title)
    for line in lines:
        first, *rest = (
            cell.rjust(width) if place and len(columns) > 2 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        )
        print("  " + "  ".join((first, *rest)).rstrip())


SUMMARY = ("layout", "gradient", "loss", "weights", "sent", "idle", "seconds", "verdict")
STEPS = ("step", "loss", "apart by", "gradient norm", "apart by", "weights apart by")
COSTS = ("ranks of", "operation", "calls", "bytes", "by formula", "bytes", "equal")
INFORMATION = ("layout", "in", "gradient", "weights")
REFUSED = ("layout", "why")


def summary(one: Tried) -> tuple[str, ...]:
    """The cells of a layout in the table of all; differences are the largest over steps and elements."""
    name = one.layout.name
    if one.proof is None:
        return (name, *[""] * (len(SUMMARY) - 2), one.verdict)
    steps = one.proof.steps
    loss, weights = max(step.loss_apart for step in steps), max(step.weights_apart for step in steps)
    most = bytes_text(max(sent(rank) for rank in one.cost["ranks"]))
    most += "" if as_formula(one) else " (not as formula)"
    idle = f"{one.cost['bubble']:.0%}" if one.layout.pp > 1 else ""
    differences = map(small, (one.proof.gradient, loss, weights))
    return (name, *differences, most, idle, f"{one.seconds:.1f}", one.verdict)


def sent(rank: dict[str, Any]) -> int:
    """Bytes of all collectives of a rank."""
    return sum(row["bytes"] for row in rank["collectives"])


def as_formula(one: Tried) -> bool:
    """Whether every rank sent what the formula says."""
    return all(row["equal"] for rank in one.cost["ranks"] for row in rank["collectives"])


def steps_of(one: Tried) -> list[tuple[str, ...]]:
    """The cells of each step of a layout."""
    assert one.proof is not None
    return [
        (
            str(number), f"{step.loss:.12f}", small(step.loss_apart), f"{step.norm:.12f}",
            small(step.norm_apart), small(step.weights_apart),
        )
        for number, step in enumerate(one.proof.steps, 1)
    ]  # fmt: skip


def cost_rows(one: Tried) -> list[tuple[str, ...]]:
    """The cells of each collective, of the rank that sends most by it."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for rank in one.cost["ranks"]:
        for row in rank["collectives"]:
            found.setdefault((row["axes"], row["operation"]), []).append(row)
    most = {key: max(rows, key=lambda row: row["bytes"]) for key, rows in found.items()}
    equal = {key: "yes" if all(row["equal"] for row in rows) else "NO" for key, rows in found.items()}
    return [
        (
            axes, operation, f"{row['calls']:,}", f"{row['bytes']:,}", f"{row['formula_calls']:,}",
            f"{row['formula_bytes']:,}", equal[axes, operation],
        )
        for (axes, operation), row in most.items()
    ]  # fmt: skip


def memory(one: Tried) -> str:
    """A line on memory, and on idle time where there is a pipeline."""
    peaks = [rank["peak_bytes"] for rank in one.cost["ranks"]]
    line = f"peak memory of a rank: {bytes_text(min(peaks))} to {bytes_text(max(peaks))}"
    if one.layout.pp > 1:
        line += f"; {one.cost['bubble']:.1%} of the schedule's time is idle"
    return line


def information(tried: Sequence[Tried]) -> list[tuple[str, ...]]:
    """The cells of each number type and layout."""
    return [
        (one.layout.name, dtype, small(apart["gradients"]), small(apart["weights"]))
        for one in tried
        for dtype, apart in one.information.items()
    ]


def small(difference: float) -> str:
    """`2.1e-17`, `0`, `not finite`."""
    return "not finite" if not math.isfinite(difference) else f"{difference:.1e}" if difference else "0"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything, for programs; numbers that are not finite become None."""
    made = {
        "plait": plait.__version__,
        "torch": torch.__version__,
        "recipe": outcome.recipe,
        "changed": outcome.changed,
        "problem": outcome.problem.model_dump(mode="json"),
        "tolerance": {"gradients": GRADIENTS, "weights": WEIGHTS, "why": WHY},
        "holds": outcome.holds,
        "verdict": outcome.verdict,
        "seconds": round(outcome.seconds, 2),
        "one_process": {"losses": outcome.losses, "norms": outcome.norms},
        "layouts": [
            {
                "name": one.layout.name,
                "layout": one.layout.model_dump(mode="json"),
                "verdict": one.verdict,
                "reason": one.reason,
                "traceback": one.traceback,
                "proof": one.proof and one.proof.as_json(),
                "cost": one.cost,
                "information": one.information,
                "seconds": round(one.seconds, 3),
            }
            for one in outcome.tried
        ],
        "refused": [{"name": name, "reason": reason} for name, reason in outcome.refused],
    }
    return _finite(made)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value


def write_json(outcome: Outcome, path: Path) -> None:
    """Everything, as a file."""
    write_text(path, json.dumps(as_json(outcome), indent=1) + "\n")
    say(f"wrote {path}")
