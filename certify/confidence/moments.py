"""Moments: limits of the mean of bounded variables that hold with probability 1 − α, rounded to the safe side (T11).

Reference: Chernoff; Hoeffding (1963); Bernstein; Bennett (1962); THEORY T11.
"""

from __future__ import annotations

import math

from certify._floats import up

__all__ = ["bennett", "bernstein_slack", "chernoff_limit", "divergence", "in_balls"]

_SAFE = 1e-9
"""What a slack is rounded up by, relatively; its own error is a few ulp."""


def chernoff_limit(mean: float, n: int, alpha: float) -> float:
    """The largest v with n KL(mean ‖ v) ≤ ln 1/α, rounded up: an upper limit of the mean of variables in [0, 1].

    Independent (or, given the past, of mean at most v) variables average `mean` or less with probability at most
    exp(−n KL(mean ‖ v)) if their mean is v > `mean` (Chernoff; Hoeffding 1963).

    Args:
        mean: the observed mean, in [0, 1].
        n: variables.
        alpha: failure probability.
    """
    mean = min(max(mean, 0.0), 1.0)
    allowed, low, high = -math.log(alpha) / n, mean, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if divergence(mean, middle) <= allowed else (low, middle)
    return min(1.0, high * (1 + 1e-12))


def divergence(p: float, q: float) -> float:
    """KL(p ‖ q) of two coins with values 0 and 1, written so that nothing cancels where p is close to q."""
    if q >= 1 or q <= 0:
        return 0.0 if p == q else math.inf
    return max(_pull(p, q, q - p) + _pull(1 - p, 1 - q, p - q), 0.0)


def _pull(p: float, q: float, step: float) -> float:
    """p ln p/q with `step` = q − p: from the step where the two are close; where they are not, 1 + step/p may round to 0."""
    if p <= 0:
        return 0.0
    return -p * math.log1p(step / p) if step > -p / 2 else p * math.log(p / q)


def bernstein_slack(second: float, radius: float, n: int, alpha: float) -> float:
    """How far the mean of n variables may be above their average, but for probability α: sqrt(2λt/n) + Rt/3n, t = ln 1/α.

    Args:
        second: λ, upper limit of their mean square.
        radius: R, limit of their absolute values.
        n, alpha: variables; failure probability.
    """
    t = -math.log(alpha) / n
    return up(radius * (math.sqrt(2 * in_balls(second, radius) * t) + t / 3), _SAFE)


def in_balls(second: float, radius: float) -> float:
    """λ/R², at most 1: a mean square in units of the largest, also where R² itself has no float64."""
    return min(1.0, second / radius / radius) if radius > 0 else 0.0


def bennett(excess: float, n: int, second: float, radius: float) -> float:
    """The probability that n variables average their mean plus `excess` or more is at most this; arguments as above.

    E exp(sW) ≤ exp(s E W + λ φ(sR)/R²) for W ≤ R and E W² ≤ λ, with φ(t) = e^t − 1 − t (Bennett 1962). So it holds for
    variables with such means given the past, too.
    """
    if excess <= 0 or n == 0:
        return 1.0
    second, excess = in_balls(second, radius), excess / radius
    if second == 0:
        return 0.0
    t = excess / second
    return math.exp(-n * second * ((1 + t) * math.log1p(t) - t))
