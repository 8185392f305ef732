"""The launcher names a lost rank, starts again, passes signals on, and leaves no orphan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from plait.parallel import launch as module
from plait.parallel.launch import PEER_LOST, launch

# What ranks of these tests begin with; most need no torch.
HEAD = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(os.environ["FOLDER"])
names = "RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"
rank, world, attempt = (int(os.environ[name]) for name in names)
def note(name, text=""):
    part = folder / f"part-{name}.{attempt}.{rank}"
    part.write_text(str(text))
    part.replace(folder / f"{name}.{attempt}.{rank}")  # whole, for who waits for it
def wait_for(name, number):
    while len(list(folder.glob(f"{name}.{attempt}.?"))) < number:
        time.sleep(0.01)
"""
COUNT = """
taken = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: taken.append(number))
note("ready")
while not taken:
    time.sleep(0.01)
time.sleep(0.5)  # saves, while a second one would come
note("taken", len(taken))
sys.exit(128 + taken[0])
"""
DISTRIBUTED = """
from datetime import timedelta
import torch
import torch.distributed as dist
from plait.parallel.health import Health, claim_error, explain
from plait.parallel.launch import PEER_LOST, place_of
place = place_of()
store = dist.TCPStore(place.address, place.port, is_master=False, wait_for_workers=False)
health = Health(store, rank, world, every=0.2)
"""
# One training step after another; rank 1 is killed in the first attempt.
TRAIN = (
    DISTRIBUTED
    + """
dist.init_process_group("gloo", store=dist.PrefixStore("group", store), rank=rank, world_size=world)
try:
    for step in range(1, 3):
        health.at(step, "forward_backward")
        time.sleep(0.25)
        if (step, rank, attempt) == (2, 1, 0):
            note("killed", time.time())
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(torch.ones(4))
except RuntimeError as error:
    text = explain(error, store, world, rank)
    if claim_error(store, rank):
        print(text, file=sys.stderr)
    sys.exit(PEER_LOST)
note("words", json.dumps(sys.argv[1:]))
note("done", time.time())
"""
)
# Rank 1 stops answering in the first attempt; in the second both wait for each other.
HANG = (
    DISTRIBUTED
    + """
health.at(7, "forward_backward" if rank else "save")
time.sleep(0.5)
note("ready")
wait_for("ready", 2)
if attempt == 0:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.6)
sys.exit(PEER_LOST)
"""
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(script, ranks)` launches a script and returns the exit status."""
    monkeypatch.setenv("FOLDER", str(tmp_path))

    def run(script: str, ranks: int = 2, words=("train", "recipe.yaml"), **options):
        file = tmp_path / "rank.py"
        file.write_text(HEAD + script, encoding="utf-8")
        options = {"restarts": 0, "grace": 1.0} | options
        return launch(list(words), ranks, program=[sys.executable, str(file)], **options)

    return run


@pytest.fixture
def notes(tmp_path):
    """`notes(name)`: what ranks have noted under a name, by attempt and rank."""

    def notes(name: str) -> dict[tuple[int, int], str]:
        found = [
            (file.name.split("."), file.read_text(encoding="utf-8")) for file in tmp_path.glob(f"{name}.*.?")
        ]
        return {(int(attempt), int(rank)): text for (_, attempt, rank), text in found}

    return notes


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def test_ranks_know_their_place_and_only_rank_0_writes_to_standard_output(run, notes, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("plait.hardware.threads", lambda: 7)
    script = 'note("env", json.dumps(dict(os.environ))); print("rank", rank, *sys.argv[1:])'
    with (tmp_path / "out").open("wb") as out:
        assert run(script, 3, out=out) == 0
    assert (tmp_path / "out").read_text(encoding="utf-8") == "rank 0 train recipe.yaml\n"
    seen = {rank: json.loads(text) for (_, rank), text in notes("env").items()}
    assert sorted(seen) == [0, 1, 2]
    for rank, env in seen.items():
        assert (env["RANK"], env["LOCAL_RANK"]) == (str(rank), str(rank))
        assert env["WORLD_SIZE"] == env["LOCAL_WORLD_SIZE"] == "3"
        assert (env["MASTER_ADDR"], env["TORCHELASTIC_RESTART_COUNT"]) == ("127.0.0.1", "0")
        assert (env["PLAIT_AGENT_STORE"], env["PLAIT_LAUNCHER_PID"]) == ("1", str(os.getpid()))
        assert env["OMP_NUM_THREADS"] == "2", "7 threads for 3 ranks"
    assert len({env["MASTER_PORT"] for env in seen.values()}) == 1


def test_what_the_user_has_chosen_stays(run, notes):
    environ = {**os.environ, "OMP_NUM_THREADS": "5", "RANK": "9"}
    assert run('note("env", os.environ["OMP_NUM_THREADS"])', environ=environ) == 0
    assert notes("env") == {(0, 0): "5", (0, 1): "5"}


def test_an_error_of_the_users_is_final_and_said_by_the_rank(run, notes, capfd):
    script = 'note("start"); wait_for("start", 2)\nif rank: sys.exit(2)\ntime.sleep(60)'
    start = time.monotonic()
    assert run(script, restarts=3) == 2
    assert time.monotonic() - start < 10
    assert capfd.readouterr().err == ""
    assert len(notes("start")) == 2, "one attempt"


def test_a_killed_rank_is_named_at_once_and_the_run_goes_on(run, notes, capfd):
    assert run(TRAIN, restarts=3, grace=5.0) == 0
    killed, done = float(notes("killed")[0, 1]), notes("done")
    assert sorted(done) == [(1, 0), (1, 1)]
    assert capfd.readouterr().err.splitlines() == [
        "rank 1 was killed by SIGKILL at step 2 (forward_backward)",
        "restarting from the last complete checkpoint (attempt 1 of 3)",
    ]
    assert float(done[1, 0]) - killed < 20
    assert json.loads(notes("words")[1, 0]) == ["train", "--resume", "recipe.yaml"]


def test_the_end_comes_quickly_when_no_attempt_is_left(run, notes, capfd, monkeypatch):
    monkeypatch.setattr(module, "TERM_SECONDS", 0.5)
    script = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("start"); wait_for("start", 3)
if rank == 2:
    note("killed", time.time())
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    assert run(script, 3) == 1
    assert time.time() - float(notes("killed")[0, 2]) < 10, "they ignore SIGTERM"
    assert capfd.readouterr().err == "rank 2 was killed by SIGKILL; go on with --resume\n"


def test_every_attempt_is_counted(run, notes, capfd):
    script = 'note("start"); sys.exit(3 if rank == 0 else 0)'
    assert run(script, words=["prove"], restarts=2) == 1
    assert sorted(attempt for attempt, rank in notes("start") if rank == 0) == [0, 1, 2]
    assert capfd.readouterr().err.splitlines() == [
        "rank 0 left with exit status 3",
        "restarting from the last complete checkpoint (attempt 1 of 2)",
        "rank 0 left with exit status 3",
        "restarting from the last complete checkpoint (attempt 2 of 2)",
        "rank 0 left with exit status 3",
    ]


def test_an_elastic_run_goes_on_with_the_ranks_that_are_left(run, notes, capfd):
    script = """
note("start", " ".join(sys.argv[1:])); wait_for("start", world)
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.2)
sys.exit(75 if rank else 1)  # those it leaves behind
"""
    asked = []

    def smaller(left):
        asked.append(left)
        return (["train", "recipe.yaml", "--resume", "layout.dp=2"], 2) if left == 3 else None

    assert run(script, 4, restarts=5, smaller=smaller) == 1
    assert asked == [3, 1]
    assert [len([1 for attempt, _ in notes("start") if attempt == n]) for n in range(2)] == [4, 2]
    assert notes("start")[1, 0] == "train recipe.yaml --resume layout.dp=2"
    assert capfd.readouterr().err.splitlines() == [
        "rank 1 was killed by SIGKILL",
        "restarting from the last complete checkpoint (attempt 1 of 5)",
        "rank 1 was killed by SIGKILL",
        "no layout fits the 1 ranks that are left",
    ]


def test_a_rank_that_stops_answering_is_named_and_a_mutual_wait_shown(run, capfd, monkeypatch):
    monkeypatch.setattr(module, "TERM_SECONDS", 0.3)
    asked = []
    assert run(HANG, restarts=1, smaller=lambda left: asked.append(left) or (["train"], 2)) == 1
    assert asked == [1]
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "rank 1 stopped answering at step 7 (forward_backward)"
    assert lines[2] == "the ranks waited for one another; go on with --resume"
    rows = [line.replace("│", " ").split()[:3] for line in lines[2:] if line.startswith("│")]
    assert rows == [["0", "7", "save"], ["1", "7", "forward_backward"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_each_rank_once(number, run, notes, capfd):
    def send():
        wait_until(lambda: len(notes("ready")) == 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    assert run(COUNT, restarts=3) == 128 + number
    thread.join()
    assert notes("taken") == {(0, 0): "1", (0, 1): "1"}
    assert capfd.readouterr().err == ""


def test_a_second_signal_ends_the_ranks_at_once(run, notes):
    script = (
        'signal.signal(signal.SIGTERM, lambda *_: note("taken"))\nnote("ready", os.getpid())\ntime.sleep(60)'
    )

    def send():
        wait_until(lambda: len(notes("ready")) == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: len(notes("taken")) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    start = time.monotonic()
    assert run(script, restarts=3) == 143
    assert time.monotonic() - start < 10
    thread.join()


LAUNCH = """
import sys
from plait.parallel.launch import launch
sys.exit(launch(["train"], 3, restarts=3, program=[sys.executable, sys.argv[1]]))
"""


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """`launcher(script)`: a process of its own which launches three ranks."""
    monkeypatch.setenv("FOLDER", str(tmp_path))
    started = []

    def launcher(script):
        file = tmp_path / "rank.py"
        file.write_text(HEAD + script, encoding="utf-8")
        started.append(subprocess.Popen([sys.executable, "-c", LAUNCH, str(file)], start_new_session=True))
        return started[-1]

    yield launcher
    for process in started:
        process.kill()
        process.wait()


def test_ctrl_c_of_a_terminal_reaches_each_rank_once(launcher, notes):
    process = launcher(COUNT)
    wait_until(lambda: len(notes("ready")) == 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground
    assert process.wait(timeout=20) == 130
    assert notes("taken") == {(0, 0): "1", (0, 1): "1", (0, 2): "1"}


def test_a_killed_launcher_leaves_no_orphan(launcher, notes):
    script = """
from plait.parallel.launch import die_with_parent
if rank == 1:
    sys.platform = "darwin"  # a system that tells nobody of a parent's end
die_with_parent()
assert "PLAIT_LAUNCHER_PID" not in os.environ
note("ready", os.getpid())
while True:
    time.sleep(0.1)
"""
    process = launcher(script)
    pids = wait_until(lambda: list(notes("ready").values()) if len(notes("ready")) == 3 else [])
    process.kill()
    start = time.monotonic()

    def gone(pid):
        """Ended: another's child may stay a zombie until it is waited for."""
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
                return file.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_until(lambda: all(map(gone, pids)), 5)
    assert time.monotonic() - start < 2


def test_without_a_launcher_nobody_is_waited_for(monkeypatch):
    monkeypatch.delenv("PLAIT_LAUNCHER_PID", raising=False)
    module.die_with_parent()
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_watch_parent)")]


def test_a_program_that_cannot_start_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        launch(["train"], 2, restarts=1, program=[str(tmp_path / "none")])


def test_peer_lost_is_no_status_of_plaits():
    assert PEER_LOST not in (0, 1, 2, 130, 143)


def test_the_launcher_loads_no_torch_until_it_launches():
    code = "import sys, plait.parallel.launch; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
