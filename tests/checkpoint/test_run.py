import errno
import json
import os
import re
import resource
import shutil
from pathlib import Path

import pytest
import torch

from plait.checkpoint import run
from plait.checkpoint.directory import load
from plait.checkpoint.resolve import best, newest, step_directories
from plait.checkpoint.run import disk_use, load_checkpoint, prune, save_checkpoint
from plait.errors import ModelError, TrainingError
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.text.train_tokenizer import train

TOKENIZER = train(["a"], kind="byte")
CONFIG = ModelConfig(vocab=TOKENIZER.vocab_size, width=16, layers=2, heads=2, context=16, dropout=0.1)


def parts(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict:
    model = Decoder(CONFIG)
    initialize(model, seed)
    weights = {name: tensor.detach().to(dtype) for name, tensor in model.named_parameters()}
    slots = {
        name: {
            "exp_avg": torch.randn_like(tensor),
            "exp_avg_sq": torch.rand_like(tensor),
            "step": torch.tensor(3.0),
        }
        for name, tensor in weights.items()
    }
    return {"weights": weights, "config": CONFIG, "tokenizer": TOKENIZER, "optim": slots}


def save_one(where: Path, step: int, seed: int = 0, **options) -> Path:
    return save_checkpoint(where, step, **{"state": {"epoch": 1}, **parts(seed), **options})


def copies(named) -> dict:
    return {name: tensor.clone() for name, tensor in named}


def slots_of(checkpoint) -> dict:
    found: dict = {}
    for name, slot, tensor in checkpoint.optim():
        found.setdefault(name, {})[slot] = tensor.clone()
    return found


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("save_dtype", ["float32", "bfloat16"])
def test_everything_comes_back_bit_for_bit_whatever_the_files_dtype(dtype, save_dtype, tmp_path):
    given = parts(dtype=dtype)
    average = {name: tensor / 3 for name, tensor in given["weights"].items()}
    state = {"epoch": 2, "rng": [1, 2**63], "name": "唐诗", "val_loss": 2.5}
    where = save_checkpoint(tmp_path, 12, state=state, average=average, save_dtype=save_dtype, **given)
    back = load_checkpoint(where)
    assert (back.step, back.state, back.config) == (12, state, CONFIG)
    assert back.versions == run.versions()
    weights, averaged = copies(back.weights()), copies(back.average())
    if dtype == torch.bfloat16 and save_dtype == "float32":  # stored wider, equal in value
        weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        averaged = {name: tensor.to(dtype) for name, tensor in averaged.items()}
    assert_equal(weights, given["weights"])
    assert back.has_average
    assert_equal(averaged, average)
    assert slots_of(back).keys() == given["optim"].keys()
    for name, slots in given["optim"].items():
        assert_equal(slots_of(back)[name], slots)


def test_the_step_directory_is_a_model_directory_with_state_beside_it(tmp_path):
    where = save_one(tmp_path, 500)
    assert where == tmp_path / "checkpoints" / "step-000500"
    assert {path.name for path in where.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "README.md",
        "state",
    }
    assert {path.name for path in (where / "state").iterdir()} == {"optim.safetensors", "state.json"}
    assert (tmp_path / "checkpoints" / "last").read_text() == "step-000500"
    assert disk_use(tmp_path) == sum(path.stat().st_size for path in where.rglob("*") if path.is_file()) + 11


def test_large_optimizers_are_sharded_like_the_model(tmp_path):
    where = save_one(tmp_path, 1, max_shard=5_000)
    assert len(list((where / "state").glob("optim-0*.safetensors"))) > 3
    assert slots_of(load_checkpoint(where)).keys() == parts()["optim"].keys()


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    for step, loss in ((1, 3.0), (2, 1.5), (3, 2.0), (4, 2.5), (5, None)):
        save_one(tmp_path, step, state={"val_loss": loss})
    assert best(tmp_path) == tmp_path / "checkpoints" / "step-000002"
    assert prune(tmp_path, keep_last=0) == []
    gone = prune(tmp_path, keep_last=2)
    assert [path.name for path in gone] == ["step-000001", "step-000003"]
    prune(tmp_path, keep_last=1, keep_best=False)
    assert [path.name for path in step_directories(tmp_path)] == ["step-000005"]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_checkpoint_saved_again_replaces_the_old_one(tmp_path):
    save_one(tmp_path, 3, seed=1)
    where = save_one(tmp_path, 3, seed=2)
    assert_equal(copies(load_checkpoint(where).weights()), parts(2)["weights"])
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["last", "step-000003"]


def damage_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": (damage_byte, "is damaged: its sha256"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-10]), r"is cut short: [\d,]+ bytes of [\d,]+"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "is changed: "),
    "gone": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "state/optim.safetensors", "config.json"])
