"""Completing: the middle's tokens and cuts, the command, records, and what models cannot do."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

import plait
from plait.config import build
from plait.data.config import DataConfig
from plait.data.encode import encode_texts
from plait.data.fim import before_middle, cut, fim_ids
from plait.data.inputs import Intake
from plait.errors import ConfigError, ModelError
from plait.infer.engine import Engine
from plait.recipes.recipe import Recipe
from plait.tasks.complete import completion_prompt, middles, nearest
from plait.text.document import Document
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_config import FIM_TOKENS, SPECIAL_TOKENS, TokenizerConfig
from plait.text.train_tokenizer import train

TEXTS = [
    "def area(r):\n    return 3.14 * r * r\n",
    "春眠不觉晓，处处闻啼鸟。",
    "x",
    "<|fim_middle|> in a text",
] * 3
SYLLABLES = [first + second for first in "bdkmnrst" for second in ("a", "e", "in", "or")]
WORDS = [random.Random(number).choice(SYLLABLES) * 2 for number in range(999)]
CORPUS = [" ".join(WORDS[at : at + 40]) + "狐狸" for at in range(0, 900, 20)]
KINDS = [
    {"kind": "byte"},
    {"kind": "char"},
    {"kind": "bpe", "vocab_size": 280},
    {"kind": "unigram", "vocab_size": 270},
    {"style": "words", "merges": 5},
]


@pytest.mark.parametrize("given", KINDS, ids=str)
def test_only_tokenizers_that_ask_have_the_tokens(given, tmp_path):
    plain, more = train(CORPUS, **given), train(CORPUS, **given, fim=True)
    first = len(SPECIAL_TOKENS) + (given.get("style") == "words")
    assert fim_ids(more) == (first, first + 1, first + 2)
    assert more.special_ids == plain.special_ids | set(fim_ids(more))
    assert more.vocab_size == plain.vocab_size + (0 if "vocab_size" in given else 3)
    with pytest.raises(ModelError, match=r"lacks <\|fim_prefix\|>.*train one with tokenizer.fim=true"):
        fim_ids(plain)
    more.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (fim_ids(again), again.fingerprint) == (fim_ids(more), more.fingerprint)
    spelled = more.encode_plain("".join(FIM_TOKENS))
    assert not set(spelled) & set(fim_ids(more))  # in a text they are text


def test_transformers_opens_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = train(CORPUS, kind="bpe", vocab_size=280, fim=True)
    tokenizer.save(tmp_path)
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "<|fim_prefix|>the fox<|fim_suffix|>狐狸<|fim_middle|>"
    assert other(text).input_ids == tokenizer.encode(text)
    assert set(FIM_TOKENS) <= set(other.all_special_tokens)


def test_a_text_is_cut_by_its_content_and_the_seed():
    text = "春眠不觉晓，处处闻啼鸟。"
    parts = cut(text, 1)
    assert parts == cut(text, 1)
    assert parts.prefix + parts.middle + parts.suffix == text
    assert len({cut(text, seed) for seed in range(50)}) > 25
    places = Counter(len(cut(text, seed).prefix) for seed in range(2000))
    assert set(places) == set(range(len(text) + 1))
    some = [cut(f"text {n}", 0, 0.3) for n in range(2000)]
    assert sum(parts is not None for parts in some) == pytest.approx(600, abs=60)
    assert cut("x", 0, 0.0) is None


@pytest.mark.parametrize("kind", ["byte", "char"])
def test_documents_come_back_whole_from_prefix_suffix_middle(kind):
    tokenizer = train(TEXTS, kind=kind, fim=True)
    documents = [(Document(f"d#{n}", f"{text} {n}"), n % 4 == 0) for n, text in enumerate(TEXTS)]
    before, after, middle = fim_ids(tokenizer)
    encoded = list(encode_texts(documents, tokenizer, Intake(), fim=1.0, seed=3))
    assert [held for _, held in encoded] == [held for _, held in documents]
    for (document, held_out), (made, _) in zip(documents, encoded):
        ids = list(made.ids)
        assert made.text_bytes == len(document.text.encode())
        assert ids[0] == ids[-1] == tokenizer.eos_id
        if held_out:  # their loss compares
            assert tokenizer.decode(ids[1:-1]) == document.text
            continue
        assert [ids.count(token) for token in (before, after, middle)] == [1, 1, 1]
        assert ids[1] == before
        parts = cut(document.text, 3)
        second, third = ids.index(after), ids.index(middle)
        assert tokenizer.decode(ids[2:second]) == parts.prefix
        assert tokenizer.decode(ids[second + 1 : third]) == parts.suffix
        assert tokenizer.decode(ids[third + 1 : -1]) == parts.middle
    again = list(encode_texts(documents[::-1], tokenizer, Intake(), fim=1.0, seed=3))
    assert {made.id: list(made.ids) for made, _ in again} == {made.id: list(made.ids) for made, _ in encoded}
    plain = list(encode_texts(documents, tokenizer, Intake()))
    texts = [tokenizer.decode(made.ids[1:-1]) for made, _ in plain]
    assert texts == [document.text for document, _ in documents]


def test_the_prompt_is_what_training_shows_before_the_middle(model):
    engine = Engine(model("text", fim=True))
    prompt = completion_prompt(engine, Document("a", "", {"prefix": "春", "suffix": "<|fim_middle|>"}))
    tokenizer = engine.tokenizer
    sides = tokenizer.encode_plain("春"), tokenizer.encode_plain("<|fim_middle|>")
    assert prompt == [tokenizer.eos_id, *before_middle(*sides, tokenizer)]
    assert completion_prompt(engine, Document("a", "", {"prefix": "ab"})) == engine.encode("ab")
    assert completion_prompt(engine, Document("a", "ab")) == engine.encode("ab")


def test_a_text_a_file_and_python_agree(model, works, tmp_path):
    path = model("text", fim=True)
    words = ("--max-tokens", 5)
    middle = works("complete", path, "def f(", "--suffix", "):", *words)
    rest = works("complete", path, "def f(", *words)
    assert plait.complete(path, "def f(", "):", max_tokens=5) == [middle[:-1]]
    assert plait.complete(Engine(path), ["def f("], max_tokens=5) == [rest[:-1]]
    assert works("complete", path, "", "--suffix", "春", *words)
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prefix": "def f(", "suffix": "):"}, {"prefix": "def f("}, {"text": "def f("}]
    rows += [{"suffix": "", "prefix": "春"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    works("complete", path, "--input", source, "--output", out, *words)
    made = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["completion"] for row in made[:3]] == [middle[:-1], rest[:-1], rest[:-1]]
    assert made[0]["suffix"] == "):"
    whole = out.read_text("utf-8")
    out.write_text("".join(whole.splitlines(keepends=True)[:2]), "utf-8")
    works("complete", path, "--input", source, "--output", out, *words)
    assert out.read_text("utf-8") == whole


def test_middles_are_scored_of_records_and_of_text(model, works, tmp_path):
    data, out = tmp_path / "held-out.jsonl", tmp_path / "scores.json"
    rows = [{"text": "the fox jumps"}, {"prefix": "a", "middle": "b", "suffix": "c"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    words = ("evaluate", model("text", fim=True), "--task", "complete", "--data", data, "--max-tokens", 3)
    works(*words, "--out", out)
    scores = json.loads(out.read_text("utf-8"))["results"]
    assert [(row["metric"], row["n"]) for row in scores] == [("verbatim", 2), ("chrf", 2)]
    (question,) = middles([Document("d", "the fox jumps")])
    assert "".join(question.record[part] for part in ("prefix", "middle", "suffix")) == "the fox jumps"


def test_two_files_of_text_are_no_sources_and_targets(model, works, tmp_path):
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    for number, file in enumerate(files, 1):
        file.write_text("print('hello')\n" * number, "utf-8")
    words = ("--task", "complete", "--max-tokens", 3, "--out", tmp_path / "scores.json", "--data")
    works("evaluate", model("text", fim=True), *words, *files)
    score = json.loads((tmp_path / "scores.json").read_text("utf-8"))["results"][0]
    assert [read["path"] for read in score["data"]] == list(map(str, files))


def test_of_a_long_text_what_is_nearest_to_the_middle_is_read(model, works, refuses, tmp_path):
    assert nearest([1, 2, 3], [4, 5, 6], 6) == ([1, 2, 3], [4, 5, 6])
    assert nearest([1, 2, 3], [4, 5, 6], 4) == ([2, 3], [4, 5])
    assert nearest([1], [4, 5, 6], 3) == ([1], [4, 5])
    assert nearest([1, 2, 3], [4], 3) == ([2, 3], [4])
    assert nearest([1, 2, 3], [], 2) == ([2, 3], [])
    data, path = tmp_path / "long.jsonl", model("text", fim=True)
    data.write_text(json.dumps({"prefix": "a" * 999, "middle": "b", "suffix": "c" * 999}) + "\n", "utf-8")
    words = ("evaluate", path, "--task", "complete", "--data", data, "--max-tokens", 3)
    assert "or cut what is too long with --truncate" in refuses(*words)
    works(*words, "--truncate")
    engine = Engine(path)
    (question,) = middles([Document("d", "", json.loads(data.read_text("utf-8")))])
    prompt = completion_prompt(engine, question, room=100)
    assert len(prompt) == 100
    assert engine.tokenizer.decode(prompt, skip_special=True) == "a" * 48 + "c" * 48


def test_what_does_not_go_together_is_one_line(model, reader, refuses, tmp_path):
    message = refuses("complete", model("text"), "a", "--suffix", "b")
    assert message.startswith("tiny: this tokenizer lacks <|fim_prefix|>, <|fim_suffix|>, <|fim_middle|>")
    assert message.endswith("train one with tokenizer.fim=true, and the model with data.fim=0.5")
    assert "is an encoder-decoder, which writes a target for a source" in refuses("complete", reader, "a")
    assert "is an encoder-decoder, which" in refuses("chat", reader)
    assert "the text is empty" in refuses("complete", model("text"), "")
    assert "--suffix goes with one PREFIX" in refuses("complete", model("text"), "--suffix", "b")
    assert "more than the model's context of 128" in refuses(
        "complete", model("text", fim=True), "a" * 100, "--suffix", "b" * 100
    )
    (tmp_path / "in.jsonl").write_text('{"source": "a"}\n', "utf-8")
    assert "holds source; a line to complete needs" in refuses(
        "complete", model("text"), "--input", tmp_path / "in.jsonl"
    )
    assert "in.jsonl#1 holds source; prefix, suffix and a middle that is not empty are needed" in refuses(
        "evaluate", model("text", fim=True), "--task", "complete", "--data", tmp_path / "in.jsonl"
    )
    (tmp_path / "half.jsonl").write_text('{"prefix": "a", "suffix": "b"}\n', "utf-8")
    assert "holds prefix, suffix; prefix, suffix and a middle that is not empty are needed" in refuses(
        "evaluate", model("text", fim=True), "--task", "complete", "--data", tmp_path / "half.jsonl"
    )


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match=r"fim=0\.5 cuts running text, and pairs is none; leave it out"):
        build(DataConfig, {"pairs": "x", "fim": 0.5}, source="data")
    recipe = {"out": "x", "data": {"text": "x", "fim": 0.5}, "train": {"steps": 1}}
    with pytest.raises(ConfigError, match=r"the tokens of a middle to fill in; set tokenizer\.fim=true"):
        build(Recipe, recipe, source="recipe")
    build(Recipe, recipe | {"tokenizer": {"fim": True}}, source="recipe")
    build(Recipe, recipe | {"tokenizer": "tok"}, source="recipe")
    with pytest.raises(ConfigError, match="vocab_size=261 does not fit kind=byte, which always has 264"):
        build(TokenizerConfig, {"kind": "byte", "vocab_size": 261, "fim": True}, source="tokenizer")
