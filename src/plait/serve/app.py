"""The OpenAI-compatible application: routes, and how a request travels to the engine and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from plait.config import Config
from plait.infer.engine import Engine
from plait.serve import problems, prompts, tasks
from plait.serve.events import Events, exhaust, lines, unless_gone
from plait.serve.guard import Guard
from plait.serve.inputs import parse_json, read_messages, read_prompts, read_texts
from plait.serve.metrics import Metrics
from plait.serve.pages import page_files
from plait.serve.problems import ApiError, as_api_error
from plait.serve.replies import ChatReply, Reply, TextReply
from plait.serve.requests import ChatAsked, TextAsked, read
from plait.serve.tasks import TaskReply
from plait.serve.worker import QueueFull, Stopping, Stream, Worker
from plait.tasks.retrieve import Index


class Limits(Config):
    """What one request, and all waiting ones, may take."""

    body_bytes: int = Field(default=4 << 20, ge=1)
    body_seconds: float = Field(default=30.0, gt=0)
    sequences: int = Field(default=64, ge=1)  # prompts times n of one request
    texts: int = Field(default=256, ge=1)  # of one request to a task
    queue: int = Field(default=32, ge=0)  # requests waiting for the one that runs


class App:
    """The ASGI application for one engine, with its worker and metrics.

    `facts`: extra fields of the model's entry in `/v1/models` (see `pages.model_facts`).
    `index`: documents to answer questions from.
    `hosts`: names the server answers to; None for any.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        api_key: str | None = None,
        hosts: Sequence[str] | None = None,
        limits: Limits | None = None,
        facts: dict[str, Any] | None = None,
        index: Index | None = None,
    ) -> None:
        self.engine, self.limits, self.index = engine, limits or Limits(), index
        self.facts = (facts or {}) | {"passages": 0 if index is None else len(index.passages)}
        self.created = int(time.time())
        self.worker = Worker(self.limits.queue)
        self.metrics = Metrics(self.worker)
        self.files = page_files()
        self.guarded: ASGIApp = Guard(self._routes(), metrics=self.metrics, api_key=api_key, hosts=hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.guarded(scope, receive, send)

    def _routes(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            self.worker.start()
            yield
            await asyncio.to_thread(self.worker.close)

        # No generated documentation pages: they load scripts from elsewhere.
        app = FastAPI(title="plait", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
        problems.install(app)
        both = ["GET", "HEAD"]
        app.add_api_route("/", self.page, methods=both, response_model=None)
        app.add_api_route("/static/{name}", self.page, methods=both, response_model=None)
        app.add_api_route("/health", self.health, methods=both, response_model=None)
        app.add_api_route("/metrics", self.show_metrics, response_model=None)
        app.add_api_route("/v1/models", self.models, response_model=None)
        app.add_api_route("/v1/models/{name:path}", self.model, response_model=None)
        app.add_api_route("/v1/completions", self.completions, methods=["POST"], response_model=None)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        app.add_api_route("/v1/tasks/{name}", self.task, methods=["POST"], response_model=None)
        return app

    async def page(self, request: Request, name: str = "index.html") -> Response:
        """A file of the page."""
        file = self.files.get(name)
        if file is None:
            raise ApiError(f"there is no page {request.url.path!r}", status=404, code="not_found")
        headers = {"etag": file.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    async def health(self) -> dict[str, Any]:
        """Whether the server answers; no key needed, so nothing about the model."""
        return {"status": "ok", "running": self.worker.running, "waiting": self.worker.waiting}

    async def show_metrics(self) -> Response:
        """Prometheus metrics."""
        return Response(self.metrics.text(), headers={"content-type": self.metrics.content_type})

    async def models(self) -> dict[str, Any]:
        """The one model, in a list."""
        return {"object": "list", "data": [self._model_entry()]}

    async def model(self, name: str) -> dict[str, Any]:
        """The model, by its name."""
        self._check_model(name)
        return self._model_entry()

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        engine = self.engine
        asked = read(ChatAsked, await self._json(request))
        self._check_model(asked.model)
        messages = read_messages(asked.messages)
        limit = asked.max_completion_tokens or asked.max_tokens
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        params = prompts.sampling(asked, limit, logprobs)
        ids = await asyncio.to_thread(prompts.encode_chat, engine, messages)
        most = self.limits.sequences
        prompts.check_prompts(engine, [ids], params, most=most, param="messages")
        reply = ChatReply(
            engine.name,
            logprobs=asked.logprobs,
            prompt_tokens=len(ids),
            count=asked.n,
            usage=asked.stream_options.include_usage,
        )

        def work() -> Generator[Any, None, None]:
            yield None
            yield from engine.stream([ids], params)

        return await self._answer(request, reply, work, stream=asked.stream)

    async def completions(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        engine = self.engine
        asked = read(TextAsked, await self._json(request))
        self._check_model(asked.model)
        prompts.check_echo(engine, asked)
        given = read_prompts(asked.prompt)
        params = prompts.sampling(asked, asked.max_tokens, asked.logprobs)
        rows = await asyncio.to_thread(prompts.encode_prompts, engine, given, asked.suffix)
        most = self.limits.sequences
        prompts.check_prompts(engine, rows, params, most=most, param="prompt")
        texts = [item if isinstance(item, str) else engine.tokenizer.decode(item) for item in given]
        reply = TextReply(
            engine.name,
            logprobs=asked.logprobs,
            echo=texts if asked.echo else None,
            prompt_tokens=sum(map(len, rows)),
            count=len(rows) * asked.n,
            usage=asked.stream_options.include_usage,
        )

        def work() -> Generator[Any, None, None]:
            scores = None
            if asked.echo and asked.logprobs is not None:
                scored = engine.score(rows, asked.logprobs)
                # of an empty prompt, which stands for the token that begins a text, nothing is echoed
                scores = [row if item else [] for row, item in zip(scored, given)]
            yield scores
            yield from engine.stream(rows, params)

        return await self._answer(request, reply, work, stream=asked.stream)

    async def task(self, request: Request, name: str) -> Response:
        """`POST /v1/tasks/{task}`: translate, summarize, answer or classify some texts."""
        tasks.check_name(name)
        asked = read(tasks.body_of(name), await self._json(request))
        self._check_model(asked.model)
        tasks.check_able(self.engine, name)
        texts = read_texts(asked.input, self.limits.texts)
        reply, work = await asyncio.to_thread(tasks.prepare, self.engine, name, asked, texts, self.index)
        stream = self._submit(work)
        return await self._whole(request, stream, tasks.gather(stream, reply), reply)

    async def _answer(
        self, request: Request, reply: Reply, work: Callable[[], Generator], *, stream: bool
    ) -> Response:
        start = time.monotonic()
        steps = self._submit(work)
        chunks = self._chunks(steps, reply, start)
        if stream:
            return Events(lines(chunks), lambda: self._leave(steps, reply))
        return await self._whole(request, steps, chunks, reply)

    def _submit(self, work: Callable[[], Generator]) -> Stream:
        try:
            return self.worker.submit(work)
        except (QueueFull, Stopping) as error:
            raise as_api_error(error) from None

    async def _whole(
        self, request: Request, stream: Stream, chunks: AsyncIterator, reply: Reply | TaskReply
    ) -> Response:
        """The answer at once, when `chunks` have gone through `reply`."""
        try:
            await unless_gone(request, exhaust(chunks))
        except Exception as error:
            raise as_api_error(error) from error
        finally:
            self._leave(stream, reply)
        return JSONResponse(reply.whole())

    async def _chunks(self, stream: Stream, reply: Reply, start: float) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a streamed answer; `reply` gathers what they hold.

        `work` yields the scores of the prompts (None unless asked for), then the engine's steps.
        """
        steps = aiter(stream)
        for chunk in reply.opening(await anext(steps)):
            yield chunk
        waiting = True
        async for deltas in steps:
            if waiting:
                self.metrics.first_token.observe(time.monotonic() - start)
                waiting = False
            for delta in deltas:
                reply.take(delta)
                chunk = reply.chunk(delta)
                if chunk is not None:
                    yield chunk
        for chunk in reply.closing():
            yield chunk

    def _leave(self, stream: Stream, reply: Reply | TaskReply) -> None:
        """The answer is given or the client has gone: count it, and stop what still runs."""
        stream.cancel()
        self.metrics.prompt_tokens.inc(reply.prompt_tokens)
        self.metrics.completion_tokens.inc(reply.completion_tokens)
        if not stream.finished:
            self.metrics.cancelled.inc()

    async def _json(self, request: Request) -> dict[str, Any]:
        limit = self.limits.body_bytes
        content = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    content += part
                    if len(content) > limit:
                        message = f"the body is larger than this server takes ({limit} bytes); shorten it"
                        headers = {"connection": "close"}
                        raise ApiError(message, status=413, code="body_too_large", headers=headers)
        except TimeoutError:
            message = f"the body did not arrive within {self.limits.body_seconds:g} s"
            raise ApiError(message, status=408, code="timeout", headers={"connection": "close"}) from None
        except ClientDisconnect:
            raise ApiError("the client left", status=499, code="client_closed") from None
        return parse_json(bytes(content))

    def _model_entry(self) -> dict[str, Any]:
        return {
            "id": self.engine.name,
            "object": "model",
            "created": self.created,
            "owned_by": "plait",
            "max_model_len": self.engine.context,
            "tasks": tasks.tasks_of(self.engine),
            "plait": self.facts,
        }

    def _check_model(self, name: str) -> None:
        if name != self.engine.name:
            raise ApiError(
                f"the model {name!r} does not exist here; this server has {self.engine.name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )
