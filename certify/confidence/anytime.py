"""Anytime-valid confidence: statements about a probability that hold at every number of draws at once (T3, sequential).

A fixed-n limit may be read once. Read after every batch, it passes by chance somewhere on the way. With s successes and f
failures so far, p₀ ∈ (0, 1) and θ = u p₀,

    M = ∫₀¹ u^s ((1 − u p₀)/(1 − p₀))^f  ½ u^{−1/2} du

is a mixture of likelihood ratios against p₀. If P[event] ≥ p₀ it is a nonnegative supermartingale that starts at 1, so by
Ville's inequality it *ever* reaches 1/α with probability at most α. Its counterpart has θ with v times the odds of p₀, v > 1,
of weight ½ v^{−3/2}, and is evidence against P[event] ≤ p₀. In full: docs/theory/t03-sequential.md.

Reference: THEORY T3; Ville (1939); Robbins (1970); Howard, Ramdas, McAuliffe and Sekhon (2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import betainc, betaincc, betaln

from certify import _validate
from certify.noise import Noise

__all__ = ["anytime_limit", "enough_evidence", "log_evidence_above", "log_evidence_below", "looks", "stopped_event"]


def log_evidence_below(successes: Any, n: Any, p0: float) -> Any:
    """ln M against "P[event] ≥ p₀", for n draws with so many successes: large where the probability is below p₀.

    Increases in p₀ and decreases in the successes. Arrays of counts give an array.
    """
    s, f = np.asarray(successes, dtype=float), np.subtract(n, successes, dtype=float)
    with np.errstate(divide="ignore"):  # far above p₀ the integral underflows: no evidence
        kernel = betaln(s + 0.5, f + 1) + np.log(betainc(s + 0.5, f + 1, p0))
    return math.log(0.5) + kernel - (s + 0.5) * math.log(p0) - f * math.log1p(-p0)


def log_evidence_above(successes: Any, n: Any, p0: float) -> Any:
    """ln M against "P[event] ≤ p₀": large where the probability is above p₀. Without a success −∞ (in truth M ≤ 1).

    Decreases in p₀ and increases in the successes.
    """
    s, f = np.asarray(successes, dtype=float), np.subtract(n, successes, dtype=float)
    a = np.maximum(s, 1) - 0.5
    with np.errstate(divide="ignore"):
        kernel = betaln(a, f + 0.5) + np.log(betaincc(a, f + 0.5, p0))
    log_m = math.log(0.5) + kernel - (s - 0.5) * math.log(p0) - (f + 0.5) * math.log1p(-p0)
    return np.where(s > 0, log_m, -np.inf)


def anytime_limit(successes: int, n: int, alpha: float, side: str = "upper") -> float:
    """A confidence limit of a probability that holds at all numbers of draws at once, rounded to the safe side.

    Equation
        P[ there is an n with p > limit(successes of n, n) ] ≤ α  (upper), whatever p is; the lower one likewise.

    Reference
        THEORY T3 (docs/theory/t03-sequential.md); Robbins (1970).

    Args:
        successes: how often the event was seen, 0 … n.
        n: independent draws, ≥ 1.
        alpha: failure probability of this one limit over all n.
        side: "upper" or "lower".

    >>> round(anytime_limit(0, 1000, 1e-3), 5)  # Clopper–Pearson, to be read once: 0.00688
    0.00804
    """
    n, successes = _validate.count("n", n), _validate.count("successes", successes, minimum=0)
    if successes > n:
        raise ValueError(f"successes = {successes}: must be at most n = {n}")
    alpha, side = _validate.probability("alpha", alpha), _validate.choice("side", side, ("upper", "lower"))
    evidence, certain = (log_evidence_below, 1.0) if side == "upper" else (log_evidence_above, 0.0)
    rate, needed = successes / n, enough_evidence(n, alpha)
    if rate == certain:
        return certain
    return _bisected(lambda p0: bool(evidence(successes, n, p0) >= needed), holds=certain, fails=rate)


def stopped_event(successes: int, n: int, noise: Noise, *, rho: float, replicas: int, alpha: float) -> float:
    """The bound of P[event] within ‖δ‖_Σ ≤ ρ from a count that may have been stopped at any time (T5, T3)."""
    upper = anytime_limit(successes, n, alpha)
    return 1.0 if upper >= 1 else 1.0 - noise.tails(upper, rho, replicas).upper


def looks(first: int, maximum: int, alpha: float) -> list[tuple[int, float]]:
    """When to look, and with what α: at `first`, doubled until `maximum`, and there; equal shares that add up to α.

    A look beyond two thirds of the maximum is left to the maximum.
    """
    counts = []
    while 3 * first <= 2 * maximum:
        counts.append(first)
        first *= 2
    counts.append(maximum)
    return [(count, alpha / len(counts)) for count in counts]


def enough_evidence(n: Any, alpha: float) -> Any:
    """What ln M must reach: ln 1/α, and the rounding of a sum of terms of the size n ln n."""
    return -math.log(alpha) + 1e-9 + 1e-14 * np.asarray(n, dtype=float)


def _bisected(enough_at: Callable[[float], bool], *, holds: float, fails: float) -> float:
    """The end of the stretch from `holds` on which there is evidence enough; a number at which there is, or `holds`."""
    for _ in range(2000):
        middle = (holds + fails) / 2
        if not min(holds, fails) < middle < max(holds, fails) or abs(holds - fails) <= 1e-13 * middle:
            break
        holds, fails = (middle, fails) if enough_at(middle) else (holds, middle)
    return holds
