"""A run belongs to one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plait.errors import BusyError, PlaitError

LOCK = ".lock"


@contextmanager
def lock(run_dir: str | Path) -> Iterator[None]:
    """Hold a run for this process alone; the operating system lets go of it when the process dies.

    A directory that was made for the lock goes with it, unless something else has come in.

    Raises:
        BusyError: when another process, which is named, holds it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        raise PlaitError("runs need the file locks of Linux or macOS; on Windows use WSL") from None

    path = Path(run_dir, LOCK)
    made = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.stat()  # fails where the last holder has just taken its directory away
        except (BlockingIOError, FileNotFoundError):
            file.seek(0)
            holder = file.read(32).strip() or "unknown"
            raise BusyError(
                f"{run_dir} is in use by process {holder}; wait for it, stop it, or set another `out`"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            if made and os.listdir(path.parent) == [LOCK]:
                path.unlink()
                path.parent.rmdir()
