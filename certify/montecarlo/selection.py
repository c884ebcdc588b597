"""Selection: order statistics of many outputs at once, by introselect, in columns, on all cores."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["COLUMNS", "End", "everywhere", "selected"]

COLUMNS = 2**22
"""Numbers that one selection, or one sifting, works on."""


class End:
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
            values = selected(taken, [place])
            held[:, columns] = (values[:, place:] if self.high else values[:, : place + 1]).t()
            self.limit[columns] = values[:, place]

        everywhere(cut, rows.shape[1], n, rows.is_cuda)
        self.heights.fill_(self.kept)

    def _first(self, n: int) -> Tensor:
        return self.rows[:n] if self.high else self.rows[self.rows.shape[0] - n :]


def selected(rows: Tensor, places: list[int]) -> Tensor:
    """(rows, columns) → (columns, rows), with the order statistics at `places` (from 0) in their places."""
    columns = rows.t().contiguous()
    if columns.is_cuda:
        return columns.sort(dim=1).values
    if columns.data_ptr() == rows.data_ptr():
        columns = columns.clone()
    if places:
        columns.numpy().partition(places, axis=1)
    return columns


def everywhere(work: Callable[[slice], None], columns: int, rows: int, cuda: bool) -> None:
    """`work` on all columns, in chunks, on as many threads as torch has."""
    step = max(1, (2**27 if cuda else COLUMNS) // max(rows, 1))
    chunks = [slice(start, min(start + step, columns)) for start in range(0, columns, step)]
    threads = 1 if cuda else min(torch.get_num_threads(), len(chunks))
    if threads == 1:
        for chunk in chunks:
            work(chunk)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, chunks))
