"""A step's tensors, copied so that training may go on, and brought to rank 0 one by one when written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from plait.checkpoint.tensors import Lazy
from plait.parallel.mesh import Mesh
from plait.parallel.parameters import Parameters
from plait.parallel.pieces import Piece

PATIENCE = timedelta(hours=4)  # of those that offer: the disk of rank 0 may be slow


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: its key, the parameter whose pieces it has, or a scalar beside it."""

    key: str
    parameter: str
    dtype: torch.dtype
    scalar: bool = False


def saving_group(mesh: Mesh) -> dist.ProcessGroup | None:
    """A group for snapshots alone, so that a thread can use it beside training; a collective call."""
    if mesh.layout.world == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)
    return group


class Snapshot:
    """Copies of this rank's pieces on the CPU.

    Args:
        entries: of all ranks, the same on each.
        pieces: this rank's, by key; copied here.
        group: of `saving_group`; None for one process.
    """

    def __init__(
        self,
        parameters: Parameters,
        entries: Sequence[Entry],
        pieces: Mapping[str, Tensor],
        group: dist.ProcessGroup | None,
    ) -> None:
        self.parameters, self.entries, self.group = parameters, list(entries), group
        self.pieces = {key: tensor.detach().to("cpu", copy=True) for key, tensor in pieces.items()}

    def offer(self) -> None:
        """On every rank but 0: hand over what rank 0 reads; returns once it has read all of it."""
        works = []
        for tag, entry in enumerate(self.entries):
            for rank, box in self._holders(entry):
                if rank == self.parameters.mesh.rank and prod(box.size):
                    piece = self.pieces[entry.key].contiguous()
                    works.append(dist.isend(piece, 0, group=self.group, tag=tag))
        for work in works:
            assert work is not None
            work.wait()

    def tensors(self, prefix: str) -> dict[str, Lazy]:
        """On rank 0: the whole tensors whose keys begin with `prefix`, without it; each may be read once."""
        return {
            entry.key.removeprefix(prefix): Lazy(
                () if entry.scalar else self.parameters.shapes[entry.parameter],
                entry.dtype,
                partial(self._whole, tag, entry),
            )
            for tag, entry in enumerate(self.entries)
            if entry.key.startswith(prefix)
        }

    def _whole(self, tag: int, entry: Entry) -> Tensor:
        holders = self._holders(entry)
        if holders[0][0] == 0 and holders[0][1].size == holders[0][1].shape:
            return self.pieces.pop(entry.key)
        whole = torch.empty(holders[0][1].shape, dtype=entry.dtype)
        waiting = []
        for rank, box in holders:
            if rank == 0:
                box.of(whole).copy_(self.pieces.pop(entry.key))
            elif prod(box.size):
                part = torch.empty(box.size, dtype=entry.dtype)
                waiting.append((dist.irecv(part, rank, group=self.group, tag=tag), box, part))
        # what is asked for has been offered: only a rank that hangs takes long
        timeout = timedelta(seconds=self.parameters.mesh.layout.timeout)
        for work, box, part in waiting:
            assert work is not None
            work.wait(timeout)
            box.of(whole).copy_(part)
        return whole

    def _holders(self, entry: Entry) -> list[tuple[int, Piece]]:
        holders = list(self.parameters.holders(entry.parameter))
        return [(holders[0][0], Piece(entry.key, (), (), ()))] if entry.scalar else holders
