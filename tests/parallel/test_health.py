"""Who is slow, who is gone, and who differs: told in one line, by one rank, and nobody hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from torch.distributed import DistError, DistNetworkError, PrefixStore, TCPStore

from plait.errors import TrainingError
from plait.parallel import health as health_module
from plait.parallel.health import (
    Health,
    claim_error,
    explain,
    is_communication_error,
    last_posts,
    stragglers,
    waits,
)

# Three ranks of one import: slow steps on rank 1, which then dies or stops; the others explain what they saw.
RANKS = """
import json, os, signal, socket, sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
from plait.parallel.health import Health, claim_error, explain, is_communication_error, stragglers

how, folder = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]

def rank_of(rank):
    listener.close()
    store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("group", store), rank=rank, world_size=3, timeout=timedelta(seconds=2)
    )
    health = Health(store, rank, 3, every=0.4)
    own = []
    for step in range(1, 6):
        health.at(step, "forward_backward")
        start = time.monotonic()
        time.sleep(0.3 if rank == 1 else 0.04)
        dist.all_reduce(torch.ones(4))
        own.append((time.monotonic() - start) * health.own_share())
    everywhere = [None] * 3
    dist.all_gather_object(everywhere, own)
    health.at(6, "save")
    time.sleep(0.5)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    start = time.monotonic()
    try:
        dist.all_reduce(torch.ones(4))
    except RuntimeError as error:
        noticed = time.monotonic()
        text = explain(error, store, 3, rank)
        said = {
            "text": text, "known": is_communication_error(error), "mine": claim_error(store, rank),
            "noticed": noticed - start, "explained": time.monotonic() - noticed,
            "slow": stragglers(everywhere),
        }
        with open(f"{folder}/{rank}.json", "w") as file:
            json.dump(said, file)

children = []
for rank in range(3):
    if not (child := os.fork()):
        try:
            rank_of(rank)
        finally:
            sys.stdout.flush()
            os._exit(0)
    children.append(child)
server = dist.TCPStore(
    "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
)
for rank in (0, 2, 1):
    if rank == 1 and how == "stop":
        os.kill(children[1], signal.SIGKILL)
    os.waitpid(children[rank], 0)
