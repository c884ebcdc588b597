"""Limits for T14: what each way to a confidence statement makes of the same draws.

An event at K = 13 and ρ = .25 whose probability given the copies, g, is one of two rates; several values of n draws of the
copies, a fifth as many pilot draws, α = 10⁻³. Every way ends in limits of E W(g) for some W, from which the bound follows:

- *Clopper–Pearson, split counts*: E g from the first values of one half of the draws, E g² from the first pairs of the other;
- *binomial mixtures*: limits of all tails P[C ≥ c] at once, and the worst mixture of binomials that they allow (a linear
  programme, solved in its dual, which is T14's);
- *a pair by betting*: E g and E g², α/2 each (THEORY T14, form (a));
- *empirical Bernstein*, *one stake*, *five stakes*: one W chosen on the pilot draws, one limit; the last is the library's;
- *with T5 beside it*: what `certify.event_bound` does; *a curve*: the same with three W for all radii.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from certify import GaussianNoise
from certify.bounds.mean_limits import Limits, Pilot, chosen_limits
from certify.bounds.weights import Polynomials
from certify.confidence import clopper_pearson

__all__ = ["table"]

ONE, RHO, K, ALPHA = GaussianNoise(1.0), 0.25, 13, 1e-3
CASES = {"g = .03 or .19": (0.03, 0.19), "g = .093 or .133": (0.093, 0.133), "g = 0 or .04": (0.0, 0.04)}


def split_counts(pilot: Pilot, x: Any) -> Limits:
    """Two binomial counts from halves of the draws."""
    j, half = x.shape[1], len(x) // 2
    one = clopper_pearson(int(x[:half, 0].sum()), half, ALPHA / 2)
    two = clopper_pearson(int((x[half:, 0] * x[half:, 1]).sum()), len(x) - half, ALPHA / 2)
    return Limits(pilot.weights, np.stack(_powers(j)), (one, two), ("T5", "T14"))


def mixtures(pilot: Pilot, x: Any) -> Limits:
    """All tails of the number of hits, each from above and below, and all mixtures of binomials that have them."""
    n, j = x.shape
    hits, level = x.sum(axis=1), ALPHA / (2 * j)
    rows, limits = [], []
    for c in range(1, j + 1):
        count, tail = int((hits >= c).sum()), (np.arange(j + 1) >= c).astype(float)
        rows += [tail, -tail]
        limits += [clopper_pearson(count, n, level), -clopper_pearson(count, n, level, "lower")]
    return Limits(pilot.weights, np.stack(rows), tuple(limits), ("T14",) * len(limits))


def pair(pilot: Pilot, x: Any) -> Limits:
    """E g and E g² by betting."""
    return Limits.of(pilot, x, [(w, ALPHA / 2) for w in _powers(x.shape[1])], 0.0, hits=True)


def bernstein(pilot: Pilot, x: Any) -> Limits:
    """One W, limited as Maurer and Pontil (2009) do."""
    w, n = pilot.choose(ONE, RHO, K, len(x), ALPHA)[0], len(x)
    values, log = pilot.weights.estimates(w, x), math.log(2 / ALPHA)
    slack = math.sqrt(2 * values.var(ddof=1) * log / n) + 7 * float(np.ptp(w)) * log / (3 * (n - 1))
    return Limits(pilot.weights, w[None], (min(float(values.mean()) + slack, float(w.max())),), ("T14",))


def one_stake(pilot: Pilot, x: Any) -> Limits:
    """One W and one bet."""
    w = pilot.choose(ONE, RHO, K, len(x), ALPHA)[0]
    low, high = float(w.min()), float(w.max())
    values, tau = pilot.weights.estimates(w, x), pilot.stake(w, len(x), ALPHA)

    def won(m: float) -> bool:
        return float(np.log1p(tau * (m - values) / (high - m)).sum()) >= math.log(1 / ALPHA)

    below, above = low, high - 1e-12 * (high - low)
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (below, middle) if won(middle) else (middle, above)
    return Limits(pilot.weights, w[None], (above,), ("T14",))


def five_stakes(pilot: Pilot, x: Any) -> Limits:
    """One W and five bets."""
    w = pilot.choose(ONE, RHO, K, len(x), ALPHA)[0]
    return Limits.of(pilot, x, [(w, ALPHA)], 0.0, hits=True)


def beside_t5(pilot: Pilot, x: Any) -> Limits:
    """As `certify.event_bound`."""
    return chosen_limits(pilot, x, ONE, rho=RHO, replicas=K, alpha=ALPHA, hits=True, curve=False)


def curve(pilot: Pilot, x: Any) -> Limits:
    """As `certify.event_bound(…, curve=True)`."""
    return chosen_limits(pilot, x, ONE, rho=RHO, replicas=K, alpha=ALPHA, hits=True, curve=True)


WAYS: dict[str, Callable[[Pilot, Any], Limits]] = {
    "Clopper–Pearson, split counts": split_counts,
    "binomial mixtures": mixtures,
    "a pair by betting": pair,
    "empirical Bernstein": bernstein,
    "betting, one stake": one_stake,
    "betting, five stakes": five_stakes,
    "with T5 beside it": beside_t5,
    "a curve": curve,
}


def table(quick: bool) -> str:
    """Means over runs, as Markdown."""
    runs, sizes = (
        (2, [(1000, 2)]) if quick else (16, [(1000, 2), (500, 4), (5000, 2), (2500, 4), (1250, 8), (25_000, 4)])
    )
    heads = [f"{n:,} × {j}" for n, j in sizes]
    lines = [
        "## Limits for T14",
        "",
        f"Bounds of an event's probability at ρ = {RHO:g}, K = {K}, α = {ALPHA:g}: means over {runs} runs of n draws × values.",
    ]
    for name, rates in CASES.items():
        lines += ["", f"| {name} | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
        found = {way: [_mean(make, rates, n, j, runs) for n, j in sizes] for way, make in WAYS.items()}
        t5 = [_t5(rates, n * j) for n, j in sizes]
        lines += [f"| {way} | {' | '.join(f'{v:.3f}' for v in values)} |" for way, values in found.items()]
        lines.append(f"| T5, all values independent | {' | '.join(f'{v:.3f}' for v in t5)} |")
    return "\n".join(lines)


def _mean(make: Callable[[Pilot, Any], Limits], rates: tuple[float, float], n: int, j: int, runs: int) -> float:
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        early, late = (
            (rng.random((count, j)) < rng.choice(rates, size=(count, 1))).astype(float)
            for count in (max(64, n // 5), n)
        )
        found.append(make(Pilot(Polynomials(j), early), late).bound(ONE, RHO, K)[0])
    return float(np.mean(found))


def _t5(rates: tuple[float, float], images: int) -> float:
    seen = round(images * sum(rates) / 2)
    return 1 - ONE.tails(clopper_pearson(seen, images, ALPHA), RHO, K).upper


def _powers(j: int) -> tuple[Any, Any]:
    c = np.arange(j + 1)
    return c / j, c * (c - 1) / (j * (j - 1))
