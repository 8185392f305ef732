"""`Placed`: a model where it runs. The training loop sees only this, whatever the layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from plait.data.batch import Batch, StepBatch
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.loss import LossSum
from plait.nn.moe import MoE, update_choice_bias
from plait.parallel.context import zigzag
from plait.parallel.data import let_go, local, sum_gradients, sync_when
from plait.parallel.layout import ROWS
from plait.parallel.mesh import Mesh
from plait.parallel.parameters import EMBEDDING, HEAD, Parameters
from plait.parallel.part import Objective, Part
from plait.parallel.pieces import copies_of
from plait.parallel.pipeline import Pipeline, add_tied

__all__ = ["Objective", "Placed"]


class Placed:
    """The parts of a model that this process runs, and how they work with those of the others.

    Attributes:
        parts: one, or several where a pipeline rank has several stages.
        config: of the whole model.
        parameters: which pieces of them are here, and who holds the others.
        aux_loss: summed auxiliary losses of the last `forward_backward`, over all ranks.
        loads: tokens sent to each expert of each layer in the last step, over all ranks, `[layers, experts]`.
    """

    def __init__(
        self,
        parts: list[Part],
        parameters: Parameters,
        config: ModelConfig,
        mesh: Mesh,
        device: torch.device,
        *,
        travels_as: torch.dtype,
    ) -> None:
        self.parts, self.parameters, self.config = parts, parameters, config
        self.mesh, self.device, self.travels_as = mesh, device, travels_as
        self.aux_loss = 0.0
        self.loads = torch.zeros(0)
        group = mesh.group("pp")
        self._pipeline = Pipeline(parts, mesh.layout, group, device) if group else None
        self._moe: dict[int, MoE] = {
            number: block.mlp
            for part in parts
            for number, block in part.model.blocks()
            if isinstance(block.mlp, MoE)
        }

    @property
    def model(self) -> Decoder:
        """The whole model, where one process holds it."""
        assert self.mesh.layout.world == 1
        return self.parts[0].model

    @property
    def data_rank(self) -> int:
        """Whose rows of a batch this rank works on."""
        return self.mesh.index(*ROWS)

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.mesh.rank == 0

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters here by global name, copies of others among them."""
        yield from self.parameters.named

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's pieces of the weights by global name; what is a copy here is left out."""
        return self.parameters.state_dict()

    # ---- computing

    def forward_backward(self, batch: StepBatch, objective: Objective, scale: float = 1.0) -> LossSum:
        """Leave gradients of `scale · (sum of losses) / batch.target_tokens` in the parameters.

        Args:
            batch: this data rank's rows; `target_tokens` counts those of all ranks.

        Returns:
            The sums over all ranks (`total` is this rank's own).
        """
        each = scale / batch.target_tokens
        for experts in self._moe.values():
            experts.aux_scale.fill_(each / self.mesh.sizes["tp"])
            experts.aux_sum.zero_()
            experts.load.zero_()
        micros = [self._own(micro) for micro in batch.microbatches]
        losses = self._run(micros, objective, each)
        self._reduce()
        return self._gathered_sums(losses)

    def _run(self, micros: list[Batch], objective: Objective, each: float) -> list[LossSum]:
        self._prepare(micros, objective, training=True)
        if self._pipeline is not None:
            return self._pipeline.forward_backward(self._hidden(micros[0]), each)
        (part,) = self.parts
        losses = []
        for number in range(len(micros)):
            sync_when(part, last=number == len(micros) - 1)
            hidden = part(torch.empty(0), torch.tensor(number))
            loss = part.loss(hidden, number)
            (loss.total * each).backward()
            losses.append(loss.detach())
        return losses

    @torch.no_grad()
    def evaluate(self, batch: Batch, objective: Objective) -> LossSum:
        """This rank's share of the loss of one batch, without dropout or gradients; see `total`."""
        own = self._own(batch)
        self._prepare([own], objective, training=False)
        if self._pipeline is not None:
            loss = self._pipeline.evaluate(self._hidden(own))
        else:
            (part,) = self.parts
            loss = part.loss(part(torch.empty(0), torch.tensor(0)), 0)
        for part in self.parts:
            let_go(part)
        if loss is not None and self.mesh.at["tp"] == 0:
            return loss
        zero = torch.zeros((), device=self.device)
        return LossSum(zero, zero, zero, zero)

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all ranks of numbers that each has a share of."""
        values = torch.tensor(numbers, dtype=torch.float64)
        if self.mesh.layout.world > 1:
            dist.all_reduce(values)
        return values.tolist()

    def first(self, number: float) -> float:
        """Rank 0's number, on every rank."""
        return self.total([number if self.leads else 0.0])[0]

    def any(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        return (self.mesh.layout.world > 1 and self.total([float(here)])[0] > 0) or here

    def _prepare(self, micros: list[Batch], objective: Objective, *, training: bool) -> None:
        for part in self.parts:
            part.train(training)
            part.batches, part.objective = micros, objective

    def _own(self, batch: Batch) -> Batch:
        """The batch on the device, with this context rank's tokens of each row.

        Positions that go without saying are said where a rank sees a part of the tokens or of the time.
        """
        layout = self.mesh.layout
        if batch.source is not None and layout.tp > 1:
            batch = batch.padded(layout.tp)
        rows, time = batch.tokens.shape
        if batch.positions is None and (layout.cp > 1 or (layout.pp > 1 and layout.tp > 1)):
            batch = replace(batch, positions=torch.arange(time).expand(rows, -1))
        if layout.cp > 1:
            batch = batch.take(zigzag(time, layout.cp, self.mesh.at["cp"]))
        return batch.to(self.device)

    def _hidden(self, batch: Batch) -> Tensor:
        """An empty tensor of the shape and type that pipeline stages hand on."""
        rows, time = batch.tokens.shape
        shape = rows, time // self.mesh.sizes["tp"], self.config.width
        return torch.empty(shape, dtype=self.travels_as, device=self.device)

    # ---- gradients

    def _reduce(self) -> None:
        """Sum gradients over the ranks that hold copies, and over those that saw a part of the work each."""
        alike: dict[tuple[str, ...], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                sharding = self.parameters.shardings[name]
                axes = {"dp", "cp"} | ({"ep"} if sharding.ep is None else set())
                axes |= {"tp"} if sharding.tp is None else set()
                alike.setdefault(tuple(sorted(axes)), []).append(parameter)
        for axes in sorted(alike):
            group = self.mesh.group(*axes)
            if group is not None:
                sum_gradients(alike[axes], group)
        pipeline = self.mesh.group("pp")
        if pipeline is not None and self.parameters.copies:
            tied = (parameter for name, parameter in self.named_parameters() if name in (EMBEDDING, HEAD))
            add_tied([local(p.grad) for p in tied if p.grad is not None], self.mesh.layout, pipeline)

    def _gathered_sums(self, losses: list[LossSum]) -> LossSum:
        """Sums of the step over all ranks, and with them the experts' loads."""
        counts = self.mesh.at["tp"] == 0
        sums = torch.zeros(4, dtype=torch.float64)
        loads = torch.zeros(self.config.layers if self.config.experts else 0, self.config.experts)
        if counts:
            for loss in losses:
                sums += sums.new_tensor([float(loss.nll), float(loss.correct), float(loss.tokens), 0.0])
            for number, experts in self._moe.items():
                loads[number] = experts.load.cpu()
                if self.mesh.at["cp"] == 0:
                    sums[3] += float(experts.aux_sum)
        if self.mesh.layout.world > 1:
            everything = torch.cat((sums, loads.flatten().double()))
            dist.all_reduce(everything)
            sums, loads = everything[:4], everything[4:].view_as(loads)
        self.loads, self.aux_loss = loads, float(sums[3])
        for number, experts in self._moe.items():
            experts.load.copy_(loads[number])
        own = sum((loss.total for loss in losses), torch.zeros(()))
        return LossSum(own, sums[0], sums[1], sums[2])

    def update_biases(self) -> None:
        """Move the experts' choice biases by the loads of the last step, where the model balances so."""
        for experts in self._moe.values():
            update_choice_bias(experts)

    @torch.no_grad()
    def clip(self, max_norm: float, scale: float = 1.0) -> Tensor:
        """Undo `scale`, clip to the global 2-norm `max_norm` (0: leave as is), return the norm before.

        Each element counts once, however many ranks hold it: a rank adds its share of the squares.
        """
        norms: list[Tensor] = []
        shares: list[int] = []
        grads: list[Tensor] = []
        for name, parameter in self.named_parameters():
            if parameter.grad is None:
                continue
            grad = local(parameter.grad)
            grads.append(grad)
            if scale != 1.0:
                grad /= scale
            if name not in self.parameters.copies:
                norms.append(torch.linalg.vector_norm(grad, dtype=wide(grad.dtype)))
                shares.append(copies_of(self.parameters.shardings[name], self.mesh))
        each = torch.stack(norms).cpu().double() if norms else torch.zeros(0, dtype=torch.float64)
        squares = (each.square() / torch.tensor(shares, dtype=torch.float64)).sum()
        if self.mesh.layout.world > 1:
            dist.all_reduce(squares)
        norm = squares.sqrt()
        if max_norm:
            factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
            for grad in grads:
                grad.mul_(factor.to(grad.device, grad.dtype))
        return norm


def wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(dtype, torch.float32)
