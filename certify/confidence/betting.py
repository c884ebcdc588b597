"""Betting: limits of the mean of a bounded variable, from bets that nobody wins often who bets against the truth.

Statement. X_1, …, X_n independent and alike, low ≤ X ≤ high. For a number m and a stake 0 ≤ τ ≤ 1, fixed beforehand,

    W_τ(m)  =  Π_i (1 + τ (m − X_i)/(high − m))

is a product of independent factors ≥ 0, and where E X ≥ m the mean of each is at most 1. So is that of a mixture
W = Σ_k w_k W_{τ_k} of stakes, and by Markov's inequality P[W(m) ≥ 1/α] ≤ α for every m ≤ E X. W grows with m (each factor has
the derivative τ (high − X)/(high − m)² ≥ 0), so

    the least m with W(m) ≥ 1/α   is at least E X    with probability 1 − α.

The stake that pays most is about (m − E X)(high − m)/Var X: the limit knows the variance without having to be told. It is
chosen on pilot draws, and a few stakes on either side of it insure against what these do not show. The same wealth is a test of
"E X ≤ m" when it bets on the other side (`evidence_against`). It may be looked at after any draw.

Safe direction: the limit may be too high. It does not depend on the order of the draws: what is added up is sorted first.

Reference: THEORY T14; Waudby-Smith and Ramdas (2024); `python -m benchmarks means` compares it with other limits.

>>> import numpy as np
>>> hits, times = np.array([0.0, 1.0]), np.array([990, 10])
>>> limit = upper_limit(hits, times, low=0.0, high=1.0, alpha=1e-3, stake=stake(hits, times, 1000, 1e-3, 0.0, 1.0))
>>> round(limit, 4)  # Clopper and Pearson, who know that these are coins: .0240
0.0272
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["evidence_against", "stake", "upper_limit"]

_Array = NDArray[np.float64]

_STEP = 1.6
_PRIORS = (0.05, 0.15, 0.6, 0.15, 0.05)
"""Shares of the stakes τ/1.6², τ/1.6, …, 1.6² τ: the middle one alone would give up half a unit of ln 1/α less."""

_MOST = 0.98
_SAFE, _SAFE_PER_DRAW = 1e-9, 1e-14
"""log W is good to a few ulp of each of its n terms."""


def stake(values: _Array, weights: _Array, n: int, alpha: float, low: float, high: float) -> float:
    """The stake that would give the least limit from n draws, if they were like these.

    Args:
        values, weights: (pilot) draws and how often each was; one draw in two at `high` is added, lest too much is staked.
        n, alpha, low, high: as in `upper_limit`.
    """
    if high <= low:
        return 0.5
    u, times = np.append(_left(values, low, high), 0.0), np.append(weights, 0.5)
    share = times / times.sum()
    stakes = _MOST * 0.5 ** (np.arange(60) / 5)
    short, far = 0.0, float(u @ share)
    if far <= 1e-9:
        return float(stakes[-1])
    for _ in range(25):
        middle = (short + far) / 2
        short, far = (
            (short, middle) if n * _logs(stakes, u, share, middle).max() < math.log(1 / alpha) else (middle, far)
        )
    return float(stakes[_logs(stakes, u, share, (short + far) / 2).argmax()])


def upper_limit(
    values: _Array, counts: _Array | None = None, *, low: float, high: float, alpha: float, stake: float
) -> float:
    """A number that is at least E X with probability 1 − α; `high` if the draws do not suffice for another.

    Args:
        values: what was drawn, (n,); or the few different values, with
        counts: how often each was.
        low, high: what X always lies between; the draws themselves may be beyond by rounding.
        alpha: failure probability.
        stake: τ in (0, 1), chosen without these draws (`stake`).
    """
    if high - low <= 1e-13 * max(abs(low), abs(high), 1e-200):  # too narrow for float64 to tell anything apart
        return high
    x, times = _sorted(values, counts)
    u, n = _left(x, low, high), float(times.sum())
    enough = math.log(1 / alpha) + _SAFE + _SAFE_PER_DRAW * n
    stakes = np.minimum(_MOST, stake * _STEP ** np.arange(-2, 3))

    def won(t: float) -> bool:
        return float(np.logaddexp.reduce(np.log(_PRIORS) + _logs(stakes, u, times, t))) >= enough

    short, far = 1e-13, 1.0
    if not won(short):
        return high
    for _ in range(60):
        middle = (short + far) / 2
        short, far = (middle, far) if won(middle) else (short, middle)
    limit = (high - short * (high - low)) + 1e-12 * (high - low)
    return min(high, limit + 4e-16 * max(abs(low), abs(high)))


def evidence_against(values: _Array, counts: _Array | None = None, *, low: float, high: float, mean: float) -> float:
    """A p-value of "E X ≤ mean": at most α with probability at most α, where that is true.

    Args:
        values, counts, low, high: as in `upper_limit`.
        mean: what is in question. At or above `high` it is true, below `low` false.
    """
    if mean >= high:
        return 1.0
    x, times = _sorted(values, counts)
    if mean < low - 1e-9 * max(1.0, abs(low)):
        return 0.0
    stakes = np.asarray(_MOST * 0.5 ** np.arange(10), dtype=np.float64)
    # The other side: distances from `low`. A mean that is farther away than it is has less against it.
    room = max((mean - low) / (high - low), 1e-12)
    log = float(np.logaddexp.reduce(_logs(stakes, _left(-x, -high, -low), times, room))) - math.log(len(stakes))
    return min(1.0, math.exp(-log + _SAFE + _SAFE_PER_DRAW * float(times.sum())))


def _left(values: _Array, low: float, high: float) -> _Array:
    """(high − x)/(high − low): differences of near numbers are exact, where x itself has few digits, too."""
    return (high - np.clip(values, low, high)) / (high - low)


def _logs(stakes: _Array, u: _Array, times: _Array, t: float) -> _Array:
    """log W_τ(m) for each τ: with t = (high − m)/(high − low) and u likewise of X, (m − X)/(high − m) is u/t − 1."""
    return np.asarray(np.log1p(np.outer(stakes, u / t - 1)) @ times)


def _sorted(values: _Array, counts: _Array | None) -> tuple[_Array, _Array]:
    if counts is None:
        x, times = np.unique(values, return_counts=True)
        return x.astype(np.float64), times.astype(np.float64)
    return np.asarray(values, dtype=np.float64), np.asarray(counts, dtype=np.float64)
