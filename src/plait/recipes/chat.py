"""`plait chat`: talk with a model on the terminal, or through a pipe, one message a line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait import log
from plait.config import build
from plait.errors import InputError, about, did_you_mean
from plait.infer.params import SamplingParams
from plait.recipes.answers_file import Made
from plait.recipes.apply import Application, made_with, read_request, respond
from plait.recipes.generate import made_of
from plait.text.document import Document

if TYPE_CHECKING:
    from plait.infer.engine import Engine

HELP = """/reset  forget the conversation
/quit   leave (so do Ctrl-D, and Ctrl-C while the model is silent; during an answer Ctrl-C stops that)
/help   this text
A message that begins with / is written with two: //"""
COMMANDS = ("/help", "/reset", "/quit")


def chat(
    model: str | Path,
    text: str | None = None,
    *,
    system: str | None = None,
    input: str | Path | None = None,
    output: str | Path | None = None,
    fields: Mapping[str, str | int] | None = None,
    sampling: Mapping[str, Any] | None = None,
    batch: int = 8,
    device: str = "cpu",
    dtype: str | None = None,
) -> None:
    """Answer one message, those of standard input until it ends, or the last one of every record of a file.

    The model remembers the conversation as far as its context reaches; the oldest turns are forgotten first.

    Args:
        model: a model, step or run directory.
        text: one message to answer.
        system: an instruction that stands before every conversation.
        input, output, fields: see `plait.recipes.apply.read_request` and `Request`; a record holds
            `messages`, a plain line is what a user says.
        sampling: fields of `SamplingParams`; what the model recommends, or temperature 0.7, unless given.
        batch: conversations at a time.

    Raises:
        ConfigError: an impossible sampling setting.
        InputError: standard input is not UTF-8, a file that cannot be read or written.
        ModelError: the model cannot be loaded, or has not learned to converse.
    """
    given = {**(sampling or {}), "n": 1}
    build(SamplingParams, given, source="sampling")  # refused before a model is loaded
    request = read_request(text, input, output, batch, fields)

    from plait.infer.engine import Engine
    from plait.tasks.conversation import sampling_for

    engine = Engine(model, device=device, dtype=dtype)
    params = sampling_for(engine, given)
    if request.text is None and request.input is None:
        _converse(engine, system, params)
    else:
        respond(request, _application(engine, system, params, batch))


def _application(engine: Engine, system: str | None, params: SamplingParams, batch: int) -> Application:
    from plait.tasks.conversation import messages_of, prompt_of

    def check(documents: Sequence[Document]) -> list[list[int]]:
        prompts = []
        for document in documents:
            with about(document.id):
                prompts.append(prompt_of(engine, messages_of(document, system), params)[1])
        return prompts

    def answer(prompts: list[list[int]]) -> list[Made]:
        parts = (prompts[at : at + batch] for at in range(0, len(prompts), batch))
        return [[made_of(done)] for part in parts for done in engine.generate(part, params, clip=True)]

    return Application(
        "chat",
        ask=lambda text: Document("message", text),
        check=check,
        answer=answer,
        show=lambda rows: rows[0]["completion"],
        line=lambda row: row["completion"],
        made_with=made_with(engine, f"{params.describe()}|system:{system or 'none'}"),
    )


def _converse(engine: Engine, system: str | None, params: SamplingParams) -> None:
    first = [{"role": "system", "content": system}] if system else []
    messages = list(first)
    log.say(f"{engine.name}: it may be wrong; /help lists the commands")
    for line in _messages():
        if line in COMMANDS or (line.startswith("/") and not line.startswith("//")):
            if line == "/quit":
                return
            if line == "/reset":
                messages = list(first)
                log.say("the conversation is forgotten")
            elif line == "/help":
                log.say(HELP)
            else:
                log.warn(
                    f"{line.split()[0]} is not a command{did_you_mean(line, COMMANDS)}; /help lists them"
                )
            continue
        text = line[1:] if line.startswith("//") else line
        try:
            messages = _turn(engine, [*messages, {"role": "user", "content": text}], params)
        except InputError as error:  # this message cannot be answered; the conversation goes on
            log.warn(str(error))


def _messages() -> Iterator[str]:
    """What the user says, line by line, until end of input or Ctrl-C; empty lines are passed over."""
    typed = sys.stdin.isatty()
    if typed:
        import contextlib

        with contextlib.suppress(ImportError):  # history and editing, where the platform has them
            import readline  # noqa: F401
    while True:
        try:
            line = input("> ") if typed else sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise InputError(f"standard input is not UTF-8 (byte {error.start}); convert it") from None
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not typed and not line:
            return
        if line.strip():
            yield line.strip()


def _turn(engine: Engine, messages: list[dict[str, str]], params: SamplingParams) -> list[dict[str, str]]:
    """Answer the last message; the conversation as it is remembered, with the answer.

    Raises:
        InputError: a message that does not fit the context, or is not valid Unicode.
    """
    from plait.tasks.conversation import prompt_of

    kept, prompt = prompt_of(engine, messages, params)
    if len(kept) < len(messages):
        log.say(f"(the context of {engine.context} tokens is full: the oldest turns are forgotten)")
    answer = ""
    with closing(engine.stream([prompt], params, clip=True)) as stream:
        try:
            for deltas in stream:
                for delta in deltas:
                    answer += delta.text
                    print(delta.text, end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
    print(flush=True)
    return [*kept, {"role": "assistant", "content": answer}]
