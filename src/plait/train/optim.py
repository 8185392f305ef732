"""Optimizers over named parameters: SGD, Adam, AdamW, Muon. State is keyed by global parameter name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from plait.train.config import TrainConfig

State = dict[str, dict[str, Tensor]]


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalized by Newton-Schulz iterations (Jordan et al. 2024).

    Works on whole matrices; stacked matrices `[experts, in, out]` are orthogonalized one by one. Updates are
    scaled by `sqrt(max(1, out / in))` and decay is decoupled.
    """

    def __init__(self, params, *, momentum: float, nesterov: bool, weight_decay: float) -> None:
        super().__init__(
            params, {"lr": 0.0, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        """One update from the gradients at hand."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                to, from_ = parameter.shape[-2:]  # of a linear layer; a stack is [experts, in, out]
                if parameter.ndim > 2:
                    to, from_ = from_, to
                scale = max(1.0, to / from_) ** 0.5
                parameter.add_(orthogonalize(update), alpha=-group["lr"] * scale)


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
    """The configured optimizer(s) over those `named` parameters (tied ones once) that want a gradient."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], config: TrainConfig) -> None:
        self.config = config
        self.names = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.lr = 0.0  # of the last step
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
                matrices = [p for name, p in self.names.items() if is_hidden_matrix(name, p)]
                muon = Muon(
                    matrices,
                    momentum=config.momentum,
                    nesterov=config.nesterov,
                    weight_decay=config.weight_decay,
                )
                self.parts.append(muon)
                groups = self._groups(lambda name, p: not is_hidden_matrix(name, p))
            self.parts.append(
                torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
            )

    def _groups(self, keep=lambda name, parameter: True) -> list[dict]:
        """Decay matrices and embeddings, not norms and biases."""
        kept = [p for name, p in self.names.items() if keep(name, p)]
        matrices = [p for p in kept if p.ndim >= 2]
        vectors = [p for p in kept if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def step(self, share: float) -> None:
        """Update at `share` of the peak learning rate and clear the gradients."""
        for part in self.parts:
            peak = self.config.muon_lr if isinstance(part, Muon) else self.config.lr
            for group in part.param_groups:
                group["lr"] = peak * share
            part.step()
        self.lr = self.config.lr * share
        self.skip()

    def skip(self) -> None:
        """Clear the gradients without an update."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> State:
        """Every parameter's state tensors by global name; scalars as 0-d tensors."""
        result: State = {}
        for name, parameter in self.names.items():
            for part in self.parts:
                if parameter in part.state:
                    state = part.state[parameter]
                    result[name] = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        return result

    def load_state_dict(self, state: State) -> None:
        """Take over saved state; names and shapes must match.

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
            slots = {key: value.to(parameter.device).clone() for key, value in state[name].items()}
            for key, value in slots.items():
                if value.ndim and value.shape != parameter.shape:
                    raise ValueError(
                        f"{key} of {name!r} has shape {list(value.shape)}, not {list(parameter.shape)}"
                    )
            owner[id(parameter)].state[parameter] = slots


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon trains it: the matrices of the layers, not embeddings, head, router gates or vectors."""
    return name.startswith("layers.") and parameter.ndim >= 2 and ".mlp.gate.weight" not in name
