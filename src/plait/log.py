"""What a user sees while plait works: messages, tables, and progress on standard error.

On a terminal long work shows a bar with its ETA; elsewhere (files, CI) a plain line now and then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

T = TypeVar("T")
PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal


_silent = False


def silence(silent: bool = True) -> None:
    """Say nothing from here on, as one of several processes that would all say the same."""
    global _silent
    _silent = silent


def console() -> Console:
    """A console on the *current* standard error (tests and servers replace it)."""
    return Console(stderr=True, highlight=False, soft_wrap=True, quiet=_silent)


def say(message: str) -> None:
    """One line of information."""
    console().print(message, markup=False)


def warn(message: str) -> None:
    """One line of warning: work goes on, but differently than asked or expected."""
    console().print(f"warning: {message}", style="yellow", markup=False)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, stdout: bool = False
) -> None:
    """Print a table; the first column is left-aligned, the rest right-aligned. `stdout`: it is the result."""
    from rich.table import Table
    from rich.text import Text

    result = Table(title=Text(title), title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        result.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        result.add_row(*(Text(str(cell)) for cell in row))  # as it is: cells may hold [brackets]
    screen = Console(highlight=False) if stdout else console()
    screen.print(result)


class Progress:
    """Counts work done; `update(done, note)` redraws the bar or, now and then, prints a line."""

    def __init__(self, label: str, total: float | None, bar: RichProgress | None, before: float) -> None:
        self.label, self.total, self.done = label, total, before
        self._bar, self._before = bar, before
        self._task = bar.add_task(label, total=total, note="") if bar else None
        if bar is not None and self._task is not None:
            bar.update(self._task, completed=before)
        self._start = self._last = monotonic()

    @property
    def plain(self) -> bool:
        """Whether progress is plain lines, as without a terminal."""
        return self._bar is None

    def update(self, done: float, note: str = "") -> None:
        """Set the amount of work done so far and a short note such as `loss 2.31`."""
        self.done = done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif monotonic() - self._last >= PLAIN_EVERY:
            self._last = monotonic()
            say(self._line(note))

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Add to the amount of work done."""
        self.update(self.done + amount, note)

    def _line(self, note: str) -> str:
        line = f"{self.label}: {_amount(self.done)}"
        if self.total:
            line += f"/{_amount(self.total)} ({self._share()})"
        return f"{line} {note}".rstrip()

    def _share(self) -> str:
        """How much is done and, once there is something to go by, how long the rest will take."""
        assert self.total
        share = f"{100 * self.done / self.total:.0f} %"
        made = self.done - self._before
        if made <= 0:
            return share
        elapsed = monotonic() - self._start
        return f"{share}, {duration(elapsed * (self.total - self.done) / made)} left"


def _amount(value: float) -> str:
    """`1234567` → `1,234,567`, `3.14159` → `3.14`."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


@contextmanager
def progress(label: str, total: float | None = None, *, before: float = 0) -> Iterator[Progress]:
    """Show progress of long work: `with progress("tokenize", len(files)) as bar: bar.advance()`.

    Args:
        before: what an earlier run has done of it.
    """
    screen = console()
    if _silent or not sys.stderr.isatty():
        yield Progress(label, total, None, before)
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"), rich.BarColumn(bar_width=24), rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(), rich.TextColumn("eta"), rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with rich.Progress(*columns, console=screen, transient=False) as bar:
        yield Progress(label, total, bar, before)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate with progress."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with progress(label, total) as bar:
        for item in items:
            yield item
            bar.advance()


def duration(seconds: float) -> str:
    """`7384` → `2h03m`, `95` → `1m35s`, `4.2` → `4s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def bytes_text(count: float) -> str:
    """`1536` → `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
