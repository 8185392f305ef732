"""Optimizers over named parameters: SGD, Adam, AdamW, Muon. State is keyed by global parameter name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from plait.nn.initialize import scale_of
from plait.parallel.data import like, local
from plait.train.config import TrainConfig

if TYPE_CHECKING:
    from plait.parallel.placed import Placed

OnWhole = Callable[[str, Tensor, Callable[[Tensor], Tensor]], Tensor]
State = dict[str, dict[str, Tensor]]


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalized by Newton-Schulz iterations (Jordan et al. 2024).

    Works on whole matrices; stacked matrices `[experts, in, out]` are orthogonalized one by one. Updates are
    scaled by `sqrt(max(1, out / in))` and decay is decoupled.

    Args:
        named: parameters by name.
        on_whole: of (name, piece, function), this rank's piece of the function of the whole tensor.
        scale: of a name, what its updates are multiplied by.
    """

    def __init__(
        self,
        named: Mapping[str, nn.Parameter],
        *,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        on_whole: OnWhole,
        scale: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        super().__init__(
            list(named.values()),
            {"lr": 0.0, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay},
        )
        self.named, self.on_whole, self.scale = dict(named), on_whole, scale

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        """One update from the gradients at hand."""
        (group,) = self.param_groups
        for name, parameter in self.named.items():
            if parameter.grad is None:
                continue
            weight, grad, state = local(parameter), local(parameter.grad), self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            buffer = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
            update = grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(self.on_whole(name, update, muon_update), alpha=-group["lr"] * self.scale(name))


def muon_update(momentum: Tensor) -> Tensor:
    """The update, before the learning rate, that a whole matrix, or stack of them, makes of its momentum."""
    to, from_ = momentum.shape[-2:]  # of a linear layer; a stack is [experts, in, out]
    if momentum.ndim > 2:
        to, from_ = from_, to
    return orthogonalize(momentum) * max(1.0, to / from_) ** 0.5


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearly `U Vᵀ` of the singular value decomposition of `[..., rows, columns]`, by five quintic steps."""
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan et al. 2024: steepest slope at zero that keeps values near 1
    x = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrix.shape[-2] > matrix.shape[-1] else x


class Optimizer:
    """The configured optimizer(s) over `named` parameters (tied ones once); frozen parameters are left out.

    Args:
        on_whole: see `Muon`; the default is for parameters that are whole here.
        scale: of a name, how large it is beside others, see `plait.nn.initialize.scale_of`: its steps are in
            proportion.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        config: TrainConfig,
        on_whole: OnWhole = lambda name, piece, function: function(piece),
        scale: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        self.config, self.scale = config, scale
        self.names = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.lr = 0.0  # of the last step
        self.updated = False  # so that there is state
        groups = self._groups()
        self.parts: list[torch.optim.Optimizer] = []
        if config.optimizer == "sgd":
            nesterov = config.nesterov and config.momentum > 0
            self.parts.append(torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=nesterov))
        elif config.optimizer == "adam":
            self.parts.append(
                torch.optim.Adam(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
            )
        else:
            if config.optimizer == "muon":
                matrices = {name: p for name, p in self.names.items() if is_hidden_matrix(name, p.ndim)}
                muon = Muon(
                    matrices,
                    momentum=config.momentum,
                    nesterov=config.nesterov,
                    weight_decay=config.weight_decay,
                    on_whole=on_whole,
                    scale=scale,
                )
                self.parts.append(muon)
                groups = self._groups(lambda name, p: not is_hidden_matrix(name, p.ndim))
            self.parts.append(
                torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
            )

    def _groups(self, keep=lambda name, parameter: True) -> list[dict]:
        """Decay matrices and embeddings, not norms and biases; one group for each scale."""
        groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
        for name, parameter in self.names.items():
            if keep(name, parameter):
                groups.setdefault((parameter.ndim >= 2, self.scale(name)), []).append(parameter)
        # a gradient is smaller where its parameter is larger, which Adam's steps do not notice; what decays
        # as a part of the gradient has to be smaller in proportion, too
        name, decay = self.config.optimizer, self.config.weight_decay
        step, within = (2 if name == "sgd" else 1), (2 if name in ("sgd", "adam") else 1)
        return [
            {
                "params": parameters,
                "scale": scale**step,
                "weight_decay": decay / scale**within if matrices else 0.0,
            }
            for (matrices, scale), parameters in groups.items()
        ]

    def step(self, share: float) -> None:
        """Update at `share` of the peak learning rate and clear the gradients."""
        for part in self.parts:
            peak = self.config.muon_lr if isinstance(part, Muon) else self.config.lr
            for group in part.param_groups:
                group["lr"] = peak * share * group.get("scale", 1.0)
            part.step()
        self.lr, self.updated = self.config.lr * share, True
        self.skip()

    def skip(self) -> None:
        """Clear the gradients without an update."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def slots(self, name: str, ndim: int) -> dict[str, bool]:
        """What is kept of any parameter of the model, here or elsewhere: slot → whether it is one number.

        Nothing before the first update.
        """
        if not self.updated:
            return {}
        if self.config.optimizer == "sgd":
            return {"momentum_buffer": False} if self.config.momentum else {}
        if self.config.optimizer == "muon" and is_hidden_matrix(name, ndim):
            return {"momentum_buffer": False}
        return {"step": True, "exp_avg": False, "exp_avg_sq": False}

    def state_dict(self) -> State:
        """This rank's pieces of every parameter's state by global name; scalars as 0-d tensors."""
        result: State = {}
        for name, parameter in self.names.items():
            for part in self.parts:
                if parameter in part.state:
                    state = part.state[parameter]
                    kept = {key: value for key, value in state.items() if isinstance(value, Tensor)}
                    result[name] = {key: local(value) for key, value in kept.items()}
        return result

    def load_state_dict(self, state: State) -> None:
        """Take over this rank's pieces of saved state; names and shapes must match.

        No state at all is what is left before the first update.

        Raises:
            ValueError: when a parameter's state is missing or of another shape.
        """
        if not state:
            return
        owner = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for name, parameter in self.names.items():
            if name not in state:
                raise ValueError(f"optimizer state of {name!r} is missing")
            here, part = local(parameter), owner[id(parameter)]
            slots: dict[str, Tensor] = {}
            for key, value in state[name].items():
                if value.ndim and value.shape != here.shape:
                    raise ValueError(
                        f"{key} of {name!r} has shape {list(value.shape)}, not {list(here.shape)}"
                    )
                value = value.to(here.device, copy=True)
                slots[key] = value if isinstance(part, Muon) or not value.ndim else like(parameter, value)
            part.state[parameter] = slots
        self.updated = True


def optimizer_of(placed: Placed, config: TrainConfig) -> Optimizer:
    """The optimizer of a placed model; its steps fit how large each parameter is."""
    copies = placed.parameters.copies  # of a pipeline's last stage, which follow their sources

    def scale(name: str) -> float:
        return scale_of(placed.config, copies.get(name, name))

    return Optimizer(placed.named_parameters(), config, placed.parameters.on_whole, scale)


def is_hidden_matrix(name: str, ndim: int) -> bool:
    """Whether Muon trains it: the matrices of the layers, not embeddings, head, router gates or vectors."""
    return name.startswith("layers.") and ndim >= 2 and ".mlp.gate.weight" not in name
