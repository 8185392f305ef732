"""The experts of a mixture and how tokens reach them; `Experts.dispatch` is the seam for spreading them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.nn.config import ModelConfig
from plait.nn.mlp import activation

DROPPED = -1  # stands in `chosen` for a pair that goes nowhere


class Experts(nn.Module):
    """Feed-forward experts with stacked weights `[experts, in, out]`.

    Attributes:
        dispatch: `(experts, x, chosen, weights)` → the weighted sum of the chosen experts, as `forward`. The
            weights may then hold only some of the experts.
        grouped: whether all experts multiply in one kernel; None: where that kernel works.
    """

    dispatch: Callable[[Experts, Tensor, Tensor, Tensor], Tensor]
    grouped: bool | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        ffn = config.expert_ffn or config.ffn
        shape = (config.experts, config.width, ffn)
        self.gate_proj = nn.Parameter(torch.empty(shape)) if config.gated else None
        self.up_proj = nn.Parameter(torch.empty(shape))
        self.down_proj = nn.Parameter(torch.empty(config.experts, ffn, config.width))
        self.activation = activation(config.activation)
        self.dispatch = dispatch_here

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """`x` `[tokens, width]`, `chosen` and `weights` `[tokens, k]` → `[tokens, width]`.

        A choice of `DROPPED` adds nothing and is not computed.
        """
        return self.dispatch(self, x, chosen, weights)

    def each(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Every expert on its slice of `x` `[pairs, width]`, the first `sizes[0]` rows for the first, ..."""
        if len(x) and (_groups(x, self.up_proj) if self.grouped is None else self.grouped):
            return self._together(x, sizes)
        return torch.cat([self.expert(number, part) for number, part in enumerate(x.split(sizes))])

    def expert(self, number: int, x: Tensor) -> Tensor:
        """One expert on its tokens `[tokens, width]`."""
        up = x @ self.up_proj[number]
        if self.gate_proj is None:
            return self.activation(up) @ self.down_proj[number]
        return (self.activation(x @ self.gate_proj[number]) * up) @ self.down_proj[number]

    def _together(self, x: Tensor, sizes: list[int]) -> Tensor:
        ends = torch.tensor(list(accumulate(sizes)), dtype=torch.int32, device=x.device)
        dtype = _computes_in(x)

        def product(rows: Tensor, weight: Tensor) -> Tensor:
            return F.grouped_mm(rows.to(dtype), weight.to(dtype), offs=ends)

        up = product(x, self.up_proj)
        if self.gate_proj is None:
            return product(self.activation(up), self.down_proj)
        return product(self.activation(product(x, self.gate_proj)) * up, self.down_proj)


@dataclass(frozen=True)
class Pairs:
    """The (token, choice) pairs that are not dropped, sorted by expert; those of one expert by token.

    Attributes:
        places: where each pair stands in the flattened `[tokens, k]`, `[pairs]`.
        tokens: the token of each pair, `[pairs]`.
        sizes: pairs of each expert, in order.
    """

    places: Tensor
    tokens: Tensor
    sizes: list[int]

    @classmethod
    def of(cls, chosen: Tensor, experts: int) -> Pairs:
        """Sort the choices `[tokens, k]` among `experts`."""
        flat = chosen.flatten()
        dropped, *sizes = torch.bincount(flat - DROPPED, minlength=experts + 1).tolist()
        places = flat.argsort(stable=True)[dropped:]
        return cls(places, places // chosen.shape[1], sizes)

    def combine(self, out: Tensor, weights: Tensor, x: Tensor) -> Tensor:
        """The experts' results `[pairs, width]`, weighted and summed for each token of `x`."""
        return torch.zeros_like(x).index_add(0, self.tokens, out * weights.flatten()[self.places, None])


def dispatch_here(experts: Experts, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """All experts live in this process: sort the pairs, run each expert on its slice."""
    pairs = Pairs.of(chosen, len(experts.up_proj))
    return pairs.combine(experts.each(x[pairs.tokens], pairs.sizes), weights, x)


def _computes_in(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _groups(x: Tensor, weight: Tensor) -> bool:
    """`grouped_mm` is for bfloat16 on CUDA, with rows of whole 16 bytes."""
    aligned = all(size % 8 == 0 for size in weight.shape[1:])
    return x.is_cuda and _computes_in(x) == torch.bfloat16 and aligned
