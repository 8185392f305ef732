"""`plait chat`: talk with a model on the terminal, or through a pipe, one message a line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait import log
from plait.config import build
from plait.errors import InputError, ModelError, did_you_mean
from plait.infer.params import SamplingParams

if TYPE_CHECKING:
    from plait.infer.engine import Engine

HELP = """/reset  forget the conversation
/quit   leave (so do Ctrl-D, and Ctrl-C while the model is silent; during an answer Ctrl-C stops that)
/help   this text
A message that begins with / is written with two: //"""
COMMANDS = ("/help", "/reset", "/quit")


def chat(
    model: str | Path,
    *,
    system: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
) -> None:
    """Answer the messages of standard input until it ends.

    The model remembers the conversation as far as its context reaches; the oldest turns are forgotten first.

    Args:
        model: a model, step or run directory.
        system: an instruction that stands before every conversation.
        sampling: fields of `SamplingParams`; what the model recommends, or temperature 0.7, unless given.

    Raises:
        ConfigError: an impossible sampling setting.
        InputError: standard input is not UTF-8.
        ModelError: the model cannot be loaded, or is an encoder-decoder.
    """
    from plait.tasks.chat import DECODING

    given = {**(sampling or {}), "n": 1}
    build(SamplingParams, given, source="sampling")  # refused before a model is loaded

    from plait.infer.engine import Engine

    engine = Engine(model, device=device, dtype=dtype)
    if engine.encodes:
        raise ModelError(
            f"{engine.name} is an encoder-decoder, which writes a target for a source and holds no "
            "conversation; use plait translate, summarize, answer or classify"
        )
    params = build(SamplingParams, {**DECODING, **engine.recommended, **given}, source="sampling")
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
    from plait.tasks.chat import fit_history

    def encode(kept: list[dict[str, str]]) -> list[int]:
        return engine.tokenizer.encode_chat(kept, add_generation_prompt=True)[0]

    most = engine.context if params.max_tokens is None else params.max_tokens
    kept = fit_history(
        messages, lambda some: len(encode(some)), engine.context - min(most, engine.context // 2)
    )
    if len(kept) < len(messages):
        log.say(f"(the context of {engine.context} tokens is full: the oldest turns are forgotten)")
    answer = ""
    with closing(engine.stream([encode(kept)], params, clip=True)) as stream:
        try:
            for deltas in stream:
                for delta in deltas:
                    answer += delta.text
                    print(delta.text, end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
    print(flush=True)
    return [*kept, {"role": "assistant", "content": answer}]
