"""`serve`: a model directory behind a port, told when it is ready, ended by Ctrl-C."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from plait.checkpoint.directory import save
from plait.errors import BusyError, ConfigError, MissingExtra, ModelError
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.recipes.serve import serve
from plait.text.train_tokenizer import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with scores beside it."""
    directory = tmp_path_factory.mktemp("serve") / "small"
    tokenizer = train(["x"], kind="byte")
    model = Decoder(ModelConfig(vocab=tokenizer.vocab_size, width=16, layers=1, heads=2, context=32))
    initialize(model, 0)
    save(model, tokenizer, directory)
    scores = {"model": "small", "results": [{"task": "perplexity", "metric": "bits_per_byte", "value": 8.0}]}
    (directory / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    (directory / "suggestions.json").write_text('["你好"]', encoding="utf-8")
    return directory


def test_it_says_when_it_listens_and_ctrl_c_ends_it(run: Path):
    heard = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # also in the background
    )
    code = f"{heard}; from plait.recipes.serve import serve; serve({str(run)!r}, port=0)"
    command = [sys.executable, "-W", "error", "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(r"plait serves small at (http://127\.0\.0\.1:\d+) \(Ctrl-C stops\)\n", line)
        assert found, line + process.stderr.read()
        facts = httpx.get(found[1] + "/v1/models", timeout=30).json()["data"][0]["plait"]
        assert facts["context"] == 32
        assert facts["scores"][0]["value"] == 8.0
        assert facts["suggestions"] == ["你好"]
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) != 0
    assert "KeyboardInterrupt" in rest  # the command line turns it into exit code 130
    assert "ERROR" not in rest


def test_a_port_in_use_is_told_before_the_model_is_loaded(run: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        message = (
            f"port {port} on 127.0.0.1 is in use; choose another with --port, or --port 0 for any free one"
        )
        with pytest.raises(BusyError, match=re.escape(message)):
            serve(run, port=port)


def test_what_cannot_be_served(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMPTY_KEY", " ")
    with pytest.raises(ConfigError, match="the environment variable EMPTY_KEY holds no key; set it"):
        serve(run, api_key_env="EMPTY_KEY")
    with pytest.raises(ConfigError, match="--port must be between 0 and 65535, not 70000"):
        serve(run, port=70000)
    with pytest.raises(ConfigError, match=re.escape("cannot listen on 192.0.2.1 port 0")):
        serve(run, host="192.0.2.1", port=0)  # an address reserved for documentation (RFC 5737)
    with pytest.raises(ModelError, match="does not exist"):
        serve(run / "nothing", port=0)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'plait[serve]'")):
        serve(run, port=0)


def stop(url: str) -> None:
    raise KeyboardInterrupt


def test_the_log_handlers_of_the_process_stay_open(run: Path, monkeypatch: pytest.MonkeyPatch):
    handler, closed = logging.StreamHandler(), []
    monkeypatch.setattr(handler, "close", lambda: closed.append(handler))
    with pytest.raises(KeyboardInterrupt):
        serve(run, port=0, ready=stop)
    assert not closed


def test_an_open_server_without_a_key_is_warned_of(run: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(KeyboardInterrupt):
        serve(run, host="0.0.0.0", port=0, ready=stop)
    assert "everyone who can reach 0.0.0.0 can use this server" in capsys.readouterr().err
