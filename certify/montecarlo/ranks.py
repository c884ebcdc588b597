"""Extreme ranks: exact order statistics of every output from a stream, without keeping or sorting what they do not need.

The t-th largest of n draws is the t-th largest of any subset that holds the t largest. So of each output only the ends are
kept, as long as they are wanted for, in a buffer that takes new draws and is cut back to the two ends when it is full. A cut
and an answer are *selections* (introselect, in columns, on all cores), several times faster than sorting.

From the first cut on the t-th largest draw so far of every output is known, and a new draw matters only where it lies beyond:
of the N-th draw a share of t/N of the outputs. Those entries alone are taken, each output at its own pace, so that there are
about ln(n) cuts of each end instead of one every few draws.

Where even the two ends exceed the memory allowed (large n, small ρ: a tail of .3 of every output), rows go to disk in columns
and each column is read back once, for all ranks that are wanted. Other ranks than these are answered from a file of the two
ends in order, which is written for the first such rank.

What was spilled is believed again when a run goes on. So a state names each file's SHA-256, taken as the draws were written,
and a file with another one (zeros after a power cut, say) is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from certify import _files
from certify.montecarlo.selection import COLUMNS, End, everywhere, selected
from certify.montecarlo.spilling import (
    HEADER,
    ROOMS,
    SPILLED,
    Room,
    compared,
    header,
    kind_of,
    rows_in,
    sound,
    write_at,
)

__all__ = ["DEFAULT_MEMORY", "ExtremeRanks"]

DEFAULT_MEMORY = 2**30
"""Bytes that the kept draws may take before they are cut back, or spilled."""

_LOW, _HIGH = "low", "high"


class ExtremeRanks:
    """The `low` smallest and `high` largest draws of every output, exactly.

    Args:
        low, high: how many of each end, ≥ 0. These two ranks are answered at once; others need a sort of what is kept.
        memory: bytes for kept draws. Where low + high draws of all outputs exceed it they are spilled to disk.
        folder: where to, and nobody else; None: a temporary folder, deleted with the last object that reads it.

    Attributes:
        wrote: told of every file that is going to be written, where somebody keeps account; None: nobody does.
        owner_only: whether nobody else may read what is spilled.
    """

    key = "extreme-ranks"
    ordered = False

    def __init__(self, low: int, high: int, *, memory: int = DEFAULT_MEMORY, folder: Path | None = None) -> None:
        self.low, self.high, self.count = low, high, 0
        self.memory, self.folder = memory, folder
        self.wrote: Callable[[Path], None] | None = None
        self.owner_only = False
        self._beside: Path | None = None  # where a temporary folder is made; None: where the system makes them
        self.rooms: list[Room] = []  # temporary folders that are read from
        self.wanted = {(_LOW, low), (_HIGH, high)} if low or high else set()
        self._shape: tuple[int, ...] | None = None
        self._buffer: Tensor | None = None  # (capacity, outputs)
        self._start, self._filled = 0, 0  # of the rows that are kept
        self._ends: dict[str, End] = {}  # once the buffer was cut: what lies beyond is taken, and nothing else
        self._files: list[tuple[Path, int]] = []  # each (outputs, rows), and how many rows
        self._digests: list[str] = []  # their SHA-256
        self._answers: dict[tuple[str, int], Tensor] = {}
        self._sorted = False
        self._ordered: Path | None = None  # (outputs, low + high)

    def widened(self, other: ExtremeRanks) -> ExtremeRanks:
        both = ExtremeRanks(max(self.low, other.low), max(self.high, other.high), memory=self.memory)
        # Another object, other files: these may still be read.
        both._beside = self.folder.parent if self.folder is not None else self._beside
        both.wrote, both.owner_only = self.wrote, self.owner_only
        both.wanted = {(end, rank) for end, rank in self.wanted | other.wanted if rank}
        return both

    def update(self, outputs: Tensor) -> None:
        self.count += outputs.shape[0]
        self._take(outputs)

    def merge(self, other: ExtremeRanks) -> None:
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError(
                f"other keeps ({other.low}, {other.high}) ranks: must be the same ({self.low}, {self.high}) to merge"
            )
        self.count += other.count
        if other._shape is None:
            return
        for rows in other._rows():
            self._take(rows.reshape(rows.shape[0], *other._shape))

    def smallest(self, rank: int) -> Tensor:
        """The `rank`-th smallest draw (from 1) of every output, shape (*output)."""
        return self._at(rank, self.low, _LOW)

    def largest(self, rank: int) -> Tensor:
        """The `rank`-th largest draw (from 1) of every output, shape (*output)."""
        return self._at(rank, self.high, _HIGH)

    def state(self) -> dict[str, Tensor]:
        state = {"count": torch.tensor(self.count)}
        if self._buffer is not None and self._shape is not None:
            if not self._files:
                self._cut()
            rows = self._held.reshape(self._filled, *self._shape)
            state |= {"rows": rows, "files": torch.tensor(len(self._files))}
            if self._files:
                names = "\n".join(str(path.absolute()) for path, _ in self._files).encode()
                state["names"] = torch.frombuffer(bytearray(names), dtype=torch.uint8)
                digests = bytearray(bytes.fromhex("".join(self._digests)))
                state["digests"] = torch.frombuffer(digests, dtype=torch.uint8).reshape(len(self._files), -1)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count, self._buffer, self._start, self._filled = int(state["count"]), None, 0, 0
        self._files, self._digests, self._ends = [], [], {}
        self._renewed()
        if "rows" in state:
            if int(state["files"]):
                names = bytes(state["names"].cpu().numpy()).decode().split("\n")
                paths = [self._spilled_file(name) for name in names]
                digests = [bytes(row.cpu().numpy()).hex() for row in state["digests"]]
                for path, digest in zip(paths, digests, strict=True):
                    compared(path, digest)
                self._files, self._digests = [(path, rows_in(path)) for path in paths], digests
            self._take(state["rows"])

    def _spilled_file(self, name: str) -> Path:
        """A file of spilled draws, where it was written or in this object's own folder."""
        path = Path(name)
        if not SPILLED.fullmatch(path.name):
            raise ValueError(f"state: names {name!r}, must be a file of spilled draws")
        if not path.exists() and self.folder is not None:
            path = self.folder / path.name
        if not path.exists():
            raise ValueError(f"state: a part of it was spilled to disk, and {name!r} is not there")
        room = ROOMS.get(str(path.parent))
        if room is not None and room not in self.rooms:
            self.rooms.append(room)
        return path

    def described(self) -> str:
        return f"extreme ranks {self.low} {self.high}"

    # Keeping

    @property
    def _held(self) -> Tensor:
        """The rows that are kept in memory, (rows, outputs), after `_cut` where there are ends."""
        if self._buffer is None:
            raise ValueError("no draws were seen: there are no ranks yet")
        return self._buffer[self._start : self._start + self._filled]

    def _renewed(self) -> None:
        self._answers, self._sorted = {}, False
        if self._ordered is not None:
            self._ordered.unlink(missing_ok=True)
            self._ordered = None

    def _take(self, rows: Tensor) -> None:
        self._shape = tuple(rows.shape[1:])
        self._renewed()
        flat = rows.reshape(rows.shape[0], math.prod(self._shape))
        if self._buffer is None:
            self._buffer = self._room(flat)
        while flat.shape[0] and not self._ends:
            space = self._buffer.shape[0] - self._filled
            part, flat = flat[:space], flat[space:]
            self._buffer[self._filled : self._filled + part.shape[0]] = part
            self._filled += part.shape[0]
            if flat.shape[0]:
                self._make_room(flat)
        for part in flat.split(max(1, COLUMNS // flat.shape[1])) if flat.shape[0] else ():
            for end in self._ends.values():
                end.take(part)

    def _capacity(self, like: Tensor) -> int:
        """Rows of the buffer: what memory allows, and some more than the two ends in any case."""
        ends = self.low + self.high
        allowed = self.memory // (like.shape[1] * like.element_size())
        return allowed if self._spills(like) else max(ends + max(64, ends // 4), allowed)

    def _spills(self, like: Tensor) -> bool:
        return (self.low + self.high) * like.shape[1] * like.element_size() > self.memory

    def _room(self, like: Tensor) -> Tensor:
        rows = self._capacity(like)
        if like.is_cuda:
            rows = min(rows, 4096)
        # The pages of a large tensor on the CPU are there once they are written to.
        return torch.empty((max(rows, 1), like.shape[1]), dtype=like.dtype, device=like.device)

    def _make_room(self, like: Tensor) -> None:
        buffer, capacity = self._buffer, self._capacity(like)
        if buffer is None:
            return
        if buffer.shape[0] < capacity:
            larger = buffer.new_empty((min(2 * buffer.shape[0], capacity), buffer.shape[1]))
            larger[: self._filled] = buffer[: self._filled]
            self._buffer = larger
        elif self._spills(like):
            self._spill()
        else:
            self._cut()

    def _cut(self) -> None:
        """Leaves the two ends, one after the other in the middle of the buffer, with room for what comes on either side."""
        buffer, n = self._buffer, self._filled
        if self._ends:
            for end in self._ends.values():
                end.cut()
            return
        if buffer is None or n <= self.low + self.high:
            return
        spare = buffer.shape[0] - self.low - self.high
        share = round(spare * self.low / max(self.low + self.high, 1))
        start = min(max(share, min(64, spare // 2)), spare - min(64, spare // 2)) if self.low and self.high else share
        middle = start + self.low
        places = sorted({p for p in (self.low - 1, n - self.high) if 0 <= p < n})

        def cut(columns: slice) -> None:
            values = selected(buffer[:n, columns], places)
            buffer[start:middle, columns] = values[:, : self.low].t()
            buffer[middle : middle + self.high, columns] = values[:, n - self.high :].t()

        everywhere(cut, buffer.shape[1], n, buffer.is_cuda)
        self._start, self._filled = start, self.low + self.high
        # The low end grows towards the first row, the high end towards the last.
        if self.low:
            self._ends[_LOW] = End(buffer[:middle], self.low, high=False)
        if self.high:
            self._ends[_HIGH] = End(buffer[middle:], self.high, high=True)

    def _spill(self) -> None:
        """Writes the buffer to disk, a column after the other."""
        buffer, rows = self._buffer, self._filled
        if buffer is None or not rows:
            return
        path = self._place_for(f"draws-{len(self._files)}.npy")
        seen = hashlib.sha256()
        # Written piece by piece: pages of a mapped file would count as memory.
        how = {"durable": self.wrote is not None, "owner_only": self.owner_only}
        with _files.replacing(path, **how) as temporary, temporary.open("wb") as file:
            head = header((buffer.shape[1], rows), kind_of(buffer))
            seen.update(head)
            file.write(head)
            step = max(1, COLUMNS // rows)
            for start in range(0, buffer.shape[1], step):
                piece = buffer[:rows, start : start + step].t().contiguous().cpu().numpy().tobytes()
                seen.update(piece)
                file.write(piece)
        self._files.append((path, rows))
        self._digests.append(seen.hexdigest())
        self._filled = 0

    def _place_for(self, name: str) -> Path:
        if self.folder is None:
            self.rooms.append(Room(self._beside))
            self.folder = self.rooms[-1].path
        _files.make_folder(self.folder, owner_only=self.owner_only)
        path = self.folder / name
        room = ROOMS.get(str(self.folder))
        if room is not None:
            room.files.append(path)
        if self.wrote is not None:
            self.wrote(path)
        return path

    def _rows(self) -> Iterator[Tensor]:
        """Everything that is kept, (rows, outputs) at a time."""
        for path, _ in self._files:
            yield torch.from_numpy(sound(np.load(path), path)).t()
        if self._buffer is not None:
            if not self._files:
                self._cut()
            yield self._held

    # Answering

    def _at(self, rank: int, kept: int, end: str) -> Tensor:
        if not 1 <= rank <= min(kept, self.count):
            raise ValueError(f"rank = {rank}: must be in 1 … {min(kept, self.count)} at the {end} end")
        if (end, rank) not in self._answers:
            self._answer((end, rank))
        return self._answers[end, rank]

    def _answer(self, key: tuple[str, int]) -> None:
        buffer, shape = self._buffer, self._shape
        if buffer is None or shape is None:
            raise ValueError("no draws were seen: there are no ranks yet")
        if self._ends:
            self._cut()
        if key[1] == 1 and not self._files:
            held = self._held
            self._answers[key] = (held.amin(dim=0) if key[0] == _LOW else held.amax(dim=0)).reshape(shape)
            return
        known = key in self.wanted or key[1] == 1
        if not self._files and (self._sorted or not known):
            self._sort()
            self._answers[key] = self._held[self._place(key, self._filled)].reshape(shape).clone()
            return
        if self._files and not known:
            self._answers[key] = self._from_disk(key).reshape(shape)
            return
        # What a support is compared with comes along: it would be another look at everything.
        extremes = {(_LOW, 1), (_HIGH, 1)} if self._files else set()
        ranks = [r for r in self.wanted | extremes if 1 <= r[1] <= self.count]
        n = self._spilled + self._filled
        places = {r: self._place(r, n) for r in ranks if r[1] > 1}
        found = {r: torch.empty(buffer.shape[1], dtype=buffer.dtype) for r in ranks}

        def select(columns: slice) -> None:
            values = selected(self._columns(columns), sorted(set(places.values())))
            for r in ranks:
                if r in places:
                    found[r][columns] = values[:, places[r]].cpu()
                else:
                    found[r][columns] = (values.amin(dim=1) if r[0] == _LOW else values.amax(dim=1)).cpu()

        everywhere(select, buffer.shape[1], n, buffer.is_cuda)
        self._answers |= {r: values.reshape(shape) for r, values in found.items()}

    @property
    def _spilled(self) -> int:
        """Rows on disk."""
        return sum(rows for _, rows in self._files)

    def _columns(self, columns: slice) -> Tensor:
        """Everything that is kept of some outputs, (rows, columns)."""
        own = self._held[:, columns]
        if not self._files:
            return own
        kind = kind_of(own)
        width = columns.stop - columns.start
        whole, filled = torch.empty((width, self._spilled + self._filled), dtype=own.dtype), 0
        for path, rows in self._files:
            offset = HEADER + columns.start * rows * kind.itemsize
            read = np.fromfile(path, dtype=kind, count=rows * width, offset=offset)
            whole[:, filled : filled + rows] = torch.from_numpy(sound(read, path).reshape(width, rows))
            filled += rows
        whole[:, filled:] = own.t()
        return whole.t()

    def _from_disk(self, key: tuple[str, int]) -> Tensor:
        """A rank out of the file that holds the two ends in order, written if missing."""
        held, n = self._held, self._spilled + self._filled
        low, high = min(self.low, n), min(self.high, n)
        if low + high >= n:
            low, high = n, 0
        kind, width, outputs = kind_of(held), low + high, held.shape[1]
        if self._ordered is None:
            path = self._place_for("ordered.npy")
            with (
                _files.replacing(path, durable=False, owner_only=self.owner_only) as temporary,
                temporary.open("wb") as file,
            ):
                file.write(header((outputs, width), kind))
                file.flush()
                places = sorted({p for p in (low - 1, n - high) if 0 <= p < n})

                def order(columns: slice) -> None:
                    values = selected(self._columns(columns), places).cpu()
                    ends = torch.cat(
                        [values[:, :low].sort(dim=1).values, values[:, n - high :].sort(dim=1).values], dim=1
                    )
                    offset = HEADER + columns.start * width * kind.itemsize
                    write_at(file.fileno(), memoryview(ends.numpy().tobytes()), offset)

                everywhere(order, outputs, n, False)
            self._ordered = path
        end, rank = key
        place = rank - 1 if end == _LOW else width - rank
        opened = np.load(self._ordered, mmap_mode="r")
        return torch.from_numpy(np.array(opened[:, place]))

    def _place(self, key: tuple[str, int], n: int) -> int:
        end, rank = key
        return rank - 1 if end == _LOW else n - rank

    def _sort(self) -> None:
        if self._sorted:
            return
        held = self._held

        def order(columns: slice) -> None:
            held[:, columns] = held[:, columns].t().contiguous().sort(dim=1).values.t()

        everywhere(order, held.shape[1], self._filled, held.is_cuda)
        self._sorted = True
