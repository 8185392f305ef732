"""What changes a score of written outputs; imports nothing heavy, as the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass

from plait.eval.language import primary


@dataclass(frozen=True, kw_only=True)
class Options:
    """What changes a score; see `plait.eval.translation.bleu` and `plait.eval.summary.rouge`.

    Raises:
        ConfigError: a language that there is not, before anything is computed.
    """

    lang: str | None = None
    tokenize: str | None = None
    lowercase: bool = False
    stem: bool = False
    split_sentences: bool = False

    def __post_init__(self) -> None:
        primary(self.lang)
