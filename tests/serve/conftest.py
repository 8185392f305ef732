"""Servers on real sockets in threads: tiny engines, one that keeps to a script, one that never ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch

from plait.checkpoint.directory import save
from plait.infer.engine import Engine
from plait.nn.attention import Memory
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.encoder_decoder import build
from plait.nn.initialize import initialize
from plait.serve.app import App, Limits
from plait.serve.guard import LOOPBACK
from plait.serve.pages import model_facts
from plait.serve.server import Server, address, listen
from plait.tasks.retrieve import Index
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train

CONTEXT = 256
FLAGS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
         "disable-component-update", "disable-sync")  # fmt: skip


class Running(NamedTuple):
    """A server that answers."""

    url: str
    app: App

    def idle(self, seconds: float = 10.0) -> bool:
        """Wait until the engine has nothing to do; False where that takes too long."""
        end = time.monotonic() + seconds
        while self.app.worker.running or self.app.worker.waiting:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


class Scripted(Engine):
    """Answers every prompt with `SCRIPT`, or, where the prompt holds "endless", with dots for ever."""

    SCRIPT = "Plaits are **woven** from `three` strands.\n\n- 一\n- 二\n"
    pause = 0.0

    def prefill(self, prompts, cache):
        endless = "endless" in self.tokenizer.decode(prompts[0])
        text = "endless " + "." * 4096 if endless else self.SCRIPT
        self.script, self.steps = [*self.tokenizer.encode_plain(text), 0], 0
        return self._next(len(prompts))

    def decode(self, tokens, cache):
        time.sleep(self.pause)
        self.steps += 1
        return self._next(len(tokens))

    def _next(self, rows: int) -> torch.Tensor:
        logits = torch.full((rows, self.config.vocab), -5.0)
        logits[:, self.tokenizer.encode_plain("abcdef")] = -3.0  # what else it considers
        logits[:, self.script[self.steps]] = 12.0
        return logits


class Translating(Engine):
    """An encoder-decoder that writes what `TARGETS` has for a source, or the source itself."""

    TARGETS = {"a red bike": "ein rotes Fahrrad", "two dogs": "zwei Hunde", "good morning": "早上好"}  # noqa: RUF012
    pause = 0.0
    steps = 0

    def prefill(self, prompts, cache):
        sources = [self.tokenizer.decode(prompt, skip_special=True) for prompt in prompts]
        targets = [self.TARGETS.get(source, source) for source in sources]
        self.scripts = [[*self.tokenizer.encode_plain(target), 0] for target in targets]
        numbers = torch.arange(len(prompts))[:, None, None]
        cache.memory = Memory(numbers, numbers[:, :, 0])  # follows each row when beams are reordered
        return self._next(cache)

    def decode(self, tokens, cache):
        time.sleep(self.pause)
        self.steps += 1
        return self._next(cache)

    def _next(self, cache) -> torch.Tensor:
        cache.extend(cache.next_positions())
        logits = torch.full((len(cache.positions), self.config.vocab), -5.0)
        logits[:, 0] = 2.0  # it might as well end here
        for row, (number, step) in enumerate(zip(cache.memory.states[:, 0, 0], cache.positions[:, -1])):
            script = self.scripts[int(number)]
            logits[row, script[min(int(step), len(script) - 1)]] = 8.0
        return logits


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train(["x"], kind="byte")


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> Decoder:
    fields = {"width": 32, "layers": 2, "heads": 4, "context": CONTEXT, "init_std": 0.3}
    decoder = Decoder(ModelConfig(vocab=tokenizer.vocab_size, **fields))
    initialize(decoder, 0)
    return decoder


@pytest.fixture(scope="session")
def engine(model: Decoder, tokenizer: Tokenizer) -> Engine:
    engine = Engine(model, tokenizer)
    engine.name = "tiny"
    return engine


@pytest.fixture
def scripted(model: Decoder, tokenizer: Tokenizer) -> Scripted:
    engine = Scripted(model, tokenizer)
    engine.name = "scripted"
    engine.context = 4096  # it never looks at the model
    return engine


@pytest.fixture(scope="session")
def pairs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An encoder-decoder with random weights, as it is opened from a directory."""
    fields = {"width": 32, "layers": 2, "encoder_layers": 2, "heads": 4, "context": 64, "init_std": 0.3}
    model = build(ModelConfig(vocab=tokenizer.vocab_size, decoder_start=tokenizer.pad_id or 0, **fields))
    initialize(model, 0)
    directory = tmp_path_factory.mktemp("serve") / "pairs"
    save(model, tokenizer, directory)
    return Engine(directory)


@pytest.fixture
def translating(pairs: Engine) -> Translating:
    engine = Translating(pairs.model, pairs.tokenizer)
    engine.name = "en-de"
    return engine


@contextmanager
def running(
    engine: Engine, limits: Limits | None = None, api_key: str | None = None, index: Index | None = None
) -> Iterator[Running]:
    listener = listen("127.0.0.1", 0)
    facts = model_facts(engine, [])
    app = App(engine, api_key=api_key, hosts=LOOPBACK, limits=limits, facts=facts, index=index)
    ready = threading.Event()
    server = Server(app, ready=ready.set)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    url = address(listener, "127.0.0.1")
    thread.start()
    assert ready.wait(30)
    try:
        yield Running(url, app)
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def start() -> Callable[..., object]:
    """`with start(engine, limits, api_key, index) as server:`"""
    return running


@pytest.fixture(scope="session")
def server(engine: Engine) -> Iterator[Running]:
    """One server on the tiny engine for all tests that leave it as they found it."""
    with running(engine, Limits(body_bytes=1 << 16)) as server:
        yield server


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Ends with its module: while it runs, no other event loop can run on this thread."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = [f"--{flag}" for flag in FLAGS]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(url, width, locale)`; the test fails where the page logs an error or asks elsewhere."""
    contexts, problems = [], []

    def opened(url: str, width: int = 1200, locale: str = "en-US") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 760}, locale=locale)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(url) or problems.append(asked.url))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []
