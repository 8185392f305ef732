"""`Placed`: a model where it runs. The training loop sees only this, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from plait.data.batch import Batch, StepBatch
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder, Head
from plait.nn.initialize import initialize
from plait.nn.loss import LossSum
from plait.nn.moe import MoE
from plait.parallel.layout import Layout

Objective = Callable[[Tensor, Head, Batch], LossSum]


class Placed:
    """One process: one part, nothing sharded.

    Attributes:
        parts: the modules this process runs.
        aux_loss: summed auxiliary losses of the last `forward_backward`.
    """

    def __init__(self, model: Decoder, device: torch.device, autocast: torch.dtype | None) -> None:
        self.model, self.device, self.autocast = model.to(device), device, autocast
        self.parts: list[nn.Module] = [self.model]
        self.aux_loss = 0.0
        self._experts = [module for module in model.modules() if isinstance(module, MoE)]

    def forward_backward(self, batch: StepBatch, objective: Objective, scale: float = 1.0) -> LossSum:
        """Leave gradients of `scale · (sum of losses) / batch.target_tokens` in the parameters."""
        for experts in self._experts:
            experts.aux_scale.fill_(scale / batch.target_tokens)
            experts.aux_sum.zero_()
            experts.load.zero_()
        self.model.train()
        total: LossSum | None = None
        for micro in batch.microbatches:
            loss = self._loss(micro, objective)
            (loss.total * (scale / batch.target_tokens)).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None, "a step has at least one microbatch"
        self.aux_loss = float(sum(experts.aux_sum.item() for experts in self._experts))
        return total

    @torch.no_grad()
    def evaluate(self, batch: Batch, objective: Objective) -> LossSum:
        """The loss of one batch without dropout or gradients."""
        self.model.eval()
        return self._loss(batch, objective)

    def _loss(self, batch: Batch, objective: Objective) -> LossSum:
        batch = batch.to(self.device)
        for experts in self._experts:
            experts.held = batch.held
        cast = torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()
        with cast:
            hidden = self.model.hidden(batch.tokens, positions=batch.positions, segments=batch.segments)
            assert self.model.lm_head is not None
            return objective(hidden, self.model.lm_head, batch)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by global name, tied ones once."""
        return self.model.named_parameters()

    @torch.no_grad()
    def clip(self, max_norm: float, scale: float = 1.0) -> Tensor:
        """Undo `scale`, clip to the global 2-norm `max_norm` (0: leave as is), return the norm before."""
        parameters = [p for _, p in self.named_parameters() if p.grad is not None]
        if scale != 1.0:
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad /= scale
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if max_norm:
            nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """Weights by global name, tied ones once."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Copy weights in; every parameter must be there with its shape."""
        for name, parameter in self.named_parameters():
            parameter.copy_(weights[name])


def apply_layout(
    config: ModelConfig,
    layout: Layout,
    device: torch.device,
    *,
    dtype: str = "float32",
    seed: int = 0,
    compiled: bool = False,
) -> Placed:
    """Build the model where it runs, initialized from (seed, parameter name).

    Args:
        dtype: float64 and float32 hold and compute in that type; bfloat16 and float16 compute in it under
            autocast, with float32 weights.
    """
    assert layout.world == 1
    model = Decoder(config)
    initialize(model, seed)
    if dtype == "float64":
        model.double()
    autocast = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(dtype)
    if compiled:
        for block in model.layers.values():
            block.compile()
    return Placed(model, device, autocast)
