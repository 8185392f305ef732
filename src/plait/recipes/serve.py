"""`plait serve`: a model behind OpenAI's API and a page to talk with it."""

from __future__ import annotations

import ipaddress
import os
import webbrowser
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from plait.checkpoint.resolve import CHECKPOINTS, resolve
from plait.errors import ConfigError, ModelError, need
from plait.log import say, warn
from plait.recipes.answer import index_of


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str | None = None,
    allow_host: Sequence[str] = (),
    queue: int = 32,
    documents: Sequence[str | Path] = (),
    device: str = "cpu",
    dtype: str | None = None,
    open_browser: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Load a model and serve it until interrupted.

    Args:
        model: a model, step or run directory.
        host, port: where to listen; port 0 takes a free one.
        api_key_env: name of the environment variable that holds the key clients must send.
        allow_host: names, beside the loopback ones, under which the server is reached (through a proxy).
        queue: requests that may wait for the one that runs; more are answered 429.
        documents: files and folders in which questions without a context are answered.
        device, dtype: where and how precisely the model runs.
        open_browser: open the page when the server answers.
        ready: called with the URL when the server answers, in place of the printed line.

    Raises:
        BusyError: the port is in use.
        ConfigError: an impossible host or port, or an environment variable without a key.
        MissingExtra: the packages of `plait[serve]` are not installed.
        InputError: documents that are missing or hold no text.
        ModelError: the model cannot be loaded, or answers no questions.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        need(package, "serve")
    from plait.serve.guard import LOOPBACK
    from plait.serve.server import address, listen

    api_key = _api_key(api_key_env)
    if queue < 0:
        raise ConfigError(f"--queue={queue} must be at least 0")
    on_loopback = _is_loopback(host)
    if not on_loopback and api_key is None:
        warn(f"everyone who can reach {host} can use this server; set a key with --api-key-env NAME")
    hosts = [*LOOPBACK, host, *allow_host] if on_loopback or allow_host else None
    directory = resolve(model).resolve()
    index = index_of(documents) if documents else None
    with listen(host, port) as listener:
        url = address(listener, host)

        from plait.infer.engine import Engine
        from plait.serve.app import App, Limits
        from plait.serve.pages import model_facts
        from plait.serve.server import Server
        from plait.serve.tasks import tasks_of

        engine = Engine(model, device=device, dtype=dtype)
        if index is not None and "answer" not in tasks_of(engine):
            raise ModelError(
                f"{engine.name} continues text, and --documents answer questions; leave them out, "
                "or serve a model trained on pairs or on conversations"
            )
        facts = model_facts(engine, _note_directories(directory))

        def on_ready() -> None:
            if ready is not None:
                ready(url)
            else:
                say(f"plait serves {engine.name} at {url} (Ctrl-C stops)")
            if open_browser:
                webbrowser.open(url)

        app = App(engine, api_key=api_key, hosts=hosts, limits=Limits(queue=queue), facts=facts, index=index)
        Server(app, ready=on_ready).run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _api_key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {name} holds no key; set it, or leave out --api-key-env")
    return key


def _note_directories(directory: Path) -> list[Path]:
    """Where scores and suggestions may lie: in the model directory, else in the run it belongs to."""
    runs = (parent for parent in directory.parents if (parent / CHECKPOINTS).is_dir())
    return [directory, *islice(runs, 1)]
