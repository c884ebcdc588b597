"""T3 + T8: the largest radius whose bound stays within a tolerance.

Statement. Let B̂(ρ) be a bound that at any fixed ρ is valid with probability 1 − α and does not decrease in ρ. Then
ρ̂ = sup{ρ : B̂(ρ) ≤ C} is valid with probability 1 − α, without a correction for the search: if ρ₀ is the true radius,
ρ̂ > ρ₀ means that B̂ fell short at radii arbitrarily little above ρ₀, one level-α event.

Assumes: the tolerance C and the reference are fixed before the bounding draws are taken. With a reference from the same
draws the statement is false: the least favourable one fails in 12–17 % of runs at α = .05 (docs/theory/t03-confidence.md).

Draws that were kept for radii above a floor alone answer the search if B̂(floor) ≤ C: B̂ does not decrease, so it stays within
C below. If not, the *same* draws are made once more (same seed, same blocks) and kept for all radii: ρ̂ is a function of the
draws, whichever pass kept what it takes, and one level-α event as before.

Reference: THEORY T3 (radius search), T8 (the ellipsoid).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from certify.bounds.base import Evaluation
from certify.bounds.mse import Squared
from certify.bounds.statement import constant
from certify.noise import Region

__all__ = ["CertifiedRadius", "largest_radius"]

_LARGEST, _LEAST = 64.0, 1e-6
"""Beyond 64 a Gaussian tail is 0 in float64, so only an a-priori support speaks there; below 1e-6 nothing is certified."""


@dataclass(frozen=True, kw_only=True)
class CertifiedRadius(Squared):
    """What `certify.certified_radius` returns.

    With probability 1 − α over the draws, ‖smoothed(y + δ) − reference‖² ≤ `tolerance` for every ‖δ‖_Σ ≤ `rho`.

    Attributes:
        rho: the radius; 0 in an abstention, +∞ where the a-priori support alone is within the tolerance.
        tolerance: squared ℓ2 distance, a sum over outputs.
        value: the bound at `rho`, at most the tolerance.
        ellipsoid: the certified set, {δ : noise.norm(δ) ≤ rho}: `certify.Ellipsoid` for Gaussian noise, for uniform noise
            `certify.noise.CrossPolytope`.
        considered: with method "best", the radius that each method was guessed to reach; the largest was taken.
    """

    tolerance: float
    ellipsoid: Region

    quantity: str = constant("radius")
    unit: str = constant("radius in units of the noise, ‖δ‖_Σ")

    def stated(self) -> dict[str, Any]:
        return {**super().stated(), "value": self.rho, "tolerance": self.tolerance}


def largest_radius(
    bound: Callable[[float], Evaluation], tolerance: float, precision: float = 1e-6
) -> tuple[float, Evaluation]:
    """The largest ρ found with bound(ρ) ≤ tolerance, by bisection from the safe side, and the bound there.

    Returns:
        (0, bound at the least radius) where even that exceeds the tolerance; (∞, bound) where no radius does.
    """
    evaluation = bound(_LEAST)
    if evaluation.value > tolerance:
        return 0.0, evaluation
    low, high = _LEAST, 1.0
    while high <= _LARGEST:
        trial = bound(high)
        if trial.value > tolerance:
            break
        low, evaluation, high = high, trial, 2 * high
    else:
        return math.inf, evaluation
    while high - low > precision * high:
        middle = (low + high) / 2
        trial = bound(middle)
        if trial.value <= tolerance:
            low, evaluation = middle, trial
        else:
            high = middle
    return low, evaluation
