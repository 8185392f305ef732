"""Servers on real sockets in threads: tiny engines, one that keeps to a script, one that never ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch

from plait.infer.engine import Engine
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.serve.app import App, Limits
from plait.serve.guard import LOOPBACK
from plait.serve.pages import model_facts
from plait.serve.server import Server, address, listen
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train

CONTEXT = 256


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


@contextmanager
def running(engine: Engine, limits: Limits | None = None, api_key: str | None = None) -> Iterator[Running]:
    listener = listen("127.0.0.1", 0)
    facts = model_facts(engine, [])
    app = App(engine, api_key=api_key, hosts=LOOPBACK, limits=limits, facts=facts)
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
    """`with start(engine, limits, api_key) as server:`"""
    return running


@pytest.fixture(scope="session")
def server(engine: Engine) -> Iterator[Running]:
    """One server on the tiny engine for all tests that leave it as they found it."""
    with running(engine, Limits(body_bytes=1 << 16)) as server:
        yield server
