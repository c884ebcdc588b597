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

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from certify._digests import tensor_digest
from certify._floats import half_way, length, mean
from certify._names import SMOOTHERS
from certify.montecarlo.ranks import ExtremeRanks
from certify.montecarlo.streams import BLOCK, SHARD

__all__ = [
    "LARGEST_GROUP",
    "SMOOTHERS",
    "Accumulator",
    "AllDraws",
    "Counts",
    "Distances",
    "Exceedances",
    "ExtremeRanks",
    "Groups",
    "Tallied",
    "digest",
    "in_order",
    "median",
    "part_of",
    "pool",
    "row_distances",
    "smoothed",
    "state_of",
    "whole_groups",
]


LARGEST_GROUP = SHARD * BLOCK
"""Draws in a shard, and so the most that a group of them can have."""

_SORTED, _MANY = 2**24, 64
"""Numbers that one sort works on; draws of an output from which on numpy sorts them."""


class Stateful(Protocol):
    """Has seen something."""

    def state(self) -> dict[str, Tensor]:
        """What has been seen, as tensors: for a checkpoint, or another process."""


class Accumulator(Stateful, Protocol):
    """Takes blocks, merges, and knows which others it can stand in for."""

    @property
    def key(self) -> str:
        """Accumulators of one key can be widened into one."""

    @property
    def count(self) -> int:
        """Draws seen."""

    @property
    def ordered(self) -> bool:
        """Whether what it knows depends on the order in which draws come, so that each shard needs one of its own."""

    def update(self, outputs: Tensor) -> None:
        """Takes a block of outputs, shape (b, *output)."""

    def merge(self, other: Self) -> None:
        """Takes over what another of the same kind has seen."""

    def widened(self, other: Self) -> Self:
        """A new, empty accumulator that keeps what either would."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a `state` in place of what has been seen. Raises KeyError where something is missing."""

    def described(self) -> str:
        """What it keeps, in words that are the same in every run of the same draws."""


class Tallied:
    """Sums of the draws, one tensor a name: memory does not grow with n."""

    ordered = False
    tallies: ClassVar[tuple[str, ...]]
    count: int

    def merge(self, other: Self) -> None:
        self.count += other.count
        for name in self.tallies:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def state(self) -> dict[str, Tensor]:
        sums = {name: torch.as_tensor(getattr(self, name)) for name in self.tallies}
        return {"count": torch.tensor(self.count), **sums}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count = int(state["count"])
        for name in self.tallies:
            setattr(self, name, state[name])


class Counts(Tallied):
    """How often a 0/1 output was 1, shape (*output).

    Raises:
        ValueError: on `update`, an output that is neither 0 nor 1.
    """

    key = "counts"
    tallies = ("ones",)

    def __init__(self) -> None:
        self.count = 0
        self.ones: Tensor | int = 0

    def widened(self, other: Counts) -> Counts:
        return Counts()

    def update(self, outputs: Tensor) -> None:
        ones = outputs.to(torch.bool)
        if outputs is not ones and not torch.equal(outputs, ones.to(outputs.dtype)):
            wrong = outputs[(outputs != 0) & (outputs != 1)]
            raise ValueError(f"event returned {wrong.flatten()[0].item()!r}: must be 0 or 1, or a boolean")
        self.count += outputs.shape[0]
        self.ones = self.ones + ones.sum(dim=0)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        if not bool(((state["ones"] >= 0) & (state["ones"] <= self.count)).all()):
            raise ValueError(f"state: ones = {self.ones}, count = {self.count}: must be 0 … count")

    def described(self) -> str:
        return "counts"


class AllDraws:
    """Every draw: for pilot runs, whose draws are few."""

    key = "all-draws"
    ordered = False
    held_as = "draws"

    def __init__(self) -> None:
        self.count = 0
        self._held: list[Tensor] = []

    def widened(self, other: Self) -> Self:
        return type(self)()

    def update(self, outputs: Tensor) -> None:
        self.count += outputs.shape[0]
        self._held.append(outputs)

    def merge(self, other: Self) -> None:
        self.count += other.count
        self._held.extend(other._held)

    def state(self) -> dict[str, Tensor]:
        return {self.held_as: self.stacked()} if self._held else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._held = [state[self.held_as]] if self.held_as in state else []
        self.count = sum(draws.shape[0] for draws in self._held)

    def described(self) -> str:
        return "all draws"

    def stacked(self) -> Tensor:
        """All draws, shape (count, *output)."""
        self._held = [torch.cat(self._held)]
        return self._held[0]


