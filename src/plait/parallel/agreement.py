"""Before any work: do all ranks have the same recipe and versions, and see the same directory?"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from plait.errors import ConfigError, TrainingError
from plait.parallel.health import PATIENCE

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

SHARED = "out must be on a disk that all nodes share"


def same_everywhere(store: Store, rank: int, world: int, facts: dict[str, str], timeout: float = 60) -> None:
    """Make sure that every rank has the facts of rank 0, such as its recipe's hash and versions.

    Raises:
        ConfigError: on a rank that differs, naming key and values; the other ranks leave with SystemExit(2).
        TrainingError: a rank has not answered in time.
    """
    store.set(f"facts/{rank}", json.dumps(facts))
    first = _posted(store, "facts/0", timeout)
    differ = (key for key in sorted(facts.keys() | first) if facts.get(key) != first.get(key))
    say = "rank {} has {} {!r} where rank 0 has {!r}; every rank needs the same".format
    complaint = next((say(rank, key, facts.get(key), first.get(key)) for key in differ), None)
    _agree(store, "facts", rank, world, complaint, timeout)


def shared_directory(store: Store, rank: int, world: int, directory: Path, timeout: float = 60) -> None:
    """Make sure that all ranks see one directory: they must read there what rank 0 writes.

    Raises:
        ConfigError: on a rank that does not; the other ranks leave with SystemExit(2).
        TrainingError: a rank has not answered in time.
    """
    complaint = None
    if rank:
        name, token, path = _posted(store, "shared/0", timeout)
        if token and not _reads(directory / name, token):
            complaint = f"rank {rank} does not see {path} of rank 0: {SHARED}"
        _agree(store, "shared", rank, world, complaint, timeout)
        return
    token, file = secrets.token_hex(16), directory / f".shared-{secrets.token_hex(4)}"
    try:
        try:
            file.write_text(token, encoding="ascii")
        except OSError as error:
            reason = (error.strerror or "no access").lower()
            token, complaint = "", f"{directory}: {reason}; set another `out`"
        store.set("shared/0", json.dumps((file.name, token, str(directory))))
        _agree(store, "shared", rank, world, complaint, timeout)
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _reads(file: Path, token: str) -> bool:
    """Whether `file` holds `token`, now or within two seconds: a network disk shows new files late."""

    def same() -> bool:
        with suppress(OSError, UnicodeDecodeError):
            return file.read_text(encoding="ascii") == token
        return False

    return _wait(same, 2)


def _posted(store: Store, key: str, timeout: float) -> Any:
    """What rank 0 has posted."""
    if not _wait(lambda: store.check([key]), timeout):
        raise _late(0, timeout)
    return json.loads(store.get(key))


def _agree(store: Store, topic: str, rank: int, world: int, complaint: str | None, timeout: float) -> None:
    """Go on when no rank has a complaint; else leave all together, the complaining rank with its words."""
    bad, told, left = (f"{topic}/{word}" for word in ("bad", "told", "left"))
    if complaint:
        store.set(bad, complaint)
    store.set(f"{told}/{rank}", "")
    store.add(told, 1)  # after the complaint, so that who counts all of them has seen it
    if not _wait(lambda: store.check([bad]) or store.add(told, 0) == world, timeout):
        late = (other for other in range(world) if not store.check([f"{told}/{other}"]))
        raise _late(next(late, 0), timeout)
    if not store.check([bad]):
        return
    store.add(left, 1)
    if rank == 0:  # it may hold the store: it leaves when the others know
        _wait(lambda: store.add(left, 0) == world, PATIENCE)
    if complaint:
        raise ConfigError(complaint)
    raise SystemExit(2)


def _wait(condition: Callable[[], bool], timeout: float) -> bool:
    """Whether it comes true in time; asks ever less often: a thousand ranks must not drown the store."""
    deadline, pause = monotonic() + timeout, 0.01
    while not (true := condition()) and monotonic() < deadline:
        sleep(pause)
        pause = min(0.5, pause * 1.5)
    return true


def _late(rank: int, timeout: float) -> TrainingError:
    return TrainingError(f"rank {rank} has not answered within {timeout:g} s; see its own output")
