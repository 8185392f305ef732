"""ROUGE as rouge-score computes it, and over the characters or words of languages that it cannot read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from plait.errors import ConfigError, InputError, did_you_mean, need
from plait.eval.inputs import References, Texts, check
from plait.eval.language import CJK, primary
from plait.eval.means import mean_score
from plait.eval.scores import Score

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_CJK_TOKEN = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
_CJK = re.compile(f"[{CJK}]")


class CharacterTokenizer:
    """One token a Chinese or Japanese character; runs of other letters and digits as lower-cased words."""

    def tokenize(self, text: str) -> list[str]:
        """Tokens without punctuation, as rouge-score asks for them."""
        return _CJK_TOKEN.findall(text.lower())


class WordTokenizer:
    """Runs of letters, marks and digits of any script as lower-cased words."""

    def tokenize(self, text: str) -> list[str]:
        """Tokens without punctuation, as rouge-score asks for them."""
        parts = (part if unicodedata.category(part)[0] in "LMN" else " " for part in text.lower())
        return "".join(parts).split()


TOKENIZERS = {"characters": CharacterTokenizer, "words": WordTokenizer}


def rouge(
    *,
    hypotheses: Texts,
    references: References,
    kinds: Sequence[str] = KINDS,
    lang: str | None = None,
    stem: bool = False,
    split: bool = False,
) -> list[Score]:
    """ROUGE F1 (Lin 2004), 0 to 100: the mean over documents, with its bootstrap interval.

    Args:
        hypotheses, references: see `plait.eval.inputs.check`; of several references the best by F1 counts.
        kinds: n-grams (`rouge1`, `rouge2`), longest common subsequence (`rougeL`), and the same sentence by
            sentence (`rougeLsum`).
        lang: `zh` and `ja` count characters, other languages their words; English, and what is not told, the
            words of rouge-score, which are runs of a-z and 0-9.
        stem: Porter's stemmer, for English.
        split: find the sentences for `rougeLsum` with nltk; by default they are the lines of a text.

    Raises:
        ConfigError: an unknown kind; stemming of another language than English.
        InputError: what `check` refuses.
        MissingExtra: without rouge-score.
    """
    values = rouge_values(
        hypotheses=hypotheses, references=references, kinds=kinds, lang=lang, stem=stem, split=split
    )
    settings = {
        "tokenizer": _tokenizer(lang),
        "stem": "yes" if stem else "no",
        "sentences": "nltk" if split else "lines",
        "nrefs": len(references),
        "rouge_score": version("rouge-score"),
    }
    return [mean_score("summary", kind, values[kind], **settings) for kind in values]


def rouge_values(
    *,
    hypotheses: Texts,
    references: References,
    kinds: Sequence[str] = KINDS,
    lang: str | None = None,
    stem: bool = False,
    split: bool = False,
) -> dict[str, list[float]]:
    """F1 of every document, 0 to 1, for each kind; arguments and errors as in `rouge`."""
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"{kind!r} is no ROUGE{did_you_mean(kind, KINDS)}; use {', '.join(KINDS)}")
    if stem and _tokenizer(lang) in TOKENIZERS:
        raise ConfigError(f"stem is for English words; leave it out for lang={lang}")
    samples = check(hypotheses, references)
    scorer = _scorer(list(kinds), lang, stem, split)
    try:
        rows = [scorer.score_multi(texts, text) for texts, text in zip(samples, hypotheses)]
    except LookupError:  # nltk without the data of its sentence splitter
        raise InputError(
            "splitting into sentences needs nltk's data; run: python -m nltk.downloader punkt_tab"
        ) from None
    return {kind: [float(row[kind].fmeasure) for row in rows] for kind in kinds}


def looks_cjk(texts: Texts) -> bool:
    """Whether most letters are Chinese or Japanese, so that metrics need to be told the language."""
    letters = sum(letter.isalpha() for text in texts for letter in text)
    return 2 * sum(len(_CJK.findall(text)) for text in texts) > letters


def looks_foreign(texts: Texts) -> bool:
    """Whether most letters are none that rouge-score sees, which are those from a to z."""
    letters = [letter for text in texts for letter in text.lower() if letter.isalpha()]
    return 2 * sum("a" <= letter <= "z" for letter in letters) < len(letters)


def _tokenizer(lang: str | None) -> str:
    code = primary(lang)
    return "rouge-score" if code in ("", "en") else "characters" if code in ("zh", "ja") else "words"


def _scorer(kinds: list[str], lang: str | None, stem: bool, split: bool) -> Any:
    made = TOKENIZERS.get(_tokenizer(lang))
    tokenizer = made() if made else None
    module = need("rouge_score.rouge_scorer", "eval")
    return module.RougeScorer(kinds, use_stemmer=stem, split_summaries=split, tokenizer=tokenizer)
