"""`Parameters`: which piece of which parameter a process holds, and who holds the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from plait.parallel.data import local
from plait.parallel.mesh import Mesh
from plait.parallel.part import Part
from plait.parallel.pieces import Piece, Sharding, holders, piece
from plait.parallel.pipeline import owner_of

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
FROZEN = "choice_bias"


class Parameters:
    """The parameters of a model by global name, and this rank's pieces of them.

    Args:
        parts: of the model, those that this rank runs.
        layers: those of each pipeline stage.
        tied: whether the head's weight is the embedding's.

    Attributes:
        named: those here, the `copies` among them.
        pieces: of each of those, which box of the whole it is.
        copies: parameters that are copies of others, which count and are saved.
        shapes, shardings: of all parameters, here or elsewhere: the whole shape, and how it is cut.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        mesh: Mesh,
        shapes: Mapping[str, tuple[int, ...]],
        shardings: Mapping[str, Sharding],
        layers: Sequence[range],
        *,
        tied: bool,
    ) -> None:
        self.mesh, self._layers = mesh, list(layers)
        self.shapes, self.shardings = dict(shapes), dict(shardings)
        # a tied head whose embedding lies on another stage, or in another part, is a copy of it
        self.copies = {HEAD: EMBEDDING} if tied and mesh.layout.pp > 1 else {}
        for copy, name in self.copies.items():
            self.shapes[copy], self.shardings[copy] = self.shapes[name], self.shardings[name]
        self.named = [pair for part in parts for pair in part.model.named_parameters()]
        self.pieces = {name: self.piece_at(name, mesh.at) for name, _ in self.named}

    def piece_at(self, name: str, place: dict[str, int]) -> Piece:
        """The box of a parameter that the rank at a place holds."""
        return piece(name, self.shapes[name], self.shardings[name], self.mesh, place)

    def holders(self, name: str) -> Iterator[tuple[int, Piece]]:
        """The ranks that together hold a parameter once, with their pieces."""
        stage_rank = owner_of(self.mesh.layout, self._stage_of(name))
        for place in holders(self.shardings[name], self.mesh, stage_rank):
            yield self.mesh.number(place), self.piece_at(name, place)

    def _stage_of(self, name: str) -> int:
        """The pipeline stage that holds a parameter."""
        if name.startswith("layers."):
            number = int(name.split(".")[1])
            return next(stage for stage, layers in enumerate(self._layers) if number in layers)
        return 0 if name.startswith("embed_") else len(self._layers) - 1

    def trains(self, name: str) -> bool:
        """Whether a parameter of the model, here or elsewhere, has a gradient."""
        return not name.endswith(FROZEN)

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's pieces of the weights by global name; what is a copy here is left out."""
        return {name: local(tensor.detach()) for name, tensor in self.named if name not in self.copies}

    def by_source(self) -> dict[str, list[str]]:
        """Names of parameters here by that of the tensor that fills them: their own, or a copy's original."""
        found: dict[str, list[str]] = {}
        for name in self.pieces:
            found.setdefault(self.copies.get(name, name), []).append(name)
        return found

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy whole weights, one after the other, of which each rank takes its pieces.

        Raises:
            KeyError: when a parameter is not among them.
        """
        here: dict[str, nn.Parameter] = dict(self.named)
        missing = self.by_source()
        for source, whole in weights:
            for name in missing.pop(source, []):
                local(here[name]).copy_(self.pieces[name].of(whole))
        if missing:
            raise KeyError(f"no weights for {sorted(missing)}")

    def on_whole(self, name: str, mine: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """This rank's piece of `function` of a whole matrix, or stack of whole matrices, cut as a parameter.

        The pieces along fsdp and tp are brought together; where only a stack is cut, each rank works alone.
        """
        sharding, sizes = self.shardings[name], self.mesh.sizes
        stack = len(self.shapes[name]) > 2
        group = self.mesh.group("fsdp", "tp")
        if group is None or (stack and (sharding.tp is None or sizes["tp"] == 1)):
            return function(mine) if mine.numel() else mine
        places = [
            self.mesh.at | {"fsdp": fsdp, "tp": tp}
            for fsdp in range(sizes["fsdp"])
            for tp in range(sizes["tp"])
        ]
        boxes = [self.piece_at(name, place) for place in places]
        flat = mine.new_zeros(max(math.prod(box.size) for box in boxes))
        flat[: mine.numel()] = mine.flatten()
        gathered = [torch.empty_like(flat) for _ in boxes]
        dist.all_gather(gathered, flat, group=group)
        first = [min(box.start[dim] for box in boxes) for dim in range(mine.ndim)]
        ends = [max(box.start[dim] + box.size[dim] for box in boxes) for dim in range(mine.ndim)]
        moved = [replace(box, start=tuple(s - f for s, f in zip(box.start, first))) for box in boxes]
        whole = mine.new_empty([end - start for start, end in zip(first, ends)])
        for box, numbers in zip(moved, gathered):
            box.of(whole).copy_(numbers[: math.prod(box.size)].view(box.size))
        return moved[self.mesh.index("fsdp", "tp")].of(function(whole))
