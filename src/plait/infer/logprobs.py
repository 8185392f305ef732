"""Log-probabilities of tokens under the model itself, never all logits of a long text at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from plait.errors import ModelError
from plait.nn.decoder import Decoder

HEAD_PLACES = 512  # positions whose logits are formed at once


class Logprobs(NamedTuple):
    """Place by place: the log-probability of the token there, and `(id, log-probability)` of the best."""

    chosen: list[float]
    top: list[list[tuple[int, float]]]


def head(model: Decoder, hidden: Tensor) -> Tensor:
    """Logits of hidden states."""
    assert model.lm_head is not None, "a pipeline stage without a head has no logits"
    return model.lm_head(hidden)


def refuse_nan(numbers: Tensor, dtype: torch.dtype | str) -> None:
    """Stop where a model of `dtype` answers with NaN.

    Raises:
        ModelError: naming the remedy.
    """
    if bool(numbers.isnan().any()):
        raise ModelError(
            "the model answers with NaN: its weights are damaged, or its numbers overflow "
            f"{str(dtype).removeprefix('torch.')}; try dtype float32"
        )


def log_softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, in float32 or better."""
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return wide.log_softmax(-1)


def log_probabilities(logits: Tensor, ids: Tensor, top: int, vocab: int) -> Logprobs:
    """Of `ids` `[places]` under `logits` `[places, vocab]`, and the best `top` ids below `vocab`."""
    logprobs = log_softmax(logits)
    chosen = logprobs.gather(-1, ids.to(logprobs.device)[:, None]).squeeze(-1).tolist()
    if not top:
        return Logprobs(chosen, [[] for _ in chosen])
    best = logprobs[:, :vocab].topk(min(top, vocab), dim=-1)
    pairs = zip(best.indices.tolist(), best.values.tolist())
    return Logprobs(chosen, [list(zip(ids, values)) for ids, values in pairs])


def row_logprobs(model: Decoder, row: Tensor, top: int, vocab: int) -> Logprobs:
    """Of every token of `row` `[time]` but the first, each given all before it."""
    if len(row) < 2:
        return Logprobs([], [])
    hidden = model.hidden(row[None, :-1])[0]
    parts = [
        log_probabilities(head(model, states), targets, top, vocab)
        for states, targets in zip(hidden.split(HEAD_PLACES), row[1:].split(HEAD_PLACES))
    ]
    return Logprobs([x for part in parts for x in part.chosen], [x for part in parts for x in part.top])


def target_logprobs(model: Decoder, tokens: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each of `targets` after its place in `tokens`: all `[batch, time]`, out float64."""
    hidden = model.hidden(tokens).flatten(0, 1)
    parts = [
        log_softmax(head(model, states)).gather(-1, wanted[:, None]).squeeze(-1).cpu().double()
        for states, wanted in zip(hidden.split(HEAD_PLACES), targets.flatten().split(HEAD_PLACES))
    ]
    return torch.cat(parts).view_as(targets)
