"""Files of encoded data: their checksums, and what is said when a file is not what it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from plait.errors import InputError
from plait.files import write_text

REMEDY = "delete the data directory to have it encoded again"


class HashedFile:
    """A file being written whose size and sha256 are known at the end."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._hash = hashlib.sha256()
        self._file = path.open("wb")

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def close(self) -> None:
        """Let go of the file, finished or not."""
        self._file.close()

    def finish(self) -> dict[str, Any]:
        """Close the file; returns `{"bytes": size, "sha256": digest}`."""
        self._file.close()
        return {"bytes": self.size, "sha256": self._hash.hexdigest()}


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: when it is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {REMEDY}") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: it is not a JSON object; {REMEDY}")
    return value


def check_size(path: Path, expected: int) -> None:
    """Raise InputError, with both sizes, unless a file is there and has the expected size."""
    if not path.is_file():
        raise InputError(f"{path} is missing ({expected:,} bytes expected); {REMEDY}")
    found = path.stat().st_size
    if found != expected:
        what = "truncated" if found < expected else "damaged"
        raise InputError(f"{path} is {what}: {expected:,} bytes expected, {found:,} found; {REMEDY}")


def check_sha256(path: Path, expected: str, *, skip: int = 0) -> None:
    """Raise InputError unless the bytes of a file from `skip` on have the expected sha256."""
    with path.open("rb") as file:
        file.seek(skip)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise InputError(
            f"{path} is damaged: its sha256 is {found[:12]}…, {expected[:12]}… expected; {REMEDY}"
        )