"""


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_lost_rank_is_named_and_the_slow_one_known(how, tmp_path):
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", RANKS, how, str(tmp_path)], env=environ, check=True, timeout=60)
    said = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 2)]
    for each in said:
        assert each["known"]
        assert each["noticed"] < (1 if how == "kill" else 4)
        assert each["explained"] < 2.5 * 0.4 + 2
        [(rank, ratio)] = each["slow"]
        assert rank == 1
        assert ratio > 3
    assert [each["text"] for each in said if each["mine"]] == ["rank 1 stopped answering at step 6 (save)"]


def test_posts_tell_what_a_rank_does_and_that_it_left(store):
    one, other = (Health(store, rank, 3, every=0.05) for rank in (0, 1))
    one.at(12, "forward_backward")
    time.sleep(0.3)
    first, second, third = last_posts(store, 3)
    assert third is None
    assert (first.step, first.phase, first.left, first.late) == (12, "forward_backward", False, False)
    assert first.beat > 2
    assert first.age < 0.3
    assert str(second) == "step 0 (start)"
    one.close()
    one.close()
    time.sleep(0.3)
    first, second, _ = last_posts(store, 3)
    assert first.left
    assert not first.late, "who has left owes nothing"
    assert explain(RuntimeError("Connection closed by peer"), store, 3, 1) == (
        "rank 0 left at step 12 (forward_backward)"
    )
    other.close()
    late = json.dumps({"step": 1, "phase": "save", "time": 0, "beat": 1, "every": 1, "left": False})
    store.set("health/2", late)
    assert last_posts(store, 3)[2].late


def test_where_all_hearts_beat_the_line_shows_where_each_is(store):
    ranks = [Health(store, rank, 3, every=0.1) for rank in range(2)]
    ranks[0].at(12, "forward_backward")
    ranks[1].at(11, "save")
    time.sleep(0.3)
    seen = "last seen: rank 0 step 12 forward_backward, rank 1 step 11 save, rank 2 not started"
    gloo = RuntimeError("[pair.cc:1] Timed out waiting 3500ms for recv operation to complete")
    assert explain(gloo, store, 3, 0) == f"timed out after 3.5 s; {seen}"
    nccl = RuntimeError("Watchdog: WorkNCCL(Timeout(ms)=60000) ran for 60010 milliseconds before timing out")
    assert explain(nccl, store, 3, 0).startswith("timed out after 60 s; last seen")
    assert explain(RuntimeError("Broken pipe"), store, 3, 0) == f"the connection to a rank broke; {seen}"
    assert explain(gloo, store, 30, 0).endswith(" and 22 more")
    for each in ranks:
        each.close()


def test_a_store_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(health_module, "PATIENCE", 0.3)
    program = "from torch.distributed import TCPStore as S; import time; "
    program += "print((s := S('127.0.0.1', 0, is_master=True, wait_for_workers=False)).port, flush=True); "
    with subprocess.Popen(
        [sys.executable, "-c", program + "time.sleep(60)"], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            port = int(holder.stdout.readline())
            client = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
            assert last_posts(client, 1) == [None]
            holder.send_signal(signal.SIGSTOP)
            os.waitpid(holder.pid, os.WUNTRACED)  # until it really stands still
            start = time.monotonic()
            with pytest.raises(DistError, match=r"the store has not answered in 0\.2 s"):
                last_posts(client, 1, 0.2)
            error = RuntimeError("Timed out waiting 3500ms for recv operation to complete")
            assert explain(error, client, 2, 1) == "rank 0, which holds the store, is gone"
            assert claim_error(client, 1), "nobody else can speak"
            assert time.monotonic() - start < 3
        finally:
            holder.kill()


def test_a_store_that_goes_away_is_named_and_harms_no_thread(monkeypatch):
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)
    health = Health(client, 1, 2, every=0.05)
    time.sleep(0.1)
    del server
    time.sleep(0.3)
    assert health._thread.is_alive(), "it still measures"
    error = RuntimeError("Connection reset by peer")
    assert explain(error, client, 2, 1) == "rank 0, which holds the store, is gone"
    monkeypatch.setenv("PLAIT_AGENT_STORE", "1")
    assert explain(error, client, 2, 1) == "the launcher, which holds the store, is gone"
    assert claim_error(client, 1), "nobody else can speak"
    assert health.own_share() > 0.9
    health.close()
    assert not health._thread.is_alive()


def frame_in(*files):
    """The innermost frame of a call through these files, outermost first."""
    call = "sys._getframe()"
    for file in reversed(files):
        names = {"sys": sys, "inner": call if callable(call) else sys._getframe}
        code = "def act():\n    frame = inner()\n    return frame\n"
        exec(compile(code, file, "exec"), names)
        call = names["act"]
    return call()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["/p/torch/distributed/distributed_c10d.py"], True),
        (["/p/torch/distributed/_functional_collectives.py", "/p/torch/_ops.py"], True),
        (["/s/plait/parallel/collectives.py"], True),
        (["/p/torch/distributed/pipelining/stage.py", "/s/plait/nn/decoder.py"], False),
        (["/p/torch/distributed/tensor/_dispatch.py"], False),
        (["/p/torch/distributed/tensor/_redistribute.py", "/p/torch/distributed/distributed_c10d.py"], True),
        (["/s/plait/train/loop.py"], False),
    ],
)
def test_only_the_innermost_frame_tells_waiting_from_work(files, expected):
    assert waits(frame_in(*files)) is expected


def test_the_own_share_is_of_the_time_since_the_last_call(store):
    def wait(seconds):
        time.sleep(seconds)

    names: dict = {"sleep": time.sleep}
    exec(
        compile(
            "def wait(seconds):\n    sleep(seconds)\n", "/p/torch/distributed/distributed_c10d.py", "exec"
        ),
        names,
    )
    health = Health(store, 0, 1)
    for own, others in ((0.1, 0.3), (0.3, 0.1)):
        health.own_share()
        wait(own)
        names["wait"](others)
        assert health.own_share() == pytest.approx(own / (own + others), abs=0.15)
    assert health.own_share() == 1, "nothing is known of no time"
    health.close()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([[1, 1, 1], [1, 1, 1], [1, 9, 1], [1, 1, 1]], []),
        ([[1, 1, 1], [1, 1, 1], [4, 4, 1], [1, 1, 1]], [(2, 4.0)]),
        ([[1], [8]], [(1, 8.0)]),
        ([[1], [1], [8], [6]], [(2, 8.0), (3, 6.0)]),
        ([[1], [2.9]], []),
        ([[0.0], [0.0]], []),
        ([[], []], []),
        ([], []),
    ],
)
def test_stragglers(seconds, expected):
    assert stragglers(seconds) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError(
                "[/w/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:5: Connection reset by peer."
            ),
            True,
        ),
        (
            RuntimeError("[unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation to complete"),
            True,
        ),
        (RuntimeError("Connection closed by peer [10.0.0.2]:81"), True),
        (DistNetworkError("failed to recv, got 0 bytes"), True),
        (BrokenPipeError("broken pipe"), False),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:2, remote process exited"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("gloo"), False),
        (TrainingError("the loss is not finite"), False),
    ],
)
def test_which_errors_are_of_communication(error, expected):
    assert is_communication_error(error) is expected


def test_one_rank_speaks(store):
    assert claim_error(store, 3)
    assert not claim_error(store, 0)
    assert claim_error(store, 3), "asked again it is still the one"
    assert claim_error(PrefixStore("again", store), 0), "another attempt is another story"


def test_who_would_not_be_heard_does_not_wait(store):
    ranks = [Health(store, rank, 2, every=5) for rank in range(2)]
    time.sleep(0.2)
    claim_error(store, -1)
    start = time.monotonic()
    assert explain(RuntimeError("Broken pipe"), store, 2, 0) == "another rank was lost"
    assert time.monotonic() - start < 1
    for each in ranks:
        each.close()
