"""The processes of a run: how they meet, wait for the first one's work, and fail with one voice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic, sleep
from typing import TYPE_CHECKING

from plait import log
from plait.errors import ConfigError, PlaitError, TrainingError
from plait.log import say
from plait.parallel.health import (
    Health,
    answered,
    claim_error,
    explain,
    is_communication_error,
    last_posts,
    store_is_hosted,
)
from plait.parallel.launch import PEER_LOST, Place, die_with_parent, launched, place_of
from plait.parallel.layout import Layout

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

MEETING = timedelta(minutes=5)  # nodes of a cluster do not start together
POLL = 0.2
SILENT = 60.0  # seconds without a post after which rank 0 counts as gone while others wait for it
LEFT = 1.0  # the same once it has said that it leaves: what it did last may be on its way


class Ranks:
    """The ranks of a run as one of them sees them; a single process is rank 0 of 1.

    Attributes:
        store: keys that all ranks share; None for a single process.
        health: tells the others what this rank does.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.store: Store | None = None
        self.health: Health | None = None
        self._shared = 0
        self._beat, self._since = -1, 0.0  # of rank 0: the last one seen, and when it came

    @property
    def leads(self) -> bool:
        """Whether this rank prepares, writes and speaks for all."""
        return self.rank == 0

    def at(self, step: int, phase: str) -> None:
        """Note what this rank does now."""
        if self.health is not None:
            self.health.at(step, phase)

    def share(self, make: Callable[[], str]) -> str:
        """What rank 0 makes, on every rank; the others wait for it however long it takes.

        An error of rank 0 is raised there, and the others leave with SystemExit(2).
        """
        if self.store is None:
            return make()
        key = f"told/{self._shared}"
        self._shared += 1
        if self.leads:
            try:
                text = make()
            except BaseException:
                self.store.set(key, "no")
                raise
            self.store.set(key, "ok" + text)
            return text
        store = self.store
        while not answered(lambda: store.check([key]), SILENT):
            self.look()
            sleep(POLL)
        answer = self.store.get(key).decode()
        if answer == "no":
            raise SystemExit(2)
        return answer[2:]

    def look(self, silent: float = SILENT) -> None:
        """Look whether rank 0 is still there, as who waits for it does every now and then.

        Raises:
            DistError: it, or the store, has left, or has said nothing for `silent` seconds.
        """
        if self.store is None or self.leads:
            return
        first = last_posts(self.store, 1, silent)[0]
        beat = first.beat if first is not None else 0
        if beat != self._beat:  # clocks of machines differ, so beats are watched
            self._beat, self._since = beat, monotonic()
        if monotonic() - self._since > (LEFT if first is not None and first.left else silent):
            from torch.distributed import DistError

            raise DistError("rank 0 has gone silent")


@contextmanager
def join(layout: Layout, device: str = "cpu") -> Iterator[Ranks]:
    """Meet the other ranks of a layout; nothing happens for one process.

    Whatever ends the block on one rank, all of them leave, and only one of them says why.

    Args:
        device: `cuda` gives each rank the GPU of its number on its machine.

    Raises:
        ConfigError: when the processes that were started are not those of the layout.
    """
    if layout.world == 1 and not launched():
        yield Ranks()
        return
    if not launched():
        raise ConfigError(
            f"layout {layout.name} needs {layout.world} processes; start them with `plait train`, torchrun "
            "or srun"
        )
    die_with_parent()
    place = place_of()
    log.silence(place.rank != 0)
    if place.world != layout.world:
        raise ConfigError(
            f"layout {layout.name} needs {layout.world} ranks, but {place.world} were started; start as "
            "many, or change layout"
        )
    ranks = Ranks(place.rank, place.world, place.local_rank)
    ranks.store = _meet(place, layout, device)
    ranks.health = Health(ranks.store, place.rank, place.world)
    try:
        yield ranks
    except PlaitError:
        log.silence(not claim_error(ranks.store, place.rank))
        raise
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except Exception as error:
        if not is_communication_error(error):
            if not claim_error(ranks.store, place.rank):
                os._exit(PEER_LOST)
            log.silence(False)
            raise
        line = explain(error, ranks.store, place.world, place.rank)
        if claim_error(ranks.store, place.rank):
            log.silence(False)
            say(line)
        _leave(ranks)
        os._exit(PEER_LOST)  # threads that wait for the lost rank must not hold this one
    _leave(ranks)
    import torch.distributed as dist

    dist.destroy_process_group()


def _leave(ranks: Ranks) -> None:
    assert ranks.health is not None
    ranks.health.close()


def _meet(place: Place, layout: Layout, device: str) -> Store:
    import torch
    import torch.distributed as dist

    master = place.rank == 0 and not store_is_hosted()
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    try:
        store = TCPStore(
            place.address, place.port, place.world, is_master=master, timeout=MEETING, wait_for_workers=False
        )
    except dist.DistError as error:
        raise ConfigError(
            f"rank {place.rank} finds no other ranks at {place.address}:{place.port} ({_first_line(error)}); "
            "start rank 0 there, or mend MASTER_ADDR and MASTER_PORT"
        ) from None
    # torchrun keeps its store over restarts, our launcher makes a new one and reads it
    prefixed = store if "PLAIT_AGENT_STORE" in os.environ else PrefixStore(f"plait/{place.attempt}", store)
    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(place.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(
            backend, store=PrefixStore("group", prefixed), rank=place.rank, world_size=place.world,
            timeout=timedelta(seconds=layout.timeout),
        )  # fmt: skip
    except RuntimeError as error:
        raise TrainingError(
            f"rank {place.rank} met not all of {place.world} ranks in layout.timeout={layout.timeout:g} s "
            f"({_first_line(error)}); see what the others say"
        ) from None
    return prefixed


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0]


def device_of(ranks: Ranks, kind: str) -> torch.device:
    """Where this rank computes."""
    import torch

    return torch.device("cuda", ranks.local_rank) if kind == "cuda" and ranks.size > 1 else torch.device(kind)
