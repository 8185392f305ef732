"""A tiny model with random weights over a vocabulary of bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from plait.infer.engine import Engine
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.text.train_tokenizer import train


@pytest.fixture(scope="session")
def make_engine() -> Callable[..., Engine]:
    tokenizer = train(["x"], kind="byte")

    def make(dtype: torch.dtype = torch.float64, **fields) -> Engine:
        tiny = {"width": 16, "layers": 2, "heads": 2, "context": 12, "init_std": 0.3}
        model = Decoder(ModelConfig(**({"vocab": tokenizer.vocab_size} | tiny | fields))).to(dtype)
        initialize(model, 0)
        return Engine(model, tokenizer)

    return make


@pytest.fixture(scope="session")
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()
