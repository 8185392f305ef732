import json

import pytest

from plait.config import build
from plait.recipes.plan import begin
from plait.recipes.ranks import Ranks
from plait.recipes.recipe import Recipe
from plait.recipes.train import open_run
from plait.text.tokenizer import Tokenizer


def recipe(tmp_path, **given):
    values = {
        "out": str(tmp_path / "run"),
        "data": {"text": str(tmp_path / "a.jsonl"), "validation": 0.2},
        "tokenizer": {"kind": "char"},
        "model": {"width": 16, "layers": 1, "heads": 2, "context": 8},
        "train": {"steps": 1, "batch_size": 4, "micro_batch": 2, "threads": 1, "dtype": "float32"},
    }
    return build(Recipe, values | given)


@pytest.fixture
def poems(tmp_path):
    """Fifty texts, each with a character of its own."""
    texts = [f"poem {chr(0x4E00 + n)}" for n in range(50)]
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    return texts


def opened(directory, recipe):
    return open_run(directory, begin(directory, recipe), Ranks())


def test_a_recipe_s_tokenizer_knows_the_training_text_only(tmp_path, poems):
    stage = opened(tmp_path / "run", recipe(tmp_path))
    tokenizer = Tokenizer.load(tmp_path / "run" / "tokenizer")
    known = {text for text in poems if tokenizer.token_id(text[-1]) is not None}

    def texts(source):
        return {
            tokenizer.decode(source.shards.read(int(n)).tolist(), skip_special=True)
            for row in range(source.rows.count)
            for n in source.rows.pieces(row)[:, 0]
        }

    assert known == texts(stage.data.train[0])
    assert texts(stage.data.validation[0]) == set(poems) - known
    assert len(known) == 40


def test_a_batch_that_holds_a_row_twice_is_said_once(tmp_path, poems, capsys):
    opened(tmp_path / "enough", recipe(tmp_path))
    assert "different ones" not in capsys.readouterr().err
    train = {"steps": 1, "batch_size": 64, "micro_batch": 2, "threads": 1, "dtype": "float32"}
    opened(tmp_path / "few", recipe(tmp_path, train=train))
    said = capsys.readouterr().err
    assert "the 64 rows of a step are only 40 different ones, as the data makes 40 rows; add text" in said
