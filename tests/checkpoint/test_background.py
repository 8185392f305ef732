"""Work beside training: in order, and no failure is lost."""

import threading
import time

import pytest

from plait.checkpoint.background import Background
from plait.errors import TrainingError


def test_one_task_after_the_other():
    done, background = [], Background()
    first = threading.Event()
    background.run(lambda: (first.wait(5), done.append(1)))
    assert not done
    threading.Timer(0.05, first.set).start()
    background.run(lambda: done.append(2))
    background.wait()
    assert done == [1, 2]


def test_an_error_is_raised_where_the_next_thing_is_asked():
    background = Background()
    background.run(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.run(lambda: None)
    background.wait()


def test_leaving_waits_and_the_first_error_wins():
    done: list[int] = []

    def slowly() -> None:
        time.sleep(0.05)
        done.append(1)
        raise ValueError("of the task")

    with pytest.raises(ValueError, match="of the task"), Background() as background:
        background.run(slowly)
    assert done == [1]
    with pytest.raises(TrainingError, match="of the work"), Background() as background:
        background.run(slowly) or of_the_work(TrainingError)
    assert done == [1, 1]


def test_a_lost_rank_is_told_without_waiting_for_a_save_that_may_wait_for_it():
    forever = threading.Event()
    with pytest.raises(RuntimeError, match="of the work"), Background() as background:
        background.run(forever.wait) or of_the_work(RuntimeError)
    forever.set()


def of_the_work(kind: type[Exception]) -> None:
    raise kind("of the work")
