"""`Part`: what one rank runs of the decoder, from what comes in to what goes out, or to the loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from plait.data.batch import Batch
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder, Head
from plait.nn.encoder_decoder import EncoderDecoder, build
from plait.nn.loss import LossSum
from plait.nn.moe import MoE

Objective = Callable[[Tensor, Head, Batch], LossSum]


class Part(nn.Module):
    """A stage of the decoder, the whole of it where there is no pipeline.

    Attributes:
        stage, first, last: its number, and whether embedding or head are here.
        batches: the micro-batches at hand, on the device, with this rank's tokens.
        objective: what they are trained towards.
    """

    def __init__(self, model: Decoder, stage: int, stages: int, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self.stage, self.first, self.last = stage, stage == 0, stage == stages - 1
        self.autocast = autocast
        self.batches: list[Batch] = []
        self.objective: Objective
        self.experts = [module for module in model.modules() if isinstance(module, MoE)]

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        """Hidden states of micro-batch `number`.

        Args:
            x: hidden states `[batch, time, width]` of the stage before; ignored by the first one.
            number: of the micro-batch, one integer.
        """
        batch = self.batches[int(number)]
        for experts in self.experts:
            experts.held = batch.held
        with self._cast():
            start = batch.tokens if self.first else x
            memory = None
            if batch.source is not None:
                assert isinstance(self.model, EncoderDecoder)
                memory = self.model.encode(batch.source, batch.source_positions)
            return self.model.hidden(start, positions=batch.positions, segments=batch.segments, memory=memory)

    def loss(self, hidden: Tensor, number: int) -> LossSum:
        """The objective on the last stage's hidden states of a micro-batch."""
        assert self.model.lm_head is not None
        with self._cast():
            return self.objective(hidden, self.model.lm_head, self.batches[number])

    def _cast(self) -> AbstractContextManager:
        device = self.batches[0].tokens.device.type
        return torch.autocast(device, self.autocast) if self.autocast else nullcontext()


def stage_model(config: ModelConfig, layers: range, *, first: bool, last: bool) -> Decoder:
    """A decoder without what other stages hold; what it lacks is None, layers keep their global numbers."""
    model = build(config)
    for number in range(config.layers):
        if number not in layers:
            del model.layers[str(number)]
    if not first:
        model.embed_tokens = model.embed_positions = None
    if not last:
        model.norm = model.lm_head = None
    return model
