"""Ranks that differ say so, all of them leave, and nobody hangs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.distributed import HashStore

from plait.errors import ConfigError, TrainingError
from plait.parallel.agreement import same_everywhere, shared_directory


def at_once(world, act):
    """What `act(rank)` returns or raises when all ranks call it at the same time."""

    def outcome(rank):
        try:
            return act(rank)
        except (Exception, SystemExit) as error:
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(outcome, range(world)))


def test_equal_facts_pass(store):
    facts = {"recipe": "1f", "torch": "2.13"}
    assert at_once(3, lambda rank: same_everywhere(store.clone(), rank, 3, facts)) == [None] * 3


def test_a_rank_that_differs_says_so_and_all_leave(store):
    def act(rank):
        facts = {"plait": "0.1", "torch": "2.12" if rank == 2 else "2.13"}
        same_everywhere(store.clone(), rank, 3, facts)

    start = time.monotonic()
    one, two, three = at_once(3, act)
    assert time.monotonic() - start < 3
    assert isinstance(three, ConfigError)
    assert str(three) == "rank 2 has torch '2.12' where rank 0 has '2.13'; every rank needs the same"
    assert [type(each) for each in (one, two)] == [SystemExit] * 2
    assert one.code == two.code == 2


def test_a_rank_that_never_comes_is_named(store):
    start = time.monotonic()
    outcomes = at_once(2, lambda rank: same_everywhere(store.clone(), rank, 3, {}, timeout=0.5))
    assert time.monotonic() - start < 3
    assert [str(each) for each in outcomes] == [
        "rank 2 has not answered within 0.5 s; see its own output"
    ] * 2
    assert isinstance(outcomes[0], TrainingError)


def test_a_shared_directory_passes_and_is_left_as_it_was(store, tmp_path):
    assert at_once(3, lambda rank: shared_directory(store.clone(), rank, 3, tmp_path)) == [None] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_ones_own_is_found_out(store, tmp_path):
    folders = [tmp_path / name for name in "aba"]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    one, two, three = at_once(3, lambda rank: shared_directory(store.clone(), rank, 3, folders[rank]))
    assert isinstance(two, ConfigError)
    assert str(two) == (
        f"rank 1 does not see {folders[0]} of rank 0: out must be on a disk that all nodes share"
    )
    assert [type(one), type(three)] == [SystemExit, SystemExit]
    assert not any(list(folder.iterdir()) for folder in folders)


def test_a_file_that_appears_late_is_waited_for(store, tmp_path):
    def act(rank):
        mine = tmp_path / "late" if rank else tmp_path / "here"
        shared_directory(store.clone(), rank, 2, mine)

    (tmp_path / "here").mkdir()
    timer = threading.Timer(0.7, lambda: (tmp_path / "late").symlink_to(tmp_path / "here"))
    timer.start()
    assert at_once(2, act) == [None, None]
    timer.join()


def test_a_directory_that_rank_0_cannot_write_is_its_error(store):
    missing = Path("/proc/none/such")
    one, two = at_once(2, lambda rank: shared_directory(store.clone(), rank, 2, missing))
    assert isinstance(one, ConfigError)
    assert str(one) == f"{missing}: no such file or directory; set another `out`"
    assert isinstance(two, SystemExit)


def test_any_store_of_torch_will_do():
    same_everywhere(HashStore(), 0, 1, {"torch": "2"})
