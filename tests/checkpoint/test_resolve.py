import re
from pathlib import Path

import pytest

from plait.checkpoint.directory import load_model, save, weights_of
from plait.checkpoint.resolve import resolve, weights_digest
from plait.checkpoint.run import save_checkpoint
from plait.errors import ModelError
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder

CONFIG = ModelConfig(vocab=10, width=8, layers=1, heads=2, context=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose second of three checkpoints is best, the newest with averaged weights."""
    where = tmp_path_factory.mktemp("runs") / "poems"
    weights = dict(Decoder(CONFIG).named_parameters())
    for step, loss in ((5, 3.0), (10, 2.0), (1000000, 2.5)):
        average = {name: tensor * 0 + 7 for name, tensor in weights.items()} if step > 10 else None
        save_checkpoint(
            where, step, weights=weights, config=CONFIG, tokenizer=None, optim={},
            state={"val_loss": loss}, average=average,
        )  # fmt: skip
    return where


@pytest.mark.parametrize(
    ("model", "means"),
    [
        ("", "step-1000000"),
        (":best", "step-000010"),
        (":average", "step-1000000/average"),
        ("/checkpoints/step-000005", "step-000005"),
        ("/checkpoints/step-1000000:average", "step-1000000/average"),
    ],
)
def test_model_means_a_directory(model, means, run):
    assert resolve(f"{run}{model}") == run / "checkpoints" / means


def test_averaged_weights_load_like_any_model(run):
    assert all((tensor == 7).all() for tensor in weights_of(load_model(f"{run}:average"))[1].values())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{run}x", "model '.*poemsx' does not exist; did you mean 'poems'"),
        ("{run}:bets", "':bets' is not a choice of checkpoint; did you mean 'best'"),
        ("{run}:7", "':7' is not a choice of checkpoint; known: ':best', ':average'"),
        ("{run}/checkpoints/step-000005:best", "is not a run directory, so it has no ':best'"),
        ("{run}/checkpoints/step-000005:average", "holds no averaged weights"),
        ("{run}/checkpoints/step-000005/state", "is not a model or run directory: it has no config.json"),
        ("{run}/checkpoints/last", "last is a file; give the model directory it lies in"),
        ("/nowhere/at/all", "model '/nowhere/at/all' does not exist"),
    ],
)
def test_what_is_no_model_is_explained(model, message, run):
    with pytest.raises(ModelError, match=message):
        resolve(model.format(run=run))


def test_a_folder_of_models_names_one(tmp_path):
    save(Decoder(CONFIG), None, tmp_path / "models" / "small")
    with pytest.raises(ModelError, match=f"did you mean '{re.escape(str(tmp_path / 'models' / 'small'))}'"):
        resolve(tmp_path / "models")


def test_a_run_without_a_checkpoint_and_without_a_loss(tmp_path):
    (tmp_path / "checkpoints" / "step-000005").mkdir(parents=True)  # empty: nothing complete
    with pytest.raises(ModelError, match="holds no complete checkpoint yet"):
        resolve(tmp_path)
    weights = dict(Decoder(CONFIG).named_parameters())
    save_checkpoint(tmp_path, 7, weights=weights, config=CONFIG, tokenizer=None, optim={}, state={})
    assert resolve(tmp_path).name == "step-000007"
    with pytest.raises(ModelError, match=r"no checkpoint has a val_loss yet; set train\.eval_every"):
        resolve(f"{tmp_path}:best")


def test_a_directory_with_a_colon_in_its_name_is_itself(tmp_path):
    save(Decoder(CONFIG), None, tmp_path / "model:best")
    assert resolve(tmp_path / "model:best") == tmp_path / "model:best"


def test_weights_of_one_name_are_told_apart(tmp_path):
    for name in "ab":
        save(Decoder(CONFIG), None, tmp_path / name)
    first = weights_digest(tmp_path / "a")
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert first == weights_digest(tmp_path / "a")
    assert first != weights_digest(tmp_path / "b"), "weights are drawn anew"
