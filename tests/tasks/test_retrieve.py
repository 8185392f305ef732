"""Passages of documents, and which of them a question finds."""

from __future__ import annotations

import sys

import pytest

from plait.errors import InputError, MissingExtra
from plait.tasks.retrieve import PASSAGE, Index, passages, terms
from plait.text.document import Document

RIVER = "The river rises in the hills. It runs to the sea! Does it freeze? Never.\n\n"
CITIES = "北京是中国的首都，有很多宫殿。上海在海边！“你好吗？”他问。苏州有园林。\n\n"


def test_passages_end_where_sentences_do_and_are_numbered_in_their_file():
    found = passages([Document("a.txt#1", RIVER + CITIES), Document("b.md#1", "Short.")], size=30)
    assert [one.source for one in found if one.source.startswith("a")] == [
        f"a.txt#{n}" for n in range(1, len(found))
    ]
    assert found[-1].source == "b.md#1"
    texts = [one.text for one in found]
    assert texts[0] == "The river rises in the hills."
    assert texts[1:3] == ["It runs to the sea!", "Does it freeze? Never."]
    assert "北京是中国的首都，有很多宫殿。上海在海边！“你好吗？”" in texts
    assert not any(text.startswith("”") for text in texts)
    assert all(0 < len(text) <= 30 for text in texts)


def test_records_of_one_file_count_on_and_long_runs_are_cut():
    rows = [Document("q.jsonl#1", "", {"context": "x" * 1000, "question": "y?"}), Document("q.jsonl#2", "z")]
    found = passages(rows)
    assert [len(one.text) for one in found[:2]] == [PASSAGE, PASSAGE]
    assert [one.source for one in found] == [f"q.jsonl#{n}" for n in range(1, len(found) + 1)]
    assert "".join(one.text for one in found).count("x") == 1000


def test_a_heading_goes_with_what_it_heads():
    assert [one.text for one in passages([Document("a#1", "Rivers\n\n" + RIVER)])] == [
        "Rivers\nThe river rises in the hills. It runs to the sea! Does it freeze? Never."
    ]


def test_chinese_is_found_by_its_characters_and_pairs():
    assert terms("Ｐｙｔｈｏｎ's 3.11") == ["python", "s", "3", "11"]
    assert terms("首都abc猫") == ["首", "都", "首都", "abc", "猫"]
    assert terms("東京タワー")[:2] == ["東", "京"]
    assert terms("हिन्दी كِتَاب snake_case") == ["हिन्दी", "كِتَاب", "snake", "case"]
    assert terms("，。!?") == []


@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("中国的首都是哪里？", "zh.txt#1"),
        ("谁画了这幅山水画？", "zh.txt#2"),
        ("茶", "zh.txt#3"),
        ("Which engine did Lovelace describe?", "en.txt#2"),
        ("WHO BUILT THE BRIDGE", "en.txt#1"),
    ],
)
def test_a_question_finds_its_passage(question, source):
    chinese = [
        "中国的首都是北京，那里的冬天很冷，人们喜欢在公园里散步，也常常去看古老的城墙和宫殿。",
        "这幅山水画是一位宋代的画家画的，画上有高山、流水和一座小桥，现在收藏在博物馆里。",
        "中国人喜欢喝茶，绿茶和红茶都很有名，很多地方的人每天早上都要先泡上一壶，再开始工作。",
    ]
    english = [
        "The bridge over the river was built by Isambard Brunel, an engineer of great renown.",
        "Ada Lovelace wrote the first program, for the analytical engine of Charles Babbage.",
    ]
    documents = [Document("zh.txt#1", "\n\n".join(chinese)), Document("en.txt#1", "\n\n".join(english))]
    index = Index(passages(documents))
    assert index.search(question, 3)[0].source == source
    assert index.search(question, 1) == index.search(question, 9)[:1]


def test_what_shares_no_term_is_not_found():
    index = Index(passages([Document("a#1", RIVER)]))
    assert index.search("quantum 量子", 3) == index.search("?!", 3) == []
    assert Index(passages([Document("a#1", "!!!")])).search("x", 3) == []


def test_no_text_and_no_package_are_one_line(monkeypatch):
    with pytest.raises(InputError, match="the documents hold no text to answer from"):
        passages([Document("a#1", " \n ")])
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtra, match=r"pip install 'plait\[retrieval\]'"):
        Index(passages([Document("a#1", "x")]))
