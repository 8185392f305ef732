"""What needs a whole sequence, where context parallelism spreads it: the sums and orders of a router."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from plait.parallel.collectives import Group, all_reduce
from plait.parallel.context import unzigzag, zigzag


class ContextParts:
    """`plait.nn.moe.Parts` for zig-zag parts of a sequence on the ranks of a group."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over parts, which each rank goes on with alike; its backward is the identity."""
        return all_reduce(x, self.group)

    def gather(self, x: Tensor) -> Tensor:
        """`[batch, time of this part, ...]` → `[batch, time, ...]` in order; no gradient."""
        x = x.detach()
        flat = x.to(torch.uint8) if x.dtype == torch.bool else x
        parts = [torch.empty_like(flat) for _ in range(self.ranks)]
        dist.all_gather(parts, flat.contiguous(), group=self.group)
        return unzigzag(torch.cat(parts, 1), 1, self.ranks).to(x.dtype)

    def own(self, x: Tensor) -> Tensor:
        """This rank's part of `[batch, time, ...]`."""
        return x[:, zigzag(x.shape[1], self.ranks, self.rank).to(x.device)]
