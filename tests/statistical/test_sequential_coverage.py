"""Error rates of decisions that look as they draw, where they are hardest, and two ways of peeking that must be caught.

Each run draws until it is decided, and is wrong if it says what is false at the least favourable truth.

    H0: the probability of a wrong decision is at most α.    Rejected if P[Bin(R, α) ≥ wrong] < 1e-4, the false-alarm rate.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import binom

from certify import GaussianNoise
from certify.sequential import decide_event, decide_mse
from tests.statistical.test_coverage import too_many

pytestmark = pytest.mark.statistical

ORIGIN = torch.zeros(1, dtype=torch.float64)
RHO, TARGET = 0.2, 0.1
P0 = GaussianNoise(1.0).tails(TARGET, RHO).lower
QUANTILE = float(ndtri(P0))


def edge(z: torch.Tensor) -> torch.Tensor:
    """An event of probability p₀ at y: the target is attained exactly at the worst δ."""
    return z[:, 0, 0] < QUANTILE


def decisions(runs: int, alpha: float, n: int = 1024) -> dict[str, int]:
    found = {"yes": 0, "no": 0, "undecided": 0}
    for seed in range(runs):
        d = decide_event(
            edge, ORIGIN, 1.0, target=TARGET, rho=RHO, replicas=1, n=n, alpha=alpha, seed=seed, batch_size=64
        )
        found[d.decided] += 1
    return found


def test_the_error_rate_of_an_event_at_the_edge():
    """1 000 runs at α = .1 and p = p₀, where "yes" is false for any larger p and "no" for any smaller one.

    Neither is idle: a rate of α/10 is rejected from below at the same false-alarm rate.
    """
    runs, alpha = 1000, 0.1
    found = decisions(runs, alpha)
    for wrong in ("yes", "no"):
        assert not too_many(found[wrong], runs, alpha)
        assert binom.cdf(found[wrong], runs, alpha / 10) > 1e-4


def test_control_peeking_at_clopper_pearson_is_caught(monkeypatch):
    """Mistake: the fixed-n limit looked at after every batch. P[Bin(n, p₀) ≤ s] ≤ α is what its limit ≤ p₀ says."""

    def peek(successes, n, p0):
        evidence = np.full(len(n), -np.inf)
        evidence[-1] = -binom.logcdf(successes[-1], n[-1], p0)
        return evidence

    monkeypatch.setattr("certify.sequential.log_evidence_below", peek)
    monkeypatch.setattr("certify.sequential.anytime_limit", lambda *_: 0.5)
    runs, alpha = 300, 0.1
    assert too_many(decisions(runs, alpha)["yes"], runs, alpha)


def distances(runs: int, alpha: float, n: int = 896) -> int:
    """Runs that say "yes" to a tolerance just below the truth, (e^{σρ} − 1)² for exp around 1; the upper side decides."""
    sigma, rho = 1.0, 0.5
    tolerance = (math.exp(sigma * rho) - 1) ** 2 * (1 - 1e-9)
    return sum(
        decide_mse(
            torch.exp,
            ORIGIN,
            sigma,
            tolerance=tolerance,
            rho=rho,
            n=n,
            alpha=alpha,
            seed=seed,
            center=torch.ones(1, dtype=torch.float64),
            batch_size=64,
        ).decided
        == "yes"
        for seed in range(runs)
    )


def test_the_error_rate_of_a_distance_over_its_looks():
    """1 000 runs at α = .2, about seven looks."""
    runs, alpha = 1000, 0.2
    wrong = distances(runs, alpha)
    assert not too_many(wrong, runs, alpha)
    assert wrong > 0


def test_control_all_of_alpha_at_every_look_is_caught(monkeypatch):
    """Mistake: doubling looks, each with all of α."""

    def careless(first, maximum, alpha):
        counts = [maximum]
        while counts[0] > 2 * first:
            counts.insert(0, counts[0] // 2)
        return [(count, 1.0 * alpha) for count in counts]

    monkeypatch.setattr("certify.sequential.looks", careless)
    runs, alpha = 2000, 0.2  # the error rate is about .24
    assert too_many(distances(runs, alpha), runs, alpha)
