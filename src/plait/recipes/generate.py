"""`plait generate`: continue one prompt on the terminal, or a file of prompts into a file, resumably."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from plait import log
from plait.config import build
from plait.errors import ConfigError, InputError, PlaitError
from plait.infer.params import Completion, SamplingParams
from plait.text.document import Document
from plait.text.sources import STDIN

if TYPE_CHECKING:
    from plait.infer.engine import Engine

LINE_START = b'{"id": '  # of every line that is written
MADE = ("completion", "finish_reason", "completion_tokens", "choice", "logprobs", "made_with")


def generate(
    model: str | Path,
    prompt: str | None = None,
    *,
    input: str | Path | None = None,
    output: str | Path | None = None,
    sampling: Mapping[str, Any] | None = None,
    batch: int = 8,
    device: str = "cpu",
    dtype: str | None = None,
    as_json: bool = False,
) -> None:
    """Continue `prompt` on standard output as it is written, or every prompt of a file.

    Args:
        model: a model, step or run directory.
        prompt: the text to continue.
        input: a file of prompts instead: JSON Lines with `prompt`, `messages` or `text`, a table with such
            columns, or plain text, one prompt a line; `-` is standard input.
        output: JSON Lines, one for each completion, in the order of `input`; finished lines of an earlier
            run are kept and not made again. None: standard output.
        sampling: fields of `SamplingParams`; without `max_tokens`, 256 or as many as the context leaves.
        batch: sequences written together.
        as_json: print the completion of `prompt` as JSON Lines too.

    Raises:
        ConfigError: an impossible sampling setting.
        InputError: no prompt, one that does not fit (named by file and line), or an `output` made otherwise.
        ModelError: the model cannot be loaded.
    """
    params = build(SamplingParams, sampling or {}, source="sampling")
    clip = "max_tokens" not in (sampling or {})
    if (prompt is None) == (input is None):
        raise InputError("give either a prompt or --input FILE, and not both")
    if output is not None and input is None:
        raise InputError("--output keeps the completions of --input FILE; name that file too")
    if batch < 1:
        raise ConfigError(f"batch={batch} must be at least 1")
    documents = list(read_prompts(input)) if input is not None else []

    from plait.infer.engine import Engine

    engine = Engine(model, device=device, dtype=dtype)
    if input is not None:
        _file(engine, documents, output, params, clip, batch)
    elif as_json:
        _file(engine, [Document("prompt", record={"prompt": prompt})], None, params, clip, batch)
    else:
        _terminal(engine, engine.encode(prompt or ""), params, clip)


def read_prompts(input: str | Path) -> Iterator[Document]:
    """One document a prompt: records as they are, plain text line by line.

    Raises:
        InputError: see `plait.text.readers.read`; also a record without text, which that would skip.
    """
    from plait.text.readers import read
    from plait.text.sources import RECORDS

    if str(input) in ("-", STDIN):
        records = sys.stdin.buffer.peek(1)[:1] == b"{"  # type: ignore[attr-defined]
    else:
        name = Path(input).name.removesuffix(".gz").removesuffix(".zst")
        records = name.endswith(RECORDS)
    return read(input, format="auto" if records else "lines", on_skip=_refuse)


def _refuse(where: str, reason: str) -> None:
    # answers stand in the order of the prompts: none may be passed over
    raise InputError(f"{where}: {reason}; mend or remove this prompt")


def _terminal(engine: Engine, prompt: list[int], params: SamplingParams, clip: bool) -> None:
    if params.n == 1:
        for deltas in engine.stream([prompt], params, clip=clip):
            for delta in deltas:
                print(delta.text, end="", flush=True)
        print()
        return
    for number, done in enumerate(engine.generate([prompt], params, clip=clip), 1):
        print(f"--- {number} of {params.n} ---\n{done.text}")


def _file(
    engine: Engine,
    documents: list[Document],
    output: str | Path | None,
    params: SamplingParams,
    clip: bool,
    batch: int,
) -> None:
    from plait.tasks.complete import prompt_of

    prompts = []
    for document in documents:  # all of them first: a mistake in the last line costs no hours
        try:
            prompts.append(prompt_of(engine, document))
            engine.check(prompts[-1], params, clip=clip)
        except PlaitError as error:
            raise InputError(f"{document.id}: {error}") from None
    heads = [_head(document) for document in documents]
    dtype = str(engine.dtype).removeprefix("torch.")
    made_with = f"model:{engine.version}|dtype:{dtype}|{params.describe()}"
    done = 0 if output is None else _finished(Path(output), heads, params.n, made_with)
    if done:
        log.say(f"{output} holds {done:,} of {len(heads):,} prompts already")
    together = max(batch // params.n, 1)
    with _results(output) as file, log.progress("prompts", len(prompts)) as bar:
        bar.update(done)
        for at in range(done, len(prompts), together):
            some = prompts[at : at + together]
            for place, completion in enumerate(engine.generate(some, params, clip=clip)):
                head = heads[at + place // params.n]
                made = _made(completion, place % params.n if params.n > 1 else None, made_with)
                file.write(json.dumps(head | made, ensure_ascii=False) + "\n")
            file.flush()
            if output is not None:
                os.fsync(file.fileno())
            bar.update(at + len(some))


@contextmanager
def _results(output: str | Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with Path(output).open("a", encoding="utf-8", newline="\n") as file:
        yield file


def _head(document: Document) -> dict[str, Any]:
    """What identifies a prompt in the output: everything its line held."""
    text = {"prompt": document.text} if document.text and "prompt" not in document.record else {}
    head = {"id": document.id} | text | document.record
    return {key: value for key, value in head.items() if key not in MADE}


def _made(completion: Completion, choice: int | None, made_with: str) -> dict[str, Any]:
    made: dict[str, Any] = {} if choice is None else {"choice": choice}
    made |= {
        "completion": completion.text,
        "finish_reason": completion.finish_reason,
        "completion_tokens": len(completion.tokens),
    }
    if completion.logprobs is not None:
        made["logprobs"] = [{"text": token.text, "logprob": token.logprob} for token in completion.logprobs]
    return made | {"made_with": made_with}


def _finished(path: Path, heads: list[dict[str, Any]], n: int, made_with: str) -> int:
    """Prompts of which `path` holds all completions; what a killed run left beyond them is cut off.

    Raises:
        InputError: the file was made from other prompts or with other settings.
    """
    if not path.exists():
        return 0
    data = path.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    other = "; name another --output, or remove it to start again"
    rest = data[data.rfind(b"\n") + 1 :]
    if rest and not rest.startswith(LINE_START[: len(rest)]):
        raise InputError(f"{path}:{len(lines) + 1} is not a line that plait wrote{other}")
    if len(lines) > len(heads) * n:
        raise InputError(f"{path} holds {len(lines):,} lines for {len(heads) * n:,} completions{other}")
    for number, line in enumerate(lines):
        try:
            made = json.loads(line)
            same = all(made.get(key) == value for key, value in _plain(heads[number // n]).items())
        except (ValueError, AttributeError):
            raise InputError(f"{path}:{number + 1} is not a line that plait wrote{other}") from None
        if not same:
            raise InputError(f"{path}:{number + 1} is the completion of another prompt{other}")
        if made.get("made_with") != made_with:
            raise InputError(
                f"{path}:{number + 1} was made with {made.get('made_with')}, not {made_with}{other}"
            )
    done = len(lines) // n
    os.truncate(path, sum(map(len, lines[: done * n])))
    return done


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(value))
