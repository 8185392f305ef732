"""`Layout`: over how many ranks each kind of parallelism spreads a run. Imports no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from plait.config import Config


class Layout(Config):
    """Ranks per kind; `world` is their product. Only one process exists so far, so every size is 1."""

    dp: int = Field(default=1, ge=1)
    fsdp: int = Field(default=1, ge=1)
    tp: int = Field(default=1, ge=1)
    cp: int = Field(default=1, ge=1)
    pp: int = Field(default=1, ge=1)
    ep: int = Field(default=1, ge=1)

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.dp * self.fsdp * self.tp * self.cp * self.pp * self.ep

    @model_validator(mode="after")
    def _check(self) -> Layout:
        if self.world != 1:
            sizes = {name: size for name, size in self if size > 1}
            raise ValueError(
                f"this version trains in one process, so {sizes} cannot run; leave the layout at its defaults"
            )
        return self
