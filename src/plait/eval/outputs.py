"""Every metric of written outputs by its name on the command line, and what each can be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

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
USED_BY = {  # a language is true of a text whether a metric asks for it or not
    "tokenize": ("bleu",),
    "lowercase": ("bleu", "chrf"),
    "stem": ("rouge",),
    "split_sentences": ("rouge",),
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
    for name, families in USED_BY.items():
        if getattr(options, name) and not any(metric.startswith(families) for metric in metrics):
            raise ConfigError(
                f"--{name.replace('_', '-')} is for {' and '.join(families)}; leave it out for the others"
            )
    return list(dict.fromkeys(part for metric in metrics for part in PARTS.get(metric, (metric,))))


def scores(
    metrics: Sequence[str], options: Options, *, hypotheses: Texts, references: References
) -> list[Score]:
    """The scores that `expand` names, in its order.

    Raises:
        ConfigError, InputError, MissingExtra: as the metrics do.
    """
    wanted = expand(metrics, options)
    found = [
        score for family in _families(wanted, options, hypotheses, references) for score in family.scores()
    ]
    by_name = {score.metric: score for score in found}
    return [by_name[name] for name in wanted]


def rehearse(metrics: Sequence[str], options: Options) -> None:
    """Raise at once what `scores` would raise after hours of answers, whatever they are."""
    scores(metrics, options, hypotheses=["1"], references=[["1"]])


def statistics(
    metrics: Sequence[str], options: Options, *, hypotheses: Texts, references: References
) -> dict[str, Statistics]:
    """What each of the same metrics counts, for `plait.eval.bootstrap.paired`; raises as `scores` does."""
    wanted = expand(metrics, options)
    found: dict[str, Statistics] = {}
    for family in _families(wanted, options, hypotheses, references):
        found |= family.statistics()
    return {name: found[name] for name in wanted}


class Family(NamedTuple):
    """Metrics that are computed together: what scores them, and what they count."""

    scores: Callable[[], list[Score]]
    statistics: Callable[[], dict[str, Statistics]]


def _families(
    wanted: Sequence[str], options: Options, hypotheses: Texts, references: References
) -> Iterator[Family]:
    """Those that hold some of the metrics that are wanted."""
    given: Any = {"hypotheses": hypotheses, "references": references}
    bleu = given | {"lang": options.lang, "tokenize": options.tokenize, "lowercase": options.lowercase}
    if "bleu" in wanted:
        yield _family("bleu", translation.bleu, translation.bleu_statistics, bleu)
    for name, words in (("chrf", False), ("chrf++", True)):
        if name in wanted:
            chrf = given | {"words": words, "lowercase": options.lowercase}
            yield _family(name, translation.chrf, translation.chrf_statistics, chrf)
    if kinds := [name for name in wanted if name in summary.KINDS]:
        told = {"lang": options.lang, "stem": options.stem, "split": options.split_sentences}
        rouge = given | {"kinds": kinds} | told
        yield _means(summary.rouge, summary.rouge_values, rouge)
    if "exact_match" in wanted:
        yield _mean("exact_match", answers.exact_match, answers.exact_values, given)
    if "verbatim" in wanted:
        yield _mean("verbatim", answers.verbatim, answers.verbatim_values, given)
    if "squad_em" in wanted or "squad_f1" in wanted:
        squad = given | {"no_answer": _unanswered(references)}
        yield _means(answers.squad, answers.squad_values, squad)
    if "cmrc_em" in wanted or "cmrc_f1" in wanted:
        yield _means(answers.cmrc, answers.cmrc_values, given)
    if "accuracy" in wanted:
        yield _mean("accuracy", labels.accuracy, labels.right_values, given)
    if "macro_f1" in wanted:
        yield _family("macro_f1", labels.macro_f1, labels.f1_statistics, given)


def _family(name: str, score: Callable, counts: Callable, given: dict[str, Any]) -> Family:
    """One metric whose statistics are its own."""
    return Family(lambda: [score(**given)], lambda: {name: counts(**given)})


def _mean(name: str, score: Callable, values: Callable, given: dict[str, Any]) -> Family:
    """One metric that is the mean of a value a sample."""
    return Family(lambda: [score(**given)], lambda: {name: mean_statistics(values(**given))})


def _means(scores: Callable, values: Callable, given: dict[str, Any]) -> Family:
    """Several metrics that are means, by their names."""
    return Family(
        lambda: scores(**given),
        lambda: {name: mean_statistics(some) for name, some in values(**given).items()},
    )


def _unanswered(references: References) -> bool:
    """Whether some question has no answer, as in SQuAD 2.0."""
    return any(not any(text and text.strip() for text in sample) for sample in zip(*references))
