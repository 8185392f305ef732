"""What an engine is asked with: text to ids, the limits of a model, prompts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plait.data.encode import source_frame
from plait.errors import ConfigError, PromptError
from plait.infer.params import SamplingParams

if TYPE_CHECKING:
    from plait.text.tokenizer import Tokenizer


def begin_id(tokenizer: Tokenizer) -> int | None:
    """What stands before a text: the begin token, else the end token, which then parts documents."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def completion_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """What a decoder continues; an empty text starts where documents start.

    Raises:
        PromptError: an empty text, and a tokenizer without a token that begins one.
    """
    if ids := tokenizer.encode_prompt(text):
        return ids
    start = begin_id(tokenizer)
    if start is None:
        raise PromptError("the prompt is empty and this tokenizer has no token that begins a text")
    return [start]


def source_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """What an encoder reads, as in training: the text, in which special tokens are none, and its end."""
    before, after = source_frame(tokenizer)
    return [*before, *tokenizer.encode_plain(text), *after]


def check_ids(prompt: Sequence[int], vocab: int) -> None:
    """Refuse a prompt without tokens, or with one that the model does not have.

    Raises:
        PromptError: naming the first such id.
    """
    if not prompt:
        raise PromptError("the prompt holds no tokens; it needs at least one")
    unknown = next((token for token in prompt if not 0 <= token < vocab), None)
    if unknown is not None:
        raise PromptError(f"token id {unknown} is not in the vocabulary of {vocab} ids")


def check_bias(params: SamplingParams, vocab: int) -> None:
    """Refuse a bias on a token that is never generated.

    Raises:
        ConfigError: naming it.
    """
    for token in params.logit_bias:
        if not 0 <= token < vocab:
            raise ConfigError(f"logit_bias: token id {token} is not in the vocabulary of {vocab} ids")


def check_room(size: int, wanted: int, context: int, *, encodes: bool) -> None:
    """Refuse more tokens than there are positions: those of an encoder-decoder's two sides are apart.

    Args:
        size: tokens of the prompt.
        wanted: tokens to generate.

    Raises:
        PromptError: with what to shorten or lower.
    """
    if encodes:
        if size > context:
            raise PromptError(
                f"source ({size} tokens) is more than the model's context of {context}; shorten it"
            )
        if wanted > context:
            raise PromptError(f"max_tokens={wanted} is more than the model's context of {context}; lower it")
    elif size + wanted > context:
        remedy = "shorten the prompt"
        if size < context:
            remedy += f" or set max_tokens to at most {context - size}"
        raise PromptError(
            f"prompt ({size} tokens) + max_tokens ({wanted}) is more than the model's context of "
            f"{context}; {remedy}"
        )


def side_by_side(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens and positions `[batch, time]`, padded on the left: the last tokens stand in one column."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    positions = torch.full((len(prompts), longest), -1)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        positions[row, longest - len(prompt) :] = torch.arange(len(prompt))
    return tokens, positions
