"""Files to read, their texts, and the one line that refuses them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from plait.errors import InputError
from plait.text.readers import read


@pytest.fixture
def put() -> Callable[[Path, str | bytes], str]:
    """Write a file, compressed as its name ends; gives its path."""

    def write(path: Path, text: str | bytes) -> str:
        data = text.encode() if isinstance(text, str) else text
        if path.suffix == ".gz":
            data = gzip.compress(data)
        elif path.suffix == ".zst":
            data = zstandard.compress(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    return write


@pytest.fixture
def texts() -> Callable[..., list[str]]:
    """The texts of what is read."""

    def found(inputs, **options) -> list[str]:
        return [document.text for document in read(inputs, on_skip=lambda where, reason: None, **options)]

    return found


@pytest.fixture
def fails() -> Callable[..., None]:
    """What is read is refused in one line."""

    def refused(inputs, message: str, **options) -> None:
        with pytest.raises(InputError, match=message) as caught:
            list(read(inputs, on_skip=lambda where, reason: None, **options))
        assert "\n" not in str(caught.value)

    return refused
