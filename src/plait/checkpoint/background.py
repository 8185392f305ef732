"""Work beside training, one piece at a time: a save must never wait for a disk, nor its failure be lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from plait.errors import PlaitError

POLL = 0.2  # seconds between two looks at what a task may wait for


class Background:
    """Runs one task after the other in a thread; an error of one is raised where the next thing is asked.

    Args:
        look: called every now and then by who waits for a task; raises where the task will never end.
    """

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        self._look = look
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def run(self, task: Callable[[], None]) -> None:
        """Start a task once the one before has ended."""
        self.wait()
        self._thread = threading.Thread(target=self._guarded, args=(task,), name="plait-save", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is running any more.

        Raises:
            Exception: what the task raised, or looking after it.
        """
        if self._thread is not None:
            self._thread.join(POLL)
            while self._thread.is_alive():
                self._look()
                self._thread.join(POLL)
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def check(self) -> None:
        """Raise what a task raised that has ended already."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        orderly = error is None or isinstance(error, GeneratorExit)
        if not orderly and not isinstance(error, PlaitError | KeyboardInterrupt | SystemExit):
            return  # a save may wait for the very rank whose loss is being told
        try:
            self.wait()
        except Exception:
            if orderly:
                raise  # else what ended the work is the one to tell of

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self._error = error
