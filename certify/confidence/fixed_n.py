"""Confidence: which order statistic of n draws stands for a percentile nobody can see.

Sort n independent draws of one coordinate. The t-th largest lies at or above the percentile with upper tail q (the value
that a draw exceeds with probability at most q) unless fewer than t draws fall into that tail, and

    P[fewer than t of n draws in a tail of probability q] = P[Bin(n, q) ≤ t − 1].

So the t-th largest is a bound with confidence 1 − α' for the largest t with P[Bin(n, q) ≤ t − 1] ≤ α', and the mirror
image serves below. Atoms and ties are covered, and so is the closed ellipsoid. Ranks are counted from the *end* they
belong to, starting at 1, and computed from the tail itself, so nothing is lost near 0 and 1. (Counting the published
one-based ranks from zero puts the lower bound one rank too high: coverage .934 where .95 is claimed.)

Reference: THEORY T3.

>>> extreme_rank(100, 0.158655, 0.001)
6
>>> smallest_draws(0.158655, 0.001)
40
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import betainc, betaincc, betainccinv, betaincinv, ndtri

from certify import _validate

__all__ = [
    "UP",
    "at_least",
    "clopper_pearson",
    "extreme_rank",
    "fewer_than",
    "inner_rank",
    "last_that_holds",
    "quantile_guess",
    "smallest_draws",
]

# A rank is taken only where it qualifies with this much to spare. scipy's binomial tails are good to about 1e-13 and
# lose n ulp more to the rounding of 1 − tail (measured: up to 7e-17·n, 5e-8 at n = 1e9), whence the second number.
_SAFE, _SAFE_PER_DRAW = 1e-10, 2e-16

UP = 1 + 1e-11
"""A tail is known to 1e-12 from above only (`Noise.tails` rounds down); where a larger one is safe it grows by this."""


def fewer_than(t: int, n: int, p: float) -> float:
    """P[Bin(n, p) < t]. What `scipy.stats.binom` computes, whose import takes as long as torch's."""
    return float(t > 0) if not 0 < t <= n else float(betaincc(t, n - t + 1, p))


def at_least(t: int, n: int, p: float) -> float:
    """P[Bin(n, p) ≥ t]."""
    return float(t <= 0) if not 0 < t <= n else float(betainc(t, n - t + 1, p))


def extreme_rank(n: int, tail: float, alpha: float) -> int:
    """The largest t with P[Bin(n, tail) ≤ t − 1] ≤ α; 0 where not even t = 1 qualifies (T3).

    Safe direction: a smaller t is a weaker, still valid bound.

    Args:
        n: draws.
        tail: probability beyond the percentile, p⁻ below or 1 − p⁺ above.
        alpha: failure probability of this one event.
    """
    if tail <= 0:
        return 0
    limit = alpha * (1 - _SAFE - _SAFE_PER_DRAW * n)
    return last_that_holds(lambda t: t == 0 or fewer_than(t, n, tail) <= limit, n, quantile_guess(n, tail, limit))


def inner_rank(n: int, tail: float, alpha: float) -> int:
    """The smallest t with P[Bin(n, tail) ≥ t] ≤ α: the t-th draw from the end lies inside the percentile (T3); 0: none."""
    tail = min(1.0, tail * UP)
    limit = alpha * (1 - _SAFE - _SAFE_PER_DRAW * n)
    guess = n - quantile_guess(n, 1 - tail, limit)
    t = last_that_holds(lambda t: t == 0 or at_least(t, n, tail) > limit, n, guess) + 1
    return t if t <= n else 0


def last_that_holds(holds: Callable[[int], bool], n: int, guess: int) -> int:
    """The largest t in 0 … n at which something holds that holds at 0, and nowhere after it has ceased to.

    Args:
        holds: t ↦ whether it does.
        n: the end.
        guess: where to begin to look.
    """
    good, step = min(max(guess, 0), n), 1
    while not holds(good):
        good, step = max(0, good - step), 2 * step
    bad, step = good + 1, 1
    while bad <= n and holds(bad):
        good, bad, step = bad, bad + step, 2 * step
    bad = min(bad, n + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def quantile_guess(n: int, tail: float, below: float) -> int:
    """About the number of n draws in a tail below which there are with this probability (Cornish and Fisher's first terms).

    scipy's own quantiles give up with a warning where the probability is below 1e-140 or the tail tiny.
    """
    z = float(ndtri(below))
    return round(n * tail + z * math.sqrt(n * tail * (1 - tail)) + (z * z - 1) * (1 - 2 * tail) / 6)


def smallest_draws(tail: float, alpha: float) -> int:
    """The smallest n for which some rank qualifies: (1 − tail)ⁿ ≤ α, that is n ≥ ln α / ln(1 − tail) (T3)."""
    low = math.ceil(math.log(alpha) / math.log1p(-tail) * (1 - 1e-9)) - 1  # too few, but near
    high, step = low + 1, 1
    while extreme_rank(high, tail, alpha) == 0:
        low, high, step = high, high + step, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if extreme_rank(middle, tail, alpha) else (middle, high)
    return high


def clopper_pearson(successes: int, n: int, alpha: float, side: str = "upper") -> float:
    """Exact one-sided confidence limit of a success probability (Clopper and Pearson 1934), rounded to the safe side.

    Args:
        successes: how often the event was seen, 0 … n.
        n: independent trials.
        alpha: failure probability of this one limit.
        side: "upper" or "lower".
    """
    n = _validate.count("n", n)
    successes = _validate.count("successes", successes, minimum=0)
    if successes > n:
        raise ValueError(f"successes = {successes}: must be at most n = {n}")
    side = _validate.choice("side", side, ("upper", "lower"))
    alpha = _validate.probability("alpha", alpha)
    if side == "upper":  # the percentile of a beta law with α beyond it: counted from the end that has the digits
        if successes == n:
            return 1.0
        return min(1.0, float(betainccinv(successes + 1, n - successes, alpha)) * (1 + _SAFE))
    return 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, alpha)) * (1 - _SAFE)
