"""Accuracy and macro-averaged F1, by hand; and every metric refuses what is handed over wrongly."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from plait.errors import InputError
from plait.eval.answers import cmrc, exact_match, squad
from plait.eval.labels import accuracy, f1_statistics, macro_f1
from plait.eval.means import wilson
from plait.eval.summary import rouge
from plait.eval.translation import bleu, chrf

SAID = ["cat", "cat", "dog", "bird", "cat", "fish"]
DUE = ["cat", "dog", "dog", "cat", "cat", "bird"]


def test_accuracy_counts_what_is_right():
    score = accuracy(hypotheses=SAID, references=[DUE])
    assert (score.value, score.interval) == (50.0, wilson(3, 6))
    assert accuracy(hypotheses=[" a\n"], references=[["a"]]).value == 100.0
    score = accuracy(hypotheses=["hello  there", "Bye"], references=[["hello there", "bye"]])
    assert score.value == 50.0


def test_macro_f1_by_hand():
    # cat: 2 right, 3 said, 3 due; dog: 1, 1, 2; bird: 0, 1, 1
    each = [2 * 2 / 6, 2 * 1 / 3, 0.0]
    score = macro_f1(hypotheses=SAID, references=[DUE])
    assert score.value == pytest.approx(100 * sum(each) / 4)
    assert score.interval is not None
    assert score.interval[0] < score.value < score.interval[1]
    assert score.counts == {"labels": 4}  # with one that was only said, as scikit-learn has it
    assert macro_f1(hypotheses=SAID, references=[DUE], labels=sorted(set(DUE))).value == pytest.approx(
        100 * sum(each) / 3
    )
    assert macro_f1(hypotheses=SAID, references=[DUE], labels=["dog", "cow"]).value == pytest.approx(100 / 3)
    statistics = f1_statistics(hypotheses=SAID, references=[DUE])
    assert statistics.at(np.array([0, 0, 1])) == pytest.approx(100 * (2 * 2 / 5 + 0 + 0) / 4)
    with pytest.raises(InputError, match="macro_f1 takes one set of references, not 2"):
        macro_f1(hypotheses=["a"], references=[["a"], ["b"]])
    with pytest.raises(InputError, match="labels is empty"):
        macro_f1(hypotheses=["a"], references=[["a"]], labels=[])


METRICS = [bleu, chrf, rouge, exact_match, squad, cmrc, accuracy, macro_f1]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_hypotheses_and_references_in_the_wrong_order_are_caught(metric):
    with pytest.raises(InputError, match=r"hypotheses holds a list \(sample 1\).* they look swapped"):
        metric(hypotheses=[["a", "b"]], references=["a", "b"])
    with pytest.raises(InputError, match=r"references holds texts, as hypotheses does.* they look swapped"):
        metric(hypotheses=["a", "b"], references=["a", "b"])
    with pytest.raises(InputError, match="there are 2 hypotheses and 3 references in set 1"):
        metric(hypotheses=["a", "b"], references=[["a", "b", "c"]])
    for name, empty in (("hypotheses", partial(metric, hypotheses=[], references=[[]])),
                        ("references", partial(metric, hypotheses=["a"], references=[]))):  # fmt: skip
        with pytest.raises(InputError, match=f"{name} is empty; give hypotheses="):
            empty()
    with pytest.raises(InputError, match="references is one text, not a list"):
        metric(hypotheses=["a"], references="a")
    with pytest.raises(InputError, match="hypotheses holds int 3, not text"):
        metric(hypotheses=[3], references=[["a"]])
    with pytest.raises(InputError, match="references holds int 3, not text"):
        metric(hypotheses=["a"], references=[[3]])
    with pytest.raises(TypeError):
        metric(["a"], [["a"]])
