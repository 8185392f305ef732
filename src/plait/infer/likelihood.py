"""How probable given answers are: teacher-forced log-probabilities of targets, each prompt read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plait.errors import PromptError
from plait.infer.cache import KVCache
from plait.infer.engine import Engine
from plait.infer.logprobs import HEAD_PLACES, head, log_softmax, refuse_nan

BATCH = 32  # targets computed together

Tokens = Sequence[int]


class Likelihood(NamedTuple):
    """Of a target: its log-probability in nats, summed over its tokens, and whether greedy would write it."""

    logprob: float
    greedy: bool


@torch.inference_mode()
def likelihoods(
    engine: Engine,
    prompts: Sequence[Tokens],
    targets: Sequence[Sequence[Tokens]],
    *,
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda count: None,
) -> list[list[Likelihood]]:
    """How probable each target of each prompt is.

    Args:
        prompts: what the decoder continues, or the sources of an encoder-decoder.
        targets: of each prompt, the answers to compare, at least one token each.
        batch: targets at a time; changes the speed, not the result.
        advance: told how many prompts more are done.

    Raises:
        PromptError: a prompt or target that is empty, or the two longer than the model's context.
        ModelError: the model answers with NaN.
    """
    for prompt, some in zip(prompts, targets, strict=True):
        check(engine, prompt, some)
    found: dict[int, list[Likelihood]] = {}
    for numbers in _groups(prompts, targets, batch):
        totals = _together(engine, [prompts[at] for at in numbers], [targets[at] for at in numbers], batch)
        found |= zip(numbers, totals)
        advance(len(numbers))
    return [found[number] for number in range(len(prompts))]


def check(engine: Engine, prompt: Tokens, targets: Sequence[Tokens]) -> None:
    """Refuse what cannot be computed.

    Raises:
        PromptError: see `likelihoods`.
    """
    if not prompt or not targets or not all(targets):
        raise PromptError("a prompt and each of its targets need at least one token")
    longest = max(map(len, targets))
    # the last token of a target is predicted and not read
    sizes = (len(prompt), longest) if engine.encodes else (len(prompt) + longest - 1,)
    if max(sizes) > engine.context:
        raise PromptError(
            f"the text takes {len(prompt)} tokens and its longest answer {longest}, more than the model's "
            f"context of {engine.context}; shorten the text"
        )


def _groups(
    prompts: Sequence[Tokens], targets: Sequence[Sequence[Tokens]], batch: int
) -> Iterator[list[int]]:
    """Numbers of prompts to compute together: those of similar length, as many as `batch` targets allow."""
    group, size = [], 0
    for number in sorted(range(len(prompts)), key=lambda number: len(prompts[number])):
        if group and size + len(targets[number]) > batch:
            yield group
            group, size = [], 0
        group.append(number)
        size += len(targets[number])
    if group:
        yield group


def _together(
    engine: Engine, prompts: Sequence[Tokens], targets: Sequence[Sequence[Tokens]], batch: int
) -> list[list[Likelihood]]:
    answers = [answer for some in targets for answer in some]
    owners = [row for row, some in enumerate(targets) for _ in some]
    cache = KVCache(len(prompts), capacity=max(map(len, prompts)) + 64, device=engine.device)
    logits = engine.prefill(prompts, cache)
    made: list[Likelihood] = []
    for at in range(0, len(answers), batch):  # one prompt may have more of them
        some, rows = answers[at : at + batch], owners[at : at + batch]
        begins = torch.tensor([answer[0] for answer in some], device=engine.device)
        totals, greedy = _of_places(logits[rows], begins)
        if max(map(len, some)) > 1:
            rest, also = _of_the_rest(engine, some, cache.selected(rows))
            totals, greedy = totals + rest, greedy & also
        refuse_nan(totals, engine.dtype)
        made += [Likelihood(*pair) for pair in zip(totals.tolist(), greedy.tolist())]
    found = iter(made)
    return [[next(found) for _ in some] for some in targets]


def _of_places(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Of tokens `wanted` `[places]`: their log-probabilities, and whether each is the most probable.

    On the CPU, as some accelerators know no float64.
    """
    chosen = log_softmax(logits).gather(-1, wanted[:, None]).squeeze(-1)
    return chosen.cpu().double(), (logits.argmax(-1) == wanted).cpu()


def _of_the_rest(engine: Engine, answers: Sequence[Tokens], cache: KVCache) -> tuple[Tensor, Tensor]:
    """Of each answer the log-probability of its tokens after the first, and whether all are the best."""
    shape = (len(answers), max(map(len, answers)) - 1)
    tokens, follow = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    held = torch.zeros(shape, dtype=torch.bool)
    for row, answer in enumerate(answers):
        size = len(answer) - 1
        tokens[row, :size], follow[row, :size] = torch.tensor(answer[:-1]), torch.tensor(answer[1:])
        held[row, :size] = True
    there = held.to(engine.device)
    places = cache.next_positions() + torch.arange(shape[1], device=engine.device)
    hidden = engine.model.hidden(
        tokens.to(engine.device), positions=places.masked_fill(~there, -1), cache=cache, memory=cache.memory
    )
    wanted = follow[held].to(engine.device)
    parts = [
        _of_places(head(engine.model, states), some)
        for states, some in zip(hidden[there].split(HEAD_PLACES), wanted.split(HEAD_PLACES))
    ]
    logprobs, best = torch.zeros(shape, dtype=torch.double), torch.ones(shape, dtype=torch.bool)
    logprobs[held], best[held] = (torch.cat(each) for each in zip(*parts))
    return logprobs.sum(1), best.all(1)
