"""How answers leave: as server-sent events, or whole, and only while somebody waits for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from plait.serve.problems import ApiError, as_api_error, body


class Events(StreamingResponse):
    """Server-sent events; `leave` is called when the last is sent or the client has gone, whichever way."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[str], leave: Callable[[], None]) -> None:
        # nginx holds back what it proxies unless told otherwise
        super().__init__(lines, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self.leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until done."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.leave()


async def lines(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Chunks as events; `[DONE]` ends them."""
    try:
        async for chunk in chunks:
            yield _event(chunk)
    except Exception as error:  # the status is sent already: the error is the last event but one
        yield _event(body(as_api_error(error)))
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def exhaust(chunks: AsyncIterator[Any]) -> None:
    """Await all, keep none."""
    async for _ in chunks:
        pass


async def unless_gone(request: Request, work: Any) -> None:
    """Await `work`, and stop it when the client disconnects."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ApiError("the client closed the connection", status=499, code="client_closed")
        await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
