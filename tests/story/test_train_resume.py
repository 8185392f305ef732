"""A training run can be interrupted anyhow, at any instant, and goes on as if nothing had happened."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

CLOCK = ("tokens_per_s", "peak_share")  # all else in a log row is the same in every run
KINDS = {
    "plain": {},
    "accumulation": {"train": {"batch_size": 6, "micro_batch": 2}},
    "ema": {"train": {"ema": 0.9}},
    "muon": {"train": {"optimizer": "muon", "average_last": 2}},
    "mixture": {"data": {"validation": 0.2}},
}


def mixed(folder: Path) -> dict:
    (folder / "zh.txt").write_text("".join(f"第{n}首：床前明月光。\n" for n in range(90)), encoding="utf-8")
    sources = {"en": {"path": str(folder / "input.txt"), "weight": 2}, "zh": {"path": str(folder / "zh.txt")}}
    return {"data": {"text": sources, "validation": 0.2}}


def log_of(rows, run: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows(run)]


def newest(run: Path) -> Path:
    return run / "checkpoints" / (run / "checkpoints" / "last").read_text(encoding="utf-8").strip()


def same_tensors(one: Path, other: Path) -> bool:
    """Weights, averages and optimizer state, to the last bit."""
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    for file in files:
        mine, theirs = load_file(one / file), load_file(other / file)
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), f"{file}: {name}"
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_instants_a_run_ends_as_if_it_never_was(
    kind, plait, recipe, rows, tmp_path, wait_until
):
    change = mixed(tmp_path) if kind == "mixture" else KINDS[kind]
    path, run, whole = recipe(**change), tmp_path / "run", tmp_path / "whole"
    plait.works("train", path, f"out={whole}")
    expected = log_of(rows, whole)
    assert [row["step"] for row in expected] == list(range(1, 31))
    if kind == "mixture":
        assert set(expected[-1]["val_by"]) == {"en", "zh"}

    for _ in range(3):
        done = len(rows(run))
        running = plait.start("train", path, "--resume")
        goal = done + random.randrange(2, 8)

        def there(goal: int = goal, running: Any = running) -> bool:
            return goal <= len(rows(run)) or not running.alive

        wait_until(there, f"step {goal}")
        time.sleep(random.uniform(0, 0.05))
        running.kill()
        running.wait()
        if running.code == 0:
            break
        assert running.code == -signal.SIGKILL
        assert log_of(rows, run) == expected[: len(rows(run))]
    plait.works("train", path, "--resume")
    assert log_of(rows, run) == expected
    assert same_tensors(newest(run), newest(whole))
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]


def test_rows_after_the_checkpoint_are_done_again_not_doubled(plait, recipe, rows, tmp_path):
    path, run = recipe(), tmp_path / "run"
    plait.works("train", path, "train.stop_after=8")
    kept = rows(run)
    lost = [{**kept[-1], "step": step, "loss": 99.0} for step in (9, 10, 11)]
    with (run / "log.jsonl").open("a", encoding="utf-8") as log:
        log.writelines(json.dumps(row) + "\n" for row in lost)
        log.write('{"step": 12, "lo')  # cut short by the kill
    run_again = plait("train", path, "--resume", "train.stop_after=10")
    assert f"resuming {run} after step 8" in run_again.stderr
    assert [row["step"] for row in rows(run)] == list(range(1, 11))
    assert rows(run)[:8] == kept
    assert all(row["loss"] < 10 for row in rows(run))


def test_killed_before_its_first_checkpoint_a_run_begins_again(plait, recipe, rows, tmp_path, wait_until):
    path, run, whole = recipe(train={"save_every": 30}), tmp_path / "run", tmp_path / "whole"
    plait.works("train", path, f"out={whole}")
    running = plait.start("train", path)
    wait_until(lambda: rows(run), "the first step")
    running.kill()
    running.wait()
    (tmp_path / "input.txt").unlink()  # the data are in the run directory already
    again = plait("train", path, "--resume")
    assert again.code == 0, again.stderr
    assert f"resuming {run} after step 0" in again.stderr
    assert log_of(rows, run) == log_of(rows, whole)


def test_a_run_with_a_tokenizer_made_before_goes_on_without_a_checkpoint(plait, recipe, rows, tmp_path):
    path, run = recipe(), tmp_path / "run"
    plait.works("tokenizer", tmp_path / "input.txt", "--kind", "char", "--out", tmp_path / "tok")
    text = path.read_text(encoding="utf-8").replace("tokenizer: {kind: char}", f"tokenizer: {tmp_path}/tok")
    path.write_text(text, encoding="utf-8")
    plait.works("train", path, "train.stop_after=2")
    first = log_of(rows, run)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(tmp_path / "tok")
    again = plait("train", path, "--resume", "train.stop_after=2")
    assert again.code == 0, again.stderr
    assert log_of(rows, run) == first


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_a_run_saves_and_says_so(number, code, recipe, rows, tmp_path, wait_until, plait):
    path, run = recipe(train={"save_every": 300, "eval_every": 300, "steps": 300}), tmp_path / "run"
    words = [sys.executable, "-m", "plait", "train", str(path)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet) as own:
        wait_until(lambda: len(rows(run)) > 2, "the third step")
        own.send_signal(number)
        out, err = own.communicate(timeout=60)
    assert own.returncode == code, err
    assert "stopping after this step and saving; once more to stop at once" in err
    assert "Traceback" not in err
    assert out == ""
    saved = int(newest(run).name.removeprefix("step-"))
    assert saved == len(rows(run)) < 300
    assert f"step-{saved:06}" in err
    plait.works("train", path, "--resume", f"train.stop_after={saved + 2}")
    assert [row["step"] for row in rows(run)] == list(range(1, saved + 3))


def test_a_second_run_in_one_directory_is_told_who_is_there(plait, recipe, tmp_path, rows, wait_until):
    path, run = recipe(train={"steps": 10**6, "save_every": 10**6, "eval_every": 10**6}), tmp_path / "run"
    running = plait.start("train", path)
    wait_until(lambda: rows(run), "the first step")
    for words in (["train", path], ["train", path, "--resume"]):
        refusal = plait_beside(words)
        assert f"{run} is in use by process {running.pid}; wait for it, stop it" in refusal
    running.kill()
    running.wait()
    with (run / ".lock").open("a") as lock:  # a killed run leaves no lock
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def plait_beside(words: list) -> str:
    command = [sys.executable, "-m", "plait", *map(str, words)]
    beside = subprocess.run(command, capture_output=True, text=True, check=False)
    assert beside.returncode == 2
    assert "Traceback" not in beside.stderr
    return beside.stderr


def test_stop_after_is_a_pause(plait, recipe, rows, tmp_path):
    path, run, whole = recipe(), tmp_path / "run", tmp_path / "whole"
    plait.works("train", path, f"out={whole}")
    plait.works("train", path, "train.stop_after=7")
    assert len(rows(run)) == 7
    assert newest(run).name == "step-000007"
    plait.works("train", path, "--resume", "train.stop_after=13", "train.save_every=2", "train.keep_last=1")
    plait.works("train", path, "--resume")
    paused = log_of(rows, run)
    assert [row["loss"] for row in paused] == [row["loss"] for row in log_of(rows, whole)]
    assert same_tensors(newest(run), newest(whole))


def test_what_a_resume_refuses_and_what_it_accepts(plait, recipe, rows, tmp_path):
    path, run = recipe(), tmp_path / "run"
    first = plait.works("train", path, "train.stop_after=4")
    assert first == f"{run}/checkpoints/step-000004\n"
    before = sorted(run.rglob("*")), (run / "log.jsonl").read_bytes()
    assert f"{run} holds a run already; add --resume to continue it" in plait.refuses("train", path)
    for change, message in {
        "train.lr=1": "train.lr was 0.003 when this run began and is 1.0 now; resume with the old value",
        "seed=1": "seed was 1337 when this run began and is 1 now",
        "model.dropout=0": "model.dropout was 0.2 when this run began and is 0.0 now",
        "data.validation=0.2": "data.validation was 0.1 when this run began and is 0.2 now",
        "train.steps=60": "train.steps was 30 when this run began and is 60 now",
    }.items():
        assert message in plait.refuses("train", path, "--resume", change)
    assert (sorted(run.rglob("*")), (run / "log.jsonl").read_bytes()) == before
    moved = tmp_path / "moved"
    run.rename(moved)
    plait.works("train", path, "--resume", f"out={moved}", "train.keep_last=5", "train.stop_after=5")
    assert [row["step"] for row in rows(moved)] == [1, 2, 3, 4, 5]


def test_a_finished_run_says_so_and_stays_as_it_is(plait, recipe, tmp_path):
    path, run = recipe(train={"steps": 4}), tmp_path / "run"
    plait.works("train", path)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    again = plait("train", path, "--resume")
    assert (again.code, again.stdout) == (0, f"{run}/checkpoints/step-000004\n")
    assert f"{run} is finished: {run}/checkpoints/step-000004" in again.stderr
    after = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert after == before


def test_a_kill_between_a_checkpoint_and_its_name_is_mended(plait, recipe, tmp_path):
    path, last = recipe(train={"steps": 8}), tmp_path / "run" / "checkpoints" / "last"
    plait.works("train", path)
    last.write_text("step-000004", encoding="utf-8")
    plait.works("train", path, "--resume")
    assert last.read_text(encoding="utf-8") == "step-000008"


def test_resume_starts_where_there_is_nothing_to_resume(plait, recipe, rows, tmp_path):
    plait.works("train", recipe(train={"steps": 2}), "--resume")
    assert len(rows(tmp_path / "run")) == 2


def test_an_explosion_stops_with_step_documents_and_the_last_good_checkpoint(plait, recipe, rows, tmp_path):
    path, run = recipe(), tmp_path / "run"
    absurd = ["train.lr=1e6", "train.clip=0", "train.warmup=0", "model.tied=false", "model.qk_norm=false"]
    message = plait.refuses("train", path, *absurd, "train.save_every=1")
    step = len(rows(run)) + 1
    assert message.startswith(f"step {step}: the loss is ")
    assert f"its batch held {tmp_path}/input.txt#1" in message
    assert "lower train.lr, lengthen train.warmup, or look at these documents" in message
    assert message.endswith(f"last good checkpoint: {newest(run)}")
    none_yet = plait.refuses("train", path, *absurd, f"out={run}2", "train.save_every=100")
    assert none_yet.endswith("last good checkpoint: none yet")


def test_early_stopping_ends_a_run_for_good(plait, recipe, rows, tmp_path):
    path = recipe(train={"patience": 2, "eval_every": 1, "lr": 1e-9, "steps": 500, "dtype": "float32"})
    run = tmp_path / "run"
    first = plait("train", path)
    assert first.code == 0
    steps = len(rows(run))
    assert steps < 500
    assert "stopped: val_loss has not improved in 2 evaluations" in first.stderr
    again = plait("train", path, "--resume")
    assert "is finished" in again.stderr
    assert len(rows(run)) == steps


def test_the_last_and_the_best_checkpoints_stay(plait, recipe, rows, tmp_path):
    path, run = recipe(train={"save_every": 3, "keep_last": 2, "eval_every": 6}), tmp_path / "run"
    plait.works("train", path)
    validated = {row["step"]: row["val_loss"] for row in rows(run) if "val_loss" in row}
    best = min(validated, key=lambda step: validated[step])
    kept = {directory.name for directory in (run / "checkpoints").glob("step-*")}
    assert kept == {f"step-{step:06}" for step in (27, 30, best)}
    plait.works("train", path, f"out={run}2", "train.keep_best=false", "train.keep_last=1")
    assert [directory.name for directory in Path(f"{run}2", "checkpoints").glob("step-*")] == ["step-000030"]
