"""Tiny engines: random weights, a vocabulary of bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from plait.infer.engine import Engine
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train(["x"], kind="byte")


@pytest.fixture(scope="session")
def make_engine(tokenizer: Tokenizer) -> Callable[..., Engine]:
    def make(dtype: torch.dtype = torch.float64, seed: int = 0, **fields) -> Engine:
        tiny = {"width": 32, "layers": 3, "heads": 4, "context": 48, "init_std": 0.3}
        model = Decoder(ModelConfig(**({"vocab": tokenizer.vocab_size} | tiny | fields))).to(dtype)
        initialize(model, seed)
        return Engine(model, tokenizer)

    return make


@pytest.fixture(scope="session")
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()


class Scripted(Engine):
    """An engine whose model writes the ids of a list, whatever the prompt."""

    def __init__(self, engine: Engine, ids: list[int]) -> None:
        super().__init__(engine.model, engine.tokenizer)
        self.script, self.steps = ids, 0

    def prefill(self, prompts, cache):
        self.steps = 0
        return self._next(len(prompts))

    def decode(self, tokens, cache):
        return self._next(len(tokens))

    def _next(self, rows: int) -> torch.Tensor:
        logits = torch.full((rows, self.config.vocab), -5.0)
        logits[:, self.script[self.steps]] = 5.0
        self.steps += 1
        return logits


@pytest.fixture(scope="session")
def scripted(engine: Engine) -> Callable[[list[int]], Engine]:
    return lambda ids: Scripted(engine, ids)
