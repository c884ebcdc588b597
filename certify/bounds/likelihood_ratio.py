"""The likelihood ratio of a shifted noise to the noise, from above: what T11 and T12 need of a noise beyond its tails.

With L = dQ/dP at radius ρ and ψ_μ as in T11 (`certify.bounds.spectral_mean`), `LikelihoodRatio` bounds E ψ_μ(L − θ) and
`max_mean_shift` is S_θ. L enters through E ψ(L) with ψ convex only, and over such functions the law of L is dominated by its
Neyman–Pearson curve T (Blackwell); T is read off `Noise.tails` on a grid, from above, and must be concave.

Reference: THEORY T11.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable
from typing import cast

import numpy as np
from scipy.special import ndtr

from certify._floats import up
from certify.confidence import in_balls
from certify.noise import Noise

__all__ = ["LikelihoodRatio", "likelihood_ratio", "max_mean_shift", "unsupported"]

_SAFE = 1e-9
"""What the sums below are rounded up by, relatively; their own error is a few hundred ulp."""

_GRID = ndtr(np.linspace(-9.0, 0.0, 451))
"""Probabilities at which a curve is read: half of them, mirrored for the other half."""

_LEAST = 1e-6
"""A radius at which a noise with a likelihood ratio has a finite χ²."""


class LikelihoodRatio:
    """The law of L = dQ/dP at radius ρ, replaced by one on finitely many values with larger E ψ(L) for every convex ψ.

    The curve T (the largest Q-probability for a P-probability) has slope L. Between two of its points L has a known mean
    and lies between the slopes of the neighbouring pieces; all of it is put on these two values, in the shares that keep
    the mean.

    Args:
        noise: its `tails`, at ρ, are points of the curve.
        rho: radius > 0.
    """

    def __init__(self, noise: Noise, rho: float) -> None:
        # An event of Q-probability q has a P-probability of at least tails(q).lower.
        top = [(noise.tails(q, rho).lower, q) for q in _GRID]
        for q in 1 - _GRID[::-1][1:]:
            if top[-1][0] >= 0.5 or q >= 1 - 1e-13:
                break
            top.append((noise.tails(q, rho).lower, float(q)))
        top = [point for point in top if point[0] > 1e-290] or [(1e-290, 1.0)]
        rest = [(b, noise.tails(b, rho).lower) for b in _GRID[::-1] if b < 1 - top[-1][0]]
        p, q = np.array(top).T
        b, low = np.array([*rest, (0.0, 0.0)]).T
        width = np.concatenate([np.diff(p), [1 - p[-1] - b[0]], -np.diff(b)])
        rise = np.concatenate([np.diff(q), [1 - q[-1] - low[0]], -np.diff(low)])
        rise, width = rise[width > 0].clip(0), width[width > 0]
        slope = rise / width
        self._first = float(p[0]), float(q[0])  # the steepest piece: L has no bound there
        above = np.maximum.accumulate(np.concatenate([[q[0] / p[0]], slope[:-1]])[::-1])[::-1]
        below = np.concatenate([np.minimum.accumulate(slope)[1:], [0.0]])
        above, below = np.maximum(above, slope), np.minimum(below, slope)
        step = above - below
        share = np.where(step > 0, (slope - below) / np.where(step > 0, step, 1.0), 1.0)
        self.weights = np.concatenate([width * share, width * (1 - share)])
        self.values = np.concatenate([above, below])

    def variation(self) -> float:
        """E|L − 1|, rounded up."""
        return min(2.0, self._mean(np.abs(self.values - 1), 0.0, 1.0))

    def clipped(self, second: float, theta: float) -> float:
        """S_θ for R = 1 and λ = `second`, rounded up.

        The best μ is the one for which v = clip((L − θ)/2μ) has E v² = λ. (Any other gives a valid bound, too.)
        """
        distance = np.abs(self.values - theta)
        order = distance.argsort()
        steps, weights = distance[order].clip(1e-150, 1e150), self.weights[order]
        inside = np.cumsum(weights * steps**2)
        beyond_it = weights.sum() - np.cumsum(weights) + self._first[0]
        # E v² for 2μ at each value in turn: it falls, and where it passes λ all up to there are not clipped.
        k = int((inside / steps**2 + beyond_it > second).sum())
        mu = math.sqrt(inside[k - 1]) / math.sqrt(max(second - beyond_it[k - 1], 1e-300)) / 2 if k else 0.0
        mu = min(mu, 1e150)
        return min(mu * second + self._mean(distance, mu, theta), self._mean(distance, 0.0, theta))

    def _mean(self, distance: np.ndarray, mu: float, theta: float) -> float:
        """E ψ_μ(L − θ) with R = 1; E|L − θ| for μ = 0."""
        # (min: L itself overflows when squared)
        near = np.minimum(distance, 2 * mu)
        psi = distance if mu == 0 else np.where(distance <= 2 * mu, near * near / (4 * mu), distance - mu)
        return (float(self.weights @ psi) + self._first[1] + theta * self._first[0]) * (1 + _SAFE)


def unsupported(noise: Noise) -> str:
    """Why nothing can be said about a noise; "" if something can.

    Every step takes expectations at y + δ for expectations at y of L = dQ/dP times the same. Where a shift gives probability to
    what had none before, there is no such L: f may do there what no draw at y can show, and χ² is infinite for every ρ > 0.
    """
    if math.isfinite(noise.chi2(_LEAST)):
        return ""
    return (
        f"spectral bounds (T11, T12) need a likelihood ratio, and the χ²-divergence of {type(noise).__name__} from its shifts "
        f"is infinite however small they are: other methods, for the median, need {noise.theorem} alone"
    )


def max_mean_shift(noise: Noise, rho: float, second: float, radius: float, theta: float = 1.0) -> float:
    """S_θ: how much E_P[(L − θ) v] can be at radius ρ for |v| ≤ R, E v² ≤ λ.

    Args:
        noise, rho: noise and radius ≥ 0.
        second: λ ≥ 0.
        radius: R ≥ 0.
        theta: θ in [0, 1].
    """
    if radius == 0 or second == 0:
        return 0.0
    second = in_balls(second, radius)
    chi2 = noise.chi2(rho)
    plain = math.sqrt(second * (chi2 + (1 - theta) ** 2))
    clipped = likelihood_ratio(noise, rho).clipped(second, theta) if rho > 0 and chi2 > 0 else math.inf
    # E_Q v ≤ R and −E_P v ≤ √λ whatever ρ is: what the others tend to, without their rounding, which is another at every ρ.
    far = up(1 + theta * math.sqrt(second), 1e-14)
    return radius * min(plain, clipped, far)


def likelihood_ratio(noise: Noise, rho: float) -> LikelihoodRatio:
    """`LikelihoodRatio`, kept for the next time."""
    return _ratio(cast(Hashable, noise), rho)


@functools.lru_cache(maxsize=16)
def _ratio(noise: Hashable, rho: float) -> LikelihoodRatio:
    return LikelihoodRatio(cast(Noise, noise), rho)
