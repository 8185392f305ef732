"""A store that ranks meet in."""

from __future__ import annotations

from datetime import timedelta

import pytest
from torch.distributed import TCPStore


@pytest.fixture
def store():
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))
