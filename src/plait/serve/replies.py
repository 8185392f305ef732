"""Shapes of answers: OpenAI's objects for whole and streamed completions, with log-probabilities."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait import __version__

if TYPE_CHECKING:
    from plait.infer.params import Delta, TokenLogprob

Rows = Sequence[Sequence["TokenLogprob"]]


@dataclass
class Choice:
    """What one sequence has produced so far."""

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        """Append a step."""
        self.text += delta.text
        self.tokens += delta.tokens
        self.finish_reason = delta.finish_reason or self.finish_reason


class Reply:
    """An answer being made: `opening`, then `chunk` for every delta; or `whole` at the end.

    `prompt_tokens`: tokens of all prompts; `count`: sequences asked for.
    """

    prefix, object, chunk_object = "", "", ""

    def __init__(self, model: str, *, prompt_tokens: int, count: int, usage: bool = False) -> None:
        self.model, self.prompt_tokens, self.usage_asked = model, prompt_tokens, usage
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())
        self.completion_tokens = 0
        self.choices = [Choice() for _ in range(count)]

    def take(self, delta: Delta) -> None:
        """Count a step and keep it for `whole`."""
        self.completion_tokens += len(delta.tokens)
        self.choices[delta.index].add(delta)

    def usage(self) -> dict[str, int]:
        """Token counts."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The outer object."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"plait-{__version__}",
            "choices": choices,
        }

    def streamed(self, choice: dict[str, Any]) -> dict[str, Any]:
        """One chunk; where usage was asked for, every chunk but the last says `usage: null`."""
        chunk = self.envelope(self.chunk_object, [choice])
        return {**chunk, "usage": None} if self.usage_asked else chunk

    def closing(self) -> Iterator[dict[str, Any]]:
        """The chunk after the last: the usage, where it was asked for."""
        if self.usage_asked:
            yield {**self.envelope(self.chunk_object, []), "usage": self.usage()}

    def whole(self) -> dict[str, Any]:
        """The answer that is not streamed."""
        choices = [self.choice(index, choice) for index, choice in enumerate(self.choices)]
        return {**self.envelope(self.object, choices), "usage": self.usage()}

    def opening(self, scores: Rows | None) -> Iterator[dict[str, Any]]:
        """Chunks before the first step. `scores`: the prompts' tokens with their log-probabilities."""
        raise NotImplementedError

    def chunk(self, delta: Delta) -> dict[str, Any] | None:
        """The chunk of a step; None where there is nothing to tell."""
        raise NotImplementedError

    def choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """One entry of `choices` of the whole answer."""
        raise NotImplementedError


class ChatReply(Reply):
    """Answers of `/v1/chat/completions`. `logprobs`: whether they were asked for."""

    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, *, logprobs: bool, **counts: Any) -> None:
        super().__init__(model, **counts)
        self.logprobs = logprobs

    def opening(self, scores: Rows | None) -> Iterator[dict[str, Any]]:
        """The role, for each choice."""
        for index in range(len(self.choices)):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def chunk(self, delta: Delta) -> dict[str, Any] | None:
        """New text and its log-probabilities."""
        shown = self._logprobs(delta.tokens) if self.logprobs and delta.tokens else None
        if not (delta.text or shown or delta.finish_reason):
            return None
        content = {"content": delta.text} if delta.text or shown else {}
        return self._chunk(delta.index, content, shown, delta.finish_reason)

    def choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """The message."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.tokens) if self.logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    def _chunk(
        self, index: int, delta: dict[str, str], logprobs: dict | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        return self.streamed({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {"content": [_chat_token(token) for token in tokens], "refusal": None}


class TextReply(Reply):
    """Answers of `/v1/completions`.

    `logprobs`: alternatives per token, None for no log-probabilities. `echo`: the prompts' texts, which then
    begin each answer, in order of the prompts (each prompt has as many answers as the others).
    """

    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, model: str, *, logprobs: int | None, echo: Sequence[str] | None, **counts: Any
    ) -> None:
        super().__init__(model, **counts)
        self.logprobs, self.echo = logprobs, echo
        self.offsets = [Offsets() for _ in self.choices]

    def opening(self, scores: Rows | None) -> Iterator[dict[str, Any]]:
        """The echoed prompt of each choice."""
        for index, choice in enumerate(self.choices):
            if self.echo is None:
                continue
            prompt = index * len(self.echo) // len(self.choices)
            choice.text = self.echo[prompt]
            choice.tokens = list(scores[prompt]) if scores is not None else []
            yield self._chunk(index, choice.text, choice.tokens, None)

    def chunk(self, delta: Delta) -> dict[str, Any] | None:
        """New text and its log-probabilities."""
        shown = self.logprobs is not None and delta.tokens
        if not (delta.text or shown or delta.finish_reason):
            return None
        return self._chunk(delta.index, delta.text, delta.tokens, delta.finish_reason)

    def choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """The text."""
        self.offsets[index] = Offsets()
        return self._choice(index, choice.text, choice.tokens, choice.finish_reason)

    def _chunk(
        self, index: int, text: str, tokens: Sequence[TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        return self.streamed(self._choice(index, text, tokens, finish))

    def _choice(
        self, index: int, text: str, tokens: Sequence[TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        logprobs = None if self.logprobs is None else self._logprobs(index, tokens)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = self.offsets[index]
        return {
            "tokens": [spelling(token.bytes) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_top(token) for token in tokens] if self.logprobs else None,
            "text_offset": [offsets.next(token.bytes) for token in tokens],
        }


class Offsets:
    """Where in the text each token begins, in characters, although a token may hold part of a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def next(self, content: bytes) -> int:
        """The offset of the next token, which holds these bytes."""
        start = self._characters
        self._characters += len(self._decoder.decode(content))
        return start


def spelling(content: bytes) -> str:
    """A token as a string; one that is not whole characters as `bytes:\\xe4\\xb8`."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _chat_token(token: TokenLogprob) -> dict[str, Any]:
    top = [_entry(content, logprob) for _, _, content, logprob in token.top]
    return {**_entry(token.bytes, token.logprob), "top_logprobs": top}


def _entry(content: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": spelling(content), "logprob": _finite(logprob), "bytes": list(content)}


def _finite(logprob: float | None) -> float | None:
    # JSON has no infinity; OpenAI writes -9999.0 for a token that is out of the question
    return None if logprob is None else max(logprob, -9999.0)


def _top(token: TokenLogprob) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    # The chosen token is always among them, so there may be one more than asked for.
    entries = [*token.top, (token.id, token.text, token.bytes, token.logprob)]
    return {spelling(content): _finite(logprob) for _, _, content, logprob in entries}
