"""Run a function over batches in several processes, results in order.

Workers are plain child processes that speak JSON over pipes, so it works from notebooks, unguarded scripts
and standard input, where `multiprocessing` would import the main program anew.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from plait.errors import PlaitError


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(target: str, setup: Any, batches: Iterable[Any], workers: int) -> Iterator[Any]:
    """`function(setup, batch)` for every batch, in order; `target` is `"module:function"`.

    Setup, batches and results must be JSON values. With one worker everything runs in this process.

    Raises:
        PlaitError: what the function raised, or that a worker died.
    """
    if workers <= 1:
        function = _resolve(target)
        yield from (function(setup, batch) for batch in batches)
        return
    idle: SimpleQueue[Worker] = SimpleQueue()
    started = [Worker(target, setup) for _ in range(workers)]
    for worker in started:
        idle.put(worker)

    def run(batch: Any) -> Any:
        worker = idle.get()
        try:
            return worker.call(batch)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(workers)
    pending: deque[Future[Any]] = deque()
    try:
        for batch in batches:
            pending.append(threads.submit(run, batch))
            if len(pending) > 2 * workers:  # so much is read ahead, no more
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for worker in started:
            worker.stop()
        threads.shutdown(cancel_futures=True)


class Worker:
    """One child process: a line of JSON in, a line of JSON out."""

    def __init__(self, target: str, setup: Any) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "plait.text.pool", target],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        self._setup = setup
        self._greeted = False

    def call(self, batch: Any) -> Any:
        """The function's result for one batch."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with suppress(BrokenPipeError):  # a dead worker shows itself by the missing answer
            for message in [batch] if self._greeted else [self._setup, batch]:
                stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
            self._greeted = True
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise PlaitError(
                f"a worker process ended early (exit {self._process.wait()}), perhaps for want of memory; "
                "use workers=1"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise PlaitError(answer["error"])
        return answer["result"]

    def stop(self) -> None:
        """End the process, also in the middle of a batch."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # what was still to be written
                if pipe is not None:
                    pipe.close()
        self._process.wait()


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def main(target: str) -> None:
    """A worker: the setup first, then batches, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print must not mix with the answers
    function = _resolve(target)
    lines = iter(sys.stdin.buffer.readline, b"")
    setup = json.loads(next(lines, b"null"))
    for line in lines:
        try:
            answer = {"result": function(setup, json.loads(line))}
        except PlaitError as error:
            answer = {"error": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"a worker failed unexpectedly: {type(error).__name__}: {error}"}
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
