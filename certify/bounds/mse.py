"""T2: the coordinate-wise bound on the squared distance that the smoothed output can move.

Statement. For any reference c and the box [L, U] of T1 at the median, for every ‖δ‖_Σ ≤ ρ

    ‖E_½(y + δ) − c‖² ≤ Σ_i ζ_i,      ζ_i = max{ (U_i − c_i)², (c_i − L_i)² }.

"MSE" in the paper and here is the squared ℓ2 distance, a *sum* over outputs, not an average.

Erratum. The paper prints Σ_i (ζ_i)² in its inequalities (2) and (6), although ζ_i is a square already. As printed they
are false: f(y) = σy moves by (σρ)², and (σρ)⁴ is smaller whenever σρ < 1.

Reference: THEORY T2, T3; Han et al. (2025), inequalities (2) and (6), corrected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from certify._floats import TOO_LARGE, square
from certify._records import Shown
from certify.bounds.base import Evaluation, Evidence, Method, Run
from certify.bounds.percentile import BoxEvidence, box_distance, draws_needed, guessed_reach, percentile_box, ranks
from certify.montecarlo import Accumulator, ExtremeRanks

__all__ = ["BoundCurve", "Boxed", "CoordinatewiseMSE", "MSEBound"]


class Boxed:
    """A result whose evidence may be a box."""

    evidence: Evidence | None

    @property
    def lower(self) -> Tensor | None:
        """The box's lower end, shape (*output); None without a box."""
        return self.evidence.lower if isinstance(self.evidence, BoxEvidence) else None

    @property
    def upper(self) -> Tensor | None:
        """The box's upper end, shape (*output); None without a box."""
        return self.evidence.upper if isinstance(self.evidence, BoxEvidence) else None


@dataclass(frozen=True)
class MSEBound(Boxed, Shown):
    """A bound on the squared ℓ2 distance between the smoothed output at y + δ and a reference.

    Attributes:
        value: with probability 1 − α over the draws, ‖smoothed(y + δ) − reference‖² ≤ value for every ‖δ‖_Σ ≤ ρ;
            a sum over outputs. +∞ in an abstention.
        method, theorem, smoother: how it was obtained.
        rho, alpha, n: radius, failure probability, draws.
        center: the reference, shape (*output): given, or the smoothed value of pilot draws; for reference
            "population" only an estimate of what the distance is measured to.
        reference: "center" or "population" (the ideal smoothed value at y itself).
        evidence: what the value follows from; `lower`, `upper` are its box, for methods that have one.
        considered: with method "best", what each method was guessed to give from pilot draws; the least was taken.
        status: "certified" or "abstained", with a `reason` that says what n would do.
        scope: "single", or for a point of a curve "pointwise" or "simultaneous".
    """

    value: float
    method: str
    theorem: str
    rho: float
    alpha: float
    n: int
    center: Tensor = field(repr=False)
    status: str
    reason: str
    smoother: str
    reference: str
    evidence: Evidence | None = field(repr=False)
    run: Run = field(repr=False)
    considered: Mapping[str, float] = field(default_factory=dict, repr=False)
    scope: str = "single"

    quantity = "mse"
    unit = "squared l2 distance, summed over outputs"


@dataclass(frozen=True)
class BoundCurve(Shown):
    """The bound at several radii, from one set of draws.

    Attributes:
        points: an `MSEBound` a radius.
        simultaneous: True: all points hold at once with probability 1 − α. False: each does, one at a time.
        alpha: of the curve (simultaneous) or of each point (pointwise).
    """

    points: tuple[MSEBound, ...] = field(repr=False)
    simultaneous: bool
    alpha: float
    n: int
    method: str
    theorem: str

    @property
    def rhos(self) -> tuple[float, ...]:
        """The radii, increasing."""
        return tuple(point.rho for point in self.points)

    @property
    def values(self) -> tuple[float, ...]:
        """The bounds, +∞ where a point abstained."""
        return tuple(point.value for point in self.points)


class CoordinatewiseMSE(Method):
    """T2 on the box of T1. Every coordinate's events hold at once: α' = α/(2m), α/(4m) with the population reference."""

    method, theorem, smoother, evidence = "coordinatewise", "T2", "median", BoxEvidence
    p = 0.5

    @property
    def population(self) -> bool:
        """Whether the reference is the median at y itself, bracketed from the same draws."""
        return self.setting.reference == "population"

    @property
    def share(self) -> float:
        """α', the failure probability of one side of one output."""
        return self.alpha / ((4 if self.population else 2) * self.setting.outputs)

    def guess(self, rho: float) -> float:
        setting, ordered = self.setting, self.setting.ordered
        if ordered is None:
            return math.inf
        low, high = ranks(setting.n, setting.noise.tails(self.p, rho), self.share)
        return min(square(guessed_reach(setting, ordered, low, high)), self._cap())

    def needs(self, rho: float) -> list[Accumulator]:
        # The population's own median is bracketed at no perturbation, the moved one at ρ.
        radii = (0.0, rho) if self.population else (rho,)
        found = [ranks(self.setting.n, self.setting.noise.tails(self.p, radius), self.share) for radius in radii]
        return [ExtremeRanks(max(low, 1), max(high, 1)) for low, high in found]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        extremes = cast(ExtremeRanks, seen[ExtremeRanks.key])
        lower, upper = self._box(extremes, rho)
        if self.population:
            bracket = self._box(extremes, 0.0)
            value, cap = box_distance(lower, upper, *bracket), math.inf
            evidence = BoxEvidence(lower, upper, bracket=bracket)
        else:
            center = self.setting.center
            value, cap = box_distance(lower, upper, center, center), self._cap()
            evidence = BoxEvidence(lower, upper, center=center, support=self.setting.support if cap < value else None)
        if math.isfinite(value):
            return Evaluation(min(value, cap), evidence)
        if bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()):
            return Evaluation(cap, evidence, reason=TOO_LARGE)
        return Evaluation(cap, evidence, draws_needed(self.setting.noise.tails(self.p, rho), self.share))

    def _box(self, extremes: ExtremeRanks, rho: float) -> tuple[Tensor, Tensor]:
        box = percentile_box(
            extremes,
            self.setting.noise,
            p=self.p,
            rho=rho,
            alpha=self.share,
            shape=self.setting.shape,
            support=self.setting.support,
        )
        return box.lower, box.upper

    def _cap(self) -> float:
        support = self.setting.support
        return math.inf if support is None or self.population else support.median_cap(self.setting.center)
