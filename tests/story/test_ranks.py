"""Runs on several ranks, as real processes: the same run as one process, and one voice when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plait.checkpoint.resolve import newest

MODEL = {"width": 16, "layers": 4, "heads": 4, "kv_heads": 2, "context": 16, "dropout": 0.0}
EXACT = {
    "dtype": "float64",
    "threads": "auto",
    "steps": 100,
    "batch_size": 8,
    "save_every": 1000,
    "eval_every": 50,
}


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


def farthest(one: Path, other: Path) -> float:
    """The largest difference of any weight or optimizer number of two runs' newest checkpoints."""
    worst = 0.0
    for file in ("model.safetensors", "state/optim.safetensors"):
        a, b = (load_file(newest(run) / file) for run in (one, other))  # type: ignore[operator]
        assert a.keys() == b.keys()
        worst = max(worst, *(float((a[name] - b[name]).abs().max()) for name in a))
    return worst


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Where the run in one process lies, once the first test that needs it has made it."""
    return tmp_path_factory.mktemp("one-process") / "run"


@pytest.fixture
def one_process(plait, recipe, one):
    """A recipe, and the run it makes in one process."""
    path = recipe(model=MODEL, train=EXACT)
    if not one.exists():
        plait.works("train", path, f"out={one}")
    return path, one


def test_a_run_taken_through_four_layouts_is_the_run_of_one_process(one_process, ranks, plait, tmp_path):
    path, one = one_process
    run = tmp_path / "run"
    for layout, stop in (("fsdp=4", 25), ("tp=2,pp=2", 50), ("cp=2,dp=2", 75)):
        words = ("train", path, "--resume", "--layout", layout, f"train.stop_after={stop}")
        for each in ranks(4)(*words):
            assert each.code == 0, each.stderr
        assert newest(run) == run / f"checkpoints/step-{stop:06}"
    plait.works("train", path, "--resume")
    assert farthest(run, one) < 1e-8
    for mine, theirs in zip(log_of(run), log_of(one), strict=True):
        assert mine["step"] == theirs["step"]
        assert mine["tokens"] == theirs["tokens"]
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-10)
        if "val_loss" in theirs:
            assert mine["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-10)
            assert mine["samples"] == theirs["samples"]


def test_a_killed_rank_is_named_and_the_run_ends_as_if_it_had_lived(one_process, plait, tmp_path, wait_until):
    path, one = one_process
    run = tmp_path / "run"
    launcher = plait.start("train", path, "--layout", "fsdp=2", "train.save_every=10")
    wait_until((run / "checkpoints/step-000020").exists, "the second checkpoint")
    victim = children(launcher.pid)[1]
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: "was killed" in launcher.stderr, "the message", seconds=10)
    assert time.monotonic() - killed < 10
    assert launcher.wait().code == 0, launcher.stderr
    assert "rank 1 was killed by SIGKILL at step" in launcher.stderr
    assert "restarting from the last complete checkpoint (attempt 1 of 3)" in launcher.stderr
    assert farthest(run, one) < 1e-8
    assert [row["step"] for row in log_of(run)] == list(range(1, 101))


def test_pairs_train_alike_on_several_ranks(recipe, ranks, plait, tmp_path):
    rows = (f"{'the fox ' * (n % 5 + 1)}{n}\t{'狐狸' * (n % 4 + 1)}{n * n}\n" for n in range(60))
    (tmp_path / "pairs.tsv").write_text("".join(rows), encoding="utf-8")
    path = recipe(
        model=MODEL | {"layers": 2, "encoder_layers": 2, "context": 64},
        train=EXACT | {"steps": 12, "eval_every": 6},
        data={"text": None, "pairs": str(tmp_path / "pairs.tsv"), "format": "tsv"},
    )
    one, run, mixed = (tmp_path / name for name in ("one", "run", "mixed"))
    plait.works("train", path, f"out={one}")
    ended = ranks(2)("train", path, f"out={run}", "--layout", "dp=2")
    ended += ranks(2)("train", path, f"out={mixed}", "--layout", "fsdp=2", "train.stop_after=5")
    assert [each.code for each in ended] == [0] * 4, [each.stderr for each in ended]
    plait.works("train", path, f"out={mixed}", "--resume")
    assert any("encoder." in name for name in load_file(newest(one) / "state/optim.safetensors"))  # type: ignore[operator]
    assert farthest(run, one) < 1e-10
    assert farthest(mixed, one) < 1e-10


def test_elastic_runs_go_on_with_fewer_ranks(one_process, plait, tmp_path, wait_until):
    path, one = one_process
    run = tmp_path / "run"
    launcher = plait.start("train", path, "--layout", "dp=4,elastic=true", "train.save_every=10")
    wait_until((run / "checkpoints/step-000010").exists, "the first checkpoint")
    os.kill(children(launcher.pid)[3], signal.SIGKILL)
    assert launcher.wait().code == 0, launcher.stderr
    assert "layout dp=4 goes on as dp=2" in launcher.stderr
    assert farthest(run, one) < 1e-8


def children(pid: int) -> list[int]:
    """The ranks of a launcher, in order."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    return [int(child) for child in found if b"-m\0plait" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_rank_that_hangs_is_named_after_the_timeout(recipe, ranks, tmp_path, wait_until):
    path = recipe(model=MODEL, train={"steps": 100000, "batch_size": 8, "samples": []})
    running = ranks(2).start("train", path, "--layout", "dp=2,timeout=4")
    wait_until(lambda: len(log_text(tmp_path / "run").splitlines()) > 5, "some steps")
    running[1].kill(signal.SIGSTOP)
    assert running[0].wait().code == 75
    assert "rank 1 stopped answering at step" in running[0].stderr
    assert "Traceback" not in running[0].stderr
    running[1].kill()
    running[1].wait()