def test_a_damaged_file_is_named_with_the_last_good_checkpoint(how, name, tmp_path):
    for step in (1, 2, 3):
        save_one(tmp_path, step)
    first, second, third = step_directories(tmp_path)
    (second / "model.safetensors").write_bytes(b"")
    change, problem = DAMAGE[how]
    change(third / name)
    with pytest.raises(ModelError) as caught:
        load_checkpoint(third)
    assert re.match(f"{re.escape(str(third / name))} {problem}", str(caught.value))
    assert f"the last good checkpoint is {first}: delete {third} to go on from there" in str(caught.value)


def test_damaged_averages_are_named_and_nothing_else_is(tmp_path):
    where = save_one(tmp_path, 1, average=parts()["weights"])
    damage_byte(where / "average" / "model.safetensors")
    with pytest.raises(ModelError, match=r"average/model\.safetensors is damaged"):
        load(f"{tmp_path}:average")
    load(tmp_path)


def test_what_prune_is_asked_to_keep_it_keeps(tmp_path):
    saved = [save_one(tmp_path, step) for step in (1, 2, 3)]
    assert prune(tmp_path, 1, also=saved[:1]) == [saved[1]]


def test_a_damaged_state_is_named_and_the_run_goes_on_without_it(tmp_path):
    where = save_one(tmp_path, 1)
    path = where / "state" / "state.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"step": 2}))  # valid JSON, but not what was written
    with pytest.raises(ModelError, match=r"state\.json is damaged or missing; the run has no other good"):
        load_checkpoint(where)


def test_what_is_not_a_checkpoint_is_said(tmp_path):
    with pytest.raises(ModelError, match=r"is not a checkpoint of a run: it has no state/state\.json"):
        load_checkpoint(tmp_path)


# --- a full disk -------------------------------------------------------------------------------------------


def test_a_disk_too_small_is_noticed_before_writing(tmp_path, monkeypatch):
    good = save_one(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 2_000_000))
    message = (
        r"no disk space for .*step-000002: 16\.\d MiB are needed, 1\.9 MiB are free; "
        rf"free some or write to another disk; the last good checkpoint is {re.escape(str(good))}"
    )
    with pytest.raises(TrainingError, match=message):
        save_one(tmp_path, 2)
    assert newest(tmp_path) == good


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_no_debris(tmp_path, monkeypatch):
    """The disk, or the user's share of it, is full at every single place where something is brought to it."""
    good = save_one(tmp_path, 1)
    sync, calls = os.fsync, iter(range(1_000))
    monkeypatch.setattr(os, "fsync", lambda handle: (next(calls), sync(handle)))
    save_one(tmp_path, 1)
    for full_at in range(next(calls)):
        code = (errno.ENOSPC, errno.EDQUOT)[full_at % 2]

        def full(handle, calls=iter(range(1_000)), full_at=full_at, code=code):  # noqa: B008
            if next(calls) >= full_at:
                raise OSError(code, os.strerror(code))
            sync(handle)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match="no disk space for"):
            save_one(tmp_path, 2)
        left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
        assert left <= {"last", "step-000001", "step-000002"}
        assert load_checkpoint(good).step == 1
        assert load_checkpoint(newest(tmp_path) or good).step in (1, 2)


def test_the_systems_own_refusal_to_write_is_caught(tmp_path):
    """A real one: the largest file a process may write is smaller than the weights."""
    good = save_one(tmp_path, 1)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, limit[1]))
    try:
        with pytest.raises(TrainingError, match=r"are needed, .* are free.*last good checkpoint"):
            save_one(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["last", "step-000001"]
    assert newest(tmp_path) == good
