"""A saved model with random weights and a vocabulary of bytes, for the recipes that open one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plait.checkpoint.directory import save
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.encoder_decoder import build
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


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder as saved, whose targets end now and then."""
    tokenizer = train(["x"], kind="byte")
    config = ModelConfig(
        vocab=tokenizer.vocab_size, width=16, layers=2, encoder_layers=1, heads=2, context=48, init_std=0.3,
        decoder_start=tokenizer.pad_id,
    )  # fmt: skip
    model = build(config)
    initialize(model, 0)
    with torch.no_grad():
        model.get_parameter("embed_tokens.weight")[tokenizer.eos_id] *= 1.5
    directory = tmp_path_factory.mktemp("models") / "tiny-pairs"
    save(model, tokenizer, directory)
    return directory
