"""Which layouts `plait prove` tries: those that are named, or all of a number of ranks that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from plait.config import build_part, parse_overrides
from plait.errors import ConfigError
from plait.parallel.layout import AXES, Layout, Schedule, check_layout, every_layout
from plait.recipes.proof import Problem

MOST_RANKS = 64
SCHEDULES: tuple[str, ...] = get_args(Schedule)
Refused = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to prove.

    Attributes:
        layouts: `dp=2,tp=2`; or else every: all layouts of so many ranks.
        schedule: of layouts with a pipeline; `all`: every one that the layout allows.
        steps: how many are compared.
        data: train on the recipe's data instead of random tokens.
        information: show what float32 and bfloat16 do, too.
    """

    layouts: Sequence[str] = ()
    every: int | None = None
    schedule: str | None = None
    steps: int = 3
    data: bool = False
    information: bool = False


def check(asked: Asked) -> None:
    """Refuse what makes no sense for any recipe; raises ConfigError."""
    if bool(asked.layouts) == (asked.every is not None):
        both = ", not both" if asked.layouts else ""
        raise ConfigError(f"name a layout (--layout dp=2,tp=2) or a number of ranks (--all 4){both}")
    if asked.steps < 1:
        raise ConfigError(f"--steps={asked.steps} compares nothing; use at least 1")
    if asked.every is not None and asked.every < 2:
        raise ConfigError(f"--all={asked.every} leaves nothing to compare; use at least 2 ranks")
    if asked.schedule not in (None, "all", *SCHEDULES):
        raise ConfigError(f"--schedule={asked.schedule} is unknown; use all or one of {', '.join(SCHEDULES)}")
    _check_ranks(asked.every or 0, "--all")


def _check_ranks(ranks: int, what: str) -> None:
    if ranks > MOST_RANKS:
        raise ConfigError(
            f"{what} means {ranks} ranks, each a process of some 300 MB on this machine; use at most "
            f"{MOST_RANKS}, such as 2 or 4 on an axis"
        )


def layouts_of(base: Layout, problem: Problem, asked: Asked) -> tuple[list[Layout], Refused]:
    """The layouts to prove, fewest ranks first; those of `--all` that do not fit, with the reason.

    Raises:
        ConfigError: a layout that was asked for does not fit, or none does.
    """
    if asked.every is not None:
        return _every(base, problem, asked.every, asked.schedule)
    layouts: list[Layout] = []
    for text in asked.layouts:
        layout = named(base, text)
        if layout.world < 2:
            raise ConfigError(f"--layout {text!r} is one process; name axes, such as dp=2,tp=2")
        _check_ranks(layout.world, f"--layout {text}")
        if layout.pp == 1 or asked.schedule is None:
            _fits(layout, problem)
            layouts.append(layout)
            continue
        several = [_ordered(layout, schedule) for schedule in _schedules(asked.schedule)]
        if asked.schedule != "all":
            _fits(several[0], problem)
        layouts += [each for each in several if _unfit(each, problem) is None]
    if asked.schedule is not None and all(layout.pp == 1 for layout in layouts):
        raise ConfigError(f"--schedule={asked.schedule} is of a pipeline; add pp=2 to the layout")
    return sorted(dict.fromkeys(layouts), key=lambda layout: layout.world), []


def named(base: Layout, text: str) -> Layout:
    """A recipe's layout changed by words such as `dp=2,tp=2`."""
    words = [part.strip() for part in text.split(",") if part.strip()]
    if bad := next((word for word in words if "=" not in word), None):
        raise ConfigError(f"--layout {text!r}: {bad!r} has no size; write for example dp=2,tp=2")
    return build_part(Layout, base.model_dump() | parse_overrides(words), "layout")


def _every(base: Layout, problem: Problem, ranks: int, schedule: str | None) -> tuple[list[Layout], Refused]:
    fitting: list[Layout] = []
    refused: Refused = []

    def try_(layout: Layout) -> bool:
        reason = _unfit(layout, problem)
        if reason is None:
            fitting.append(layout)
        else:
            refused.append((layout.name, reason))
        return reason is None

    found = list(every_layout(ranks, experts=problem.model.experts > 0))
    sizes = [base.model_copy(update={axis: getattr(one, axis) for axis in AXES}) for one in found]
    for size in sizes:
        for each in _schedules(schedule or "1f1b") if size.pp > 1 else ("1f1b",):
            try_(_ordered(size, each))
    if schedule is None:
        for each in SCHEDULES[1:]:
            candidates = [_ordered(size, each) for size in sizes if size.pp > 1]
            chosen = next((one for one in candidates if _unfit(one, problem) is None), None)
            if candidates:
                try_(chosen or candidates[0])
    if not fitting:
        raise ConfigError(f"no layout of {ranks} ranks fits this recipe; {refused[0][0]}: {refused[0][1]}")
    return fitting, refused


def _schedules(asked: str) -> tuple[str, ...]:
    return SCHEDULES if asked == "all" else (asked,)


def _ordered(layout: Layout, schedule: str) -> Layout:
    return layout.model_copy(update={"schedule": schedule, "stages": 0})


def _fits(layout: Layout, problem: Problem) -> None:
    check_layout(layout, problem.model, problem.context, problem.rows, None)


def _unfit(layout: Layout, problem: Problem) -> str | None:
    try:
        _fits(layout, problem)
    except ConfigError as error:
        return str(error)
    return None
