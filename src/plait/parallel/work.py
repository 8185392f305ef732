"""What a rank holds and has to do in a step, under a layout: sizes that its costs follow from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from plait.nn.config import ModelConfig
from plait.parallel.apply import HALF, sharding_of
from plait.parallel.layout import Layout
from plait.parallel.parameters import EMBEDDING, FROZEN, HEAD
from plait.parallel.part import stage_model
from plait.parallel.pieces import Sharding, chunk, cut_shape
from plait.parallel.pipeline import split_layers, stages_of


@dataclass(frozen=True)
class Work:
    """What one rank has to do in a step.

    Attributes:
        rows: of a micro-batch of this rank.
        microbatches: of this rank.
        context: tokens in a row, over all ranks of cp.
        dtype: as `plait.parallel.apply.apply_layout` takes it.
        packed: whether batches have segments, as several documents share a row.
        smoothed: whether the loss has label smoothing.
        places: of pairs, the padded places of sources and of targets in all micro-batches; None: each row
            has `context` of them.
        pairs: (token, expert) pairs that left this rank and that arrived, summed over layers and
            micro-batches, its own among both; None: all that are chosen, spread evenly.
    """

    rows: int
    microbatches: int
    context: int
    dtype: str = "float32"
    packed: bool = False
    smoothed: bool = False
    places: tuple[int, int] | None = None
    pairs: tuple[int, int] | None = None


@dataclass(frozen=True)
class Parameter:
    """A parameter with a gradient, as tp and ep leave it; `block`: its layer's number, if it is in one."""

    shape: list[int]
    sharding: Sharding
    block: str | None
    tied: bool

    def numbers(self, rows: int) -> int:
        """How many there are in so many rows."""
        return rows * math.prod(self.shape[1:])


@dataclass(frozen=True)
class Share:
    """A rank at its place: what it holds, and how many bytes the numbers have that it sends."""

    config: ModelConfig
    layout: Layout
    work: Work
    at: dict[str, int]

    @cached_property
    def layers(self) -> dict[int, range]:
        """By the stages that are here."""
        ranges = split_layers(self.config, self.layout.total_stages)
        return {stage: ranges[stage] for stage in stages_of(self.layout, self.at["pp"])}

    @cached_property
    def parameters(self) -> dict[int, list[Parameter]]:
        """By stage, in the order of the model."""
        return {stage: list(self._of_stage(stage)) for stage in self.layers}

    def _of_stage(self, stage: int) -> Iterator[Parameter]:
        config, layout = self.config, self.layout
        last = stage == layout.total_stages - 1
        with torch.device("meta"):
            model = stage_model(config, self.layers[stage], first=stage == 0, last=last)
        for name, parameter in model.named_parameters():
            if name.endswith(FROZEN):
                continue
            tied = config.tied and layout.pp > 1 and name in (EMBEDDING, HEAD)
            sharding = sharding_of(name, config, layout)
            shape = cut_shape(parameter.shape, sharding, {"ep": layout.ep, "tp": layout.tp}, self.at)
            yield Parameter(shape, sharding, _block_of(name), tied)

    def own(self, parameter: Parameter) -> int:
        """Numbers of a parameter that fsdp leaves to this rank."""
        return parameter.numbers(chunk(parameter.shape[0], self.layout.fsdp, self.at["fsdp"])[1])

    @property
    def depth(self) -> int:
        """Layers here."""
        return sum(map(len, self.layers.values()))

    @property
    def last(self) -> bool:
        """Whether head and loss are here."""
        return self.layout.total_stages - 1 in self.layers

    @property
    def tokens(self) -> int:
        """Of a micro-batch, those that a tp group has together."""
        return self.work.rows * self.work.context // self.layout.cp

    @property
    def places(self) -> int:
        """The same in all micro-batches; of pairs, those of their targets."""
        return self.work.places[1] if self.work.places else self.work.microbatches * self.tokens

    @property
    def source_places(self) -> int:
        """Of pairs, those of their sources."""
        return self.work.places[0] if self.work.places else self.work.microbatches * self.tokens

    @property
    def weight(self) -> int:
        """Bytes of a number of a weight and of its gradient."""
        return 8 if self.work.dtype == "float64" else 4

    @property
    def product(self) -> int:
        """Bytes of a number that a matrix product gives."""
        return 2 if self.work.dtype in HALF else self.weight

    @property
    def hidden(self) -> int:
        """Bytes of a number of a hidden state: autocast leaves them wide, `fully_shard` does not."""
        return self.product if self.layout.fsdp > 1 else self.weight

    @property
    def wide(self) -> int:
        """Bytes of a number that is at least float32."""
        return max(4, self.product)


def _block_of(name: str) -> str | None:
    """The layer that a parameter belongs to: `3`, or `encoder.3`; None: it lies beside the layers."""
    before, layers, rest = name.rpartition("layers.")
    return before + rest.partition(".")[0] if layers else None
