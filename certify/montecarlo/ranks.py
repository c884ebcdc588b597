"""Extreme ranks: exact order statistics of every output from a stream, without keeping or sorting what they do not need.

The t-th largest of n draws is the t-th largest of any subset that holds the t largest. So of each output only the ends are
kept, as long as they are wanted for, in a buffer that takes new draws and is cut back to the two ends when it is full. A cut
and an answer are *selections* (introselect, in columns, on all cores), several times faster than sorting.

From the first cut on the t-th largest draw so far of every output is known, and a new draw matters only where it lies beyond:
of the N-th draw a share of t/N of the outputs. Those entries alone are taken, each output at its own pace, so that there are
about ln(n) cuts of each end instead of one every few draws.

Where even the two ends exceed the memory allowed (large n, small ρ: a tail of .3 of every output), rows go to disk in columns
and each column is read back once, for all ranks that are wanted. Other ranks than these are answered from a file of the two
ends in order, which is written when the first such rank is asked for.

What was spilled is believed again when a run goes on. So a state names each file's SHA-256, taken as the draws were written,
and a file with another one (zeros after a power cut, say) is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify import _files

__all__ = ["DEFAULT_MEMORY", "ExtremeRanks"]

DEFAULT_MEMORY = 2**30
"""Bytes that the kept draws may take before they are cut back, or spilled."""

_LOW, _HIGH = "low", "high"
_COLUMNS = 2**22
"""Numbers that one selection, or one sifting, works on."""
_HEADER = 128
"""Bytes: where the numbers begin in a file of spilled draws."""


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
        self._ends: dict[str, _End] = {}  # once the buffer was cut: what lies beyond is taken, and nothing else
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
                paths = [self._found(name) for name in names]
                digests = [bytes(row.cpu().numpy()).hex() for row in state["digests"]]
                for path, digest in zip(paths, digests, strict=True):
                    _compared(path, digest)
                self._files, self._digests = [(path, _rows_in(path)) for path in paths], digests
            self._take(state["rows"])

    def _found(self, name: str) -> Path:
        """A file of spilled draws, where it was written or in this object's own folder."""
        path = Path(name)
        if not _SPILLED.fullmatch(path.name):
            raise ValueError(f"state: names {name!r}, must be a file of spilled draws")
        if not path.exists() and self.folder is not None:
            path = self.folder / path.name
        if not path.exists():
            raise ValueError(f"state: a part of it was spilled to disk, and {name!r} is not there")
        room = _ROOMS.get(str(path.parent))
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
        for part in flat.split(max(1, _COLUMNS // flat.shape[1])) if flat.shape[0] else ():
            for end in self._ends.values():
                end.take(part)

    def _capacity(self, like: Tensor) -> int:
        """Rows of the buffer: what memory allows, and some more than the two ends in any case."""
        ends = self.low + self.high
        allowed = self.memory // (like.shape[1] * like.element_size())
        return allowed if self._spills(like) else max(ends + max(1024, ends // 4), allowed)

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
            values = _selected(buffer[:n, columns], places)
            buffer[start:middle, columns] = values[:, : self.low].t()
            buffer[middle : middle + self.high, columns] = values[:, n - self.high :].t()

        _everywhere(cut, buffer.shape[1], n, buffer.is_cuda)
        self._start, self._filled = start, self.low + self.high
        # The low end grows towards the first row, the high end towards the last.
        if self.low:
            self._ends[_LOW] = _End(buffer[:middle], self.low, high=False)
        if self.high:
            self._ends[_HIGH] = _End(buffer[middle:], self.high, high=True)

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
            head = _header((buffer.shape[1], rows), _kind(buffer))
            seen.update(head)
            file.write(head)
            step = max(1, _COLUMNS // rows)
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
        room = _ROOMS.get(str(self.folder))
        if room is not None:
            room.files.append(path)
        if self.wrote is not None:
            self.wrote(path)
        return path

    def _rows(self) -> Iterator[Tensor]:
        """Everything that is kept, (rows, outputs) at a time."""
        for path, _ in self._files:
            yield torch.from_numpy(_sound(np.load(path), path)).t()
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

    def _answer(self, asked: tuple[str, int]) -> None:
        buffer, shape = self._buffer, self._shape
        if buffer is None or shape is None:
            raise ValueError("no draws were seen: there are no ranks yet")
        if self._ends:
            self._cut()
        if asked[1] == 1 and not self._files:
            held = self._held
            self._answers[asked] = (held.amin(dim=0) if asked[0] == _LOW else held.amax(dim=0)).reshape(shape)
            return
        known = asked in self.wanted or asked[1] == 1
        if not self._files and (self._sorted or not known):
            self._sort()
            self._answers[asked] = self._held[self._place(asked, self._filled)].reshape(shape).clone()
            return
        if self._files and not known:
            self._answers[asked] = self._from_disk(asked).reshape(shape)
            return
        # What a support is compared with comes along: it would be another look at everything.
        extremes = {(_LOW, 1), (_HIGH, 1)} if self._files else set()
        ranks = [r for r in self.wanted | extremes if 1 <= r[1] <= self.count]
        n = self._spilled + self._filled
        places = {r: self._place(r, n) for r in ranks if r[1] > 1}
        found = {r: torch.empty(buffer.shape[1], dtype=buffer.dtype) for r in ranks}

        def select(columns: slice) -> None:
            values = _selected(self._columns(columns), sorted(set(places.values())))
            for r in ranks:
                if r in places:
                    found[r][columns] = values[:, places[r]].cpu()
                else:
                    found[r][columns] = (values.amin(dim=1) if r[0] == _LOW else values.amax(dim=1)).cpu()

        _everywhere(select, buffer.shape[1], n, buffer.is_cuda)
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
        kind = _kind(own)
        width = columns.stop - columns.start
        whole, filled = torch.empty((width, self._spilled + self._filled), dtype=own.dtype), 0
        for path, rows in self._files:
            offset = _HEADER + columns.start * rows * kind.itemsize
            read = np.fromfile(path, dtype=kind, count=rows * width, offset=offset)
            whole[:, filled : filled + rows] = torch.from_numpy(_sound(read, path).reshape(width, rows))
            filled += rows
        whole[:, filled:] = own.t()
        return whole.t()

    def _from_disk(self, asked: tuple[str, int]) -> Tensor:
        """A rank out of the file that holds the two ends in order, written where there is none."""
        held, n = self._held, self._spilled + self._filled
        low, high = min(self.low, n), min(self.high, n)
        if low + high >= n:
            low, high = n, 0
        kind, width, outputs = _kind(held), low + high, held.shape[1]
        if self._ordered is None:
            path = self._place_for("ordered.npy")
            with (
                _files.replacing(path, durable=False, owner_only=self.owner_only) as temporary,
                temporary.open("wb") as file,
            ):
                file.write(_header((outputs, width), kind))
                file.flush()
                places = sorted({p for p in (low - 1, n - high) if 0 <= p < n})

                def order(columns: slice) -> None:
                    values = _selected(self._columns(columns), places).cpu()
                    ends = torch.cat(
                        [values[:, :low].sort(dim=1).values, values[:, n - high :].sort(dim=1).values], dim=1
                    )
                    offset = _HEADER + columns.start * width * kind.itemsize
                    _write(file.fileno(), memoryview(ends.numpy().tobytes()), offset)

                _everywhere(order, outputs, n, False)
            self._ordered = path
        end, rank = asked
        place = rank - 1 if end == _LOW else width - rank
        opened = np.load(self._ordered, mmap_mode="r")
        return torch.from_numpy(np.array(opened[:, place]))

    def _place(self, asked: tuple[str, int], n: int) -> int:
        end, rank = asked
        return rank - 1 if end == _LOW else n - rank

    def _sort(self) -> None:
        if self._sorted:
            return
        held = self._held

        def order(columns: slice) -> None:
            held[:, columns] = held[:, columns].t().contiguous().sort(dim=1).values.t()

        _everywhere(order, held.shape[1], self._filled, held.is_cuda)
        self._sorted = True


class Room:
    """A temporary folder of this process: what it wrote there is deleted when nobody refers to this object any more."""

    def __init__(self, beside: Path | None) -> None:
        if beside is not None:
            _files.make_folder(beside)
        self.path = Path(tempfile.mkdtemp(prefix="certify-", dir=beside)).absolute()
        self.files: list[Path] = []
        self._end = weakref.finalize(self, _emptied, self.path, self.files)
        _ROOMS[str(self.path)] = self

    def pin(self) -> None:
        """Keeps it beyond this object and this process: a checkpoint names its files."""
        self._end.detach()

    def unpin(self) -> None:
        """No checkpoint does any more."""
        if not self._end.alive:
            self._end = weakref.finalize(self, _emptied, self.path, self.files)


def _emptied(folder: Path, files: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for file in files:
            for path in (file, *_files.temporaries(file)):
                path.unlink(missing_ok=True)
        folder.rmdir()


_ROOMS: weakref.WeakValueDictionary[str, Room] = weakref.WeakValueDictionary()
"""Of this process, by their paths: a state names files, and whoever takes it over keeps their folder."""


class _End:
    """One end of every output: the `kept` most extreme draws so far, and those beyond them that came since, in a buffer.

    Args:
        rows: (kept + room, outputs), with the kept draws first (the high end, which grows towards the last row) or last (the
            low end, which grows towards the first).
        kept: how many.
        high: which end.
    """

    def __init__(self, rows: Tensor, kept: int, *, high: bool) -> None:
        self.rows, self.kept, self.high = rows, kept, high
        held = self._first(kept)
        self.limit = held.amin(dim=0) if high else held.amax(dim=0)
        self.heights = torch.full((rows.shape[1],), kept, dtype=torch.int64, device=rows.device)

    def take(self, draws: Tensor) -> None:
        """Takes what lies beyond the limits, (b, outputs)."""
        beyond = draws > self.limit if self.high else draws < self.limit
        column, row = beyond.t().contiguous().nonzero(as_tuple=True)  # in the order of the columns
        if not column.numel():
            return
        counts = torch.bincount(column, minlength=self.heights.numel())
        after = self.heights + counts
        if int(after.max()) > self.rows.shape[0]:
            if int(self.heights.max()) > self.kept:
                self.cut()
                self.take(draws)
            else:  # more at once than there is room for
                for half in draws.chunk(2):
                    self.take(half)
            return
        earlier = counts.cumsum(0) - counts - self.heights
        height = torch.arange(column.numel(), device=column.device) - earlier[column]
        self.rows[height if self.high else self.rows.shape[0] - 1 - height, column] = draws[row, column]
        self.heights = after

    def cut(self) -> None:
        """Leaves the kept draws, and draws the limits closer."""
        n = int(self.heights.max())
        if n == self.kept:
            return
        rows, held = self._first(n), self._first(self.kept)
        place = n - self.kept if self.high else self.kept - 1
        height = torch.arange(n, device=rows.device)[:, None]
        if not self.high:
            height = height.flip(0)
        none = -torch.inf if self.high else torch.inf  # what no end prefers to a draw, where an output has fewer

        def cut(columns: slice) -> None:
            taken = rows[:, columns].masked_fill(height >= self.heights[columns], none)
            values = _selected(taken, [place])
            held[:, columns] = (values[:, place:] if self.high else values[:, : place + 1]).t()
            self.limit[columns] = values[:, place]

        _everywhere(cut, rows.shape[1], n, rows.is_cuda)
        self.heights.fill_(self.kept)

    def _first(self, n: int) -> Tensor:
        return self.rows[:n] if self.high else self.rows[self.rows.shape[0] - n :]


def _selected(rows: Tensor, places: list[int]) -> Tensor:
    """(rows, columns) → (columns, rows), with the order statistics at `places` (from 0) in their places."""
    columns = rows.t().contiguous()
    if columns.is_cuda:
        return columns.sort(dim=1).values
    if columns.data_ptr() == rows.data_ptr():
        columns = columns.clone()
    if places:
        columns.numpy().partition(places, axis=1)
    return columns


def _everywhere(work: Callable[[slice], None], columns: int, rows: int, cuda: bool) -> None:
    """`work` on all columns, in chunks, on as many threads as torch has."""
    step = max(1, (2**27 if cuda else _COLUMNS) // max(rows, 1))
    chunks = [slice(start, min(start + step, columns)) for start in range(0, columns, step)]
    threads = 1 if cuda else min(torch.get_num_threads(), len(chunks))
    if threads == 1:
        for chunk in chunks:
            work(chunk)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, chunks))


def _kind(like: Tensor) -> np.dtype[Any]:
    return np.dtype(np.float64 if like.dtype == torch.float64 else np.float32)


def _header(shape: tuple[int, ...], kind: np.dtype[Any]) -> bytes:
    """The header of an .npy file, always of 128 bytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind.str, "fortran_order": False, "shape": shape})
    if file.tell() != _HEADER:
        raise RuntimeError(f"the header of {shape} takes {file.tell()} bytes: must take {_HEADER}")
    return file.getvalue()


def _sound(draws: np.ndarray[Any, Any], path: Path) -> np.ndarray[Any, Any]:
    """Spilled draws as they are read; what was written was numbers."""
    if bool(np.isnan(draws).any()):
        raise ValueError(f"draws that were spilled to {str(path)!r} are not those that were written")
    return draws


_SPILLED = re.compile(r"draws-\d+\.npy")


def _compared(path: Path, digest: str) -> None:
    """Raises ValueError where a file is not what was written."""
    _files.regular(path)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError(f"state: draws that were spilled to {str(path)!r} are not those that were written")


def _rows_in(path: Path) -> int:
    return int(np.load(path, mmap_mode="r").shape[1])


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
