import pytest

from plait.config import build
from plait.recipes.dry_run import dry_run
from plait.recipes.recipe import Recipe

TEXT = "".join(f"Line {n}: the quick brown fox jumps over the lazy dog.\n" for n in range(60))
MODEL = {"width": 16, "layers": 1, "heads": 2, "context": 32}


def run(tmp_path, **train) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    recipe = {
        "out": str(tmp_path / "run"),
        "data": {"text": str(tmp_path / "a.txt")},
        "tokenizer": {"kind": "byte"},
        "model": MODEL,
        "train": {"batch_size": 4, "micro_batch": 2, "threads": 1} | train,
    }
    dry_run(build(Recipe, recipe))


@pytest.mark.parametrize(
    ("train", "steps", "dtype"),
    [({"steps": 50}, "50", "float32"), ({"minutes": 3}, "what 3 minutes allow", "float64")],
)
def test_it_tells_what_a_run_would_cost_and_keeps_nothing(tmp_path, capsys, train, steps, dtype):
    run(tmp_path, dtype=dtype, **train)
    out = capsys.readouterr().out
    assert "dry run: nothing is trained" in out
    assert steps in out
    assert "4 rows of 32, 2 at a time" in out
    for what in ("parameters", "vocabulary", "261", "optimizer", "activations", "checkpoint", "tokens/s"):
        assert what in out
    assert "predicted training time" in out
    assert ("3m00s" in out) == ("minutes" in train)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_it_shows_the_first_batch_in_words(tmp_path, capsys):
    run(tmp_path, steps=1)
    batch = capsys.readouterr().out.partition("---")[2]
    assert "⟦" in batch  # read, not learned: what a row begins with
    assert any(word in batch for word in ("quick", "brown", "jumps", "lazy"))
