"""What changes a score of written outputs; imports nothing heavy, as the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Options:
    """What changes a score; see `plait.eval.translation.bleu` and `plait.eval.summary.rouge`."""

    lang: str | None = None
    tokenize: str | None = None
    lowercase: bool = False
    stem: bool = False