class Distances(AllDraws):
    """The distances ‖f − c‖ of all draws, a row of the output by itself: memory O(n · rows), whatever the width is.

    Args:
        center: c, shape (*output). A row is an entry of the first axis, where there is more than one axis.
    """

    held_as = "rows"

    def __init__(self, center: Tensor) -> None:
        super().__init__()
        self.center = center
        self.key = f"distances {id(center)}"

    def widened(self, other: Self) -> Self:
        return type(self)(self.center)

    def update(self, outputs: Tensor) -> None:
        super().update(row_distances(outputs, self.center))

    def described(self) -> str:
        return f"distances from {digest(self.center)}"

    def rows(self) -> Tensor:
        """(count, rows), float64, on the CPU."""
        return self.stacked()


class Groups:
    """The draws in groups of K, each reduced to its distance from c: about n // K draws of the deployed smoother.

    Args:
        center: c, shape (*output).
        copies: K, at most `LARGEST_GROUP`: a group lies within one shard.
        smoother: "median" or "mean" over a group.

    Raises:
        ValueError: K is more than that.
    """

    ordered = True

    def __init__(self, center: Tensor, copies: int, smoother: str) -> None:
        _fits(copies)
        self.center, self.copies, self.smoother, self.count = center, copies, smoother, 0
        self.key = f"groups {id(center)} {copies} {smoother}"
        self._values: list[Tensor] = []
        self._rest: Tensor | None = None

    def widened(self, other: Groups) -> Groups:
        return Groups(self.center, self.copies, self.smoother)

    def update(self, outputs: Tensor) -> None:
        self.count += outputs.shape[0]
        rows = outputs if self._rest is None else torch.cat([self._rest, outputs])
        whole = rows.shape[0] // self.copies * self.copies
        self._rest = rows[whole:] if whole < rows.shape[0] else None
        if whole:
            grouped = rows[:whole].reshape(-1, self.copies, *rows.shape[1:]).transpose(0, 1)
            self._values.append(length(row_distances(smoothed(grouped, self.smoother), self.center), dim=1))

    def merge(self, other: Groups) -> None:
        """Fewer than K draws that are left over on either side stay out: a group lies within one part of a run."""
        self._values.extend(other._values)
        self.count += other.count
        self._rest = None

    def state(self) -> dict[str, Tensor]:
        rest = {} if self._rest is None else {"rest": self._rest}
        return {"count": torch.tensor(self.count), "values": self.values(), **rest}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count, self._values, self._rest = int(state["count"]), [state["values"]], state.get("rest")

    def described(self) -> str:
        return f"{self.smoother} of {self.copies} from {digest(self.center)}"

    def values(self) -> Tensor:
        """(groups,), float64, on the CPU; about count // K of them."""
        if not self._values:
            return torch.zeros(0, dtype=torch.float64)
        self._values = [torch.cat(self._values)]
        return self._values[0]


