"""Applications in miniature: a model learns one in seconds, on combinations it has not seen."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from plait.config import dump_yaml

WORDS = (  # in the order of English; Chinese says when first
    {"the cat": "猫", "the dog": "狗", "my friend": "我的朋友", "a teacher": "老师", "she": "她", "he": "他"},
    {"sees": "看见", "buys": "买", "likes": "喜欢", "finds": "找到", "paints": "画"},
    {"two": "两", "three": "三", "four": "四", "five": "五", "ten": "十"},
    {"red": "红色的", "small": "小", "old": "旧", "white": "白色的"},
    {"boats": "船", "flowers": "花", "books": "书", "birds": "鸟", "chairs": "椅子"},
    {"today": "今天", "in winter": "冬天", "at night": "晚上", "every day": "每天"},
)
FLOOR = 60.0  # BLEU that a model which does not read its source cannot reach


def sentences(count: int) -> list[tuple[str, str]]:
    """Different ones, with their translations."""
    chance, made = random.Random(0), dict[str, str]()
    while len(made) < count:
        chosen = [chance.choice(list(words.items())) for words in WORDS]
        english, chinese = ([each[side] for each in chosen] for side in (0, 1))
        made[" ".join(english)] = "".join([chinese[-1], *chinese[:-1]])
    return list(made.items())


def write(folder: Path, name: str, pairs: list[tuple[str, str]]) -> list[str]:
    """Two aligned files."""
    paths = [folder / f"{name}.{language}" for language in ("en", "zh")]
    for path, lines in zip(paths, zip(*pairs)):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return [str(path) for path in paths]


def bleu(plait, folder: Path, *words: str) -> float:
    """BLEU of a model over aligned files, from `scores.json`."""
    plait.works("evaluate", *words, "--lang", "zh", "--out", folder / "scores.json")
    results = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["results"]
    return next(score["value"] for score in results if score["metric"] == "bleu")


@pytest.fixture(scope="module")
def translator(plait, tmp_path_factory) -> Path:
    """A folder with `run`, trained on `train.*`, and the sentences of `test.*` that it has not seen."""
    folder = tmp_path_factory.mktemp("translation")
    pairs = sentences(1250)
    recipe = {
        "out": "run",
        "data": {"pairs": write(folder, "train", pairs[:1200]), "validation": 0.05},
        "tokenizer": {"kind": "bpe", "vocab_size": 400},
        "model": {"width": 64, "layers": 2, "encoder_layers": 2, "heads": 4, "kv_heads": 4, "context": 48},
        "train": {
            "steps": 90, "batch_size": 32, "lr": 4e-3, "warmup": 10, "label_smoothing": 0.1, "threads": 1,
            "dtype": "float32", "compile": False, "tensorboard": False, "eval_every": 45, "save_every": 90,
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    write(folder, "test", pairs[1200:])
    plait.works("train", "recipe.yaml", cwd=folder)
    return folder


def test_a_model_translates_sentences_it_has_not_seen(plait, translator, tmp_path):
    data = [str(translator / "test.en"), str(translator / "test.zh")]
    learned = bleu(plait, tmp_path, translator / "run", "--task", "translate", "--data", *data)
    assert learned > FLOOR
    lines = Path(data[0]).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "other.en").write_text("".join(lines[1:] + lines[:1]), encoding="utf-8")
    others = [str(tmp_path / "other.en"), data[1]]
    assert bleu(plait, tmp_path, translator / "run", "--task", "translate", "--data", *others) < FLOOR / 3

    plait.works("translate", translator / "run", "--input", data[0], "--output", tmp_path / "out.zh")
    again = bleu(
        plait, tmp_path, "--hypotheses", tmp_path / "out.zh", "--references", data[1], "--metric", "bleu"
    )
    assert again == pytest.approx(learned)


def test_a_sentence_a_pipe_and_a_file_are_translated_alike(plait, translator, tmp_path):
    english = ["she buys two old books at night", "", "the dog finds ten white birds today"]
    text, model, out = "".join(f"{line}\n" for line in english), translator / "run", tmp_path / "out.zh"
    (tmp_path / "in.en").write_text(text, encoding="utf-8")
    piped = plait.works("translate", model, stdin=text)
    assert piped.splitlines()[1] == ""
    assert plait.works("translate", model, english[0]) == piped.splitlines(keepends=True)[0]
    plait.works("translate", model, "--input", tmp_path / "in.en", "--output", out, "--beams", 5)
    assert out.read_text(encoding="utf-8") == piped
    assert plait.refuses("translate", model, "--input", tmp_path / "in.en", "--output", out) == (
        f"{out} is there already; name another --output, or remove it"
    )
