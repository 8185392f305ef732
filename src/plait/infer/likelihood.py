"""How probable given answers are: teacher-forced log-probabilities of targets, each prompt read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from plait.errors import PromptError
from plait.infer.cache import KVCache
from plait.infer.engine import Engine
from plait.infer.logprobs import HEAD_PLACES, head, log_softmax, refuse_nan

BATCH = 32  # targets computed together

Tokens = Sequence[int]


@torch.inference_mode()
def likelihoods(
    engine: Engine,
    prompts: Sequence[Tokens],
    targets: Sequence[Sequence[Tokens]],
    *,
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda count: None,
) -> list[list[float]]:
    """The log-probability of each target of each prompt, in nats, summed over the target's tokens.

    Args:
        prompts: what the decoder continues, or the sources of an encoder-decoder.
        targets: of each prompt, the answers to compare, at least one token each.
        batch: targets at a time, and at least those of one prompt; changes the speed, not the result.
        advance: told how many prompts more are done.

    Raises:
        PromptError: a prompt or target that is empty, or the two longer than the model's context.
        ModelError: the model answers with NaN.
    """
    for prompt, some in zip(prompts, targets, strict=True):
        check(engine, prompt, some)
    found: dict[int, list[float]] = {}
    for numbers in _groups(prompts, targets, batch):
        totals = _together(engine, [prompts[at] for at in numbers], [targets[at] for at in numbers])
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
    """Numbers of prompts to compute together: those of one length, as many as `batch` targets allow."""
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
    engine: Engine, prompts: Sequence[Tokens], targets: Sequence[Sequence[Tokens]]
) -> list[list[float]]:
    answers = [answer for some in targets for answer in some]
    owners = [row for row, some in enumerate(targets) for _ in some]
    cache = KVCache(len(prompts), capacity=max(map(len, prompts)) + 64, device=engine.device)
    first = log_softmax(engine.prefill(prompts, cache)).double()
    begins = torch.tensor([answer[0] for answer in answers], device=engine.device)
    totals = first[owners].gather(-1, begins[:, None]).squeeze(-1)
    if max(map(len, answers)) > 1:
        cache.select(owners)
        totals = totals + _of_the_rest(engine, answers, cache)
    refuse_nan(totals, engine.dtype)
    rest = iter(totals.tolist())
    return [[next(rest) for _ in some] for some in targets]


def _of_the_rest(engine: Engine, answers: Sequence[Tokens], cache: KVCache) -> Tensor:
    """`[answers]`, of each the log-probability of its tokens after the first."""
    shape = (len(answers), max(map(len, answers)) - 1)
    tokens, follow = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    held = torch.zeros(shape, dtype=torch.bool)
    for row, answer in enumerate(answers):
        size = len(answer) - 1
        tokens[row, :size], follow[row, :size] = torch.tensor(answer[:-1]), torch.tensor(answer[1:])
        held[row, :size] = True
    tokens, follow, held = (part.to(engine.device) for part in (tokens, follow, held))
    places = cache.next_positions() + torch.arange(shape[1], device=engine.device)
    positions = places.masked_fill(~held, -1)
    hidden = engine.model.hidden(tokens, positions=positions, cache=cache, memory=cache.memory)
    parts = [
        log_softmax(head(engine.model, states)).gather(-1, wanted[:, None]).squeeze(-1).double()
        for states, wanted in zip(hidden[held].split(HEAD_PLACES), follow[held].split(HEAD_PLACES))
    ]
    logprobs = torch.zeros(shape, dtype=torch.double, device=engine.device)
    logprobs[held] = torch.cat(parts)
    return logprobs.sum(1)
