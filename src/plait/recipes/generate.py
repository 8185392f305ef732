"""`plait generate`: continue one prompt on the terminal, or a file of prompts into a file, resumably."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.config import build
from plait.errors import InputError, PlaitError
from plait.infer.params import Completion, SamplingParams, check_batch
from plait.recipes.answers_file import Made, check_files, read_prompts, write_answers
from plait.recipes.apply import made_with
from plait.text.document import Document

if TYPE_CHECKING:
    from plait.infer.engine import Engine


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
    check_batch(batch)
    check_files(input, output)
    documents = list(read_prompts(input)) if input is not None else []

    from plait.infer.engine import Engine

    engine = Engine(model, device=device, dtype=dtype)
    if input is not None:
        _file(engine, documents, output, params, clip, batch)
    elif as_json:
        _file(engine, [Document("prompt", record={"prompt": prompt})], None, params, clip, batch)
    else:
        _terminal(engine, engine.encode(prompt or ""), params, clip)


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

    def make(first: int, last: int) -> list[Made]:
        made = [made_of(done) for done in engine.generate(prompts[first:last], params, clip=clip)]
        return [made[at : at + params.n] for at in range(0, len(made), params.n)]

    write_answers(
        output,
        documents,
        make,
        each=params.n,
        together=max(batch // params.n, 1),
        made_with=made_with(engine, params.describe()),
    )


def made_of(completion: Completion) -> dict[str, Any]:
    """A completion as a row of an output file."""
    made: dict[str, Any] = {
        "completion": completion.text,
        "finish_reason": completion.finish_reason,
        "completion_tokens": len(completion.tokens),
    }
    if completion.logprobs is not None:
        made["logprobs"] = [{"text": token.text, "logprob": token.logprob} for token in completion.logprobs]
    return made
