"""Coverage of T14, from draws to a bound, and the mistakes that could be made. Frame, H0 and false-alarm rate: `trials`.

A bound has room to spare beyond its confidence (W of a low degree is not the best of all), so that runs in which a limit
fails are hardly ever those in which the bound does. Both are counted: bounds against the truth, and *limits* M ≥ E W(g) against
the exact mean, all of which must hold at once.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from certify import event_bound, mean_bound
from certify.bounds.mean_limits import Limits, Pilot, chosen_limits
from certify.bounds.weights import Piecewise, Polynomials
from certify.confidence.betting import upper_limit
from certify.statements.stopping import StoppedMean
from tests.statistical.trials import Trials
from tests.test_mean import ONE, Y, fires, tilted, worst

pytestmark = pytest.mark.statistical

ALPHA, K, RHO = 0.1, 13, 0.25
LAWS = {
    "rates of .03 and .19": ([0.03, 0.19], [0.5, 0.5]),
    "a rate of .11": ([0.11], [1.0]),
    "copies that decide everything": ([0.0, 1.0], [0.8, 0.2]),
    "seldom a high rate": ([0.01, 0.9], [0.97, 0.03]),
}


def truth(law, rho=RHO, replicas=K) -> float:
    """The worst that can be done to such a g by a shift along one coordinate."""
    levels, shares = (np.array(part, dtype=float) for part in law)
    tails = np.clip(1 - np.cumsum(shares)[:-1], 0, 1)
    return float(levels[0] + np.diff(levels) @ norm.cdf(norm.ppf(tails) + math.sqrt(replicas) * rho))


def exact(limits: Limits, law) -> np.ndarray:
    """E W_k(g)."""
    j = limits.weights.repeats
    return sum(s * (limits.coefficients @ binom.pmf(np.arange(j + 1), j, v)) for v, s in zip(*law, strict=True))


def drawn(rng, law, n, j):
    g = rng.choice(law[0], size=n, p=law[1])
    return (rng.random((n, j)) < g[:, None]).astype(float)


class Remembered(Pilot):
    """Pilot draws that are asked again and again, and choose once."""

    def __init__(self, weights, values) -> None:
        super().__init__(weights, values)
        self.choose = cache(super().choose)


SHARED = 20
"""Runs with bounding draws of their own that share pilot draws: given these, each fails with probability α at most."""


def failures(law, runs, *, n=400, j=3, replicas=K, curve=False, spoiled=lambda x: x, seed=0) -> tuple[int, int]:
    """Runs in which a limit is below its mean, and in which the bound is below the truth."""
    rng, wrong, low, asked = np.random.default_rng(seed), 0, 0, {"rho": RHO, "replicas": replicas, "alpha": ALPHA}
    for first in range(0, runs, SHARED):
        pilot = Remembered(Polynomials(j), spoiled(drawn(rng, law, 100, j)))
        late = (spoiled(drawn(rng, law, n, j)) for _ in range(min(SHARED, runs - first)))
        found = [chosen_limits(pilot, x, ONE, **asked, hits=True, curve=curve) for x in late]
        wrong += sum(bool((np.array(limits.limits) < exact(limits, law)).any()) for limits in found)
        # A bound grows with each of its limits: where that of the least ones is true, all are.
        least = replace(found[0], limits=tuple(map(min, zip(*(limits.limits for limits in found), strict=True))))
        if least.bound(ONE, RHO, replicas)[0] < truth(law):
            low += sum(limits.bound(ONE, RHO, replicas)[0] < truth(law) for limits in found)
    return wrong, low


@pytest.mark.parametrize("case", LAWS)
def test_limits_and_bounds_cover(case, trials: Trials):
    runs = trials.runs(25)
    for curve in (False, True):
        wrong, low = failures(LAWS[case], runs, curve=curve)
        name = f"{case}{', for a curve' if curve else ''}"
        trials.covers("T14 limits", wrong, runs, ALPHA, name)
        trials.covers("T14 bound", low, runs, ALPHA, name)


def test_control_forgotten_copies_are_caught(trials: Trials):
    """Mistake: ρ for √K ρ."""
    _, low = failures(LAWS["rates of .03 and .19"], 60, replicas=1)
    trials.caught("T14 bound", "ρ for √K ρ", low, 60, ALPHA)


def test_control_values_of_different_draws_are_caught(trials: Trials):
    """Mistake: the second value is another draw's, so that E g² is taken to be (E g)²."""

    def rolled(x):
        return np.stack([np.roll(x[:, k], k) for k in range(x.shape[1])], axis=1)

    runs = trials.runs(30, 60)
    wrong, low = failures(LAWS["seldom a high rate"], runs, n=4000, spoiled=rolled)
    trials.caught("T14 limits", "values of different draws", wrong, runs, ALPHA)
    trials.caught("T14 bound", "values of different draws", low, runs, ALPHA)


def test_values_that_are_used_twice_err_to_the_safe_side(trials: Trials):
    """g² estimated by reusing an image gives E g for E g²: too much for a convex W, and the claim holds."""

    def same(x):
        return np.repeat(x[:, :1], x.shape[1], axis=1)

    runs = trials.runs(25)
    _, low = failures(LAWS["rates of .03 and .19"], runs, spoiled=same)
    trials.covers("T14 bound", low, runs, ALPHA, "an image used twice")


