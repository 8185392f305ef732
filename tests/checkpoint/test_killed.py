"""Processes killed as they save, and the lock that dies with them."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plait.checkpoint.lock import lock
from plait.checkpoint.resolve import newest, step_directories
from plait.checkpoint.run import load_checkpoint, save_checkpoint
from plait.errors import BusyError, InputError

# One process that has imported everything, and saved once, forks a saver for every line it reads, so that
# kills are cheap.
SAVERS = """
import os
import sys
import tempfile
import torch
from plait.checkpoint.lock import lock
from plait.checkpoint.run import prune, save_checkpoint
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder

torch.set_num_threads(1)
config = ModelConfig(vocab=50, width=16, layers=2, heads=2, context=16)
weights = {name: tensor.detach() for name, tensor in Decoder(config).named_parameters()}

def save(where, step):
    for tensor in weights.values():
        tensor.fill_(step)
    optim = {name: {"exp_avg": tensor} for name, tensor in weights.items()}
    save_checkpoint(where, step, weights=weights, config=config, tokenizer=None, optim=optim,
                    state={"val_loss": 1.0 / step}, average=weights)

def say(*words):  # in one piece: a kill between two writes would leave half a line before the next
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def save_for_ever(where, step):
    with lock(where):
        say("ready", os.getpid())
        while True:
            step += 1
            save(where, step)
            say("saved", step)
            prune(where, 2)

with tempfile.TemporaryDirectory() as where:
    save(where, 1)
for line in sys.stdin:
    where, step = line.split()
    child = os.fork()
    if not child:
        save_for_ever(where, int(step))
    os.waitpid(child, 0)
    say("dead", child)
"""


@pytest.fixture(scope="module")
def savers():
    command = [sys.executable, "-W", "error", "-c", SAVERS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.communicate()


def start_saver(savers, where: Path, step: int) -> int:
    """Process id of a saver that has just taken the lock of the run."""
    savers.stdin.write(f"{where} {step}\n")
    savers.stdin.flush()
    word, pid = savers.stdout.readline().split()
    assert word == "ready"
    return int(pid)


def kill_saver(savers, pid: int) -> list[int]:
    """Kill -9; returns the steps it had reported as saved."""
    os.kill(pid, signal.SIGKILL)
    steps = []
    while (line := savers.stdout.readline().split())[0] != "dead":
        steps.append(int(line[1]))
    return steps


def test_kill_at_any_instant_leaves_the_last_reported_checkpoint_or_a_newer_one(savers, tmp_path):
    chance = random.Random(0)
    pid, start = start_saver(savers, tmp_path, 0), time.monotonic()
    assert savers.stdout.readline().split() == ["saved", "1"]
    a_save = time.monotonic() - start
    step = max([1, *kill_saver(savers, pid)])
    for _ in range(12):
        pid = start_saver(savers, tmp_path, step)
        time.sleep(chance.uniform(0, 2 * a_save))
        step = max([step, *kill_saver(savers, pid)])
        for path in step_directories(tmp_path):  # not only the newest: all that can be seen are whole
            back = load_checkpoint(path)
            assert back.has_average
            for tensors in (back.weights(), back.average()):
                assert all((tensor == back.step).all() for _, tensor in tensors)
        found = newest(tmp_path)
        assert found is not None
        saved = load_checkpoint(found).step
        assert saved in (step, step + 1)
        step = saved
    last = load_checkpoint(found)
    rest: dict = {"config": last.config, "tokenizer": None, "optim": {}, "state": {}}
    save_checkpoint(tmp_path, step + 1, weights=dict(last.weights()), **rest)
    assert not list((tmp_path / "checkpoints").glob(".*"))  # debris of the killed is gone


def test_a_run_belongs_to_one_process_which_is_named(tmp_path):
    busy = f"is in use by process {os.getpid()}; wait for it, stop it, or set another `out`"
    with lock(tmp_path), pytest.raises(BusyError, match=busy), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_a_directory_made_for_the_lock_goes_with_it_unless_something_came_in(tmp_path):
    failed, begun, found = tmp_path / "failed", tmp_path / "begun", tmp_path / "found"
    found.mkdir()
    for where in failed, found:
        with pytest.raises(InputError, match="no text"), lock(where):
            raise InputError("no text")
    with lock(begun):
        (begun / "recipe.yaml").touch()
    assert not failed.exists()
    assert found.is_dir()
    assert (begun / "recipe.yaml").is_file()


def test_a_killed_run_leaves_no_lock(savers, tmp_path):
    pid = start_saver(savers, tmp_path, 0)
    with pytest.raises(BusyError, match=f"process {pid};"), lock(tmp_path):
        pass
    kill_saver(savers, pid)
    with lock(tmp_path):
        pass
