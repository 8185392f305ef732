"""Scores of classes and whole responses: accuracy and macro-averaged F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plait import __version__
from plait.errors import InputError
from plait.eval.bootstrap import RESAMPLES, SEED, Statistics, interval
from plait.eval.inputs import References, Texts, check
from plait.eval.means import mean_score
from plait.eval.scores import Score, signature


def accuracy(*, hypotheses: Texts, references: References) -> Score:
    """Share of labels that are right, in percent, with Wilson's interval.

    Spaces around a label, and how many stand between its words, do not count.

    Raises:
        InputError: what `plait.eval.inputs.check` refuses.
    """
    values = right_values(hypotheses=hypotheses, references=references)
    return mean_score("labels", "accuracy", values, right_or_wrong=True, spaces="single")


def macro_f1(*, hypotheses: Texts, references: References, labels: Sequence[str] | None = None) -> Score:
    """The unweighted mean of the F1 of each label, in percent, with a bootstrap interval.

    As scikit-learn's `f1_score(average="macro", zero_division=0)`.

    Args:
        hypotheses, references: see `plait.eval.inputs.check`, with one reference set.
        labels: the labels to average over; by default all that references or hypotheses hold, so that a
            label nobody asked for counts with an F1 of zero.

    Raises:
        InputError: what `check` refuses; several reference sets.
    """
    statistics = f1_statistics(hypotheses=hypotheses, references=references, labels=labels)
    count, (_, numbers) = len(hypotheses), statistics.samples.shape
    return Score(
        task="labels",
        metric="macro_f1",
        value=statistics.at(np.arange(count)),
        interval=interval(statistics.at, count),
        n=count,
        signature=signature(
            labels=numbers // 3, interval="95% bootstrap", bs=RESAMPLES, seed=SEED, plait=__version__
        ),
        data=[],
        counts={"labels": numbers // 3},
    )


def right_values(*, hypotheses: Texts, references: References) -> list[float]:
    """1 for every label that equals one of its references, else 0."""
    samples = check(hypotheses, references)
    return [float(_spaced(text) in map(_spaced, labels)) for text, labels in zip(hypotheses, samples)]


def f1_statistics(
    *, hypotheses: Texts, references: References, labels: Sequence[str] | None = None
) -> Statistics:
    """For each label: was it right, was it said, was it due; arguments and errors as in `macro_f1`."""
    samples = check(hypotheses, references)
    if len(references) != 1:
        raise InputError(
            f"macro_f1 takes one set of references, not {len(references)}: a sample has one label"
        )
    said, due = list(map(_spaced, hypotheses)), [_spaced(sample[0]) for sample in samples]
    names = np.array(sorted({*said, *due}) if labels is None else list(dict.fromkeys(map(_spaced, labels))))
    if not len(names):
        raise InputError("labels is empty; name the labels to average over, or leave it out")
    said_is, due_is = (np.array(texts)[:, None] == names for texts in (said, due))
    return Statistics(np.hstack([said_is & due_is, said_is, due_is]).astype(np.float64), _macro_f1)


def _macro_f1(sums: np.ndarray) -> float:
    right, said, due = np.split(sums, 3)
    both = said + due
    # a label that is neither said nor due has an F1 of zero
    return 100 * float(np.divide(2 * right, both, out=np.zeros_like(both), where=both > 0).mean())


def _spaced(text: str) -> str:
    return " ".join(text.split())
