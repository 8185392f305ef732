"""Fill-in-the-middle (Bavarian et al. 2022): some documents are learned as prefix, suffix, then middle."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from plait.errors import ModelError
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_config import FIM_TOKENS


@dataclass(frozen=True)
class Parts:
    """A text in three."""

    prefix: str
    middle: str
    suffix: str


def cut(text: str, seed: int, share: float = 1.0) -> Parts | None:
    """Cut a text at two of its characters, drawn from its content and the seed alone.

    Args:
        share: of all texts, how many are cut; the others give None.
    """
    digest = hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    draw = random.Random(int.from_bytes(digest, "big"))
    if draw.random() >= share:
        return None
    first, second = sorted(draw.randint(0, len(text)) for _ in range(2))
    return Parts(text[:first], text[first:second], text[second:])


def fills_middles(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer has the tokens of `fim_ids`."""
    return all(tokenizer.token_id(token) is not None for token in FIM_TOKENS)


def fim_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    """The tokens that stand before a prefix, a suffix and a middle.

    Raises:
        ModelError: a tokenizer without them.
    """
    ids = [tokenizer.token_id(token) for token in FIM_TOKENS]
    prefix, suffix, middle = ids
    if prefix is None or suffix is None or middle is None:
        raise ModelError(
            f"this tokenizer lacks {', '.join(FIM_TOKENS)}, without which no middle can be filled in; train "
            "one with tokenizer.fim=true, and the model with data.fim=0.5"
        )
    return prefix, suffix, middle


def before_middle(prefix: list[int], suffix: list[int], tokenizer: Tokenizer) -> list[int]:
    """What a model reads before it writes the middle: prefix, then suffix (the order PSM).

    Raises:
        ModelError: see `fim_ids`.
    """
    begin, after, middle = fim_ids(tokenizer)
    return [begin, *prefix, after, *suffix, middle]