def test_control_the_plain_square_is_caught(trials: Trials):
    """Mistake: (C/j)² for g² in a lower bound's W, which needs E g² from below: an image counts with itself."""
    law, rng, wrong = LAWS["a rate of .11"], np.random.default_rng(1), 0
    for _ in range(200):
        x = drawn(rng, law, 2000, 2).mean(axis=1)
        # W(v) = −v², estimated by −(C/j)²
        limit = upper_limit(-(x**2), low=-1.0, high=0.0, alpha=ALPHA, stake=0.2)
        wrong += limit < -(0.11**2)
    trials.caught("T14 limits", "(C/j)² for g²", wrong, 200, ALPHA)


HATS = Piecewise(np.linspace(0, 1, 25))


def chosen_on(own: bool, runs: int, n: int = 400) -> int:
    """Runs in which the limit of E W(g) fails, g uniform; of 23 functions W with one and the same mean, 1/24, the one that
    promises the least limit is taken, on pilot draws or on the bounding draws themselves."""
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(runs):
        late = rng.random((n, 1))
        early = late if own else rng.random((n, 1))
        w = np.eye(25)[1:24][HATS.shares(early).mean(axis=0)[1:24].argmin()]
        limits = Limits.of(Pilot(HATS, early), late, [(w, ALPHA)], 0.0, hits=False)
        wrong += limits.limits[0] < 1 / 24
    return wrong


def test_control_w_chosen_on_the_bounding_draws_is_caught(trials: Trials):
    """Mistake: W fitted to the draws that then bound its mean."""
    runs = trials.runs(60)
    trials.covers("T14 limits", chosen_on(False, runs), runs, ALPHA, "W of other draws")
    trials.caught("T14 limits", "W chosen on the bounding draws", chosen_on(True, 200), 200, ALPHA)


def test_control_all_of_alpha_for_every_limit_is_caught(trials: Trials):
    """Mistake: no union over limits. Twelve exact ones, of coins of their own, at all of α each."""
    from certify.confidence import clopper_pearson

    rng, runs = np.random.default_rng(3), 200
    one = [(clopper_pearson(int(k), 400, ALPHA) < 0.11) for k in rng.binomial(400, 0.11, size=12 * runs)]
    trials.caught(
        "T14 limits", "all of α for every limit", int(np.reshape(one, (runs, 12)).any(axis=1).sum()), runs, ALPHA
    )


def test_from_end_to_end(trials: Trials):
    """Whole calls: an event, and a score that is seen itself, each with a seed of its own."""
    runs, low, under = trials.runs(25), 0, 0
    t = np.linspace(-8, 8, 4001) / math.sqrt(13)
    moved = np.trapezoid(np.tanh(2 * (t + 0.2)) * norm.pdf(t, scale=1 / math.sqrt(13)), t)
    for seed in range(runs):
        e = event_bound(fires, Y, ONE, rho=RHO, repeats=2, n=256, pilot=64, alpha=ALPHA, seed=seed)
        low += e.value < worst(RHO, K)
        m = mean_bound(tilted, Y, ONE, rho=0.2, lower=-1, n=256, pilot=64, alpha=ALPHA, seed=seed)
        under += m.value < moved
    trials.covers("T14 bound", low, runs, ALPHA, "an event, end to end")
    trials.covers("T14 bound", under, runs, ALPHA, "a score, end to end")


def test_two_values_a_draw_cover(trials: Trials):
    """K = 13, ρ = .25, two values a draw."""
    runs = trials.runs(25)
    wrong, low = failures(LAWS["rates of .03 and .19"], runs, n=300, j=2, seed=9)
    trials.covers("T14 limits", wrong, runs, ALPHA, "rates of .03 and .19, two values a draw")
    trials.covers("T14 bound", low, runs, ALPHA, "rates of .03 and .19, two values a draw")


def stopped(runs: int, law, *, allowed: float, until: int = 1500, seed: int = 4) -> tuple[int, int]:
    """Runs that say "yes" though E W(g) is above what is allowed, and runs whose limit fails where they ended. W(v) = v²."""
    rng, w = np.random.default_rng(seed), np.array([0.0, 0.0, 1.0])
    exact_mean = float(np.dot(law[1], np.square(law[0])))
    yes, low = 0, 0
    for _ in range(runs):
        seen = StoppedMean(Polynomials(2), w, allowed, 0.3, ALPHA, lambda outputs: outputs.numpy())
        for _ in range(until // 50):
            seen.update(torch.from_numpy(drawn(rng, law, 50, 2)))
        yes += seen.decided == "yes" and allowed < exact_mean
        low += seen.limit() < exact_mean
    return yes, low


def test_what_stops_early_covers(trials: Trials):
    """Looked at after every draw: a false "yes" is rare, and limits hold where drawing ended."""
    runs, law = trials.runs(100), LAWS["rates of .03 and .19"]
    yes, low = stopped(runs, law, allowed=0.0185 * 0.999)  # E g² = .0185
    trials.covers("T14 limits", yes, runs, ALPHA, "decisions that stop early")
    trials.covers("T14 limits", low, runs, ALPHA, "limits where drawing stopped")


def test_control_a_limit_for_a_fixed_number_read_all_the_time_is_caught(trials: Trials):
    """Mistake: Clopper and Pearson's limit of a pair's two hits, read after every tenth draw until it pleases."""
    from certify.confidence import clopper_pearson

    rng, runs, wrong = np.random.default_rng(5), 60, 0
    for _ in range(runs):
        hits = drawn(rng, LAWS["a rate of .11"], 2000, 1)[:, 0].cumsum()
        wrong += any(clopper_pearson(int(hits[n - 1]), n, ALPHA) < 0.11 for n in range(10, 2001, 10))
    trials.caught("T14 limits", "a limit read after every tenth draw", wrong, runs, ALPHA)
