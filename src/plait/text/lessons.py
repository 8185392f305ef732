"""Questions and answers made from text, to teach a small model to answer: what quickstart tunes on."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from plait.errors import InputError
from plait.text.readers import read
from plait.text.reference import question_answers

TAUGHT, HELD_OUT = 1200, 50
CONTINUE = ("Continue: {}", "What comes after this? {}")
CONTINUE_ZH = ("续写：{}", "接下来是什么？{}")
SENTENCE = re.compile(r"[^。！？!?\n]*?(?:[。！？!?]+[”’」』）]*|\.(?=\s|$)|\n|$)")


@dataclass(frozen=True)
class Lesson:
    """Questions that all have one answer; held out lessons are asked at the end but never taught."""

    name: str
    questions: tuple[str, ...]
    answer: str
    held_out: bool = False

    def to_json(self) -> dict[str, Any]:
        """As one JSON row."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Lesson:
        """From `to_json`."""
        return cls(row["name"], tuple(row["questions"]), row["answer"], row["held_out"])


def lessons_from_reference() -> list[Lesson]:
    """The most familiar public names, and every so many-th of them held out."""
    pairs = question_answers()[: TAUGHT + HELD_OUT]
    every = len(pairs) // HELD_OUT
    return [
        Lesson(pair.name, pair.questions, pair.answer, number % every == every - 1)
        for number, pair in enumerate(pairs)
    ]


def lessons_from_text(prepared: Path) -> list[Lesson]:
    """From documents of the user's own: given a sentence, answer with the one that follows it.

    Raises:
        InputError: when the text has too few pairs of sentences to teach from.
    """
    seen: set[str] = set()
    pairs: list[tuple[str, str]] = []
    for document in read(str(prepared)):
        parts = [match.strip() for match in SENTENCE.findall(document.text)]
        parts = [part for part in parts if 4 <= len(part) <= 160]
        for first, second in pairwise(parts):
            if first not in seen:
                seen.add(first)
                pairs.append((first, second))
    if len(pairs) < 4:
        raise InputError(
            f"the text has {len(pairs)} sentences that follow each other, too few to teach a chat; "
            "give more text"
        )
    step = max(1, len(pairs) // (TAUGHT + HELD_OUT))
    chosen = pairs[::step][: TAUGHT + HELD_OUT]
    every = max(10, len(chosen) // HELD_OUT)
    return [
        Lesson(first, phrasings(first), second, number % every == every - 1)
        for number, (first, second) in enumerate(chosen)
    ]


def phrasings(sentence: str) -> tuple[str, ...]:
    """How to ask for the sentence after this one, in its language."""
    chinese = any("一" <= character <= "鿿" for character in sentence)
    return tuple(pattern.format(sentence) for pattern in (CONTINUE_ZH if chinese else CONTINUE))
