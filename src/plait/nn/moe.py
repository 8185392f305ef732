"""Mixture of experts in plain mathematics: each token goes to the k experts its router likes best.

Shazeer et al. 2017 (eq. 3-5). Experts are kept evenly used by the balancing loss of Fedus et al. 2022
(eq. 4-6), by a bias on the choice (Wang et al. 2024), by a capacity (Lepikhin et al. 2020), each per sequence
or per step, so that no batch size or layout can change the result.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.nn.config import ModelConfig
from plait.nn.experts import DROPPED, Experts
from plait.nn.mlp import MLP


class Parts(Protocol):
    """How the time axis of a sequence is spread; what is said of a sequence needs all of its parts."""

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the parts. Backward is the identity: each part gets the gradient of its own share."""
        ...

    def gather(self, x: Tensor) -> Tensor:
        """`[batch, time of this part, ...]` → `[batch, time, ...]` in time order, without gradient."""
        ...

    def own(self, x: Tensor) -> Tensor:
        """The slice of `[batch, time, ...]` that is this part's: `own(gather(x))` equals `x`."""
        ...


class Whole:
    """Sequences are in one part."""

    def sum(self, x: Tensor) -> Tensor:
        return x

    def gather(self, x: Tensor) -> Tensor:
        return x

    def own(self, x: Tensor) -> Tensor:
        return x


class MoE(nn.Module):
    """Router, top-k experts, and optional shared experts that see every token (Dai et al. 2024, eq. 9).

    A capacity drops pairs in training only. Which pairs it drops depends on later tokens of the sequence, so
    a model that generates, or is evaluated, drops none.

    Attributes:
        choice_bias: added to the probabilities where experts are chosen, never to the weights, `[experts]`;
            None without `balance_bias`. No gradient: `update_choice_bias` moves it.
        aux_scale: what one unit of the summed balancing loss adds to the objective; whoever runs the
            backward pass sets it to 1 / (target tokens of the step).
        aux_sum: the balancing loss summed over the tokens seen since it was last cleared, for the log. Every
            part of a spread sequence holds that of the whole sequence.
        load: choices of each expert in training since last cleared, dropped ones too, `[experts]`. Of a
            spread sequence those of this part.
        held: bool `[batch, time]` of the tokens that count for all of these, the others are padding; None:
            all. It is set with each batch by whoever runs the forward pass.
        parts: how sequences are spread; set by whoever spreads them.
    """

    held: Tensor | None = None
    parts: Parts = Whole()

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
        self.capacity_factor, self.bias_speed = config.capacity_factor, config.balance_bias
        self.gate = nn.Linear(config.width, config.experts, bias=False)
        bias = torch.zeros(config.experts) if config.balance_bias else None
        self.choice_bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
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
        liking = probabilities if self.choice_bias is None else probabilities + self.choice_bias
        chosen = liking.topk(self.top_k, dim=-1).indices
        weights = probabilities.gather(-1, chosen)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        sent = self._within_capacity(chosen) if self.training and self.capacity_factor else chosen
        out = self.experts(x.flatten(0, 1), sent.flatten(0, 1), weights.flatten(0, 1).to(x.dtype)).view_as(x)
        if self.shared_experts is not None:
            out = out + self.shared_experts(x)
        if not self.training:
            return out
        picks = F.one_hot(chosen, len(self.load)).sum(2)
        self.load += (picks if self.held is None else picks * self.held[..., None]).sum((0, 1))
        if self.balance:
            loss = self.balance * balance_loss(probabilities, chosen, self.held, self.parts)
            self.aux_sum += loss.detach()
            out = AddLoss.apply(out, loss, self.aux_scale)
        return out

    def _within_capacity(self, chosen: Tensor) -> Tensor:
        """`chosen` with `DROPPED` where the capacity ends; padding is dropped and counts for nothing."""
        held = torch.ones_like(chosen[..., 0], dtype=torch.bool) if self.held is None else self.held
        whole, real = self.parts.gather(chosen), self.parts.gather(held)
        kept = self.parts.own(within_capacity(whole, real, self.capacity_factor, len(self.load)))
        return chosen.masked_fill(~kept, DROPPED)


def within_capacity(chosen: Tensor, held: Tensor, factor: float, experts: int) -> Tensor:
    """Which (token, choice) pairs their expert has room for, bool `[batch, time, k]`.

    An expert takes `⌈factor · tokens · k / experts⌉` pairs of a sequence: first choices in the order of time,
    then second choices, and so on (Lepikhin et al. 2020, algorithm 1).

    Args:
        chosen: expert numbers `[batch, time, k]` of whole sequences, the first choice first.
        held: bool `[batch, time]`, false for padding, which never has room.
        factor: more than 0. It is read as the decimal number it prints as, so that 1.1 · 10 is 11.
        experts: how many there are.
    """
    rows, time, k = chosen.shape
    share = Fraction(str(factor)) * k / experts
    room = -(-held.sum(1, keepdim=True) * share.numerator // share.denominator)
    queue = chosen.masked_fill(~held[..., None], experts).mT.reshape(rows, k * time)
    ranked, at = queue.sort(dim=1, stable=True)
    place = torch.arange(k * time, device=chosen.device) - torch.searchsorted(ranked, ranked)
    kept = torch.empty_like(queue, dtype=torch.bool).scatter(1, at, (place < room) & (ranked < experts))
    return kept.view(rows, k, time).mT


def balance_loss(
    probabilities: Tensor, chosen: Tensor, held: Tensor | None = None, parts: Parts | None = None
) -> Tensor:
    """`experts · Σ share · mean probability`, per sequence, weighted by its tokens and summed.

    Per sequence, so that no batch size or layout can change it. 1 per token when perfectly balanced.

    Args:
        probabilities: `[batch, time, experts]`.
        chosen: `[batch, time, k]` expert numbers.
        held: bool `[batch, time]`, false for padding, which is left out; None: there is none.
        parts: how the sequences are spread; the value is then the same in each part. None: not at all.
    """
    _, _, experts = probabilities.shape
    held = torch.ones_like(chosen[..., 0], dtype=torch.bool) if held is None else held
    weight = held[..., None].to(probabilities.dtype)
    picks = F.one_hot(chosen, experts).sum(2) * weight
    sums = torch.cat((weight.sum(1), picks.sum(1), (probabilities * weight).sum(1)), dim=-1)
    tokens, picked, liked = (parts or Whole()).sum(sums).split((1, experts, experts), dim=-1)
    some = tokens.clamp(min=1)  # a row may be all padding
    share, mean = picked / (some * chosen.shape[-1]), liked / some
    return (experts * (share * mean).sum(-1, keepdim=True) * tokens).sum()


@torch.no_grad()
def update_choice_bias(moe: MoE) -> None:
    """Make overused experts less likely to be chosen, underused ones more (Wang et al. 2024, algorithm 1).

    To be called once a step, when `load` holds the counts of the whole step. Without `balance_bias`: nothing.
    """
    if moe.choice_bias is not None:
        moe.choice_bias.add_((moe.load.mean() - moe.load).sign(), alpha=moe.bias_speed)


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
