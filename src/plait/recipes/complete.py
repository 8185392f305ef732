"""`plait complete`: the most probable continuation of a text, or what lies between a prefix and a suffix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plait.errors import InputError
from plait.recipes.apply import Application, made_with, read_request, respond, searched, shown
from plait.text.document import Document


def complete(
    model: str | Path,
    prefix: str | None = None,
    *,
    suffix: str | None = None,
    input: str | Path | None = None,
    output: str | Path | None = None,
    fields: Mapping[str, str | int] | None = None,
    decoding: Mapping[str, Any] | None = None,
    batch: int = 32,
    device: str = "cpu",
    dtype: str | None = None,
) -> None:
    """Complete one text, every record of a file, or what is typed, line by line.

    Args:
        model: a model, step or run directory of a decoder.
        suffix: what comes after the completion, for a model that has learned to fill in the middle.
        input: plain lines, or records with prefix and suffix, with prompt, messages or text.
        output, fields, batch: see `plait.recipes.apply.read_request` and `Request`.
        decoding: fields of `BeamParams` that differ from the task's own.

    Raises:
        ConfigError: an impossible setting.
        InputError: no text, one that does not fit, an output that is there already.
        ModelError: the model cannot be loaded, or has not learned what is asked.
    """
    if suffix is not None and prefix is None:
        raise InputError("--suffix goes with one PREFIX, which may be empty; a file has both in its records")
    # before a suffix there may be nothing
    text = prefix if suffix is None or (prefix or "").strip() else suffix
    request = read_request(text, input, output, batch, fields)
    from plait.infer.engine import Engine
    from plait.tasks.complete import TASK, completion_prompt

    params = TASK.decoding_with(decoding)
    engine = Engine(model, device=device, dtype=dtype)

    def ask(text: str) -> Document:
        if suffix is None:
            return Document("text", text)
        return Document("text", "", {"prefix": prefix, "suffix": suffix})

    application = Application(
        "complete",
        ask=ask,
        check=lambda documents: [completion_prompt(engine, document) for document in documents],
        answer=lambda prompts: searched(engine, prompts, params, batch),
        show=shown,
        line=lambda row: row["completion"],
        made_with=made_with(engine, params.describe()),
        each=params.n,
    )
    respond(request, application)
