"""Accumulators: what is kept of the draws.

An accumulator takes blocks of outputs, shape (b, *output), in any order, and merges with another that saw other blocks;
the result depends on the multiset of draws alone. A bound says which accumulators it feeds on, and one pass over the
draws feeds those of every bound asked for: accumulators of one `key` are widened into one that serves them all.

>>> few = ExtremeRanks(low=1, high=2)
>>> few.update(torch.tensor([[4.0], [1.0], [9.0], [7.0], [2.0]]))
>>> few.smallest(1).item(), few.largest(2).item(), few.count
(1.0, 7.0, 5)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self

import torch
from torch import Tensor

__all__ = ["Accumulator", "AllDraws", "Counts", "ExtremeRanks", "pool"]


class Accumulator(Protocol):
    """Takes blocks, merges, and knows which others it can stand in for."""

    @property
    def key(self) -> str:
        """Accumulators of one key can be widened into one."""

    @property
    def count(self) -> int:
        """Draws seen."""

    def update(self, outputs: Tensor) -> None:
        """Takes a block of outputs, shape (b, *output)."""

    def merge(self, other: Self) -> None:
        """Takes over what another of the same kind has seen."""

    def widened(self, other: Self) -> Self:
        """A new, empty accumulator that keeps what either would."""


class ExtremeRanks:
    """The `low` smallest and `high` largest draws of every output, exactly.

    Memory: at most about 2 (low + high) + one batch draws an output, whatever n is.

    Args:
        low, high: how many of each end, ≥ 0.
    """

    key = "extreme-ranks"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high, self.count = low, high, 0
        self._held: list[Tensor] = []  # each (rows, *output); together a superset of the two ends
        self._rows = 0
        self._sorted = True

    def widened(self, other: ExtremeRanks) -> ExtremeRanks:
        return ExtremeRanks(max(self.low, other.low), max(self.high, other.high))

    def update(self, outputs: Tensor) -> None:
        self.count += outputs.shape[0]
        self._take(outputs)

    def merge(self, other: ExtremeRanks) -> None:
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError(
                f"other keeps ({other.low}, {other.high}) ranks: must be the same ({self.low}, {self.high}) to merge"
            )
        self.count += other.count
        for rows in other._held:
            self._take(rows)

    def smallest(self, rank: int) -> Tensor:
        """The `rank`-th smallest draw (from 1) of every output, shape (*output)."""
        return self._at(rank, self.low, "low")

    def largest(self, rank: int) -> Tensor:
        """The `rank`-th largest draw (from 1) of every output, shape (*output)."""
        return self._at(rank, self.high, "high")

    def _at(self, rank: int, kept: int, end: str) -> Tensor:
        if not 1 <= rank <= min(kept, self.count):
            raise ValueError(f"rank = {rank}: must be in 1 … {min(kept, self.count)} at the {end} end")
        self._compress()
        rows = self._held[0]
        return rows[rank - 1] if end == "low" else rows[rows.shape[0] - rank]

    def _take(self, rows: Tensor) -> None:
        self._held.append(rows)
        self._rows += rows.shape[0]
        self._sorted = False
        if self._rows > 2 * (self.low + self.high) + 1024:
            self._compress()

    def _compress(self) -> None:
        if self._sorted:
            return
        rows = torch.cat(self._held) if len(self._held) > 1 else self._held[0]
        # Sorted along contiguous memory: several times faster than along the first axis.
        flat = rows.reshape(rows.shape[0], -1).t().contiguous().sort(dim=1).values
        if flat.shape[1] > self.low + self.high:
            flat = torch.cat([flat[:, : self.low], flat[:, flat.shape[1] - self.high :]], dim=1)
        ordered = flat.t().reshape(flat.shape[1], *rows.shape[1:])
        self._held, self._rows, self._sorted = [ordered], ordered.shape[0], True


class Counts:
    """How often a 0/1 output was 1, shape (*output): memory does not grow with n.

    Raises:
        ValueError: on `update`, an output that is neither 0 nor 1.
    """

    key = "counts"

    def __init__(self) -> None:
        self.count = 0
        self.ones: Tensor | int = 0

    def widened(self, other: Counts) -> Counts:
        return Counts()

    def update(self, outputs: Tensor) -> None:
        wrong = outputs[(outputs != 0) & (outputs != 1)]
        if wrong.numel():
            raise ValueError(f"event returned {wrong.flatten()[0].item()!r}: must be 0 or 1, or a boolean")
        self.count += outputs.shape[0]
        self.ones = self.ones + outputs.to(torch.int64).sum(dim=0)

    def merge(self, other: Counts) -> None:
        self.count += other.count
        self.ones = self.ones + other.ones


class AllDraws:
    """Every draw: for pilot runs, whose draws are few."""

    key = "all-draws"

    def __init__(self) -> None:
        self.count = 0
        self._held: list[Tensor] = []

    def widened(self, other: AllDraws) -> AllDraws:
        return AllDraws()

    def update(self, outputs: Tensor) -> None:
        self.count += outputs.shape[0]
        self._held.append(outputs)

    def merge(self, other: AllDraws) -> None:
        self.count += other.count
        self._held.extend(other._held)

    def stacked(self) -> Tensor:
        """All draws, shape (count, *output)."""
        self._held = [torch.cat(self._held)]
        return self._held[0]


def pool(wanted: Iterable[Accumulator]) -> dict[str, Accumulator]:
    """One accumulator a key, wide enough for all that are wanted."""
    pooled: dict[str, Accumulator] = {}
    for accumulator in wanted:
        held = pooled.get(accumulator.key)
        pooled[accumulator.key] = accumulator if held is None else held.widened(accumulator)
    return pooled
