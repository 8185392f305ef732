"""A run directory: its recipe, its log, and what is needed to go on after any interruption."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from plait import files
from plait.checkpoint.lock import LOCK
from plait.config import build, dump_yaml, read_yaml
from plait.errors import BusyError, InputError, MissingExtra, need
from plait.log import say
from plait.recipes.recipe import Recipe

LOG = "log.jsonl"
RECIPE = "recipe.yaml"


def save_recipe(run_dir: Path, recipe: Recipe) -> None:
    """Write `recipe.yaml` with every default and every choice."""
    run_dir.mkdir(parents=True, exist_ok=True)
    files.write_text(run_dir / RECIPE, dump_yaml(recipe))


def read_recipe(run_dir: Path) -> Recipe | None:
    """The recipe a run began with; None for a directory without one."""
    path = run_dir / RECIPE
    return build(Recipe, read_yaml(path), source=str(path)) if path.is_file() else None


def refuse_foreign(run_dir: Path) -> None:
    """Raises BusyError for a directory that holds anything no run has put there: it would be overwritten."""
    if not run_dir.is_dir() or (run_dir / LOCK).exists() or (run_dir / RECIPE).exists():
        return
    if other := next(run_dir.iterdir(), None):
        raise BusyError(f"{run_dir} holds something else ({other.name}); set `out` to a new directory")


def refuse_existing(run_dir: Path) -> None:
    """Raises BusyError when a run is there already."""
    if (run_dir / RECIPE).exists() or (run_dir / LOG).exists():
        raise BusyError(f"{run_dir} holds a run already; add --resume to continue it, or set another `out`")


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of `log.jsonl`, none where there is no log; a last line cut short by a kill is left out.

    Raises:
        InputError: a line in the middle that is no row.
    """
    path = run_dir / LOG
    if not path.is_file():
        return []
    # not `splitlines`: samples may hold other separators
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "step" not in row:
            raise InputError(f"{path}:{number} is not a row of a training log: {line[:60]!r}")
        rows.append(row)
    return rows


class RunLog:
    """Appends one flushed JSON row a step to `log.jsonl`, and to TensorBoard where asked.

    Opening drops the rows after `step`, which a resumed run does again.
    """

    def __init__(self, run_dir: Path, step: int, tensorboard: bool) -> None:
        rows = [row for row in read_log(run_dir) if row["step"] <= step]
        files.write_text(run_dir / LOG, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self._file = (run_dir / LOG).open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            writer = need("torch.utils.tensorboard", "track").SummaryWriter
            self._board = writer(str(run_dir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; numbers that JSON does not know become null."""
        finite = {key: _finite(value) for key, value in row.items()}
        self._file.write(json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is None:
            return
        for key, value in row.items():
            if isinstance(value, int | float) and key != "step":
                self._board.add_scalar(key, value, row["step"])
        for number, sample in enumerate(row.get("samples", ())):
            self._board.add_text(f"sample/{number}", sample, row["step"])


class NoLog:
    """The log of a rank that writes none."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    def write(self, row: dict[str, Any]) -> None:
        """Nothing: rank 0 has the same row."""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def wants_tensorboard(asked: bool | str) -> bool:
    """Whether to write TensorBoard files; `auto` means where it is installed, and says so where not."""
    if asked is False:
        return False
    try:
        need("tensorboard", "track")
    except MissingExtra as error:
        if asked is True:
            raise
        say(f"TensorBoard files are not written: {error}")
        return False
    return True


class Stop:
    """Becomes true at the first Ctrl-C or SIGTERM, so that a loop can save and leave between two steps."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    def raise_if_set(self) -> None:
        """Leave as the signal would have: KeyboardInterrupt, or exit status 143."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal:
            raise SystemExit(128 + self.signal)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a flag; a second one acts at once."""
    stop = Stop()
    before = {}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)
        say("stopping after this step and saving; once more to stop at once")

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: signals are not ours to take
        before.clear()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
