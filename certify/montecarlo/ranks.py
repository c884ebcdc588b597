"""Extreme ranks: exact order statistics of every output from a stream, without keeping or sorting what they do not need.

The t-th largest of n draws is the t-th largest of any subset that holds the t largest. So of each output only the ends are
kept, as long as they are wanted for, in a buffer that takes new draws and is cut back to the two ends when it is full. A cut
and an answer are *selections* (introselect, in columns, on all cores), several times faster than sorting.

Where even the two ends exceed the memory allowed (large n, small ρ: a tail of .3 of every output), rows go to disk in columns
and each column is read back once, for all ranks that are wanted.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["DEFAULT_MEMORY", "ExtremeRanks"]

DEFAULT_MEMORY = 2**30
"""Bytes that the kept draws may take before they are cut back, or spilled."""

_LOW, _HIGH = "low", "high"
_COLUMNS = 2**22
"""Numbers that one selection works on."""


class ExtremeRanks:
    """The `low` smallest and `high` largest draws of every output, exactly.

    Args:
        low, high: how many of each end, ≥ 0. These two ranks are answered at once; others need a sort of what is kept.
        memory: bytes for kept draws. Where low + high draws of all outputs exceed it they are spilled to disk.
        folder: where to; None: a temporary folder, deleted with this object.
    """

    key = "extreme-ranks"
    ordered = False

    def __init__(self, low: int, high: int, *, memory: int = DEFAULT_MEMORY, folder: Path | None = None) -> None:
        self.low, self.high, self.count = low, high, 0
        self.memory, self.folder = memory, folder
        self.wanted = {(_LOW, low), (_HIGH, high)} if low or high else set()
        self._shape: tuple[int, ...] | None = None
        self._buffer: Tensor | None = None  # (capacity, outputs)
        self._filled = 0
        self._files: list[Path] = []  # each (outputs, rows)
        self._answers: dict[tuple[str, int], Tensor] = {}
        self._sorted = False

    def widened(self, other: ExtremeRanks) -> ExtremeRanks:
        both = ExtremeRanks(
            max(self.low, other.low), max(self.high, other.high), memory=self.memory, folder=self.folder
        )
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
            self._take(rows.reshape(-1, *other._shape))

    def smallest(self, rank: int) -> Tensor:
        """The `rank`-th smallest draw (from 1) of every output, shape (*output)."""
        return self._at(rank, self.low, _LOW)

    def largest(self, rank: int) -> Tensor:
        """The `rank`-th largest draw (from 1) of every output, shape (*output)."""
        return self._at(rank, self.high, _HIGH)

    def state(self) -> dict[str, Tensor]:
        state = {"count": torch.tensor(self.count)}
        if self._buffer is not None and self._shape is not None:
            if not self._files and self._filled > self.low + self.high:
                self._cut()
            rows = self._buffer[: self._filled].reshape(self._filled, *self._shape)
            state |= {"rows": rows, "files": torch.tensor(len(self._files))}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count, self._buffer, self._filled, self._files = int(state["count"]), None, 0, []
        self._answers, self._sorted = {}, False
        if "rows" in state:
            files = int(state["files"])
            if files and self.folder is None:
                raise ValueError("state: a part of it was spilled to disk, and there is no folder to find it in")
            self._files = [self._file(i) for i in range(files)]
            self._take(state["rows"])

    def described(self) -> str:
        return f"extreme ranks {self.low} {self.high}"

    # Keeping

    def _take(self, rows: Tensor) -> None:
        self._shape = tuple(rows.shape[1:])
        self._answers, self._sorted = {}, False
        flat = rows.reshape(rows.shape[0], -1)
        if self._buffer is None:
            self._buffer = self._room(flat, min(self._capacity(flat), 4096))
        while flat.shape[0]:
            space = self._buffer.shape[0] - self._filled
            part, flat = flat[:space], flat[space:]
            self._buffer[self._filled : self._filled + part.shape[0]] = part
            self._filled += part.shape[0]
            if flat.shape[0]:
                self._make_room(flat)

    def _capacity(self, like: Tensor) -> int:
        """Rows of the buffer: what memory allows, and some more than the two ends in any case."""
        ends = self.low + self.high
        allowed = self.memory // (like.shape[1] * like.element_size())
        return allowed if self._spills(like) else max(ends + max(1024, ends // 4), allowed)

    def _spills(self, like: Tensor) -> bool:
        return (self.low + self.high) * like.shape[1] * like.element_size() > self.memory

    def _room(self, like: Tensor, rows: int) -> Tensor:
        return torch.empty((max(rows, 1), like.shape[1]), dtype=like.dtype, device=like.device)

    def _make_room(self, like: Tensor) -> None:
        buffer, capacity = self._buffer, self._capacity(like)
        if buffer is None:
            return
        if buffer.shape[0] < capacity:
            larger = self._room(like, min(2 * buffer.shape[0], capacity))
            larger[: self._filled] = buffer[: self._filled]
            self._buffer = larger
        elif self._spills(like):
            self._spill()
        else:
            self._cut()

    def _cut(self) -> None:
        """Leaves the two ends in the buffer."""
        buffer, n = self._buffer, self._filled
        if buffer is None or n <= self.low + self.high:
            return
        places = sorted({p for p in (self.low - 1, n - self.high) if 0 <= p < n})

        def cut(columns: slice) -> None:
            values = _selected(buffer[:n, columns], places)
            buffer[: self.low, columns] = values[:, : self.low].t()
            buffer[self.low : self.low + self.high, columns] = values[:, n - self.high :].t()

        _everywhere(cut, buffer.shape[1], n, buffer.is_cuda)
        self._filled = self.low + self.high

    def _spill(self) -> None:
        """Writes the buffer to disk, a column after the other."""
        buffer = self._buffer
        if buffer is None or not self._filled:
            return
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="certify-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._file(len(self._files))
        kind = np.float64 if buffer.dtype == torch.float64 else np.float32
        written = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(buffer.shape[1], self._filled))
        step = max(1, _COLUMNS // self._filled)
        for start in range(0, buffer.shape[1], step):
            columns = slice(start, start + step)
            written[columns] = buffer[: self._filled, columns].t().contiguous().cpu().numpy()
        written.flush()
        self._files.append(path)
        self._filled = 0

    def _file(self, number: int) -> Path:
        return (self.folder or Path()) / f"draws-{number}.npy"

    def _rows(self) -> Iterator[Tensor]:
        """Everything that is kept, (rows, outputs) at a time."""
        for path in self._files:
            yield torch.from_numpy(np.load(path)).t()
        if self._buffer is not None:
            yield self._buffer[: self._filled]

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
        if self._sorted:
            self._answers[asked] = buffer[self._place(asked, self._filled)].reshape(shape).clone()
            return
        if not self._files and asked not in self.wanted:
            self._sort()
            self._answer(asked)
            return
        ranks = [r for r in {*self.wanted, asked} if 1 <= r[1] <= self.count]
        spilled = [np.load(path, mmap_mode="r") for path in self._files]
        n = self._filled + sum(part.shape[1] for part in spilled)
        places = {r: self._place(r, n) for r in ranks}
        found = {r: torch.empty(buffer.shape[1], dtype=buffer.dtype) for r in ranks}

        def select(columns: slice) -> None:
            own = buffer[: self._filled, columns]
            if spilled:
                parts = [torch.from_numpy(np.array(part[columns])).t() for part in spilled]
                own = torch.cat([*parts, own.cpu()])
            values = _selected(own, sorted(set(places.values())))
            for r, place in places.items():
                found[r][columns] = values[:, place].cpu()

        _everywhere(select, buffer.shape[1], n, buffer.is_cuda)
        self._answers |= {r: values.reshape(shape) for r, values in found.items()}

    def _place(self, asked: tuple[str, int], n: int) -> int:
        end, rank = asked
        return rank - 1 if end == _LOW else n - rank

    def _sort(self) -> None:
        buffer, n = self._buffer, self._filled
        if buffer is None:
            return

        def order(columns: slice) -> None:
            buffer[:n, columns] = buffer[:n, columns].t().contiguous().sort(dim=1).values.t()

        _everywhere(order, buffer.shape[1], n, buffer.is_cuda)
        self._sorted = True


def _selected(rows: Tensor, places: list[int]) -> Tensor:
    """(rows, columns) → (columns, rows), with the order statistics at `places` (from 0) in their places."""
    columns = rows.t().contiguous()
    if columns.is_cuda:
        return columns.sort(dim=1).values
    if columns.data_ptr() == rows.data_ptr():
        columns = columns.clone()
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
