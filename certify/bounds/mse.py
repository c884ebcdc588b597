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

from certify.bounds.base import Evaluation, Method, Run
from certify.bounds.percentile import draws_needed, percentile_box, ranks
from certify.montecarlo import Accumulator, ExtremeRanks

__all__ = ["BoundCurve", "CoordinatewiseMSE", "MSEBound", "box_distance"]


@dataclass(frozen=True)
class MSEBound:
    """A bound on the squared ℓ2 distance between the smoothed output at y + δ and a reference.

    Attributes:
        value: with probability 1 − α over the draws, ‖smoothed(y + δ) − reference‖² ≤ value for every ‖δ‖_Σ ≤ ρ;
            a sum over outputs. +∞ in an abstention.
        method, theorem, smoother: how it was obtained.
        rho, alpha, n: radius, failure probability, draws.
        center: the reference, shape (*output): given, or the smoothed value of pilot draws; for reference
            "population" only an estimate of what the distance is measured to.
        reference: "center" or "population" (the ideal smoothed value at y itself).
        lower, upper: the box behind the value, shape (*output), for methods that have one.
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
    lower: Tensor | None = field(repr=False)
    upper: Tensor | None = field(repr=False)
    run: Run = field(repr=False)
    scope: str = "single"

    quantity = "mse"
    unit = "squared l2 distance, summed over outputs"


@dataclass(frozen=True)
class BoundCurve:
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

    method, theorem, smoother = "coordinatewise", "T2", "median"
    p = 0.5

    @property
    def share(self) -> float:
        """α', the failure probability of one side of one output."""
        return self.alpha / ((2 if self.setting.center is not None else 4) * self.setting.outputs)

    def needs(self, rho: float) -> list[Accumulator]:
        radius = rho if self.setting.center is not None else 0.0
        low, high = ranks(self.setting.n, self.setting.noise.tails(self.p, radius), self.share)
        return [ExtremeRanks(max(low, 1), max(high, 1))]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        setting, extremes = self.setting, cast(ExtremeRanks, seen[ExtremeRanks.key])

        def box_at(radius: float) -> tuple[Tensor, Tensor]:
            box = percentile_box(
                extremes,
                setting.noise,
                p=self.p,
                rho=radius,
                alpha=self.share,
                shape=setting.shape,
                support=setting.support,
            )
            return box.lower, box.upper

        lower, upper = box_at(rho)
        if setting.center is None:
            center_low, center_high = box_at(0.0)
            value, cap = box_distance(lower, upper, center_low, center_high), math.inf
        else:
            value = box_distance(lower, upper, setting.center, setting.center)
            cap = math.inf if setting.support is None else setting.support.median_cap(setting.center)
        if math.isfinite(value):
            return Evaluation(min(value, cap), lower, upper)
        return Evaluation(cap, lower, upper, draws_needed(setting.noise.tails(self.p, rho), self.share))


def box_distance(lower: Tensor, upper: Tensor, center_low: Tensor, center_high: Tensor) -> float:
    """Σ_i ζ_i with ζ_i = max{(U_i − c_i)², (c_i − L_i)²} over c_i in [center_low_i, center_high_i], rounded up (T2)."""
    low, high = center_low.to("cpu", torch.float64), center_high.to("cpu", torch.float64)
    zeta = torch.maximum((upper - low).abs(), (high - lower).abs()).square()
    return float(zeta.sum()) * (1 + 4e-16 * max(zeta.numel(), 1))
