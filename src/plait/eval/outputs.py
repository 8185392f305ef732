"""Every metric of written outputs by its name on the command line, and what each can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from plait.errors import ConfigError, did_you_mean
from plait.eval import answers, labels, summary, translation
from plait.eval.bootstrap import Statistics
from plait.eval.inputs import References, Texts
from plait.eval.means import mean_statistics
from plait.eval.options import Options
from plait.eval.scores import Score

PARTS = {"rouge": summary.KINDS, "cmrc": ("cmrc_em", "cmrc_f1")}
METRICS = (
    "bleu", "chrf", "chrf++", "rouge", *summary.KINDS, "exact_match", "verbatim", "squad_em", "squad_f1",
    "cmrc", "cmrc_em", "cmrc_f1", "accuracy", "macro_f1",
)  # fmt: skip
USED_BY = {
    "lang": ("bleu", "rouge"),
    "tokenize": ("bleu",),
    "lowercase": ("bleu", "chrf"),
    "stem": ("rouge",),
}


def expand(metrics: Sequence[str], options: Options) -> list[str]:
    """The single metrics that these names stand for, each once.

    Raises:
        ConfigError: no metric, an unknown one, an option that none of them has.
    """
    if not metrics:
        raise ConfigError(f"there is no metric; name one or more with --metric: {', '.join(METRICS)}")
    for metric in metrics:
        if metric not in METRICS:
            hint = did_you_mean(metric.lower(), METRICS)
            raise ConfigError(f"metric {metric!r} is unknown{hint}; use {', '.join(METRICS)}")
    for name, value in asdict(options).items():
        if value and not any(metric.startswith(USED_BY[name]) for metric in metrics):
            raise ConfigError(f"--{name} is for {' and '.join(USED_BY[name])}; leave it out for the others")
    return list(dict.fromkeys(part for metric in metrics for part in PARTS.get(metric, (metric,))))


def scores(
    metrics: Sequence[str], options: Options, *, hypotheses: Texts, references: References
) -> list[Score]:
    """The scores that `expand` names, in its order.

    Raises:
        ConfigError, InputError, MissingExtra: as the metrics do.
    """
    wanted = expand(metrics, options)
    given: Any = {"hypotheses": hypotheses, "references": references}
    found: list[Score] = []
    if "bleu" in wanted:
        found.append(
            translation.bleu(
                **given, lang=options.lang, tokenize=options.tokenize, lowercase=options.lowercase
            )
        )
    if "chrf" in wanted:
        found.append(translation.chrf(**given, lowercase=options.lowercase))
    if "chrf++" in wanted:
        found.append(translation.chrf(**given, words=True, lowercase=options.lowercase))
    if kinds := [name for name in wanted if name in summary.KINDS]:
        found += summary.rouge(**given, kinds=kinds, lang=options.lang, stem=options.stem)
    if "exact_match" in wanted:
        found.append(answers.exact_match(**given))
    if "verbatim" in wanted:
        found.append(answers.verbatim(**given))
    if "squad_em" in wanted or "squad_f1" in wanted:
        found += answers.squad(**given, no_answer=_unanswered(references))
    if "cmrc_em" in wanted or "cmrc_f1" in wanted:
        found += answers.cmrc(**given)
    if "accuracy" in wanted:
        found.append(labels.accuracy(**given))
    if "macro_f1" in wanted:
        found.append(labels.macro_f1(**given))
    by_name = {score.metric: score for score in found}
    return [by_name[name] for name in wanted]


def rehearse(metrics: Sequence[str], options: Options) -> None:
    """Raise at once what `scores` would raise after hours of answers, whatever they are."""
    scores(metrics, options, hypotheses=["1"], references=[["1"]])


def statistics(
    metrics: Sequence[str], options: Options, *, hypotheses: Texts, references: References
) -> dict[str, Statistics]:
    """What each of the same metrics counts, for `plait.eval.bootstrap.paired`."""
    wanted = expand(metrics, options)
    given: Any = {"hypotheses": hypotheses, "references": references}
    found: dict[str, Statistics] = {}
    means: dict[str, list[float]] = {}
    if "bleu" in wanted:
        found["bleu"] = translation.bleu_statistics(
            **given, lang=options.lang, tokenize=options.tokenize, lowercase=options.lowercase
        )
    if "chrf" in wanted:
        found["chrf"] = translation.chrf_statistics(**given, lowercase=options.lowercase)
    if "chrf++" in wanted:
        found["chrf++"] = translation.chrf_statistics(**given, words=True, lowercase=options.lowercase)
    if kinds := [name for name in wanted if name in summary.KINDS]:
        means |= summary.rouge_values(**given, kinds=kinds, lang=options.lang, stem=options.stem)
    if "exact_match" in wanted:
        means["exact_match"] = answers.exact_values(**given)
    if "verbatim" in wanted:
        means["verbatim"] = answers.verbatim_values(**given)
    if "squad_em" in wanted or "squad_f1" in wanted:
        means |= answers.squad_values(**given, no_answer=_unanswered(references))
    if "cmrc_em" in wanted or "cmrc_f1" in wanted:
        means |= answers.cmrc_values(**given)
    if "accuracy" in wanted:
        means["accuracy"] = labels.right_values(**given)
    if "macro_f1" in wanted:
        found["macro_f1"] = labels.f1_statistics(**given)
    found |= {name: mean_statistics(values) for name, values in means.items()}
    return {name: found[name] for name in wanted}


def _unanswered(references: References) -> bool:
    """Whether some question has no answer, as in SQuAD 2.0."""
    return any(not any(text and text.strip() for text in sample) for sample in zip(*references))
