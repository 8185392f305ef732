"""Miniatures of the other applications, in English and Chinese."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

import pytest

import plait as package
from plait.config import dump_yaml
from plait.data.fim import cut

TRAIN = {
    "batch_size": 16, "lr": 3e-3, "threads": 1, "dtype": "float32", "compile": False, "tensorboard": False,
    "sample_tokens": 0,
}  # fmt: skip
SMALL = {"width": 48, "layers": 2, "heads": 4}


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def train(plait, folder: Path, steps: int, **recipe) -> Path:
    """Run a recipe in a folder; the run."""
    every = {"steps": steps, "save_every": steps, "eval_every": steps}
    recipe = {"out": "run", **recipe, "train": TRAIN | every | recipe.get("train", {})}
    (folder / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    plait.works("train", "recipe.yaml", cwd=folder)
    return folder / "run"


def reviews() -> list[dict]:
    """Opinions of things, and whether they are good or bad, no two alike."""
    english = (
        ("good", ["lovely", "wonderful", "great", "delicious", "friendly", "bright"]),
        ("bad", ["awful", "terrible", "dull", "cold", "rude", "broken"]),
    )
    nouns = ["room", "soup", "film", "staff", "garden", "phone", "book", "view"]
    forms = ("the {} was {}", "i found the {} so {}", "what a {1} {0}")
    chinese, things = (
        (("good", "好美香新快亮"), ("bad", "坏丑臭旧慢暗")),
        ["房间", "饭菜", "电影", "手机", "花园"],
    )
    shapes = ("这{}真{}", "我觉得{}很{}", "{}太{}了")
    draw, rows = random.Random(0), []
    for (mood, words), noun in product(english, nouns):
        rows += [{"review": draw.choice(forms).format(noun, word), "mood": mood} for word in words]
    for (mood, words), noun in product(chinese, things):
        rows += [{"review": draw.choice(shapes).format(noun, word), "mood": mood} for word in words]
    draw.shuffle(rows)
    return rows


@pytest.mark.parametrize("encoder_layers", [2, 0], ids=["encoder-decoder", "decoder"])
def test_reviews_are_classified(plait, tmp_path, encoder_layers):
    rows = reviews()
    test = write_rows(tmp_path / "test.jsonl", rows[:40])
    write_rows(tmp_path / "train.jsonl", rows[40:])
    fields = {"source": "review", "target": "mood"}
    run = train(
        plait, tmp_path, 90,
        data={"pairs": "train.jsonl", "fields": fields, "validation": 0.0},
        tokenizer={"kind": "bpe", "vocab_size": 320},
        model=SMALL | {"context": 48, "encoder_layers": encoder_layers},
    )  # fmt: skip
    words = ["--field", "source=review", "--field", "target=mood", "--json"]
    shown = plait.works("evaluate", run, "--task", "classify", "--data", test, *words)
    scores = {row["metric"]: row["value"] for row in json.loads(shown)["results"]}
    assert scores["accuracy"] >= 85  # by chance 50
    assert scores["macro_f1"] >= 85
    assert package.Engine(run).labels == ["bad", "good"]  # which need not be named again
    best = plait.works("classify", run, "the soup was delicious").splitlines()[0]
    assert best.split("\t")[0] == "good"
    found = package.classify(run, ["这饭菜真臭", "我觉得花园很美"])
    assert [one.label for one in found] == ["bad", "good"]


def test_questions_are_answered_from_a_context_and_from_documents(plait, tmp_path):
    names, places = (
        ["Anna", "Ben", "Clara", "David", "Emma", "Felix"],
        ["garden", "kitchen", "library", "harbour", "market"],
    )
    people, rooms = ("小明", "小红", "小华", "小丽", "小刚"), ("花园", "厨房", "学校", "商店")
    forms = [(names, places, "{} is in the {}.", "Where is {}?"), (people, rooms, "{}在{}。", "{}在哪里？")]
    rows = [
        {"context": fact.format(who, where), "question": question.format(who), "answers": [where]}
        for first, second, fact, question in forms
        for who, where in product(first, second)
    ]
    random.Random(0).shuffle(rows)
    test = write_rows(tmp_path / "test.jsonl", rows[:10])  # of people who are elsewhere in training
    write_rows(tmp_path / "train.jsonl", [*rows[10:], rows[10] | {"answers": ["moon"]}])
    run = train(
        plait, tmp_path, 100,
        data={"pairs": "train.jsonl", "validation": 0.0},
        tokenizer={"kind": "bpe", "vocab_size": 300},
        model=SMALL | {"context": 48, "encoder_layers": 2},
    )  # fmt: skip
    report = json.loads((run / "data" / "report.json").read_text(encoding="utf-8"))
    assert report["sources"]["pairs"]["elsewhere"]["answers"] == 1
    shown = plait.works("evaluate", run, "--task", "answer", "--data", test, "--json")
    scores = {row["metric"]: row["value"] for row in json.loads(shown)["results"]}
    assert scores["squad_em"] >= 70  # by chance 11
    shown = plait.works("evaluate", run, "--task", "answer", "--data", test, "--lang", "zh", "--json")
    assert {row["metric"] for row in json.loads(shown)["results"]} == {"cmrc_em", "cmrc_f1"}
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "people.txt").write_text(
        "Felix is in the harbour.\n\n" * 3 + "Emma is in the kitchen.\n", "utf-8"
    )
    (notes / "人.txt").write_text("小丽在学校。", "utf-8")
    answered = plait.works("answer", run, "小丽在哪里？", "--documents", notes, "--passages", 1)
    assert answered.splitlines() == ["学校", f"[1] {notes / '人.txt'}#1"]


def test_middles_are_filled_in(plait, tmp_path):
    rings = ("abcdefghijklmnopqrstuvwxyz", "子丑寅卯辰巳午未申酉戌亥")
    texts = [(ring * 2)[at : at + size] for ring in rings for at in range(len(ring)) for size in range(4, 20)]
    random.Random(0).shuffle(texts)
    (tmp_path / "train.txt").write_text("\n".join(texts), encoding="utf-8")
    run = train(
        plait, tmp_path, 200,
        data={"text": "train.txt", "format": "lines", "validation": 0.0, "fim": 0.9},
        tokenizer={"kind": "char", "fim": True},
        model=SMALL | {"width": 64, "context": 64},
        train={"lr": 1e-2},
    )  # fmt: skip
    parts = [part for text in texts if (part := cut(text, 7)) and all(vars(part).values())][:200]
    engine = package.Engine(run)
    made = package.complete(
        engine, [part.prefix for part in parts], [part.suffix for part in parts], max_tokens=30
    )
    right = sum(text == part.middle for text, part in zip(made, parts)) / len(parts)
    alone = package.complete(engine, [part.prefix for part in parts], max_tokens=30)
    by_chance = sum(text == part.middle for text, part in zip(alone, parts)) / len(parts)
    print(f"{right:.2f} of middles right, {by_chance:.2f} without the suffix")
    assert right >= max(0.2, 2 * by_chance)
    assert plait.works("complete", run, "abc", "--suffix", "fgh").strip()


def mails() -> list[dict]:
    """Letters in English and Chinese whose subject stands in one of three sentences, in any place."""
    forms = (
        (("the report", "our visit", "your order", "the contract", "the party", "my ticket"),
         ("london", "paris", "rome", "cairo"),
         "{} to {} is late.", "{} {}",
         ("thanks for all your help.", "see you soon.", "i hope you are well."), " "),
        (("报告", "订单", "合同", "聚会", "车票"), ("北京", "上海", "广州"),
         "去{1}的{0}晚了。", "{1}{0}", ("谢谢您的帮助。", "祝您一切都好。", "下周再见。"), ""),
    )  # fmt: skip
    draw, rows = random.Random(0), []
    for things, places, sentence, subject, polite, space in forms:
        for thing, place in product(things, places):
            for at in range(3):
                said = draw.sample(polite, 2)
                said.insert(at, sentence.format(thing, place))
                rows.append({"source": space.join(said), "target": subject.format(thing, place)})
    draw.shuffle(rows)
    return rows


def test_letters_are_summarized(plait, tmp_path):
    rows = mails()
    test, subjects = rows[:24], [row["target"] for row in rows[:24]]
    write_rows(tmp_path / "train.jsonl", rows[24:])
    run = train(
        plait, tmp_path, 150,
        data={"pairs": "train.jsonl", "validation": 0.0, "prompt_loss": 1},
        tokenizer={"kind": "bpe", "vocab_size": 320},
        model=SMALL | {"context": 96},
    )  # fmt: skip

    def rouge(answers: list[str]) -> float:
        data = write_rows(
            tmp_path / "test.jsonl", [row | {"target": text} for row, text in zip(test, answers)]
        )
        shown = plait.works("evaluate", run, "--task", "summarize", "--data", data, "--lang", "zh", "--json")
        return {row["metric"]: row["value"] for row in json.loads(shown)["results"]}["rougeL"]

    found, by_chance = rouge(subjects), rouge(subjects[1:] + subjects[:1])
    print(f"ROUGE-L {found:.1f}, of other letters {by_chance:.1f}")
    assert found >= 45
    assert by_chance <= found / 3  # subjects that say nothing of the letter


def test_a_chat_remembers_what_was_said(plait, tmp_path):
    forms = (
        (("anna", "ben", "clara", "david", "emma", "felix"), ("rome", "paris", "cairo", "london"),
         ("i am {0} and live in {1}.", "hello {0}!", "where do i live?", "in {1}.", "and who am i?", "{0}.")),
        (("小明", "小红", "小华", "小丽", "小刚"), ("北京", "上海", "广州"),
         ("我是{0}，我住在{1}。", "{0}，你好！", "我住在哪里？", "在{1}。", "我是谁？", "{0}。")),
    )  # fmt: skip
    talks = [
        {
            "messages": [
                {"role": ("user", "assistant")[at % 2], "content": text.format(who, where)}
                for at, text in enumerate(said)
            ]
        }
        for names, places, said in forms
        for who, where in product(names, places)
    ]
    random.Random(0).shuffle(talks)
    test = write_rows(tmp_path / "test.jsonl", talks[:8])
    write_rows(tmp_path / "train.jsonl", talks[8:])
    run = train(
        plait, tmp_path, 150,
        data={"messages": "train.jsonl", "validation": 0.0},
        tokenizer={"kind": "bpe", "vocab_size": 300},
        model=SMALL | {"context": 96},
    )  # fmt: skip
    shown = plait.works("evaluate", run, "--task", "chat", "--data", test, "--json")
    scores = {row["metric"]: row for row in json.loads(shown)["results"]}
    print(f"{scores['accuracy']['value']:.1f} % of responses right")
    assert scores["accuracy"]["n"] == 24
    assert scores["accuracy"]["value"] >= 70  # by chance 25 at most
    engine = package.Engine(run)
    said = talks[0]["messages"]
    assert package.chat(engine, said[:3], temperature=0) == said[3]["content"]
