"""What a bound is: a theorem, what it must see of the draws, and how it turns that into a number.

A method for the squared distance of a smoothed output is a class with the shape of `Method`, in a file of its own, named
once in `METHODS` (`certify.bounds`). It is built before any draw of its own is taken, from a `Setting`; it says which
accumulators it `needs`; after the pass it is asked `at(rho)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from certify.montecarlo import Accumulator
from certify.noise import Noise
from certify.support import Support

__all__ = ["Evaluation", "Method", "Run", "Setting"]


@dataclass(frozen=True)
class Run:
    """Where a result comes from: everything that, with f and y, draws the same numbers again.

    Attributes:
        n, seed, pilot: bounding draws, seed, pilot draws (0 where none were needed).
        dtype, device: of the input; the function is what ran there (THEORY T10).
        y, noise: the input, shape (*input), and the noise around it.
        policy: how Σ came about (THEORY T7); "frozen": fixed when the certificate was issued.
        support: the a-priori support that the bounds were cut down to, if any.
    """

    n: int
    seed: int
    pilot: int
    dtype: str
    device: str
    y: Tensor = field(repr=False)
    noise: Noise = field(repr=False)
    policy: str = "frozen"
    support: Support | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Setting:
    """What is known before the bounding draws.

    Attributes:
        noise: the noise.
        n: bounding draws.
        shape: output shape.
        center: the reference, shape (*output), independent of the bounding draws; None: the population median itself.
        support: a-priori support of f, if any.
    """

    noise: Noise
    n: int
    shape: tuple[int, ...]
    center: Tensor | None
    support: Support | None

    @property
    def outputs(self) -> int:
        """m, the number of outputs."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Evaluation:
    """A method's answer at one radius.

    Attributes:
        value: the bound; +∞ where the draws do not suffice.
        lower, upper: the box behind it, shape (*output), if the method has one.
        draws_needed: the smallest n that would have been enough for a finite value, if this was not.
    """

    value: float
    lower: Tensor | None = field(default=None, repr=False)
    upper: Tensor | None = field(default=None, repr=False)
    draws_needed: int | None = None


class Method(ABC):
    """A bound on ‖smoothed(y + δ) − reference‖² over ‖δ‖_Σ ≤ ρ, valid with probability 1 − α at any one fixed ρ.

    `at` must not decrease in ρ at fixed draws: the search for a certified radius rests on it (THEORY T3).
    """

    method: ClassVar[str]
    theorem: ClassVar[str]
    smoother: ClassVar[str]

    def __init__(self, setting: Setting, alpha: float) -> None:
        self.setting, self.alpha = setting, alpha

    @abstractmethod
    def needs(self, rho: float) -> list[Accumulator]:
        """Empty accumulators that must see the bounding draws if no radius below `rho` is going to be asked for."""

    @abstractmethod
    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        """The bound at `rho`."""
