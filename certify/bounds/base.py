"""What a bound is: a theorem, what it must see of the draws, and how it turns that into a number.

A method is a class with the shape of `Method`, in a file of its own, named once in a registry (`certify.bounds`). It is
built before any draw of its own is taken, from a `Setting`; what it has to choose (a truncation, a grid) it chooses then,
on pilot draws. It says which accumulators it `needs`; after the pass it is asked `at(rho)`.

What it answers with is an `Evaluation`: a value, and the `Evidence` that the value follows from by arithmetic alone, such
as a box of order statistics. Certificates keep the evidence, so that somebody else can draw afresh and test it.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from certify import _validate
from certify._floats import half_way, unit_of
from certify._names import POLICIES
from certify._records import Record
from certify.montecarlo import Accumulator, row_distances
from certify.montecarlo.accumulators import in_order
from certify.noise import Noise
from certify.support import Support

__all__ = ["POLICIES", "Evaluation", "Evidence", "Method", "Run", "Setting", "default_pilot", "pilot_rank", "recorded"]


@dataclass(frozen=True)
class Run(Record):
    """Where a result comes from: everything that, with f and y, draws the same numbers again.

    Attributes:
        y, noise: the input, shape (*input), and the noise around it.
        n, seed, pilot: bounding draws, seed, pilot draws (0 where none were needed).
        policy: how Σ came about (THEORY T7); "frozen": fixed when the certificate was issued.
        support: the a-priori support that the bounds were cut down to, if any.
        function: what the function is called in records.
        copies: noisy copies of y that one call of the function sees, (b, copies, *input); None: (b, *input).
    """

    y: Tensor = field(repr=False)
    noise: Noise = field(repr=False)
    n: int
    seed: int
    pilot: int = 0
    policy: str = "frozen"
    support: Support | None = field(default=None, repr=False)
    function: str = "f"
    copies: int | None = None

    def __post_init__(self) -> None:
        recorded(self.policy, self.function)

    @property
    def dtype(self) -> str:
        """Of the input; the function is what ran in it (THEORY T10)."""
        return str(self.y.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        """Of the input; the function is what ran there (THEORY T10)."""
        return str(self.y.device)

    @property
    def remark(self) -> str:
        """What a reader of a certified claim must know of its set: the `reason` of a claim that is made; mostly ""."""
        return "" if self.noise.region(self.y.shape, 1.0).dimensions else POINT


POINT = "there is no noise (σ is 0 everywhere), and the certified set is a single point, the input itself"
"""Said with every claim whose noise is none: it holds for all radii, since no perturbation has a finite size."""


def recorded(policy: Any, function: Any) -> None:
    """Refuses what no record can hold: a policy that there is not, a function's name that is no text."""
    _validate.choice("policy", policy, POLICIES)
    if not isinstance(function, str):
        raise TypeError(f"function = {function!r}: must be a string, what f is called in the record")


