"""For every test: no network, no cache of the user's, and where corpora and a browser are found."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
LOOPBACK = ("127.0.0.1", "::1", "localhost", "", "0.0.0.0")
connect = socket.socket.connect


def pytest_configure(config: pytest.Config) -> None:
    """One cache for all workers: the machine is measured once, and what the user has compiled is not used."""
    if not hasattr(config, "workerinput"):
        config.stash[CACHE] = folder = tempfile.mkdtemp(prefix="plait-tests-")
        os.environ["XDG_CACHE_HOME"] = folder
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder, "inductor"))


def pytest_unconfigure(config: pytest.Config) -> None:
    if CACHE in config.stash:
        shutil.rmtree(config.stash[CACHE], ignore_errors=True)


CACHE = pytest.StashKey[str]()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A test that reaches for the network fails here and not only where there is none."""

    def local_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise ConnectionRefusedError(f"tests run offline, and this one connects to {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public corpora beside the repository; tests that need it are skipped without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the corpora are not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's Chromium; a missing one skips the page tests, but not in CI."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None and os.environ.get("CI") == "true":
        pytest.fail("CI=true and no Chromium: the page tests must run")
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    return path
