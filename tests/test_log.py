import io
import sys

import pytest

from plait import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.2, "4s"), (59.7, "1m00s"), (95, "1m35s"), (3599.6, "1h00m"), (7384, "2h03m")]
)
def test_durations(seconds, text):
    assert log.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB"), (3 * 2**40, "3072.0 GiB")],
)
def test_sizes(count, text):
    assert log.bytes_text(count) == text


def test_messages_go_to_standard_error_as_they_are(capsys):
    long = "[bold]not markup[/bold] " + "word " * 40
    log.say(long)
    log.warn("[red]careful")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{long}\nwarning: [red]careful\n"


def test_a_table_shows_brackets_and_goes_where_results_go(capsys):
    log.table("t [x]", ("key", "value"), [("a [b]", 1), ("并行", None)], stdout=True)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert all(cell in captured.out for cell in ("t [x]", "a [b]", "并行", "None"))
    log.table("t", ("key",), [("a",)])
    assert "key" in capsys.readouterr().err


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 5.0, 11.0, 11.0, 11.0])
    monkeypatch.setattr(log, "monotonic", lambda: next(clock))
    with log.progress("train", 40) as bar:
        assert bar.plain
        bar.update(5, "loss 3")  # too early to say so
        bar.update(10, "loss 2.5")
    assert capsys.readouterr().err == "train: 10/40 (25 %, 33s left) loss 2.5\n"


def test_progress_of_unknown_length_has_no_share_and_no_end(capsys, monkeypatch):
    monkeypatch.setattr(log, "PLAIN_EVERY", 0.0)
    with log.progress("read") as bar:
        bar.advance(3)
        bar.advance(4)
        bar.update(1234567, "still reading")
        bar.update(3.14159)
    assert capsys.readouterr().err == "read: 3\nread: 7\nread: 1,234,567 still reading\nread: 3.14\n"


def test_progress_with_a_total_shows_a_share_and_what_is_left_once_that_can_be_told(capsys, monkeypatch):
    monkeypatch.setattr(log, "PLAIN_EVERY", 0.0)
    with log.progress("encode (bytes)", 2_000_000) as bar:
        bar.update(0)
        bar.update(2_000_000, "done")
    assert capsys.readouterr().err == (
        "encode (bytes): 0/2,000,000 (0 %)\nencode (bytes): 2,000,000/2,000,000 (100 %, 0s left) done\n"
    )


def test_what_is_left_is_told_from_the_pace_of_this_run_not_from_what_an_earlier_one_did(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr(log, "PLAIN_EVERY", 0.0)
    monkeypatch.setattr(log, "monotonic", lambda: next(clock))
    with log.progress("train", 1000, before=900) as bar:
        bar.update(900)
        bar.update(910)
    assert capsys.readouterr().err == "train: 900/1,000 (90 %)\ntrain: 910/1,000 (91 %, 3m00s left)\n"


def test_tracking_passes_items_through():
    assert list(log.track(iter("abc"), "x")) == ["a", "b", "c"]
    assert list(log.track([1, 2], "x")) == [1, 2]


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with log.progress("train", 4) as bar:
        assert not bar.plain
        bar.update(4, "loss 2.5")
    assert "train" in screen.getvalue()
    assert "loss 2.5" in screen.getvalue()
    assert "4/4" in screen.getvalue()
