"""What each rank is doing, which is slow and which is gone, told through the store that all ranks share."""

from __future__ import annotations

import atexit
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median, median_low
from time import monotonic, sleep, time
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")
EVERY = 1.0  # seconds between two posts of a rank
SAMPLE = 0.02  # seconds between two looks at what the main thread does
MISSED = 2.5  # posts not made until a rank counts as gone
PATIENCE = 5.0  # seconds for one answer of the store while a failure is explained
CLAIM = "health/error"
SHOWN = 8  # ranks of a message; of a thousand nobody reads all
# Frames that pass a call on; then the places where a rank waits, and those below them where it works.
THROUGH = ("/torch/_ops.py", "/torch/utils/_contextlib.py", "/contextlib.py")
WAITING = ("/torch/distributed/", "/plait/parallel/collectives.py")
WORKING = ("/torch/distributed/tensor/", "/torch/distributed/checkpoint/", "/torch/distributed/algorithms/")
BROKEN = re.compile(r"\bgloo\b|\bnccl|connection (closed|reset|refused)|timed out waiting|broken pipe")


@dataclass(frozen=True)
class Post:
    """The last word of a rank: its step and phase, `age` seconds ago; `left`: it has ended in good order."""

    step: int
    phase: str
    age: float
    beat: int
    every: float
    left: bool

    @property
    def late(self) -> bool:
        """Whether its rank has missed posts that it owes."""
        return not self.left and self.age > MISSED * self.every

    def __str__(self) -> str:
        return f"step {self.step} ({self.phase})"


class Health:
    """Posts each `every` seconds what this rank does, and measures how much of its time is its own work.

    A thread of its own watches the one that makes it.
    """

    def __init__(self, store: Store, rank: int, world: int, *, every: float = EVERY) -> None:
        self.rank, self.world, self.every = rank, world, every
        self._now = (0, "start")
        self._counts = self._seen = (0, 0)  # samples: all, and those of waiting
        self._beats = 0
        self._watched = threading.get_ident()
        # a connection of its own: a thread that waits for a key holds the connection until it comes
        self._store: Store | None = store.clone()  # pyright: ignore[reportAttributeAccessIssue]
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._live, name="plait-health", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def at(self, step: int, phase: str) -> None:
        """Note what this rank does now; costs nothing."""
        self._now = (step, phase)

    def own_share(self) -> float:
        """The share of time since the last call that this rank did not wait for others; 1 where unknown.

        Never 0: of less than one sample it is half of one.
        """
        counts, before = self._counts, self._seen
        self._seen = counts
        every, waiting = counts[0] - before[0], counts[1] - before[1]
        return max(every - waiting, 0.5) / every if every else 1.0

    def close(self) -> None:
        """Post that this rank leaves in good order, and stop."""
        atexit.unregister(self.close)
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join(self.every)
        if not self._thread.is_alive():  # else the store does not answer, and would not answer us either
            self._post(left=True)

    def _live(self) -> None:
        due = monotonic()
        while not self._closed.is_set():
            if monotonic() >= due:
                due = monotonic() + self.every
                self._post()
            if frame := sys._current_frames().get(self._watched):
                every, waiting = self._counts
                self._counts = (every + 1, waiting + waits(frame))
            self._closed.wait(SAMPLE)

    def _post(self, left: bool = False) -> None:
        if self._store is None:
            return
        self._beats += 1
        step, phase = self._now
        post = {"step": step, "phase": phase, "time": time(), "beat": self._beats, "every": self.every}
        try:
            self._store.set(f"health/{self.rank}", json.dumps(post | {"left": left}))
        except RuntimeError:  # the store is gone: the main thread will notice by itself
            self._store = None


def waits(frame: FrameType | None) -> bool:
    """Whether a thread whose innermost frame this is waits for other ranks.

    Only that frame tells: a pipeline's schedule, in torch.distributed too, calls the layers that compute.
    """
    while frame is not None and frame.f_code.co_filename.endswith(THROUGH):
        frame = frame.f_back
    file = frame.f_code.co_filename if frame else ""
    return any(part in file for part in WAITING) and not any(part in file for part in WORKING)


def answered(ask: Callable[[], T], patience: float) -> T:
    """What a store answers, asked in a thread: one whose process hangs lets its clients wait for ever.

    Raises:
        RuntimeError: what asking raised; DistError when nothing came in so many seconds.
    """
    from torch.distributed import DistError

    answers: list[T] = []
    errors: list[RuntimeError] = [DistError(f"the store has not answered in {patience:g} s")]

    def wait() -> None:
        try:
            answers.append(ask())
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=wait, name="plait-ask", daemon=True)
    thread.start()
    thread.join(patience)
    if answers:
        return answers[0]
    raise errors[-1]


