"""`plait translate` and its like: one text, a file of them, or line by line as they are typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.config import build
from plait.errors import ConfigError, InputError, PromptError
from plait.files import write_text
from plait.infer.params import BeamParams
from plait.log import say
from plait.recipes.answers_file import Made, read_prompts, write_answers
from plait.text.document import Document

if TYPE_CHECKING:
    from plait.infer.engine import Engine
    from plait.tasks.task import Task

PARTIAL = ".partial.jsonl"  # beside an output of plain lines, while it is made


def apply_task(
    name: str,
    model: str | Path,
    text: str | None = None,
    *,
    input: str | Path | None = None,
    output: str | Path | None = None,
    decoding: Mapping[str, Any] | None = None,
    batch: int = 32,
    device: str = "cpu",
    dtype: str | None = None,
) -> None:
    """Answer one text, every record of a file, or what is typed, line by line.

    Args:
        name: of the task, see `plait.tasks.TASKS`.
        model: a model, step or run directory.
        input: plain lines, or records; `-` is standard input.
        output: `.jsonl`: one JSON object an answer, with how it was made; any other name: plain lines. What
            an interrupted run has finished is kept. None: standard output.
        decoding: fields of `BeamParams` that differ from the task's own.
        batch: texts at a time; changes the speed, not the answers.

    Raises:
        ConfigError: an impossible setting.
        InputError: no text, one that does not fit, an output that is there already.
        ModelError: the model cannot be loaded, or is of the wrong kind.
    """
    if text is not None and input is not None:
        raise InputError("give either a text or --input FILE, and not both")
    if output is not None and input is None:
        raise InputError("--output keeps the answers to --input FILE; name that file too")
    if batch < 1:
        raise ConfigError(f"batch={batch} must be at least 1")
    documents = list(read_prompts(input)) if input is not None else []

    from plait.infer.engine import Engine
    from plait.tasks.task import find_task

    task = find_task(name)
    params = build(BeamParams, task.decoding.model_dump() | dict(decoding or {}), source="decoding")
    engine = Engine(model, device=device, dtype=dtype)
    if input is not None:
        _file(engine, task, documents, params, output, batch)
    elif text is not None:
        _print(engine, task, text, params)
    else:
        _interactive(engine, task, params)


def _print(engine: Engine, task: Task, text: str, params: BeamParams) -> None:
    from plait.tasks.task import answer, check

    (found,) = answer(engine, check(engine, task, [Document("text", text)]), params)
    for said, hypothesis in found:
        print(said if len(found) == 1 else f"{hypothesis.score:.4f}\t{said}")


def _interactive(engine: Engine, task: Task, params: BeamParams) -> None:
    typed = sys.stdin.isatty()
    while True:
        if typed:
            print(f"{task.name}> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        try:
            if line.strip():
                _print(engine, task, line.rstrip("\n"), params)
        except PromptError as error:  # the next line may do better
            say(str(error))


def _file(
    engine: Engine,
    task: Task,
    documents: Sequence[Document],
    params: BeamParams,
    output: str | Path | None,
    batch: int,
) -> None:
    from plait.tasks.task import answer, check

    prompts = check(engine, task, documents)  # a mistake in the last line costs no hours
    dtype = str(engine.dtype).removeprefix("torch.")
    made_with = f"model:{engine.version}|dtype:{dtype}|{params.describe()}"

    def make(first: int, last: int) -> list[Made]:
        found = answer(engine, prompts[first:last], params, batch=batch)
        return [[{"completion": text, "score": round(one.score, 6)} for text, one in some] for some in found]

    def write(file: Path | None) -> None:
        write_answers(
            file, documents, make, each=params.n, together=8 * batch, made_with=made_with, what="texts"
        )

    if output is None or Path(output).suffix == ".jsonl":
        write(None if output is None else Path(output))
        return
    target = Path(output)
    if target.exists():
        raise InputError(f"{target} is there already; name another --output, or remove it")
    partial = target.with_name(target.name + PARTIAL)
    write(partial)
    rows = [json.loads(line) for line in partial.read_text(encoding="utf-8").splitlines()]
    write_text(target, "".join(" ".join(row["completion"].splitlines()) + "\n" for row in rows))
    partial.unlink()
