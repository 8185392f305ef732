"""How well a model predicts held-out text: every token scored once, long documents in overlapping windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from plait.errors import ConfigError, InputError
from plait.eval.means import CONFIDENCE
from plait.infer.logprobs import target_logprobs
from plait.infer.params import check_batch
from plait.infer.prompts import begin_id
from plait.nn.decoder import Decoder

if TYPE_CHECKING:
    from plait.text.tokenizer import Tokenizer

SORT_BATCHES = 32  # batches' worth of windows that are sorted by length together


class Encoded(NamedTuple):
    """A document's tokens, its first one only as history, and the UTF-8 bytes of its text."""

    tokens: Sequence[int]
    size: int


class Window(NamedTuple):
    """What the model reads at once: tokens from `start`, of which `first` to `end - 1` are predicted."""

    start: int
    first: int
    end: int


@dataclass(frozen=True)
class Perplexity:
    """What `perplexity` measured.

    Attributes:
        nats: negative log-likelihood over all scored tokens, summed.
        tokens: tokens scored; each document's end token is one of them.
        bytes: UTF-8 bytes of the documents' text; end tokens add none.
        error: standard error of the nats per token, a ratio of two sums over the units (Cochran 1977, section
            2.11); None with fewer than two units.
        byte_error: the same of the nats per byte.
        units: what is taken as independent: documents, or the windows of a single document (neighbouring
            windows are alike, so that error is a lower bound).
    """

    nats: float
    tokens: int
    bytes: int
    documents: int
    windows: int
    error: float | None
    byte_error: float | None
    units: Literal["documents", "windows"]

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood: what training logs as loss."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """`exp(nats_per_token)`, infinite where that overflows."""
        return _exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """All nats, those of end tokens included, over the bytes of text and ln 2; NaN without text."""
        return self.nats / self.bytes / math.log(2) if self.bytes else math.nan

    def interval(self, metric: str) -> tuple[float, float] | None:
        """The 95 % interval of `nats_per_token`, `perplexity` or `bits_per_byte`."""
        if metric == "bits_per_byte":
            return (
                None if self.byte_error is None else around(self.bits_per_byte, self.byte_error / math.log(2))
            )
        if self.error is None:
            return None
        low, high = around(self.nats_per_token, self.error)
        return (_exp(low), _exp(high)) if metric == "perplexity" else (low, high)


def encode_document(tokenizer: Tokenizer, text: str) -> Encoded:
    """Tokens as in training, with what begins and ends a document around them where the tokenizer has it.

    Without a begin token the end token begins; without either the first token of the text is not scored.
    """
    start, end = begin_id(tokenizer), tokenizer.eos_id
    before = [] if start is None else [start]
    after = [] if end is None else [end]
    return Encoded([*before, *tokenizer.encode_batch([text])[0], *after], len(text.encode()))


def windows_of(count: int, context: int, stride: int) -> Iterator[Window]:
    """Cover the predictions 1 ... `count - 1` of a document of `count` tokens, each exactly once.

    The first window predicts up to `context` tokens; each later one `stride` more, from at least
    `context - stride` tokens of history before them. The last is moved back so as to be full.
    """
    first = 1
    end = min(count, context + 1)
    while first < count:
        yield Window(max(end - 1 - context, 0), first, end)
        first, end = end, min(end + stride, count)


def perplexity(
    model: Decoder,
    documents: Iterable[Encoded],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch: int = 8,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Perplexity:
    """Score documents; the result does not depend on `batch` but for rounding.

    Args:
        context: tokens the model reads at once; None: as many as it has positions.
        stride: tokens scored by each window after a document's first; None: half of the context.
        batch: windows computed together.
        advance: told the number of tokens scored, for progress.

    Raises:
        ConfigError: sizes that cannot be.
        InputError: no document has a token to score.
    """
    context = model.config.context if context is None else context
    stride = max(context // 2, 1) if stride is None else stride
    _check(context, stride, batch, model.config.context)
    sizes: list[int] = []
    windows: list[tuple[int, int, float]] = []  # document, tokens, nats
    training = model.training
    model.eval()
    try:
        pending = _cut(documents, context, stride, sizes)
        while chunk := list(islice(pending, batch * SORT_BATCHES)):
            order = sorted(range(len(chunk)), key=lambda at: len(chunk[at][1]))
            nats = [0.0] * len(chunk)
            for at in range(0, len(order), batch):
                together = order[at : at + batch]
                for place, total in zip(together, _window_nats(model, [chunk[i][1:] for i in together])):
                    nats[place] = total
                advance(sum(chunk[place][2] for place in together))
            windows += [(document, scored, total) for (document, _, scored), total in zip(chunk, nats)]
    finally:
        model.train(training)
    return _summary(sizes, windows)


def _check(context: int, stride: int, batch: int, most: int) -> None:
    if not 1 <= context <= most:
        raise ConfigError(f"context={context} is not within the model's 1 to {most} positions")
    if not 1 <= stride <= context:
        raise ConfigError(f"stride={stride} must be between 1 and the context of {context}")
    check_batch(batch)


def _cut(
    documents: Iterable[Encoded], context: int, stride: int, sizes: list[int]
) -> Iterator[tuple[int, list[int], int]]:
    """(document number, the window's tokens, how many of its last tokens it scores)."""
    for number, (tokens, size) in enumerate(documents):
        sizes.append(size)
        for window in windows_of(len(tokens), context, stride):
            yield number, list(tokens[window.start : window.end]), window.end - window.first


@torch.inference_mode()
def _window_nats(model: Decoder, windows: list[tuple[list[int], int]]) -> list[float]:
    """Nats of each window's scored tokens."""
    device = next(model.parameters()).device
    longest = max(len(tokens) for tokens, _ in windows)
    rows = torch.zeros(len(windows), longest, dtype=torch.long)  # padding on the right is never looked at
    scored = torch.zeros(len(windows), longest - 1, dtype=torch.bool)
    for row, (tokens, count) in enumerate(windows):
        rows[row, : len(tokens)] = torch.tensor(tokens)
        scored[row, len(tokens) - 1 - count : len(tokens) - 1] = True
    rows = rows.to(device)
    logprobs = target_logprobs(model, rows[:, :-1], rows[:, 1:])
    return (-logprobs.masked_fill(~scored, 0.0)).sum(-1).tolist()


def _summary(sizes: list[int], windows: list[tuple[int, int, float]]) -> Perplexity:
    tokens, nats = [0] * len(sizes), [list[float]() for _ in sizes]
    for document, scored, total in windows:
        tokens[document] += scored
        nats[document].append(total)
    whole, size = math.fsum(total for _, _, total in windows), sum(sizes)
    if not windows:
        raise InputError("there is no token to score; give at least one document with text")
    kept = [number for number in range(len(sizes)) if tokens[number]]
    if len(kept) > 1:
        units = [(math.fsum(nats[number]), tokens[number], sizes[number]) for number in kept]
    else:  # bytes of a window: in proportion to its tokens
        units = [(total, scored, size * scored / sum(tokens)) for _, scored, total in windows]
    totals = [unit[0] for unit in units]
    return Perplexity(
        nats=whole,
        tokens=sum(tokens),
        bytes=size,
        documents=len(kept),
        windows=len(windows),
        error=ratio_error(totals, [unit[1] for unit in units]),
        byte_error=ratio_error(totals, [unit[2] for unit in units]),
        units="documents" if len(kept) > 1 else "windows",
    )


def ratio_error(totals: Sequence[float], sizes: Sequence[float]) -> float | None:
    """Standard error of `sum(totals) / sum(sizes)` over independent units; None with fewer than two."""
    count, whole = len(totals), math.fsum(sizes)
    if count < 2 or not whole:
        return None
    mean = math.fsum(totals) / whole
    residuals = math.fsum((total - mean * size) ** 2 for total, size in zip(totals, sizes))
    return math.sqrt(count / (count - 1) * residuals) / whole


def around(value: float, error: float) -> tuple[float, float]:
    """The 95 % interval of a value with a standard error."""
    return value - CONFIDENCE * error, value + CONFIDENCE * error


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf
