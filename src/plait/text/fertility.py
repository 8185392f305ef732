"""How well a tokenizer serves each language: bytes of text per token."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from plait.text.tokenizer import Tokenizer

# first code point of each block that matters here (The Unicode Standard, chapter "Code Charts")
_BLOCKS = (
    (0x0041, "Latin"), (0x0370, "Greek"), (0x0400, "Cyrillic"), (0x0530, "other"), (0x0590, "Hebrew"),
    (0x0600, "Arabic"), (0x0780, "other"), (0x0900, "Devanagari"), (0x0980, "other"), (0x0E00, "Thai"),
    (0x0E80, "other"), (0x1100, "Hangul"), (0x1200, "other"), (0x1E00, "Latin"), (0x1F00, "Greek"),
    (0x2000, "other"), (0x3005, "Han"), (0x3041, "Kana"), (0x3130, "Hangul"), (0x3190, "other"),
    (0x31F0, "Kana"), (0x3200, "other"), (0x3400, "Han"), (0xA000, "other"), (0xAC00, "Hangul"),
    (0xD7B0, "other"), (0xF900, "Han"), (0xFB00, "other"), (0x20000, "Han"), (0x323B0, "other"),
)  # fmt: skip
_STARTS = [start for start, _ in _BLOCKS]
_LOOK = 2000  # characters of a text that decide its script
_PIECE = 8192  # characters of a text that can be in a sample


@dataclass(frozen=True)
class Fertility:
    """Of one language: how many texts, their UTF-8 bytes, and the tokens they become."""

    language: str
    texts: int
    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """The higher, the more text fits into a context."""
        return self.bytes / self.tokens if self.tokens else 0.0


def fertility(tokenizer: Tokenizer, texts_by_language: Mapping[str, Sequence[str]]) -> list[Fertility]:
    """Bytes per token for each language, the one with the most text first."""
    rows = []
    for language, texts in texts_by_language.items():
        tokens = sum(map(len, tokenizer.encode_batch(texts)))
        rows.append(Fertility(language, len(texts), sum(len(text.encode()) for text in texts), tokens))
    return sorted(rows, key=lambda row: (-row.bytes, row.language))


def by_language(texts: Iterable[str]) -> dict[str, list[str]]:
    """Texts by the script that most of each one's bytes are in."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(script(text), []).append(text)
    return groups


def script(text: str) -> str:
    """The script of a text's beginning: `Latin`, `Han`, `Kana` (Japanese, Han included), ..., or `other`."""
    weights: Counter[str] = Counter()
    for character in text[:_LOOK]:
        if character.isalpha():
            weights[_script_of(character)] += len(character.encode())
    if weights["Kana"] > 0.1 * weights["Han"]:
        weights["Kana"] += weights.pop("Han", 0)
    best = max(weights, key=lambda name: weights[name], default="other")
    return best if weights[best] else "other"


def _script_of(character: str) -> str:
    block = bisect_right(_STARTS, ord(character)) - 1
    return _BLOCKS[block][1] if block >= 0 else "other"


class Sample:
    """A uniform sample of the pieces of all texts that pass through `tee` (Vitter 1985, algorithm R)."""

    def __init__(self, size: int = 500) -> None:
        self.texts: list[str] = []
        self.seen = 0
        self._size, self._random = size, random.Random(0)

    def tee(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts, sampled on their way."""
        for text in texts:
            for start in range(0, len(text), _PIECE):
                self._offer(text, start)
            yield text

    def _offer(self, text: str, start: int) -> None:
        self.seen += 1
        if len(self.texts) < self._size:
            self.texts.append(text[start : start + _PIECE])
        elif (place := self._random.randrange(self.seen)) < self._size:
            self.texts[place] = text[start : start + _PIECE]
