"""Betting: limits of the mean of a bounded variable, from bets that nobody wins often who bets against the truth.

Statement. X_1, …, X_n independent and alike, low ≤ X ≤ high. For a number m and a stake 0 ≤ τ ≤ 1, fixed beforehand,

    W_τ(m)  =  Π_i (1 + τ (m − X_i)/(high − m))

is a product of independent factors ≥ 0, and where E X ≥ m the mean of each is at most 1. So is that of a mixture
W = Σ_k w_k W_{τ_k} of stakes, and by Markov's inequality P[W(m) ≥ 1/α] ≤ α for every m ≤ E X. W grows with m (each factor has
the derivative τ (high − X)/(high − m)² ≥ 0), so

    the least m with W(m) ≥ 1/α   is at least E X    with probability 1 − α.

The stake that pays most is about (m − E X)(high − m)/Var X: the limit knows the variance without having to be told. It is
chosen on pilot draws, and a few stakes on either side of it insure against what these do not show. The same wealth is a test of
"E X ≤ m" when it bets on the other side (`evidence_against`).

It may be looked at after any draw (`Bets`): for m ≤ E X the wealth is a nonnegative supermartingale from 1, so by Ville's
inequality it *ever* reaches 1/α with probability at most α, and the limit holds wherever one stops.

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

__all__ = ["Bets", "best_stake", "evidence_against", "speed", "stake", "upper_limit"]

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


class Bets:
    """The wealth after each draw, against "E X ≥ mean" or "E X ≤ mean".

    Args:
        low, high: what X always lies between.
        mean: m, strictly between them.
        stake: τ as in `upper_limit`, against "E X ≥ mean"; None: against "E X ≤ mean", with stakes from 1 downwards.
    """

    def __init__(self, *, low: float, high: float, mean: float, stake: float | None) -> None:
        self.low, self.high, self.below = low, high, stake is not None
        room = (high - mean if self.below else mean - low) / (high - low)
        self.room = max(room, 1e-12)
        if stake is not None:
            self.stakes, self.shares = np.minimum(_MOST, stake * _STEP ** np.arange(-2, 3)), np.log(_PRIORS)
        else:
            self.stakes = np.asarray(_MOST * 0.5 ** np.arange(10), dtype=np.float64)
            self.shares = np.full(10, -math.log(10))
        self.sums = np.zeros(len(self.stakes))

    def take(self, values: _Array) -> _Array:
        """log of the wealth after each of further draws, (n,)."""
        u = _left(values, self.low, self.high) if self.below else _left(-values, -self.high, -self.low)
        sums = self.sums + np.cumsum(np.log1p(np.outer(u / self.room - 1, self.stakes)), axis=0)
        if len(sums):
            self.sums = sums[-1]
        return np.asarray(np.logaddexp.reduce(sums + self.shares, axis=1))


def speed(values: _Array, stakes_from: _Array, *, low: float, high: float, mean: float) -> float:
    """How fast the wealth against "E X ≥ mean" grows, log a draw, with the stake that others of these draws let pay most."""
    if not low < mean < high:
        return math.inf if mean >= high else -math.inf
    best = np.array([best_stake(stakes_from, low=low, high=high, mean=mean)])
    share = np.full(len(values), 1 / len(values))
    return float(_logs(best, _left(values, low, high), share, (high - mean) / (high - low))[0])


def best_stake(values: _Array, *, low: float, high: float, mean: float) -> float:
    """The stake with which the wealth against "E X ≥ mean" grows most, if draws are like these and half a one at `high`."""
    stakes, t = _MOST * 0.5 ** (np.arange(60) / 5), max((high - mean) / (high - low), 1e-12)
    share = np.append(np.full(len(values), 1 / len(values)), 0.5 / len(values))
    return float(stakes[int(_logs(stakes, np.append(_left(values, low, high), 0.0), share, t).argmax())])


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