def last_posts(store: Store, world: int, patience: float = PATIENCE) -> list[Post | None]:
    """The last post of every rank; None for one that has made none. Ages need one clock: one machine's.

    Raises:
        RuntimeError: the store is gone, or does not answer for `patience` seconds.
    """
    return answered(lambda: _last_posts(store, world), patience)


def _last_posts(store: Store, world: int) -> list[Post | None]:
    posts: list[Post | None] = []
    for key in (f"health/{rank}" for rank in range(world)):
        post = json.loads(store.get(key)) if store.check([key]) else None
        posts.append(Post(age=max(0.0, time() - post.pop("time")), **post) if post else None)
    return posts


def is_communication_error(error: BaseException) -> bool:
    """Whether `error` says that ranks could not talk to each other."""
    from torch.distributed import DistError

    broken = isinstance(error, RuntimeError) and BROKEN.search(str(error).lower())
    return isinstance(error, DistError) or bool(broken)


def explain(error: BaseException, store: Store, world: int, rank: int) -> str:
    """Which rank made a communication of this rank fail, and where it was; takes up to three seconds.

    Explain first and claim then: where another rank or the launcher has claimed already, this returns early.
    """
    try:
        store.set_timeout(timedelta(seconds=PATIENCE))
        before = after = last_posts(store, world, PATIENCE)
        every = max((post.every for post in before if post), default=EVERY)
        deadline = monotonic() + MISSED * every
        while (silent := _silent(before, after, rank)) and monotonic() < deadline:
            if store.check([CLAIM]) and store.get(CLAIM).decode() != str(rank):
                return "another rank was lost"
            sleep(every / 5)
            after = last_posts(store, world, PATIENCE)
    except RuntimeError:
        return f"{'the launcher' if store_is_hosted() else 'rank 0'}, which holds the store, is gone"
    if silent:
        more = f" (and {len(silent) - 1} more)" * (len(silent) > 1)
        return f"rank {silent[0]} stopped answering at {after[silent[0]]}{more}"
    if gone := [(post.age, other) for other, post in enumerate(after) if post and post.left]:
        return f"rank {(first := max(gone)[1])} left at {after[first]}"  # and left the others behind
    states = [f"step {post.step} {post.phase}" if post else "not started" for post in after[:SHOWN]]
    seen = ", ".join(f"rank {other} {state}" for other, state in enumerate(states))
    seen += f" and {world - SHOWN} more" * (world > SHOWN)
    found = re.search(r"(\d+) ?(?:ms\b|milliseconds)", str(error))
    what = f"timed out after {int(found[1]) / 1000:.3g} s" if found else "the connection to a rank broke"
    return f"{what}; last seen: {seen}"


def store_is_hosted() -> bool:
    """Whether a launcher holds the store, ours or torchrun, and not rank 0."""
    torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return torchrun or "PLAIT_AGENT_STORE" in os.environ


def _silent(before: Sequence[Post | None], after: Sequence[Post | None], rank: int) -> list[int]:
    """Ranks, but this one, that have not posted in between and have not left."""
    still = [old and new and not new.left and old.beat == new.beat for old, new in zip(before, after)]
    return [other for other, same in enumerate(still) if same and other != rank]


def stragglers(seconds: Sequence[Sequence[float]], factor: float = 3.0) -> list[tuple[int, float]]:
    """Ranks whose own work takes more than `factor` times the usual, and how many times.

    `seconds[rank]` are the own seconds of its last steps. The usual is the lower median over ranks: with
    two ranks the faster one, since the mean of both would hide a slow one.
    """
    middles = [median(steps) if steps else 0.0 for steps in seconds]
    usual = median_low(middles or [0.0])
    return [(rank, middle / usual) for rank, middle in enumerate(middles) if middle > factor * usual > 0]


def claim_error(store: Store, rank: int) -> bool:
    """Whether this rank is the first to have something to say about a failure: only it prints its line."""
    try:
        first = answered(lambda: store.compare_set(CLAIM, "", str(rank)), PATIENCE)
        return first.decode() == str(rank)
    except RuntimeError:  # nobody left to agree with: two lines are better than none
        return True