def log_text(run: Path) -> str:
    path = run / "log.jsonl"
    return path.read_text("utf-8") if path.exists() else ""


def test_ranks_asked_to_stop_save_once_and_leave_together(recipe, plait, tmp_path, wait_until):
    path = recipe(model=MODEL, train={"steps": 100000, "batch_size": 8})
    launcher = plait.start("train", path, "--layout", "dp=2")
    wait_until(lambda: len(log_text(tmp_path / "run").splitlines()) > 5, "some steps")
    launcher.kill(signal.SIGINT)
    assert launcher.wait().code == 130, launcher.stderr
    assert newest(tmp_path / "run") is not None
    last = log_of(tmp_path / "run")[-1]["step"]
    assert newest(tmp_path / "run") == tmp_path / f"run/checkpoints/step-{last:06}"


def test_ranks_with_different_recipes_are_told_apart_by_one_of_them(recipe, ranks):
    path = recipe(model=MODEL, train={"batch_size": 8})
    ended = ranks(2)(
        "train", path, "--layout", "dp=2", each=lambda rank: {"words": [f"train.lr=0.00{rank + 1}"]}
    )
    assert [each.code for each in ended] == [2, 2]
    said = [line for each in ended for line in each.stderr.splitlines() if line.startswith("plait: ")]
    assert len(said) == 1
    assert said[0] == (
        "plait: rank 1 has train.lr '0.002' where rank 0 has '0.001'; every rank needs the same"
    )


def test_a_run_directory_that_not_all_ranks_see_is_refused(recipe, ranks, tmp_path):
    path = recipe(out="run", model=MODEL, train={"batch_size": 8})
    folders = [tmp_path / "node-0", tmp_path / "node-1"]
    for folder in folders:
        folder.mkdir()
    ended = ranks(2)("train", path, "--layout", "dp=2", each=lambda rank: {"cwd": folders[rank]})
    assert [each.code for each in ended] == [2, 2]
    said = [line for each in ended for line in each.stderr.splitlines() if line.startswith("plait: ")]
    assert said == ["plait: rank 1 does not see run of rank 0: out must be on a disk that all nodes share"]


