import errno
import os

import pytest

from plait import files
from plait.errors import TrainingError


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def fail(code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_directory_appears_when_it_is_whole(tmp_path):
    for text in ("one", "two"):
        with files.new_directory(tmp_path / "deep" / "a") as draft:
            (draft / "x").write_text(text, encoding="utf-8")
            assert names(tmp_path / "deep") != ["a"]
        assert (tmp_path / "deep" / "a" / "x").read_text(encoding="utf-8") == text
        assert names(tmp_path / "deep") == ["a"]


def test_an_interrupted_directory_leaves_the_old_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()

    def cut_short() -> None:
        with files.new_directory(tmp_path / "a") as draft:
            (draft / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["old"])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_with_what_is_free(tmp_path, code):
    message = r"no disk space for .*a: [0-9.]+ \w+ are free; free some or write to another disk; note"
    with pytest.raises(TrainingError, match=message), files.new_directory(tmp_path / "a", note="; note"):
        fail(code)()
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "旧")
    monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
    with pytest.raises(TrainingError, match=r"no disk space for .*a: 6 B are needed, .* are free"):
        files.write_text(tmp_path / "a", "新的")
    assert (names(tmp_path), (tmp_path / "a").read_text(encoding="utf-8")) == (["a"], "旧")


def test_other_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), files.new_directory(tmp_path / "x"):
        fail(errno.EACCES)()
    with pytest.raises(FileNotFoundError):
        files.write_bytes(tmp_path / "missing" / "x", b"")
    assert names(tmp_path) == []


def test_what_killed_processes_left_is_swept_away(tmp_path):
    (tmp_path / ".tmp-a-1-00").mkdir()
    (tmp_path / ".tmp-b-1-00").touch()
    (tmp_path / ".old-a-1-00").mkdir()
    (tmp_path / "a").mkdir()
    files.sweep(tmp_path)
    assert names(tmp_path) == ["a"]


def test_removing_leaves_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    files.remove(tmp_path / "a")
    assert names(tmp_path) == []


def test_a_directory_moved_aside_by_a_killed_process_comes_back(tmp_path):
    (tmp_path / ".old-step-000001-99-ab12").mkdir()
    (tmp_path / ".old-step-000001-99-ab12" / "x").touch()
    (tmp_path / ".gone-step-000002-99-ab12").mkdir()
    (tmp_path / ".tmp-step-000003-99-ab12").mkdir()
    files.sweep(tmp_path)
    assert (names(tmp_path), names(tmp_path / "step-000001")) == (["step-000001"], ["x"])
    (tmp_path / ".old-step-000001-99-ab12").mkdir()  # and goes where the new one is there
    files.sweep(tmp_path)
    assert names(tmp_path / "step-000001") == ["x"]
    assert names(tmp_path) == ["step-000001"]


def test_errors_name_what_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        files.write_text(tmp_path / "nowhere" / "target", "x")
    assert error.value.filename == str(tmp_path / "nowhere" / "target")
