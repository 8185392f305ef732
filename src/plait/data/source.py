"""`Source`: a named, weighted set of rows over token shards; what a loader draws from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from plait.data.pack import Rows
from plait.data.shards import Shards


@dataclass(frozen=True)
class Source:
    """One source of a mixture, or one validation set."""

    name: str
    shards: Shards
    rows: Rows
    weight: float = 1.0

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the text behind the rows, the denominator of bits per byte."""
        return self.rows.text_bytes

    @property
    def target_tokens(self) -> int:
        """Tokens predicted with a loss in one pass over the rows."""
        return self.rows.target_tokens

    @property
    def digest(self) -> str:
        """A sha256 that changes when any token, mask or row does."""
        return hashlib.sha256(f"{self.shards.digest} {self.rows.digest}".encode()).hexdigest()

    def verify(self) -> None:
        """Read every file and compare checksums.

        Raises:
            InputError: naming the file that differs.
        """
        self.shards.verify()
        self.rows.verify()
