"""ROUGE is rouge-score's for English, and sees characters in Chinese and Japanese."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from plait.errors import ConfigError, InputError
from plait.eval.summary import KINDS, CharacterTokenizer, looks_cjk, looks_foreign, rouge, rouge_values

HYPOTHESES = ["The runner was running.\nHe fell", "", "naïve café 42", "A dog, a dog; a dog!"]
REFERENCES = [
    ["He fell.\nThe runners ran quickly", "words", "naive cafe 42", "the dog"],
    ["Nobody fell", "", "42", "a dog a cat"],
]


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("references", [REFERENCES, REFERENCES[:1]])
def test_english_is_rouge_scores(stem, references):
    scorer = RougeScorer(list(KINDS), use_stemmer=stem)
    rows = [scorer.score_multi(list(texts), text) for *texts, text in zip(*references, HYPOTHESES)]
    scores = rouge(hypotheses=HYPOTHESES, references=references, stem=stem)
    assert [score.metric for score in scores] == list(KINDS)
    for score in scores:
        assert score.value == pytest.approx(100 * np.mean([row[score.metric].fmeasure for row in rows]))
        assert score.interval is not None
        assert score.interval[0] <= score.value <= score.interval[1]
        assert f"stem:{'yes' if stem else 'no'}|sentences:lines|nrefs:{len(references)}" in score.signature
    assert rouge(hypotheses=HYPOTHESES, references=references, kinds=["rouge2"])[0].metric == "rouge2"


def test_chinese_is_counted_by_character():
    tokens = CharacterTokenizer().tokenize("我用Python 3.11写了２个「Ａ」程式々、カタカナ ﾊﾝ 𠮷!")
    assert tokens == [
        "我", "用", "python", "3", "11", "写", "了", "２", "个", "ａ", "程", "式", "々",
        "カ", "タ", "カ", "ナ", "ﾊ", "ﾝ", "𠮷",
    ]  # fmt: skip
    given = {"hypotheses": ["我爱北京"], "references": [["我在北京。"]]}
    assert rouge_values(**given)["rouge1"] == [0.0]
    values = rouge_values(**given, lang="zh-CN")
    # 3 of 4 characters, 1 of 3 pairs, the subsequence 我北京
    assert values == {
        "rouge1": [0.75],
        "rouge2": [pytest.approx(1 / 3)],
        "rougeL": [0.75],
        "rougeLsum": [0.75],
    }
    assert "tokenizer:characters" in rouge(**given, lang="ja")[0].signature


@pytest.mark.parametrize(
    ("lang", "text", "other"),
    [
        ("ko", "나는 서울에 산다.", "나는 부산에 산다"),
        ("ru", "Я живу в Москве", "Я живу в Киеве."),
        ("hi", "मैं घर में", "मैं घर से"),
    ],
)
def test_words_of_any_script_count(lang, text, other):
    given = {"hypotheses": [text], "references": [[other]]}
    assert looks_foreign([text])
    assert rouge_values(**given)["rouge1"] == [0.0]
    shared = len(set(text.rstrip(".").split()) & set(other.rstrip(".").split())) / len(text.split())
    assert rouge_values(**given, lang=lang)["rouge1"] == [pytest.approx(shared)]
    assert "tokenizer:words" in rouge(**given, lang=lang)[0].signature
    assert not looks_foreign(["plain words", "déjà vu"])


def test_it_is_noticed_when_texts_need_a_language():
    assert looks_cjk(["我爱 Python 编程语言啊", "你好"])
    assert looks_cjk(["カタカナです"])
    assert not looks_cjk(["Hello 你好 there", ""])


def test_lsum_goes_by_lines():
    texts = {"hypotheses": ["a b\nc d"], "references": [["c d\na b"]]}
    values = rouge_values(**texts)
    assert values["rougeLsum"] == [1.0]
    assert values["rougeL"] == [0.5]


def test_bad_requests_are_one_line(monkeypatch):
    with pytest.raises(ConfigError, match="'rouge3' is no ROUGE; did you mean"):
        rouge(hypotheses=["a"], references=[["a"]], kinds=["rouge3"])
    with pytest.raises(ConfigError, match="stem is for English words; leave it out for lang=zh"):
        rouge(hypotheses=["a"], references=[["a"]], lang="zh", stem=True)

    def absent(text):
        raise LookupError("punkt_tab")

    monkeypatch.setattr("nltk.sent_tokenize", absent)
    with pytest.raises(InputError, match=r"needs nltk's data; run: python -m nltk\.downloader punkt_tab"):
        rouge(hypotheses=["a"], references=[["a"]], split=True)
