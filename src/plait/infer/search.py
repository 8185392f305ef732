"""Beam search with an engine: prompts in, the best sequences of each out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

from torch import Tensor

from plait.infer.beam import beam_search
from plait.infer.cache import KVCache
from plait.infer.engine import Engine
from plait.infer.params import BeamParams, Hypothesis, SamplingParams, check_batch

BATCH = 32  # prompts searched together


def search(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    params: BeamParams,
    *,
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda count: None,
) -> list[list[Hypothesis]]:
    """The `params.n` best sequences of each prompt; those of similar length are searched together.

    Args:
        prompts: what the decoder continues, or the sources of an encoder-decoder.
        batch: prompts at a time; changes the speed, not the result.
        advance: told how many prompts more are done.

    Raises:
        ConfigError: a batch of less than one prompt.
        PromptError: see `Engine.check`.
    """
    check_batch(batch)
    nothing = SamplingParams(max_tokens=1)
    for prompt in prompts:
        engine.check(prompt, nothing)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    found: dict[int, list[Hypothesis]] = {}
    for at in range(0, len(order), batch):
        numbers = order[at : at + batch]
        found |= zip(numbers, _search([prompts[number] for number in numbers], engine, params))
        advance(len(numbers))
    return [found[number] for number in range(len(prompts))]


def text_of(engine: Engine, hypothesis: Hypothesis, prompt: Sequence[int] = ()) -> str:
    """What a sequence says, with the space that begins it where it continues the words of a prompt."""
    special = engine.tokenizer.special_ids
    continued = [] if engine.encodes else list(takewhile(lambda token: token not in special, prompt[::-1]))
    decoder = engine.decoder_after(continued[::-1])
    return "".join(map(decoder.push, hypothesis.tokens)) + decoder.flush()


def _search(prompts: list[Sequence[int]], engine: Engine, params: BeamParams) -> list[list[Hypothesis]]:
    tokenizer, config = engine.tokenizer, engine.config
    cache = KVCache(len(prompts), capacity=max(map(len, prompts)) + 64, device=engine.device)
    logits = engine.prefill(prompts, cache)

    def step(rows: list[int], tokens: list[int]) -> Tensor:
        if rows != list(range(len(cache.positions))):
            cache.select(rows)
        return engine.decode(tokens, cache)

    # a head may be padded beyond the tokenizer; what a decoder continues is begun already
    never = engine.rules.never.union(range(engine.vocab, config.vocab))
    rules = replace(engine.rules, never=never, first=engine.rules.first if engine.encodes else None)
    return beam_search(
        logits,
        step,
        params,
        ends=tokenizer.stop_ids,
        rooms=[engine.context - (0 if engine.encodes else len(prompt)) for prompt in prompts],
        # what an answer may not repeat is itself: it may well quote its prompt
        prefixes=[[config.decoder_start] if engine.encodes else []] * len(prompts),
        rules=rules,
    )
