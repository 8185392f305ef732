"""Which part of which parameter a rank holds, as plain boxes: for initial weights, norms and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from plait.parallel.mesh import Mesh


@dataclass(frozen=True)
class Piece:
    """The box of a named tensor that one rank holds.

    Attributes:
        name: global name of the parameter.
        shape: of the whole tensor.
        start, size: where the box begins and how large it is.
    """

    name: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    def of(self, whole: Tensor) -> Tensor:
        """This box of the whole tensor, as a view."""
        for dim, (start, size) in enumerate(zip(self.start, self.size)):
            whole = whole.narrow(dim, start, size)
        return whole


@dataclass(frozen=True)
class Sharding:
    """How a parameter is cut: the dimension each axis cuts, None where an axis leaves it whole.

    fsdp cuts dimension 0 of what tp and ep left, if at all.
    """

    tp: int | None = None
    ep: int | None = None
    fsdp: bool = True


def piece(name: str, shape: tuple[int, ...], sharding: Sharding, mesh: Mesh, at: dict[str, int]) -> Piece:
    """The box that the rank at `at` holds: cut by experts, then by tensor parallelism, then over fsdp."""
    start, size = [0] * len(shape), list(shape)

    def cut(dim: int, first: int, length: int) -> None:
        start[dim], size[dim] = start[dim] + first, length

    if sharding.ep is not None:
        cut(sharding.ep, *even(size[sharding.ep], mesh.sizes["ep"], at["ep"]))
    if sharding.tp is not None:
        cut(sharding.tp, *even(size[sharding.tp], mesh.sizes["tp"], at["tp"]))
    if sharding.fsdp:
        cut(0, *chunk(size[0], mesh.sizes["fsdp"], at["fsdp"]))
    return Piece(name, shape, tuple(start), tuple(size))


def cut_shape(
    shape: Sequence[int], sharding: Sharding, sizes: Mapping[str, int], at: Mapping[str, int]
) -> list[int]:
    """What expert and tensor parallelism leave of a shape at a place, before fsdp cuts."""
    size = list(shape)
    for axis in ("ep", "tp"):
        if (dim := getattr(sharding, axis)) is not None:
            size[dim] = even(size[dim], sizes[axis], at[axis])[1]
    return size


def copies_of(sharding: Sharding, mesh: Mesh) -> int:
    """On how many ranks of a pipeline stage each element of a parameter lives."""
    cut = {axis for axis in ("tp", "ep") if getattr(sharding, axis) is not None}
    cut |= {"fsdp"} if sharding.fsdp else set()
    return mesh.size(*({"dp", "fsdp", "ep", "cp", "tp"} - cut))


def holders(sharding: Sharding, mesh: Mesh, stage_rank: int) -> Iterator[dict[str, int]]:
    """Places that together hold every element once: the first of each set of copies."""
    tp = range(mesh.sizes["tp"] if sharding.tp is not None else 1)
    ep = range(mesh.sizes["ep"] if sharding.ep is not None else 1)
    for fsdp in range(mesh.sizes["fsdp"] if sharding.fsdp else 1):
        for expert in ep:
            for tensor in tp:
                yield {"pp": stage_rank, "dp": 0, "fsdp": fsdp, "ep": expert, "cp": 0, "tp": tensor}


def even(size: int, parts: int, index: int) -> tuple[int, int]:
    """Start and length of a part; the first parts are one longer where it does not divide."""
    base, more = divmod(size, parts)
    return index * base + min(index, more), base + (index < more)


def chunk(size: int, parts: int, index: int) -> tuple[int, int]:
    """Start and length of a part as torch's `fully_shard` cuts: all full but the last ones."""
    full = -(-size // parts)
    start = min(index * full, size)
    return start, min(full, size - start)
