"""Expert parallelism: the experts of a layer are spread over ranks, and tokens travel to them and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from plait.nn.experts import Experts, Pairs
from plait.parallel.collectives import Group, all_to_all


def all_to_all_dispatch(group: Group, count: int) -> Callable[[Experts, Tensor, Tensor, Tensor], Tensor]:
    """An `Experts.dispatch` for experts spread over `group`, equal to `dispatch_here` with all of them.

    The stacked weights of rank r are those of experts `r · count/ranks` to `(r + 1) · count/ranks`. Each rank
    brings its own tokens, any number and none too, so an expert's gradient is already the sum over the tokens
    of all ranks: it must not be reduced over the group again. All ranks must call the dispatch, and walk back
    through it, equally often.

    Args:
        group: the ranks, in the order of their experts.
        count: experts of all ranks, which `check_layout` has found to divide evenly.
    """
    ranks = dist.get_world_size(group)
    local = count // ranks

    def dispatch(experts: Experts, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not x.requires_grad:
            x = x.detach().requires_grad_()  # so that backward takes this rank through the same exchanges
        pairs = Pairs.of(chosen, count)
        sent = torch.tensor(pairs.sizes, device=x.device)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        per_rank = received.view(ranks, local)
        leave, arrive = sent.view(ranks, local).sum(1).tolist(), per_rank.sum(1).tolist()

        arrived = all_to_all(x[pairs.tokens], arrive, leave, group)  # sorted by rank, then by expert
        expert = torch.arange(local, device=x.device).repeat(ranks).repeat_interleave(received)
        order = expert.argsort(stable=True)
        out = experts.each(arrived[order], per_rank.sum(0).tolist())
        back = all_to_all(out[order.argsort()], leave, arrive, group)
        return pairs.combine(back, weights, x)

    return dispatch
