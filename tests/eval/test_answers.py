"""Exact match and F1 of answers, by hand."""

from __future__ import annotations

import json
from gzip import open as gunzip

import pytest

from plait.errors import InputError
from plait.eval.answers import (
    cmrc,
    cmrc_segments,
    cmrc_values,
    exact_match,
    longest_common,
    normalized,
    squad,
    squad_normalized,
    squad_values,
    verbatim,
)  # fmt: skip


def test_squads_normalization():
    assert squad_normalized("The  Cat's, (an) apple—a day.") == "cats apple— day"  # only ASCII is punctuation
    assert squad_normalized("Theatre an' Banana") == "theatre banana"
    assert squad_normalized("U.S.\tA.") == "us"
    assert squad_normalized("the a an !") == ""


def test_squad_1_takes_the_best_reference():
    values = squad_values(
        hypotheses=["the Denver Broncos!", "Broncos of Denver, Colorado", "", "x"],
        references=[["Denver Broncos", "Denver Broncos", "the", "y"], ["Broncos", "the Broncos", "b", None]],
    )
    assert values["squad_em"] == [1.0, 0.0, 1.0, 0.0]
    # 2 of 4 words found, 2 of 2 wanted; nothing against nothing is no overlap in version 1.1
    assert values["squad_f1"] == [1.0, pytest.approx(2 / 3), 0.0, 0.0]
    em, f1 = squad(hypotheses=["a cat", "dog"], references=[["cat", "dog house"]])
    assert (em.metric, em.value, f1.metric) == ("squad_em", 50.0, "squad_f1")
    assert f1.value == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert "squad:1.1" in f1.signature


def test_squad_2_wants_nothing_where_there_is_no_answer():
    given = {"hypotheses": ["", "Paris", "", "the"], "references": [[None, None, "Rome", "the"]]}
    values = squad_values(**given, no_answer=True)
    assert values["squad_em"] == [1.0, 0.0, 0.0, 1.0]
    assert values["squad_f1"] == [1.0, 0.0, 0.0, 1.0]
    with pytest.raises(InputError, match="sample 1 has no reference"):
        squad(**given)


def test_cmrcs_segments_and_longest_common_substring():
    assert cmrc_segments("《跑跑卡丁车》V2.0 Windows，10版") == [
        "跑", "跑", "卡", "丁", "车", "v2.0", "windows10", "版",
    ]  # fmt: skip  # signs vanish first, as in the official script
    assert longest_common("abcde", "xbcdyabc") == 3
    assert longest_common("abc", "") == 0


def test_cmrc_by_hand():
    values = cmrc_values(
        hypotheses=["由盛大游戏运营。", "Nexon", "1999年", "不知道"],
        references=[["盛大游戏", "nexon", "1999年5月", "踢爆"], ["盛大游戏运营", None, None, None]],
    )
    assert values["cmrc_em"] == [0.0, 1.0, 0.0, 0.0]
    # 盛大游戏运营: 6 common, 7 found, 6 wanted. 1999 年 against 1999 年 5 月: 2 common, 2 found, 4 wanted
    assert values["cmrc_f1"] == [pytest.approx(12 / 13), 1.0, pytest.approx(2 / 3), 0.0]
    nothing = cmrc_values(hypotheses=["", "x"], references=[["", ""]])
    assert nothing == {"cmrc_em": [1.0, 0.0], "cmrc_f1": [1.0, 0.0]}
    em, f1 = cmrc(hypotheses=["踢爆"], references=[["踢爆！"]])
    assert (em.value, f1.value) == (100.0, 100.0)


def test_cmrc_counts_nothing_in_common_as_nothing():
    em, f1 = cmrc(hypotheses=["。"], references=[["，"]])
    assert (em.value, f1.value) == (100, 0)  # as the official script has it
    em, f1 = cmrc(hypotheses=["", "有"], references=[["", ""]])
    assert (em.value, f1.value) == (50, 50)  # no answer is the right one


def test_cmrc_gives_full_marks_to_the_references_of_the_trial_set(shared_data):
    with gunzip(shared_data / "cmrc2018" / "cmrc2018_trial.json.gz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    answers = [
        [answer["text"] for answer in question["answers"]]
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ][:300]
    longest = max(map(len, answers))
    sets = [[texts[i] if i < len(texts) else None for texts in answers] for i in range(longest)]
    em, f1 = cmrc(hypotheses=[texts[0] for texts in answers], references=sets)
    assert (em.value, f1.value) == (100.0, 100.0)


def test_exact_match_lower_cases_and_drops_a_final_full_stop():
    assert normalized(" The Grandson. ") == "the grandson"
    assert normalized("不知道。") == "不知道"
    assert normalized("etc..") == "etc."
    score = exact_match(
        hypotheses=["Yes.", "no", "maybe"], references=[["yes", "No.", "no"], ["x", "y", "z"]]
    )
    assert (score.value, score.n) == (pytest.approx(200 / 3), 3)


def test_verbatim_is_to_the_letter():
    said = ["  return x\n", "  return X\n", "return x"]
    score = verbatim(hypotheses=said, references=[["  return x", "  return x", "return x."]])
    assert (score.value, score.n) == (pytest.approx(100 / 3), 3)
