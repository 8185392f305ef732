import random
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.text.dedup import NearDuplicates, dedup, jaccard, normal, shingles, sketch
from plait.text.document import Document

WORDS = ["harbour", "bridge", "committee", "tuesday", "nobody", "agreed", "about", "weather", "ships", "old"]
HAN = "春江潮水连海平海上明月共生滟随波千万里何处无流宛转绕芳甸花林皆似霰空中霜不觉飞汀白沙看见"


def text(seed: int, chinese: bool, length: int = 60) -> str:
    rng = random.Random(seed)
    return ("" if chinese else " ").join(rng.choices(HAN if chinese else WORDS, k=length))


def drops(texts: list[str], threshold: float | None = 0.8) -> list[tuple[str, str] | None]:
    documents = [Document(str(number), one) for number, one in enumerate(texts)]
    return [None if found is None else (found.reason, found.of) for _, found in dedup(documents, threshold)]


def similarity(left: str, right: str) -> float:
    a, b = (set(zip(*(one[i:] for i in range(5)))) for one in (normal(left), normal(right)))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("chinese", [False, True])
def test_near_duplicates_are_found_and_only_those(chinese):
    base = [text(seed, chinese) for seed in range(150)]
    rng = random.Random(0)
    edited = []
    for one in base:
        letters = list(one)
        for _ in range(rng.randrange(1, 5)):
            letters[rng.randrange(len(letters))] = "某"
        edited.append("".join(letters))
    found = drops(base + edited)
    assert found[:150] == [None] * 150
    for number, (one, other) in enumerate(zip(base, edited)):
        true = similarity(one, other)
        if true >= 0.85:
            assert found[150 + number] == ("near_duplicate", str(number)), true
        elif true < 0.8:
            assert found[150 + number] is None


def test_exact_duplicates_ignore_white_space_and_name_the_first():
    assert drops(["春眠不觉晓", "a b", " a\n b ", "春眠不觉晓"]) == [
        None, None, ("exact_duplicate", "1"), ("exact_duplicate", "0"),
    ]  # fmt: skip


def test_case_and_spacing_make_near_duplicates():
    assert drops(["春眠 不觉晓，处处闻啼鸟", "春眠不觉晓，处处闻啼鸟"]) == [None, ("near_duplicate", "0")]
    assert drops(["Some Words Here", "some words here"], None) == [None, None]


def test_questions_about_one_paragraph_are_kept():
    record = {"context": text(1, False, 200), "answers": ["x"]}
    documents = [Document(str(i), "", record | {"question": f"q{i}?"}) for i in (1, 2, 2)]
    assert [found and found.reason for _, found in dedup(documents)] == [None, None, "exact_duplicate"]


def test_order_and_batches_do_not_matter_to_the_result(monkeypatch):
    texts = [text(seed % 40, seed % 2 == 0) + "x" * (seed // 40) for seed in range(160)]
    whole = drops(texts)
    assert any(whole)
    monkeypatch.setattr("plait.text.dedup.BATCH", 7)
    monkeypatch.setattr("plait.text.dedup.PIECE", 100)
    assert drops(texts) == whole


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab中文"), max_size=30), min_size=2, max_size=2))
def test_hashed_similarity_is_the_true_one(pair):
    left, right = (one.ljust(5, "x") for one in pair)
    hashed = jaccard(*(np.unique(shingles(one)) for one in (left, right)))
    assert hashed == pytest.approx(similarity(left, right))


def test_sketches_estimate_similarity():
    base = text(3, False, 400)
    others = [base[cut:] + text(9, True, cut) for cut in (0, 200, 600, 1500)]
    rows = sketch([normal(one) for one in [base, *others]])
    for other, row in zip(others, rows[1:]):
        assert (row == rows[0]).mean() == pytest.approx(similarity(base, other), abs=0.2)


def test_short_texts_have_a_sketch_too():
    assert sketch(["", "a", "a"]).shape == (3, 96)
    assert len(shingles("")) == 1


def test_index_grows():
    documents = [Document(str(seed), text(seed, True)) for seed in range(1100)]
    with closing(NearDuplicates(0.8)) as index:
        assert not any(index.check(one) for one in index.sketches(documents) if one)
        (again,) = index.sketches([documents[1050]])
        assert again is not None
        found = index.check(again)
    assert found is not None
    assert (found.of, found.similarity) == ("1050", 1.0)
