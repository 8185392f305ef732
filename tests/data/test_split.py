import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.data.split import DocumentSplit, TailSplit, edge_of, find_split, key_of
from plait.errors import ConfigError
from plait.text.document import Document


def documents(*texts):
    return [Document(f"a#{number}", text) for number, text in enumerate(texts, 1)]


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6), st.floats(0.01, 0.99))
def test_a_tail_split_loses_no_character(texts, fraction):
    split = find_split(lambda: iter(documents(*texts)), fraction, 1, how="tail")
    sides = list(split.sides(documents(*texts)))
    train = "".join(document.text for document, held_out in sides if not held_out)
    held = "".join(document.text for document, held_out in sides if held_out)
    assert len(train) == int(sum(map(len, texts)) * (1 - fraction))
    assert train + held == "".join(texts)
    assert len(sides) <= len(texts) + 1


def test_the_document_in_which_the_cut_falls_becomes_two():
    sides = TailSplit(7).sides(documents("床前明月光", "疑是地上霜"))
    assert [(document.id, document.text, held_out) for document, held_out in sides] == [
        ("a#1", "床前明月光", False),
        ("a#2", "疑是", False),
        ("a#2 (tail)", "地上霜", True),
    ]


@pytest.mark.parametrize(
    ("how", "count", "expected"),
    [
        ("auto", 19, TailSplit),
        ("auto", 20, DocumentSplit),
        ("tail", 50, TailSplit),
        ("document", 3, DocumentSplit),
    ],
)
def test_auto_cuts_the_tail_of_few_documents(how, count, expected):
    texts = [f"text {number}" for number in range(count)]
    assert type(find_split(lambda: iter(documents(*texts)), 0.1, 1, how=how)) is expected


def held_texts(texts, seed, fraction=0.1):
    split = find_split(lambda: iter(documents(*texts)), fraction, seed, how="document")
    held = [document.text for document, held_out in split.sides(documents(*texts)) if held_out]
    return set(held), len(held)


def test_the_choice_depends_on_content_and_seed_only():
    texts = [f"text {number}" for number in range(100)]
    held, count = held_texts(texts, 1)
    assert count == 10
    assert held_texts(texts[::-1], 1)[0] == held
    assert held_texts(texts, 2)[0] != held


def test_conversations_differ_by_what_is_said_in_them():
    said = [Document("a#1", record={"messages": [{"role": "user", "content": text}]}) for text in "xyx"]
    keys = [key_of(document, 1) for document in said]
    assert keys[0] == keys[2] != keys[1]


def test_a_document_that_occurs_twice_is_on_one_side():
    texts = [f"text {number}" for number in range(30)]
    held, _ = held_texts(texts * 3, 7, 0.3)
    assert held == held_texts(texts, 7, 0.3)[0]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=60), st.floats(0.01, 0.6))
def test_at_least_one_document_is_held_out(keys, fraction):
    array = np.array(keys)
    if len(set(keys)) == 1:
        with pytest.raises(ConfigError, match="leaves nothing to train on in 'text', which has 1 different"):
            edge_of(array, fraction, "text")
    elif len(set(keys)) == len(keys):
        assert (array <= edge_of(array, fraction, "text")).sum() == max(1, round(len(keys) * fraction))


def test_questions_on_one_text_lie_on_one_side():
    def question(story: int, number: int) -> Document:
        context = "\n".join([f"Anna is in room {story}.", *["Ben sleeps."] * number])
        meta = {"context": context, "question": "Where?", "answers": ["in"]}
        return Document(f"{story}.{number}", "", meta)

    documents = [question(story, number) for story in range(30) for number in range(3)]
    split = find_split(lambda: iter(documents), 0.2, 1)
    held = {document.id for document, out in split.sides(documents) if out}
    assert 15 <= len(held) <= 21
    assert held == {f"{one.partition('.')[0]}.{number}" for one in held for number in range(3)}
