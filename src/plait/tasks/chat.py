"""Conversations: what of a long one still fits the model's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plait.errors import PromptError

Message = dict[str, str]  # role and content
DECODING = {"temperature": 0.7}  # where the user asks for nothing else


def fit_history(
    messages: Sequence[Message], size: Callable[[list[Message]], int], room: int
) -> list[Message]:
    """Forget the oldest turns until the rest fits.

    A turn is a user's message with the answers to it; system messages and the last turn are always kept.

    Args:
        size: how many tokens a conversation takes, as the model will read it.
        room: tokens it may take.

    Raises:
        PromptError: even the system messages and the last turn are longer than that.
    """
    system = [message for message in messages if message["role"] == "system"]
    turns: list[list[Message]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    for first in range(max(len(turns), 1)):
        kept = [*system, *(message for turn in turns[first:] for message in turn)]
        taken = size(kept)
        if taken <= room:
            return kept
    raise PromptError(f"the message takes {taken} tokens, more than the {room} there is room for; shorten it")
