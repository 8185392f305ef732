"""The log-probability of one text, in all and token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from plait.errors import InputError
from plait.eval.perplexity import windows_of
from plait.infer.engine import Engine
from plait.infer.params import TokenLogprob
from plait.infer.prompts import begin_id


@dataclass(frozen=True)
class TextScore:
    """A scored text.

    Attributes:
        tokens: the tokens of the text; the first has no log-probability where the tokenizer has no token
            that begins a text.
        bytes: UTF-8 bytes of the text.
    """

    text: str
    tokens: list[TokenLogprob]
    bytes: int

    @property
    def logprobs(self) -> list[float]:
        """Those that exist."""
        return [token.logprob for token in self.tokens if token.logprob is not None]

    @property
    def total(self) -> float:
        """Log-probability of the text in nats, as the beginning of a document: its end is not scored."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """`exp` of the mean negative log-probability; NaN without a scored token."""
        return math.exp(min(-self.total / len(self.logprobs), 709)) if self.logprobs else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits the model needs for each byte of the text."""
        return -self.total / math.log(2) / self.bytes

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "text": self.text,
            "log_probability": self.total,
            "scored_tokens": len(self.logprobs),
            "bytes": self.bytes,
            "perplexity": self.perplexity if self.logprobs else None,
            "bits_per_byte": self.bits_per_byte,
            "tokens": [_token_json(token) for token in self.tokens],
        }


def score_text(engine: Engine, text: str, top: int = 0) -> TextScore:
    """Score a text of any length; special tokens spelled in it are ordinary text.

    Beyond the context, later tokens have at least half of it as history.

    Args:
        top: alternatives to report at each place.

    Raises:
        InputError: an empty text.
    """
    ids = engine.tokenizer.encode_plain(text)
    if not ids:
        raise InputError("there is no text to score; give at least one character")
    start = begin_id(engine.tokenizer)
    row = ids if start is None else [start, *ids]
    tokens = [engine.token(row[0])]
    # `score` reads the last token too, so a window holds one prediction less than the context
    reach = max(engine.context - 1, 1)
    for window in windows_of(len(row), reach, max(reach // 2, 1)):
        (places,) = engine.score([row[window.start : window.end]], top)
        tokens += places[window.first - window.start :]
    return TextScore(text, tokens if start is None else tokens[1:], len(text.encode()))


def _token_json(token: TokenLogprob) -> dict[str, Any]:
    top = [
        {"id": id, "text": text, "bytes": list(raw), "logprob": value} for id, text, raw, value in token.top
    ]
    shown = {"id": token.id, "text": token.text, "bytes": list(token.bytes), "logprob": token.logprob}
    return shown | ({"top": top} if top else {})
