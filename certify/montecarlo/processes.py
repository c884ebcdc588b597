"""Processes: the shards of one run drawn by several processes, on one machine or many, under torchrun.

`torch.distributed` carries it (gloo on CPUs, nccl on GPUs); whoever starts the processes initialises it. Each process draws
its shards; then what they hold is sent to all and merged, so that every process holds what a single one would. Accumulators
that know the same whatever order the draws came in (ranks, counts, distances) are merged process by process; the others (the
spectral sketch) shard by shard, in the order of the shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from certify._workers import Worker, launched, own_device
from certify.montecarlo.accumulators import Accumulator
from certify.montecarlo.states import packed, unpacked

__all__ = ["Processes", "RunState", "joined"]


@dataclass(frozen=True)
class Processes:
    """How many processes there are, and which one this is."""

    rank: int
    count: int

    @classmethod
    def current(cls) -> Processes:
        """Those of `torch.distributed`, if it is initialised; else one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)

    @property
    def is_main(self) -> bool:
        """Whether this is the one that speaks and writes for all."""
        return self.rank == 0

    def offset(self, first: int) -> int:
        """How far after the shard `first` this process begins, so that shard s is drawn by process s mod count."""
        return (self.rank - first) % self.count

    def agreed_shape(self, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """The output's shape, which a process without a shard of its own does not know."""
        width = max(self.all_gather(-1 if shape is None else len(shape)))
        if width < 0:
            return shape
        row = torch.full((width + 1,), -1, dtype=torch.int64)
        if shape is not None:
            row = torch.tensor([1, *shape], dtype=torch.int64)
        rows = [torch.zeros_like(row, device=self._device) for _ in range(self.count)]
        dist.all_gather(rows, row.to(self._device))
        known = {tuple(r[1:].tolist()) for r in rows if int(r[0]) == 1}
        if len(known) != 1:
            raise ValueError(f"f returned outputs of different shapes in different processes: {sorted(known)}")
        return known.pop()

    @property
    def _device(self) -> torch.device:
        return (
            torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
        )

    def all_gather(self, number: int) -> list[int]:
        """A whole number of every process."""
        mine = torch.tensor([number], dtype=torch.int64, device=self._device)
        found = [torch.zeros_like(mine) for _ in range(self.count)]
        dist.all_gather(found, mine)
        return [int(f) for f in found]

    def broadcast(self, blob: bytes, source: int) -> bytes:
        """What the process `source` has, for all."""
        size = torch.tensor([len(blob)], dtype=torch.int64, device=self._device)
        dist.broadcast(size, source)
        data: Tensor = torch.empty(int(size), dtype=torch.uint8, device=self._device)
        if self.rank == source and len(blob):
            data = torch.frombuffer(bytearray(blob), dtype=torch.uint8).to(self._device)
        dist.broadcast(data, source)
        return data.cpu().numpy().tobytes()


@contextmanager
def joined() -> Iterator[Processes]:
    """This process among those that torchrun started: nccl where each has a GPU, else gloo. One alone joins nothing."""
    if Worker.current().alone or dist.is_initialized():
        yield Processes.current()
        return
    each = torch.cuda.is_available() and torch.cuda.device_count() >= launched("LOCAL_WORLD_SIZE", 1)
    own_device()
    dist.init_process_group("nccl" if each else "gloo")
    try:
        yield Processes.current()
    finally:
        dist.destroy_process_group()


class RunState:
    """What one process has of a run: totals, and apart from them the shards of accumulators that depend on the order.

    Args:
        totals: the accumulators of the run, which hold everything in the end.
        processes: who draws.
    """

    def __init__(self, totals: Sequence[Accumulator], processes: Processes) -> None:
        self.totals, self.processes = list(totals), processes
        self.ordered = [i for i, total in enumerate(totals) if total.ordered and processes.count > 1]
        self.parts: dict[int, list[Accumulator]] = {}
        self.opened: list[Accumulator] | None = (
            None  # of a shard that is being drawn; those without an order are totals
        )

    def add(self, shard: int, part: Sequence[Accumulator]) -> None:
        """A shard that was drawn."""
        for i, total in enumerate(self.totals):
            if i not in self.ordered and part[i] is not total:
                total.merge(part[i])
        if self.ordered:
            self.parts[shard] = [part[i] for i in self.ordered]

    def share(self) -> None:
        """Sends everything to every process and merges it into the totals."""
        processes = self.processes
        free = [i for i in range(len(self.totals)) if i not in self.ordered]
        mine = packed([self.totals[i] for i in free])
        fresh = [total.widened(total) for total in self.totals]
        for rank in range(processes.count):
            theirs = [fresh[i].widened(fresh[i]) for i in free]
            unpacked(processes.broadcast(mine, rank), theirs)
            for i, piece in zip(free, theirs, strict=True):
                fresh[i].merge(piece)
        last = max(processes.all_gather(max(self.parts, default=-1)))
        for shard in range(last + 1 if self.ordered else 0):
            own = self.parts.get(shard)
            blob = processes.broadcast(b"" if own is None else packed(own), shard % processes.count)
            theirs = [fresh[i].widened(fresh[i]) for i in self.ordered]
            unpacked(blob, theirs)
            for i, piece in zip(self.ordered, theirs, strict=True):
                fresh[i].merge(piece)
        for total, whole in zip(self.totals, fresh, strict=True):
            total.restore(whole.state())
