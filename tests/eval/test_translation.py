"""BLEU and chrF are sacrebleu's to the last digit; what changes them is in the signature."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from plait.errors import ConfigError, InputError, MissingExtra
from plait.eval import translation
from plait.eval.bootstrap import paired
from plait.eval.options import Options
from plait.eval.translation import bleu, bleu_statistics, chrf, chrf_statistics, tokenization

HYPOTHESES = ["The cat sat on the mat.", "", "Ça va, déjà vu? 10,5 % — “naïve”", "  a b  ", "the the the the"]
REFERENCES = [
    ["The cat is on the mat.", "An empty one", "Ça va: déjà-vu? 10.5 % - „naive“", "a b c", "the cat"],
    ["A cat sat on the mat", "", "ça va", "a  b", "the dog the dog the"],
]
CHINESE = ["今天天气很好，我们去公园。", "我喜欢 Python 3.11 编程", "你好"]
CHINESE_REFERENCES = [["今天天气不错，我们去公园吧。", "我爱用 Python 3.11 编程", "您好"]]


@pytest.mark.parametrize("references", [REFERENCES, REFERENCES[:1]])
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("tokenize", ["13a", "none", "intl", "char", "zh"])
def test_bleu_is_sacrebleus(references, lowercase, tokenize):
    by_hand = BLEU(tokenize=tokenize, lowercase=lowercase)
    wanted = by_hand.corpus_score(HYPOTHESES, references, n_bootstrap=1000)
    score = bleu(hypotheses=HYPOTHESES, references=references, tokenize=tokenize, lowercase=lowercase)
    assert score.value == wanted.score
    assert score.signature == str(by_hand.get_signature())
    low, high = wanted._mean - wanted._ci, wanted._mean + wanted._ci
    assert score.interval == pytest.approx((max(low, 0), min(high, 100)))
    assert (score.n, score.counts["hypothesis_tokens"]) == (5, wanted.sys_len)


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("lowercase", [False, True])
def test_chrf_is_sacrebleus(words, lowercase):
    by_hand = CHRF(word_order=2 if words else 0, lowercase=lowercase)
    wanted = by_hand.corpus_score(HYPOTHESES, REFERENCES)
    score = chrf(hypotheses=HYPOTHESES, references=REFERENCES, words=words, lowercase=lowercase)
    assert (score.value, score.metric) == (wanted.score, "chrf++" if words else "chrf")
    without = str(by_hand.get_signature())
    assert score.signature == without.replace("nrefs:2|", "nrefs:2|bs:1000|seed:12345|")
    assert score.interval is not None
    assert score.interval[0] < score.value < score.interval[1]


@pytest.mark.parametrize("seed", range(3))
def test_the_p_value_of_two_systems_is_sacrebleus(seed):
    words = ["the", "a", "cat", "dog", "mat", "sat", "on", "in", "there", "is", "was", "big", "small"]
    random = np.random.default_rng(seed)

    def near(texts, changes):
        kept = random.random(len(texts)) < changes
        return [text.replace("a", "b") if some else text for text, some in zip(texts, kept)]

    references = [" ".join(random.choice(words, size=9)) for _ in range(60)]
    systems = [near(references, share) for share in (0.4, 0.5, 0.2)]
    for metric, name, count in ((BLEU(), "BLEU", bleu_statistics), (CHRF(), "chrF2", chrf_statistics)):
        named = [(str(number), texts) for number, texts in enumerate(systems)]
        _, found = PairedTest(named, {name: metric}, [references], test_type="bs", n_samples=1000)()
        first, *others = (count(hypotheses=texts, references=[references]) for texts in systems)
        ours = [paired(first.at, other.at, 60).p_value for other in others]
        assert ours == [result.p_value for result in found[name][1:]]
        assert max(ours) < 1


def test_chrf_has_an_interval_where_some_resamples_are_zero():
    score = chrf(hypotheses=["", "hello world"], references=[["abc", "hello there"]])
    with pytest.raises(TypeError):  # what is worked around
        CHRF().corpus_score(["", "hello world"], [["abc", "hello there"]], n_bootstrap=1000)
    assert score.interval is not None
    assert 0 <= score.interval[0] < score.value < score.interval[1] <= 100


def test_the_language_chooses_the_tokenization():
    assert [tokenization(lang) for lang in ("zh", "zh-Hans", "zh_TW", "ZH", "de", None)] == [
        "zh", "zh", "zh", "zh", "13a", "13a",
    ]  # fmt: skip
    score = bleu(hypotheses=CHINESE, references=CHINESE_REFERENCES, lang="zh")
    assert score.value == BLEU(tokenize="zh").corpus_score(CHINESE, CHINESE_REFERENCES).score
    assert "tok:zh" in score.signature
    other = bleu(hypotheses=CHINESE, references=CHINESE_REFERENCES, lang="zh", tokenize="char")
    assert "tok:char" in other.signature


def test_japanese_falls_back_to_characters_and_the_signature_says_so(monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(translation, "find_spec", lambda name: None if name == "MeCab" else present(name))
    assert "tok:char" in bleu(hypotheses=["猫です"], references=[["犬です"]], lang="ja").signature
    with pytest.raises(
        MissingExtra, match=r"tokenize=ja-mecab needs MeCab; run: pip install 'sacrebleu\[ja\]'"
    ):
        bleu(hypotheses=["猫"], references=[["犬"]], tokenize="ja-mecab")
    monkeypatch.setattr(translation, "find_spec", lambda name: object())
    assert tokenization("ja") == "ja-mecab"


def test_what_the_paired_test_resamples_adds_up_to_the_score():
    everything = np.arange(len(HYPOTHESES))
    given = {"hypotheses": HYPOTHESES, "references": REFERENCES}
    assert bleu_statistics(**given).at(everything) == pytest.approx(bleu(**given).value, rel=1e-12)
    for words in (False, True):
        statistics = chrf_statistics(**given, words=words)
        assert statistics.at(everything) == pytest.approx(chrf(**given, words=words).value, rel=1e-12)


def test_references_may_be_missing_and_one_sample_has_no_interval():
    references = [["a b c d e", "x"], [None, "a b c d"]]
    score = bleu(hypotheses=["a b c d e", "a b c d"], references=references)
    assert (score.value, "nrefs:var" in score.signature) == (pytest.approx(100), True)
    assert bleu(hypotheses=["a"], references=[["a"]]).interval is None
    with pytest.raises(InputError, match="sample 2 has no reference; give at least one"):
        bleu(hypotheses=["a", "b"], references=[["a", None]])


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingExtra, match=r"this needs sacrebleu.*; run: pip install 'plait\[eval\]'"):
        bleu(hypotheses=["a"], references=[["a"]])


def test_unknown_tokenizations_are_refused():
    with pytest.raises(ConfigError, match="tokenize='13b' is unknown; did you mean '13a'"):
        bleu(hypotheses=["a"], references=[["a"]], tokenize="13b")


def test_the_code_of_a_language():
    for code in "zh", "zh-CN", "zh_Hans", "ZH", "zho", "cmn", "yue":
        assert translation.tokenization(code) == "zh"
    assert translation.tokenization("de") == translation.tokenization(None) == "13a"
    for wrong in "xx", "klingon", "", "z h", "中文":
        with pytest.raises(ConfigError, match=f"lang='{wrong}' is no code of a language; use zh, en, ja"):
            Options(lang=wrong)