def test_an_error_of_the_first_rank_is_said_once_and_all_leave(recipe, ranks, tmp_path):
    path = recipe(model=MODEL, data={"text": str(tmp_path / "missing.txt")}, train={"batch_size": 8})
    ended = ranks(2)("train", path, "--layout", "dp=2")
    assert [each.code for each in ended] == [2, 2]
    said = [line for each in ended for line in each.stderr.splitlines() if line.startswith("plait: ")]
    assert len(said) == 1
    assert "missing.txt" in said[0]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            "dp=3",
            "the 8 rows of a batch cannot be divided among the 3 ranks of dp; use train.batch_size=6 or 9",
        ),
        ("tp=3", "layout.tp=3 does not divide model.heads=4; use tp from [1, 2, 4]"),
        ("pp=3", "layout.pp=3 with 1 stage(s) a rank does not divide model.layers=4; use pp from [1, 2, 4]"),
        ("pp=8", "layout.pp=8 makes 8 stages of model.layers=4; use fewer stages"),
        ("cp=3", "layout.cp=3 does not divide half of the context=8"),
        ("ep=2", "layout.ep=2 divides experts, but model.experts=0"),
        ("pp=2,schedule=zvb", "layout.schedule"),
        ("dq=2", "dq"),
    ],
)
def test_what_a_layout_cannot_divide_is_said_before_any_rank_starts(layout, message, recipe, plait):
    path = recipe(model=MODEL, train={"batch_size": 8})
    assert message in plait.refuses("train", path, "--layout", layout)


def test_a_layout_of_other_ranks_than_were_started_is_refused(recipe, ranks):
    ended = ranks(2)("train", recipe(model=MODEL, train={"batch_size": 8}), "--layout", "dp=4")
    assert [each.code for each in ended] == [2, 2]
    assert "layout dp=4 needs 4 ranks, but 2 were started" in ended[0].refusal


def test_float_weights_come_from_one_checkpoint_whatever_the_layout(one_process):
    _, one = one_process
    weights = load_file(newest(one) / "model.safetensors")  # type: ignore[operator]
    assert all(value.dtype == torch.float64 for value in weights.values())


SLOW = """
from time import sleep
from plait.data.loader import Loader
batch = Loader.batch
Loader.batch = lambda self, step: sleep(0.1) or batch(self, step)
"""


def test_a_rank_that_is_three_times_slower_is_reported(recipe, ranks):
    path = recipe(model=MODEL, train={"steps": 45, "batch_size": 8, "samples": [], "eval_every": 1000})
    first, other = ranks(2)(
        "train", path, "--layout", "dp=2", each=lambda rank: {"plant": SLOW if rank == 1 else ""}
    )
    assert [first.code, other.code] == [0, 0], first.stderr
    assert first.stderr.count("rank 1 is a straggler: its own work took ") == 1
    assert "straggler" not in other.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_rounded_files_resume_exactly(count, recipe, ranks, plait, tmp_path):
    exact = {**EXACT, "steps": 12, "save_dtype": "float32", "ema": 0.9, "samples": []}
    path, run, whole = recipe(model=MODEL, train=exact), tmp_path / "run", tmp_path / "whole"
    plait.works("train", path, f"out={whole}", "train.save_dtype=float64")
    words = ("train", path, "--resume", "--layout", f"fsdp={count}", "train.stop_after=5")
    for each in ranks(count)(*words) if count > 1 else [plait(*words)]:
        assert each.code == 0, each.stderr
    plait.works("train", path, "--resume")
    mine, theirs = (newest(each) for each in (run, whole))
    assert mine is not None
    assert theirs is not None
    kept, expected = load_file(mine / "state/weights.safetensors"), load_file(theirs / "model.safetensors")
    sums = [sum(float(tensor.abs().sum()) for tensor in each.values()) for each in (kept, expected)]
    assert sums[0] == pytest.approx(sums[1], abs=1e-9)
    rounded = load_file(mine / "average/model.safetensors")
    assert all(value.dtype == torch.float32 for value in rounded.values())


@pytest.mark.long
def test_torchrun_starts_a_run_again_after_a_kill(one_process, tmp_path, wait_until):
    path, one = one_process
    run = tmp_path / "run"
    plait_words = ["train", str(path), "--layout", "fsdp=2", "--resume", "train.save_every=10"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=2"]
    command += ["--monitor-interval=0.1", "--module", "plait", *plait_words]
    with (tmp_path / "torchrun.err").open("wb") as err:
        agent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)
        wait_until((run / "checkpoints/step-000020").exists, "the second checkpoint")
        os.kill(children(agent.pid)[1], signal.SIGKILL)
        assert agent.wait(180) == 0, (tmp_path / "torchrun.err").read_text("utf-8")
    assert "resuming" in (tmp_path / "torchrun.err").read_text("utf-8")
    assert farthest(run, one) < 1e-8
