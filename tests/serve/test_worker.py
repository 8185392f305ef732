"""The engine's thread: order, the bounded line, cancelling, failures, and the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from plait.serve.worker import TURN, QueueFull, Stopping, Worker


def with_worker(queue: int, story: Callable[[Worker], Awaitable[None]]) -> None:
    worker = Worker(queue)
    worker.start()
    try:
        asyncio.run(asyncio.wait_for(story(worker), 20))
    finally:
        worker.close()


async def items(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_requests_are_answered_in_order_on_one_thread():
    seen = []

    def work(name: str) -> Generator[str, None, None]:
        for number in range(3):
            seen.append(f"{name}{number}")
            yield threading.current_thread().name

    async def story(worker: Worker) -> None:
        streams = [worker.submit(lambda name=name: work(name)) for name in "ab"]
        assert await asyncio.gather(*map(items, streams)) == [["plait-engine"] * 3] * 2

    with_worker(2, story)
    assert seen == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_a_full_line_is_refused_with_a_guess_and_cancelling_makes_room():
    go = threading.Event()

    def work() -> Generator[int, None, None]:
        go.wait(10)
        yield 1

    async def story(worker: Worker) -> None:
        first = worker.submit(work)
        await until(lambda: worker.running)
        second = worker.submit(work)
        with pytest.raises(QueueFull, match="1 requests are waiting already; try again in 1 s") as caught:
            worker.submit(work)
        assert caught.value.retry_after == 1
        second.cancel()
        assert worker.waiting == 0
        third = worker.submit(work)
        go.set()
        assert [await items(first), await items(third)] == [[1], [1]]

    with_worker(1, story)


def test_long_work_lets_others_go_first_after_each_turn():
    seen = []

    def work(name: str, turns: int) -> Generator[Any, None, None]:
        for number in range(turns):
            if number:
                yield TURN
            seen.append(f"{name}{number}")
            yield number

    async def story(worker: Worker) -> None:
        sizes = {"long": 3, "short": 1, "middle": 2}
        streams = [worker.submit(lambda each=each: work(*each)) for each in sizes.items()]
        assert await asyncio.gather(*map(items, streams)) == [[0, 1, 2], [0], [0, 1]]
        assert (worker.running, worker.waiting) == (0, 0)

    with_worker(3, story)
    assert seen == ["long0", "short0", "middle0", "long1", "middle1", "long2"]


def test_stopping_ends_work_between_two_turns():
    def endless() -> Generator[Any, None, None]:
        while True:
            yield 0
            yield TURN

    async def story(worker: Worker) -> None:
        streams = [worker.submit(endless), worker.submit(endless)]
        await asyncio.sleep(0.05)
        worker.stop()
        for stream in streams:
            with pytest.raises(Stopping, match="shutting down"):
                await items(stream)

    with_worker(2, story)


def test_cancelling_closes_the_work_within_a_step():
    closed = threading.Event()

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    async def story(worker: Worker) -> None:
        stream = worker.submit(endless)
        async for _ in stream:
            break
        stream.cancel()
        await until(lambda: not worker.running)
        assert closed.is_set()
        assert not stream.finished

    with_worker(1, story)


def test_a_failure_reaches_its_own_request_only(capsys: pytest.CaptureFixture[str]):
    def broken() -> Generator[int, None, None]:
        yield 1
        raise ZeroDivisionError("a bug")

    async def story(worker: Worker) -> None:
        with pytest.raises(ZeroDivisionError):
            await items(worker.submit(broken))
        assert await items(worker.submit(lambda: (number for number in range(2)))) == [0, 1]

    with_worker(1, story)
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err


def test_stopping_ends_what_runs_and_what_waits():
    def endless() -> Generator[int, None, None]:
        while True:
            yield 0

    async def story(worker: Worker) -> None:
        streams = [worker.submit(endless), worker.submit(endless)]
        await until(lambda: worker.running)
        worker.stop()
        for stream in streams:
            with pytest.raises(Stopping, match="shutting down"):
                await items(stream)
        with pytest.raises(Stopping):
            worker.submit(endless)

    with_worker(2, story)
