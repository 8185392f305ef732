"""A saved model with random weights and a vocabulary of bytes, for the recipes that open one."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.checkpoint.directory import save
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.text.train_tokenizer import train


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train(["x"], kind="byte")
    config = ModelConfig(
        vocab=tokenizer.vocab_size, width=16, layers=2, heads=2, context=96, init_std=0.3, qk_norm=True
    )
    model = Decoder(config)
    initialize(model, 0)
    directory = tmp_path_factory.mktemp("models") / "tiny-bytes"
    save(model, tokenizer, directory)
    return directory
