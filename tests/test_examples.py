import math
import re
import runpy
from pathlib import Path

import pytest
import torch

ARTICLE = Path(__file__).parents[1] / "examples" / "article.py"
QUICK = (
    "--characters 60000 --vocab-size 400 --embedding-dim 32 --num-heads 2 --num-layers 1 --context 32 "
    "--epochs 3 --lr 3e-3"
)


@pytest.fixture(scope="module")
def article() -> dict:
    return runpy.run_path(str(ARTICLE))


def test_the_toy_learns_what_comes_next_in_text_it_never_saw(article, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["article.py", *QUICK.split()])
    article["main"]()
    out = capsys.readouterr().out
    held_out = [float(loss) for loss in re.findall(r"held out (\d+\.\d+)", out)]
    assert len(held_out) == 3
    assert held_out[0] > held_out[1] > held_out[2]
    assert held_out[-1] < math.log(400) - 1.0
    assert "knowing nothing: loss 5.99" in out
    assert "The statement" in out


def test_every_token_is_a_target_once_and_after_its_input(article):
    tokens = torch.arange(50)
    rows = article["rows"](tokens, 8)
    assert rows[:, 1:].flatten().tolist() == list(range(1, 49))
    assert torch.equal(rows[:, 1:], rows[:, :-1] + 1)
    batches = torch.cat(list(article["shuffled"](rows, 4)))
    assert sorted(batches[:, 0].tolist()) == rows[:, 0].tolist()


def test_the_loss_never_sees_the_answer(article):
    import plait

    model = plait.Decoder(plait.ModelConfig(vocab=11, width=16, heads=2, layers=2, context=8, init_std=0.3))
    plait.initialize(model, 0)
    row = torch.arange(9)[None] % 11
    logits = model(row[:, :-1])
    other = row.clone()
    other[0, 5:] = 10
    torch.testing.assert_close(model(other[:, :-1])[:, :5], logits[:, :5])
    by_hand = -logits.log_softmax(-1)[0, torch.arange(8), row[0, 1:]].mean()
    torch.testing.assert_close(article["next_token_loss"](model, row), by_hand)


def test_the_full_sizes_are_those_printed(article, monkeypatch):
    monkeypatch.setattr("sys.argv", ["article.py", "--full", "--epochs", "1"])
    sizes = article["arguments"]()
    assert (sizes.vocab_size, sizes.embedding_dim, sizes.num_heads, sizes.num_layers) == (10_000, 512, 8, 6)
    assert (sizes.lr, sizes.epochs) == (1e-3, 1)
    monkeypatch.setattr("sys.argv", ["article.py"])
    assert article["arguments"]().epochs == 10
