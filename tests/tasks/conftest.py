"""Tiny saved models with random weights: one that reads sources, one that converses, one of running text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plait.checkpoint.directory import save
from plait.cli import main
from plait.nn.config import ModelConfig
from plait.nn.encoder_decoder import build
from plait.nn.initialize import initialize
from plait.text.train_tokenizer import train


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a model: `model("pairs", encoder_layers=2)`; `learned` is what it was trained on."""
    made: dict[tuple, Path] = {}

    def make(learned: str, *, fim: bool = False, labels: tuple[str, ...] = (), **fields) -> Path:
        key = (learned, fim, labels, *sorted(fields.items()))
        if key not in made:
            tokenizer = train(["x"], kind="byte", fim=fim)
            shape = {"width": 16, "layers": 2, "heads": 2, "context": 128, "init_std": 0.3, "qk_norm": True}
            start = {"decoder_start": 1} if fields.get("encoder_layers") else {}
            weights = build(ModelConfig(**shape | start | fields, vocab=tokenizer.vocab_size))
            initialize(weights, 0)
            generation = {"trained_on": learned} | ({"trained_labels": list(labels)} if labels else {})
            folder = tmp_path_factory.mktemp("models") / "tiny"
            made[key] = save(weights, tokenizer, folder, generation=generation)
        return made[key]

    return make


@pytest.fixture(scope="session")
def reader(model) -> Path:
    """An encoder-decoder."""
    return model("pairs", encoder_layers=2)


@pytest.fixture
def refuses(capsys) -> Callable[..., str]:
    """Run a command that must end as a user's mistake: one line, exit code 2; its message."""

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if line.startswith("plait: ")]
        assert left.value.code == 2
        assert "Traceback" not in err
        assert len(lines) == 1
        return lines[0].removeprefix("plait: ")

    return run


@pytest.fixture
def works(capsys) -> Callable[..., str]:
    """Run a command that must succeed; what it printed."""

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert not left.value.code, captured.err
        return captured.out

    return run
