"""Mixture of experts in plain mathematics: each token goes to its top-k experts; none is dropped.

Shazeer et al. 2017 (eq. 3-5) with the balancing loss of Fedus et al. 2022 (eq. 4-6), per sequence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.nn.config import ModelConfig
from plait.nn.mlp import MLP, activation


class Experts(nn.Module):
    """Feed-forward experts with stacked weights `[experts, in, out]`."""

    dispatch: Callable[..., Tensor]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        ffn = config.expert_ffn or config.ffn
        shape = (config.experts, config.width, ffn)
        self.gate_proj = nn.Parameter(torch.empty(shape)) if config.gated else None
        self.up_proj = nn.Parameter(torch.empty(shape))
        self.down_proj = nn.Parameter(torch.empty(config.experts, ffn, config.width))
        self.activation = activation(config.activation)
        self.dispatch = dispatch_here

    def expert(self, number: int, x: Tensor) -> Tensor:
        """One expert on its tokens `[tokens, width]`."""
        up = x @ self.up_proj[number]
        if self.gate_proj is None:
            return self.activation(up) @ self.down_proj[number]
        return (self.activation(x @ self.gate_proj[number]) * up) @ self.down_proj[number]

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """`x` `[tokens, width]`, `chosen` and `weights` `[tokens, k]` → `[tokens, width]`."""
        return self.dispatch(self, x, chosen, weights)


def dispatch_here(experts: Experts, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """All experts live in this process: sort the (token, expert) pairs, run each expert on its slice."""
    count = len(experts.up_proj)
    flat = chosen.flatten()
    by_expert = flat.argsort(stable=True)
    tokens = by_expert // chosen.shape[1]
    sizes = torch.bincount(flat, minlength=count).tolist()
    slices = x[tokens].split(sizes)
    out = torch.cat([experts.expert(number, part) for number, part in enumerate(slices)])
    return torch.zeros_like(x).index_add(0, tokens, out * weights.flatten()[by_expert, None])


class MoE(nn.Module):
    """Router, top-k experts, and optional shared experts that see every token (Dai et al. 2024, eq. 9).

    Attributes:
        aux_scale: what one unit of the summed balancing loss adds to the objective; whoever runs the
            backward pass sets it to 1 / (target tokens of the step).
        aux_sum: the balancing loss summed over the tokens seen since it was last cleared, for the log.
        load: tokens sent to each expert in training since last cleared, `[experts]`.
        held: bool `[batch, time]` of the tokens that count for both, the others are padding; None: all. It
            is set with each batch by whoever runs the forward pass.
    """

    held: Tensor | None = None

    aux_scale: Tensor
    aux_sum: Tensor
    load: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k, self.normalize, self.balance = (
            config.experts_per_token,
            config.norm_topk,
            config.balance_loss,
        )
        self.gate = nn.Linear(config.width, config.experts, bias=False)
        self.experts = Experts(config)
        ffn = (config.expert_ffn or config.ffn) * config.shared_experts
        self.shared_experts = MLP(config, ffn) if config.shared_experts else None
        self.register_buffer("aux_scale", torch.zeros(()), persistent=False)
        self.register_buffer("aux_sum", torch.zeros(()), persistent=False)
        self.register_buffer("load", torch.zeros(config.experts), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[batch, time, width]` → same shape."""
        logits = self.gate(x)
        wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        probabilities = wide.softmax(-1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        flat = x.flatten(0, 1)
        out = self.experts(flat, chosen.flatten(0, 1), weights.flatten(0, 1).to(x.dtype)).view_as(x)
        if self.shared_experts is not None:
            out = out + self.shared_experts(x)
        if not self.training:
            return out
        picks = F.one_hot(chosen, len(self.load)).sum(2)
        self.load += (picks if self.held is None else picks * self.held[..., None]).sum((0, 1))
        if self.balance:
            loss = self.balance * balance_loss(probabilities, chosen, self.held)
            self.aux_sum += loss.detach()
            out = AddLoss.apply(out, loss, self.aux_scale)
        return out


def balance_loss(probabilities: Tensor, chosen: Tensor, held: Tensor | None = None) -> Tensor:
    """`experts · Σ share · mean probability`, per sequence, weighted by its tokens and summed.

    Per sequence, so that no batch size or layout can change it. 1 per token when perfectly balanced.

    Args:
        probabilities: `[batch, time, experts]`.
        chosen: `[batch, time, k]` expert numbers.
        held: bool `[batch, time]`, false for padding, which is left out; None: there is none.
    """
    _, _, experts = probabilities.shape
    held = torch.ones_like(chosen[..., 0], dtype=torch.bool) if held is None else held
    weight = held[..., None].to(probabilities.dtype)
    tokens = weight.sum(1)  # of each sequence, [batch, 1]
    picks = F.one_hot(chosen, experts).sum(2) * weight
    share = picks.sum(1) / (tokens * chosen.shape[-1])
    mean = (probabilities * weight).sum(1) / tokens
    return (experts * (share * mean).sum(-1, keepdim=True) * tokens).sum()


class AddLoss(torch.autograd.Function):
    """Identity on `x`; its backward adds `scale * loss` to the objective, where the loss arises."""

    @staticmethod
    def forward(ctx, x: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (scale,) = ctx.saved_tensors
        return grads[0], scale.clone(), None
