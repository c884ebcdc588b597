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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certify._floats import TOO_LARGE, square
from certify.bounds.base import Evaluation, Method
from certify.bounds.percentile import BoxEvidence, box_distance, draws_needed, guessed_reach, percentile_box, ranks
from certify.bounds.statement import Distance, Points, constant
from certify.montecarlo import Accumulator, ExtremeRanks

__all__ = ["BoundCurve", "CoordinatewiseMSE", "MSEBound", "Squared"]


@dataclass(frozen=True, kw_only=True)
class Squared(Distance):
    """A `Distance`, squared, of the ideal smoothed output; its evidence may be a box."""

    @property
    def lower(self) -> Tensor | None:
        """The box's lower end, shape (*output); None without a box."""
        return self.evidence.lower if isinstance(self.evidence, BoxEvidence) else None

    @property
    def upper(self) -> Tensor | None:
        """The box's upper end, shape (*output); None without a box."""
        return self.evidence.upper if isinstance(self.evidence, BoxEvidence) else None

    def stated(self) -> dict[str, Any]:
        return {**super().stated(), "p": 0.5 if self.smoother == "median" else None}


@dataclass(frozen=True, kw_only=True)
class MSEBound(Squared):
    """A bound on the squared ℓ2 distance between the smoothed output at y + δ and a reference.

    With probability 1 − α over the draws, ‖smoothed(y + δ) − reference‖² ≤ `value` for every ‖δ‖_Σ ≤ `rho`; a sum over outputs.
    """

    quantity: str = constant("mse")
    unit: str = constant("squared l2 distance, summed over outputs")


@dataclass(frozen=True, repr=False)
class BoundCurve(Points):
    """The bound at several radii, an `MSEBound` each, from one set of draws; as `Points`."""

    points: tuple[MSEBound, ...]
    simultaneous: bool
    alpha: float


class CoordinatewiseMSE(Method):
    """T2 on the box of T1. Every coordinate's events hold at once: α' = α/(2m), α/(4m) with the population reference."""

    method, theorem, smoother, evidence = "coordinatewise", "T2", "median", BoxEvidence

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
        low, high = ranks(setting.n, setting.noise.tails(0.5, rho), self.share)
        return min(square(guessed_reach(setting, ordered, low, high)), self._cap())

    def needs(self, rho: float) -> list[Accumulator]:
        # The population's own median is bracketed at no perturbation, the moved one at ρ.
        radii = (0.0, rho) if self.population else (rho,)
        found = [ranks(self.setting.n, self.setting.noise.tails(0.5, radius), self.share) for radius in radii]
        return [ExtremeRanks(max(low, 1), max(high, 1)) for low, high in found]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        box = percentile_box(seen, self.setting, rho=rho, alpha=self.share)
        lower, upper = box.lower, box.upper
        if self.population:
            start = percentile_box(seen, self.setting, rho=0.0, alpha=self.share)
            bracket = start.lower, start.upper
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
        return Evaluation(cap, evidence, draws_needed(self.setting.noise.tails(0.5, rho), self.share))

    def _cap(self) -> float:
        support = self.setting.support
        return math.inf if support is None or self.population else support.median_cap(self.setting.center)
