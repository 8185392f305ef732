"""A rank that is lost while several of them write a checkpoint: the one before stays, and the run goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from plait.checkpoint.resolve import newest, verify

MODEL = {"width": 16, "layers": 2, "heads": 2, "context": 16, "dropout": 0.0}
# rank 0 fetches each tensor as it writes it: slowly, once there is a checkpoint to go back to
SLOW = """
from time import sleep
from plait.checkpoint.resolve import newest
from plait.checkpoint.snapshot import Snapshot

def slow(self, tag, entry, whole=Snapshot._whole):
    sleep(0.2 if newest({run!r}) else 0)
    return whole(self, tag, entry)

Snapshot._whole = slow
"""


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_lost_while_all_save(lost, way, recipe, ranks, plait, rows, tmp_path, wait_until):
    train = {"steps": 12, "batch_size": 6, "samples": [], "eval_every": 1000}
    path, run = recipe(model=MODEL, train=train), tmp_path / "run"
    words = ("train", path, "--layout", "fsdp=3,timeout=3")
    running = ranks(3).start(*words, each=lambda rank: {"plant": SLOW.format(run=str(run))})
    # no rank has a step left to do: they wait for the second checkpoint, so that the last can be written
    wait_until(lambda: len(rows(run)) == 12 and newest(run) and half_written(run), "half a checkpoint")
    before = newest(run)
    running[lost].kill(way)
    others = [each for rank, each in enumerate(running) if rank != lost]
    wait_until(lambda: not any(each.alive for each in others), "the end of the other ranks", 20)
    assert [each.wait().code for each in others] == [75, 75]
    said = "".join(each.stderr for each in others)
    assert said.count(f"rank {lost} stopped answering at step ") == 1
    assert "Traceback" not in said
    running[lost].kill()
    assert running[lost].wait().code == -signal.SIGKILL

    assert newest(run) == before
    assert sorted(run.glob("checkpoints/step-*")) == [before]
    assert verify(before)["step"] < 12
    assert (run / "checkpoints/last").read_text("utf-8") == before.name

    plait.works("train", path, "--resume")
    assert verify(newest(run))["step"] == 12
    assert not half_written(run)
    assert [row["step"] for row in rows(run)] == list(range(1, 13))


def half_written(run: Path) -> bool:
    """Whether there are tensors of a checkpoint that is not complete."""
    return any(path.stat().st_size for path in run.glob("checkpoints/.tmp-step-*/**/*.safetensors"))
