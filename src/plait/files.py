"""Files and directories that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plait.errors import TrainingError
from plait.log import bytes_text

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def new_directory(target: Path, needed: int = 0, note: str = "") -> Iterator[Path]:
    """Yield a temporary directory beside `target` that takes its place when the block ends without an error.

    Every file in it reaches the disk before the rename; what stood at `target` goes only after it.

    Args:
        target: the final directory.
        needed: bytes about to be written, compared with the free space first.
        note: what the error of a full disk adds, such as the last good checkpoint.

    Raises:
        TrainingError: when the disk is full, with bytes needed and free; nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _beside(target)
    with _speaking_of(target, draft), full_disk_named(target, needed, note):
        try:
            if needed > shutil.disk_usage(target.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            draft.mkdir()
            yield draft
            sync_tree(draft)
            _put(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _put(draft: Path, target: Path) -> None:
    old = _beside(target, "old")
    if target.exists():
        target.rename(old)
    draft.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def full_disk_named(target: Path, needed: int = 0, note: str = "") -> Iterator[None]:
    """Turn the system's refusal to write more into a TrainingError with the bytes needed and free."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _no_space(target, needed, note) from None


def _no_space(target: Path, needed: int, note: str) -> TrainingError:
    amount = f"{bytes_text(shutil.disk_usage(target.parent).free)} are free"
    if needed:
        amount = f"{bytes_text(needed)} are needed, {amount}"
    return TrainingError(f"no disk space for {target}: {amount}; free some or write to another disk{note}")


def remove(path: Path) -> None:
    """Delete a directory so that no half of it is ever seen under its name."""
    doomed = _beside(path, "gone")
    path.rename(doomed)
    shutil.rmtree(doomed)


def sweep(parent: Path) -> None:
    """Delete what killed processes left in `parent`, or put it back; only for its one writer."""
    for old in parent.glob(".old-*"):  # of `_put`, which may have been killed between its two renames
        target = parent / old.name.removeprefix(".old-").rsplit("-", 2)[0]
        if not target.exists():
            old.rename(target)
    for pattern in (".tmp-*", ".old-*", ".gone-*"):
        for leftover in parent.glob(pattern):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str, note: str = "") -> None:
    """Write a UTF-8 file whole or not at all; `note` and errors as for `new_directory`."""
    write_bytes(path, text.encode(), note)


def write_bytes(path: Path, data: bytes, note: str = "") -> None:
    """Write a file whole or not at all; `note` and errors as for `new_directory`."""
    draft = _beside(path)
    with _speaking_of(path, draft), full_disk_named(path, len(data), note):
        try:
            draft.write_bytes(data)
            sync(draft)
            draft.replace(path)
            sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def _speaking_of(target: Path, draft: Path) -> Iterator[None]:
    """Let the system's errors name what was asked for, not the temporary name it is written under."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(error.filename) in (draft, target.parent):
            error.filename = str(target)
        raise


def _beside(path: Path, mark: str = "tmp") -> Path:
    return path.parent / f".{mark}-{path.name}-{os.getpid()}-{secrets.token_hex(4)}"


def sync_tree(directory: Path) -> None:
    """Bring every file and directory below, and the directory itself, to the disk."""
    for path in sorted(directory.rglob("*")):
        sync(path)
    sync(directory)


def sync(path: Path) -> None:
    """Bring one file or directory to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a directory, and its renames are journalled
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
