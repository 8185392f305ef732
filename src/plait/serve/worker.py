"""One thread owns the engine: requests wait in a bounded line, answers go back to the event loop.

First come, first served, one request at a time; a long one lets those that wait go first now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from plait.errors import PlaitError

Work = Callable[[], Generator[Any, None, None]]  # what a request does on the engine's thread, step by step
TURN = object()  # yielded between steps: whoever waits goes first
_END = object()


class QueueFull(Exception):
    """The line is full; `retry_after` seconds is a fair guess of when to ask again."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} requests are waiting already; try again in {retry_after} s")
        self.retry_after = retry_after


class Stopping(Exception):
    """The server is shutting down."""


class Stream:
    """The items one request produces on the engine's thread, iterated on the event loop."""

    def __init__(self, work: Work, leave: Callable[[Stream], None]) -> None:
        self.work = work
        self.steps: Generator[Any, None, None] | None = None  # of the work, once it has begun
        self.cancelled = False
        self.finished = False  # the last item was read
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[tuple[Any, Exception | None, bool]] = asyncio.Queue()

    def cancel(self) -> None:
        """Stop the work: at once where it waits, within a step where it runs. Harmless afterwards."""
        self.cancelled = True
        self._leave(self)

    def put(self, item: Any = None, *, error: Exception | None = None, last: bool = False) -> None:
        """Hand an item to the event loop (called on the engine's thread)."""
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, (item, error, last))
        except RuntimeError:  # the loop is closed: nobody reads any more
            self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            item, error, last = await self._items.get()
            self.finished = last
            if error is not None:
                raise error
            if last:
                return
            yield item


class Worker:
    """The engine's thread and the line before it: `start`, `submit` from the event loop, `close`."""

    def __init__(self, queue: int) -> None:
        self.queue = queue
        self.running = 0
        self._line: deque[Stream] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._seconds = 1.0  # how long the latest request, or turn of one, took
        self._thread = threading.Thread(target=self._run, name="plait-engine", daemon=True)

    @property
    def waiting(self) -> int:
        """Requests in line, without the one that runs."""
        return len(self._line)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, work: Work) -> Stream:
        """Put work in line; where it yields `TURN`, it goes to the end of the line.

        Raises:
            QueueFull: when `queue` requests wait already.
            Stopping: after `close`.
        """
        stream = Stream(work, self._remove)
        with self._wake:
            if self._closing:
                raise Stopping("the server is shutting down")
            if len(self._line) + self.running > self.queue:
                guess = math.ceil(self._seconds * (len(self._line) + self.running) / 2)
                raise QueueFull(len(self._line), min(max(guess, 1), 60))
            self._line.append(stream)
            self._wake.notify()
        return stream

    def close(self, timeout: float = 30.0) -> None:
        """Cancel what runs and what waits, and end the thread."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def stop(self) -> None:
        """Cancel what runs and what waits, without waiting for the step in progress."""
        with self._wake:
            self._closing = True
            for stream in self._line:
                stream.put(error=Stopping("the server is shutting down"), last=True)
            self._line.clear()
            self._wake.notify()

    def _remove(self, stream: Stream) -> None:
        with self._wake, contextlib.suppress(ValueError):
            self._line.remove(stream)

    def _next(self) -> Stream | None:
        with self._wake:
            self._wake.wait_for(lambda: self._line or self._closing)
            if self._closing:
                return None
            self.running = 1
            return self._line.popleft()

    def _run(self) -> None:
        while (stream := self._next()) is not None:
            start, more, error = time.monotonic(), False, None
            try:
                more = self._work(stream)
            except (PlaitError, Stopping) as problem:
                error = problem
            except (
                Exception
            ) as problem:  # a bug must not end the thread: this request fails, the next may not
                traceback.print_exc()
                error = problem
            self._seconds = time.monotonic() - start
            if more and self._step_back(stream):
                continue
            self.running = 0
            stream.put(error=Stopping("the server is shutting down") if more else error, last=True)

    def _work(self, stream: Stream) -> bool:
        """Go on with a stream, to its end or to the end of a turn; whether more is to come."""
        steps = stream.steps = stream.steps or stream.work()
        more = False
        try:
            while not (stream.cancelled or more):
                if self._closing:
                    raise Stopping("the server is shutting down")
                item = next(steps, _END)
                if item is _END:
                    break
                more = item is TURN
                if not more:
                    stream.put(item)
        finally:
            if not more:
                steps.close()
        return more

    def _step_back(self, stream: Stream) -> bool:
        """Put a stream at the end of the line; False where the server is shutting down."""
        with self._wake:
            if self._closing:
                return False
            self._line.append(stream)
            self.running = 0
            return True