class Exceedances(Tallied):
    """Counts, for each output, the draws beyond a box by more than the rounding of the arithmetic.

    The same input gives values a few ulp apart in batches of different sizes, which matters where f has atoms. The ulp
    are those of the values that f works with inside, for which the root mean square of the whole box stands in.

    Args:
        lower, upper: the box, shape (*output).
        exact: count every draw beyond, whatever the rounding.
    """

    tallies: ClassVar[tuple[str, ...]] = ("below", "above")

    def __init__(self, lower: Tensor, upper: Tensor, exact: bool = False) -> None:
        self.lower, self.upper, self.count = lower.to("cpu", torch.float64), upper.to("cpu", torch.float64), 0
        self.ulps = 0 if exact else 1000
        self.key = f"exceedances {id(lower)} {id(upper)} {exact}"
        sides = torch.cat([self.lower.reshape(-1), self.upper.reshape(-1)])
        sides = sides[torch.isfinite(sides)]
        self.scale = float(length(sides)) / math.sqrt(sides.numel()) if sides.numel() else 0.0
        self.below = torch.zeros(lower.shape, dtype=torch.int64)
        self.above = torch.zeros(lower.shape, dtype=torch.int64)

    def update(self, outputs: Tensor) -> None:
        values = outputs.to("cpu", torch.float64)
        eps = self.ulps * torch.finfo(outputs.dtype).eps
        slack = eps * self.scale + eps * values.abs()
        self.count += values.shape[0]
        self.below += (values < self.lower - slack).sum(dim=0)
        self.above += (values > self.upper + slack).sum(dim=0)

    def described(self) -> str:
        return f"exceedances {digest(self.lower)} {digest(self.upper)}"

    def widened(self, other: Exceedances) -> Exceedances:
        return Exceedances(self.lower, self.upper, self.ulps == 0)


def smoothed(draws: Tensor, smoother: str) -> Tensor:
    """The "median" or "mean" over the first axis; the mean in the draws' own precision."""
    return median(draws) if smoother == "median" else mean(draws)


def median(draws: Tensor) -> Tensor:
    """Element-wise median over the first axis; for an even number the average of the two middle draws."""
    ordered = in_order(draws)
    k = draws.shape[0]
    return ordered[k // 2].clone() if k % 2 else half_way(ordered[k // 2 - 1], ordered[k // 2])


def in_order(draws: Tensor) -> Tensor:
    """Every output's draws (over the first axis) from the least to the largest.

    Piece by piece: a sort takes several times the memory of what is sorted.
    """
    ordered = torch.empty_like(draws, memory_format=torch.contiguous_format)
    rows, outputs = draws.shape[0], math.prod(draws.shape[1:])
    flat, target, step = draws.reshape(rows, outputs), ordered.view(rows, outputs), max(1, _SORTED // max(rows, 1))
    for start in range(0, outputs, step):
        piece = flat[:, start : start + step]
        if rows >= _MANY and not piece.is_cuda:  # numpy sorts long rows several times as fast
            columns = piece.t().contiguous()
            columns.numpy().sort(axis=1)
            target[:, start : start + step] = columns.t()
        else:
            target[:, start : start + step] = piece.sort(dim=0).values
    return ordered


def part_of(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What a state holds of a part, under "name."."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}


def state_of(parts: Mapping[str, Stateful]) -> dict[str, Tensor]:
    """The states of parts, each under its name."""
    return {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state().items()}


def digest(tensor: Tensor) -> str:
    """The beginning of a SHA-256 over a tensor's dtype, shape and bytes."""
    return tensor_digest(tensor)[:16]


def whole_groups(n: int, copies: int) -> int:
    """How many groups of K draws n draws make: a group lies within one shard, so K is at most `LARGEST_GROUP`."""
    shard = LARGEST_GROUP
    _fits(copies)
    return n // shard * (shard // copies) + n % shard // copies


def _fits(copies: int) -> None:
    if copies > LARGEST_GROUP:
        raise ValueError(f"copies = {copies}: must be at most {LARGEST_GROUP}, the draws of one shard, to form a group")


def row_distances(outputs: Tensor, center: Tensor) -> Tensor:
    """‖f_b − c_b‖ of every draw and row b (an entry of the first output axis): (draws, rows), float64, on the CPU."""
    rows = center.shape[0] if center.ndim > 1 else 1
    difference = outputs.to(torch.float64) - center.to(outputs.device, torch.float64)
    return length(difference.reshape(outputs.shape[0], rows, -1), dim=2).cpu()


def pool(wanted: Iterable[Accumulator]) -> dict[str, Accumulator]:
    """One accumulator a key, wide enough for all that are wanted."""
    pooled: dict[str, Accumulator] = {}
    for accumulator in wanted:
        held = pooled.get(accumulator.key)
        pooled[accumulator.key] = accumulator if held is None else held.widened(accumulator)
    return pooled
