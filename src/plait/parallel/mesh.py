"""The ranks of a layout as one torch `DeviceMesh`: who stands where, and the groups along any axes."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from plait.parallel.layout import AXES, Layout


class Mesh:
    """A layout spread over the ranks of the default process group, the last of `AXES` running fastest.

    Attributes:
        layout: sizes by axis.
        rank, at: this rank's number, and its coordinate on each axis.
        groups: those made so far, by the axes they run along.
    """

    def __init__(self, layout: Layout, device_type: str = "cpu") -> None:
        self.layout, self.device_type = layout, device_type
        self.sizes = {axis: getattr(layout, axis) for axis in AXES}
        self.rank = dist.get_rank() if layout.world > 1 else 0
        self.at = self.coordinates(self.rank)
        self.groups: dict[tuple[str, ...], dist.ProcessGroup] = {}
        self.devices: DeviceMesh | None = None
        wide = [axis for axis in AXES if self.sizes[axis] > 1]
        if wide:
            self.devices = init_device_mesh(
                device_type, tuple(self.sizes[axis] for axis in wide), mesh_dim_names=tuple(wide)
            )
            for group in self.devices.get_all_groups():
                self._limit(group)

    def coordinates(self, rank: int) -> dict[str, int]:
        """A rank's place on each axis."""
        place: dict[str, int] = {}
        for axis in reversed(AXES):
            rank, place[axis] = divmod(rank, self.sizes[axis])
        return place

    def number(self, place: dict[str, int]) -> int:
        """The rank at a place; the inverse of `coordinates`."""
        rank = 0
        for axis in AXES:
            rank = rank * self.sizes[axis] + place[axis]
        return rank

    def size(self, *axes: str) -> int:
        """Number of ranks along these axes."""
        result = 1
        for axis in axes:
            result *= self.sizes[axis]
        return result

    def index(self, *axes: str) -> int:
        """This rank's number among those along these axes, the last axis running fastest."""
        result = 0
        for axis in axes:
            result = result * self.sizes[axis] + self.at[axis]
        return result

    def group(self, *axes: str) -> dist.ProcessGroup | None:
        """The ranks that differ from this one along these axes only; None where that is this rank alone.

        Making one is a collective call of all ranks.
        """
        wide = tuple(axis for axis in AXES if axis in axes and self.sizes[axis] > 1)
        if not wide:
            return None
        if wide not in self.groups:
            assert self.devices is not None
            part = self.devices[wide]
            self.groups[wide] = (part if len(wide) == 1 else part._flatten("_".join(wide))).get_group()
            self._limit(self.groups[wide])
        return self.groups[wide]

    def _limit(self, group: dist.ProcessGroup) -> None:
        """Let no rank wait longer than the layout says: a group of a mesh begins with torch's own default."""
        _set_pg_timeout(timedelta(seconds=self.layout.timeout), group)

    def submesh(self, axis: str) -> DeviceMesh:
        """One axis as torch's own mesh."""
        assert self.devices is not None
        return self.devices[axis]

    def close(self) -> None:
        """Let go of the groups, so that another layout can be spread over the same ranks."""
        if self.devices is None:
            return
        own = {*self.devices.get_all_groups(), *self.groups.values()}
        for group in own - {dist.group.WORLD}:
            dist.destroy_process_group(group)
        self.groups = {}
