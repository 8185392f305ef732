"""Conversations: what a model is shown of one, and how it answers where nothing else is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plait.config import build
from plait.data.pairs import source_in
from plait.errors import InputError, ModelError, PromptError
from plait.infer.engine import Engine
from plait.infer.params import SamplingParams
from plait.text.document import Document
from plait.text.fitting import fitting

Message = dict[str, str]  # role and content
DECODING = {"temperature": 0.7}  # where the user asks for nothing else


def fit_history(
    messages: Sequence[Message], size: Callable[[list[Message]], int], room: int, most: int | None = None
) -> list[Message]:
    """Forget the oldest turns until the rest fits.

    A turn is a user's message with the answers to it; system messages and the last turn are always kept.

    Args:
        size: how many tokens a conversation takes, as the model will read it.
        room: tokens it may take.
        most: tokens that system messages and the last turn may take where they are alone; None: `room`.

    Raises:
        PromptError: even the system messages and the last turn are longer than that.
    """
    turns, last = [], 0
    for message in messages:
        if message["role"] == "user" or (message["role"] == "assistant" and not last):
            last += 1
        turns.append(None if message["role"] == "system" else last)

    def latest(count: int) -> list[Message]:
        return [message for message, turn in zip(messages, turns) if turn is None or turn > last - count]

    if count := fitting(lambda count: size(latest(count)) <= room, max(last, 1)):
        return latest(count)
    alone, most = latest(1), room if most is None else most
    if (taken := size(alone)) <= most:
        return alone
    raise PromptError(f"the message takes {taken} tokens, more than the {most} there is room for; shorten it")


def messages_of(document: Document, system: str | None = None) -> list[Message]:
    """The messages of a record, or its source or text as a user's, below an instruction unless it has one.

    Raises:
        InputError: a record with neither, or whose last message is not a user's.
    """
    text = source_in(document) or document.text
    messages = document.record.get("messages") or ([{"role": "user", "content": text}] if text else [])
    if not messages or messages[-1]["role"] != "user":
        held = f"ends with the {messages[-1]['role']}" if messages else "holds no message"
        raise InputError(f"{document.id} {held}; messages that end with a user's are needed, or a text")
    instructed = not system or messages[0]["role"] == "system"
    return list(messages) if instructed else [{"role": "system", "content": system or ""}, *messages]


def prompt_of(
    engine: Engine, messages: Sequence[Message], params: SamplingParams
) -> tuple[list[Message], list[int]]:
    """What of a conversation the model is shown, and its tokens: all that leaves room for an answer.

    That is `max_tokens`, half the context at most, or a quarter of it where nothing is asked for; what is
    said last may take all but one token.

    Raises:
        PromptError: see `fit_history`.
    """

    def encode(kept: list[Message]) -> list[int]:
        return engine.tokenizer.encode_chat(kept, add_generation_prompt=True)[0]

    answer = engine.context // 4 if params.max_tokens is None else params.max_tokens
    room = engine.context - min(answer, engine.context // 2)
    kept = fit_history(messages, lambda some: len(encode(some)), room, engine.context - 1)
    return kept, encode(kept)


def converses(engine: Engine) -> bool:
    """Whether a decoder has learned to answer what a user says, as far as that is known."""
    return engine.learned != "text" and bool(engine.tokenizer.chat_template)


def sampling_for(engine: Engine, given: Mapping[str, Any]) -> SamplingParams:
    """How a model answers: as asked, else as its directory recommends, else at temperature 0.7.

    Raises:
        ConfigError: an impossible setting.
        ModelError: a model that has not learned to converse.
    """
    if engine.encodes:
        raise ModelError(
            f"{engine.name} is an encoder-decoder, which writes a target for a source and holds no "
            "conversation; use plait translate, summarize, answer or classify"
        )
    if not converses(engine):
        raise ModelError(
            f"{engine.name} is a decoder that continues text and has learned no conversation; use plait "
            "complete or generate, or tune it on messages (recipe `chat`)"
        )
    return build(SamplingParams, {**DECODING, **engine.recommended, **given}, source="sampling")