@dataclass(frozen=True)
class Setting(Record):
    """What is known before the bounding draws.

    Attributes:
        noise: the noise.
        n: bounding draws.
        shape: output shape.
        center: c, shape (*output), independent of the bounding draws.
        reference: what distances are measured to: "center", or "population": the ideal smoothed value at y itself.
        support: a-priori support of f, if any.
        pilot: the pilot draws, (N, *output), independent of the bounding draws; None where there are none.
        work: counts the operations of f's matrix products and convolutions in one draw, by one evaluation more, None where it
            sees none; None: there is nothing to look at.
    """

    noise: Noise
    n: int
    shape: tuple[int, ...]
    center: Tensor = field(repr=False)
    reference: str = "center"
    support: Support | None = field(default=None, repr=False)
    pilot: Tensor | None = field(default=None, repr=False)
    work: Callable[[], float | None] | None = field(default=None, repr=False, compare=False)

    @property
    def outputs(self) -> int:
        """m, the number of outputs."""
        return math.prod(self.shape)

    @functools.cached_property
    def ordered(self) -> Tensor | None:
        """The pilot draws, each output sorted by itself."""
        return None if self.pilot is None else in_order(self.pilot)

    @functools.cached_property
    def middle(self) -> Tensor | None:
        """The median of the pilot draws; the center itself, if that is what it is."""
        if self.ordered is None:
            return None
        k = len(self.ordered)
        found = self.ordered[k // 2] if k % 2 else half_way(self.ordered[k // 2 - 1], self.ordered[k // 2])
        found = found.to(self.center.device, self.center.dtype)
        return self.center if torch.equal(found, self.center) else found

    def distances(self, origin: Tensor) -> Tensor:
        """How far the pilot draws are from `origin`, a row of the output by itself: (N, rows); kept for the next time."""
        if self.pilot is None:
            raise ValueError("pilot = None: there are no draws to measure from")
        if id(origin) not in self._distances:
            self._distances[id(origin)] = (origin, row_distances(self.pilot, origin))
        return self._distances[id(origin)][1]

    def reach(self, origin: Tensor) -> Tensor:
        """What the distance of a row of f from that of `origin` cannot exceed: (rows,), float64; ∞ without a support.

        Kept for the next time: what is tried on pilot draws asks for it a hundred times.
        """
        if self.support is None:
            return torch.full((origin.shape[0] if origin.ndim > 1 else 1,), math.inf, dtype=torch.float64)
        if id(origin) not in self._reaches:
            self._reaches[id(origin)] = (origin, self.support.reach(origin))
        return self._reaches[id(origin)][1]

    @functools.cached_property
    def stable_rank(self) -> float:
        """tr Cov / λ_max(Cov) of the first 256 pilot draws, about: how many outputs move by themselves. 1 without draws."""
        if self.pilot is None:
            return 1.0
        x = self.pilot[:256].reshape(min(256, len(self.pilot)), -1).to(torch.float64)
        x = x / unit_of(x)
        x = x - x.mean(dim=0)
        x = x / unit_of(x)
        values = torch.linalg.eigvalsh((x @ x.T).cpu())
        return float(values.sum() / values[-1]) if float(values[-1]) > 0 else 1.0

    @functools.cached_property
    def _distances(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}  # with the origin itself, so that its id stays its own

    @functools.cached_property
    def _reaches(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}


class Evidence(Record, ABC):
    """The numbers that a value follows from, and how fresh draws speak against them.

    Evidence holds for the law of f(y + G), with no perturbation, so anybody with f and y can test it.
    """

    kind: ClassVar[str]
    scalars: ClassVar[Mapping[str, type]] = {}
    """Names of fields that are kept as JSON scalars, and what they are."""

    @property
    def reference(self) -> str:
        """What a distance that follows from it is measured to: "center" or "population"."""
        return "center"

    def numbers(self) -> dict[str, float | int | str]:
        """JSON scalars to keep."""
        return {name: getattr(self, name) for name in self.scalars}

    @classmethod
    def _scalars(cls, numbers: Mapping[str, float | int | str]) -> dict[str, Any]:
        return {name: kind(numbers[name]) for name, kind in cls.scalars.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to keep."""
        return {}

    @classmethod
    @abstractmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        """From what was kept. Raises KeyError or ValueError where something is missing or out of range."""

    @abstractmethod
    def implied(self, noise: Noise, rho: float) -> float:
        """The least value that follows from these numbers at `rho`: a stated one must not be smaller."""

    @abstractmethod
    def witness(self) -> Accumulator:
        """An accumulator for fresh draws of f at y."""

    @abstractmethod
    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        """The p-value of "these numbers are true", by a binomial test or a sharper one, and a phrase of detail."""


@dataclass(frozen=True)
class Evaluation:
    """A method's answer at one radius.

    Attributes:
        value: the bound; +∞ where the draws do not suffice.
        evidence: what it follows from; None for an infinite value, or one that follows from the support alone.
        draws_needed: the smallest n that would have been enough for a finite value, if that was the obstacle.
        reason: another obstacle, in words.
    """

    value: float
    evidence: Evidence | None = field(default=None, repr=False)
    draws_needed: int | None = None
    reason: str = ""


class Method(ABC):
    """A bound that is valid with probability 1 − α at any one fixed ρ.

    `at` must not decrease in ρ at fixed draws: the search for a certified radius rests on it (THEORY T3).

    Args:
        setting: what is known.
        alpha: failure probability.
        aim: the radius for which what can be chosen is chosen, on pilot draws alone; the bound is valid at every radius.
    """

    method: ClassVar[str]
    theorem: ClassVar[str]
    smoother: ClassVar[str]
    evidence: ClassVar[type[Evidence]]
    """What a finite `at` comes with."""

    def __init__(self, setting: Setting, alpha: float, aim: float) -> None:
        self.setting, self.alpha, self.aim = setting, alpha, aim

    @classmethod
    def promising(cls, setting: Setting) -> bool:
        """Whether methods "best" and "tightest" are to consider it at all: a look at pilot draws that costs little."""
        return True

    @classmethod
    def affordable(cls, setting: Setting) -> bool:
        """Whether it takes less than about twice the time of the cheapest method: others are left to method "tightest".

        A matter of counts, not of clocks: the same call must give the same claim anywhere.
        """
        return True

    @abstractmethod
    def guess(self, rho: float) -> float:
        """What `at` is roughly going to give, from the pilot draws alone. Chooses between methods; claims nothing."""

    @abstractmethod
    def needs(self, rho: float) -> list[Accumulator]:
        """Empty accumulators that must see the bounding draws if no radius below `rho` will be needed."""

    @abstractmethod
    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        """The bound at `rho`."""


def default_pilot(n: int) -> int:
    """How many pilot draws go before n bounding draws: a tenth, at most 1 000; below n = 10 000 a sixteenth, at least 64.

    They choose the reference and the method. Where every draw is dear and n small, they are not to cost a tenth of the time.
    """
    return min(1000, max(64, n // (10 if n >= 10_000 else 16)))


def pilot_rank(rank: int, n: int, pilot: int) -> int:
    """The rank among `pilot` draws that is about as extreme as `rank` among n, for guesses."""
    return max(1, min(pilot, round(rank * pilot / n)))
