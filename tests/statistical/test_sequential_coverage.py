"""Error rates of decisions that look as they draw, where they are hardest, and two ways of peeking that must be caught.

Each run draws until it is decided, and is wrong if it says what is false at the least favourable truth. H0, that this has
probability at most α, and the false-alarm rate are those of `trials`.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from certify import GaussianNoise
from certify.statements.decide import decide_event, decide_statistic
from certify.statements.decide_mse import decide_mse
from certify.statements.stopping import StoppedCount
from tests.statistical.trials import Trials, too_many

pytestmark = pytest.mark.statistical

ORIGIN = torch.zeros(1, dtype=torch.float64)
RHO, TARGET = 0.2, 0.1
P0 = GaussianNoise(1.0).tails(TARGET, RHO).lower
QUANTILE = float(ndtri(P0))


def edge(z: torch.Tensor) -> torch.Tensor:
    """An event of probability p₀ at y: the target is attained exactly at the worst δ."""
    return z[:, 0, 0] < QUANTILE


def decisions(runs: int, alpha: float, n: int) -> dict[str, int]:
    found = {"yes": 0, "no": 0, "undecided": 0}
    for seed in range(runs):
        d = decide_event(edge, ORIGIN, 1.0, target=TARGET, rho=RHO, replicas=1, n=n, alpha=alpha, seed=seed)
        found[d.decided] += 1
    return found


def test_the_error_rate_of_an_event_at_the_edge(trials: Trials):
    """p = p₀, where "yes" is false for any larger p and "no" for any smaller one, each with half of α = .2.

    Neither is idle: a tenth of that rate is rejected from below at the same false-alarm rate.
    """
    runs, alpha = trials.runs(100), 0.1
    found = decisions(runs, 2 * alpha, trials.runs(256, 1024))
    for wrong in ("yes", "no"):
        trials.covers("T3 decided event", found[wrong], runs, alpha, f'"{wrong}" at the edge')
        assert found[wrong] > 0
        assert binom.cdf(found[wrong], runs, alpha / 10) > 1e-4


def test_control_peeking_at_clopper_pearson_is_caught(monkeypatch, trials: Trials):
    """Mistake: the fixed-n limit looked at after every draw. P[Bin(n, p₀) ≤ s] ≤ α is what its limit ≤ p₀ says."""

    def peek(successes, n, p0):
        return -binom.logcdf(successes, n, p0)

    monkeypatch.setattr("certify.statements.stopping.log_evidence_below", peek)
    monkeypatch.setattr("certify.statements.stopping.anytime_limit", lambda *_: 0.5)
    monkeypatch.setattr("certify.confidence.anytime.anytime_limit", lambda *_: 0.5)
    runs, alpha = trials.runs(150, 300), 0.1
    wrong = decisions(runs, 2 * alpha, trials.runs(256, 1024))["yes"]
    trials.caught("T3 decided event", "a fixed-n limit looked at after every draw", wrong, runs, alpha)


def wrong_at_all(runs: int, alpha: float, n: int) -> int:
    """Runs in which anything that is said is false, for a p just below p₀: a "no", the bound, or one of the limits."""
    quantile = QUANTILE - 1e-7
    p, truth = float(ndtr(quantile)), float(ndtr(quantile + RHO))
    wrong = 0
    for seed in range(runs):
        d = decide_event(
            lambda z: z[:, 0, 0] < quantile, ORIGIN, 1.0, target=TARGET, rho=RHO, replicas=1, n=n, alpha=alpha,
            seed=seed,
        )  # fmt: skip
        wrong += d.decided == "no" or d.value < truth or not d.lower <= p <= d.upper
    return wrong


def test_a_decision_and_what_comes_with_it_share_alpha(trials: Trials):
    """α = .2 for all of it together; half of that would be too much to ask."""
    runs, alpha = trials.runs(100), 0.2
    wrong = wrong_at_all(runs, alpha, trials.runs(256, 1024))
    trials.covers("T3 decision, limits", wrong, runs, alpha, "a probability just below the edge")
    assert wrong > 0
    assert binom.cdf(wrong, runs, alpha / 4) > 1e-4


def wrong_counts(runs: int, each: float, n: int = 4096) -> int:
    """The same of the counts behind a decision, which have `each` on either side."""
    quantile, source, wrong = QUANTILE - 1e-7, torch.Generator().manual_seed(0), 0
    p = float(ndtr(quantile))
    for _ in range(runs):
        seen = StoppedCount(P0, each)
        seen.update((torch.randn(n, generator=source, dtype=torch.float64) < quantile).double())
        lower, upper = seen.limits()
        wrong += seen.decided == "no" or not lower <= p <= upper
    return wrong


def test_control_all_of_alpha_for_either_side_is_caught(trials: Trials):
    """Mistake: all of α for "yes" and the upper limit, and all of it again for "no" and the lower one. Half of it passes."""
    runs, alpha = trials.runs(300, 1000), 0.3
    assert not too_many(wrong_counts(100, alpha / 2), 100, alpha)
    trials.caught("T3 decision, limits", "all of α on either side", wrong_counts(runs, alpha), runs, alpha)


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
        ).decided
        == "yes"
        for seed in range(runs)
    )


def test_the_error_rate_of_a_distance_over_its_looks(trials: Trials):
    """About seven looks, which share half of α = .4."""
    runs, alpha = trials.runs(200), 0.2
    wrong = distances(runs, 2 * alpha)
    trials.covers("T3 decided distance", wrong, runs, alpha, "exp, a tolerance just below the truth")
    assert wrong > 0


def test_control_all_of_alpha_at_every_look_is_caught(monkeypatch, trials: Trials):
    """Mistake: doubling looks, each with all of α."""

    def careless(first, maximum, alpha):
        counts = [maximum]
        while counts[0] > 2 * first:
            counts.insert(0, counts[0] // 2)
        return [(count, 1.0 * alpha) for count in counts]

    monkeypatch.setattr("certify.statements.stopping.looks", careless)
    runs, alpha = trials.runs(350, 2000), 0.2 if trials.whole else 0.1  # error rates of about .24, and of .19
    trials.caught("T3 decided distance", "all of α at every look", distances(runs, 2 * alpha), runs, alpha)


def statistics(runs: int, alpha: float, n: int) -> dict[str, int]:
    """Decisions whether a single copy's z keeps to a threshold with probability .8, where at the worst δ it is .8 exactly."""
    threshold = float(ndtri(0.8)) + RHO
    found = {"yes": 0, "no": 0, "undecided": 0}
    for seed in range(runs):
        d = decide_statistic(
            lambda z: z[:, 0, 0], ORIGIN, 1.0, threshold=threshold, rho=RHO, q=0.8, replicas=1, n=n, alpha=alpha,
            seed=seed,
        )  # fmt: skip
        found[d.decided] += 1
    return found


def test_the_error_rate_of_a_statistic_at_the_edge(trials: Trials):
    """Half of α = .2 each: "yes" is false for any smaller threshold, "no" for any larger one."""
    runs, alpha = trials.runs(100), 0.1
    found = statistics(runs, 2 * alpha, trials.runs(256, 1024))
    for wrong in ("yes", "no"):
        trials.covers("T3 decided statistic", found[wrong], runs, alpha, f'"{wrong}" at the edge')
        assert found[wrong] > 0


def test_control_a_statistic_without_its_shift_is_caught(monkeypatch, trials: Trials):
    """Mistake: p₀ = 1 − q, as if nothing were perturbed."""
    right = GaussianNoise.tails
    monkeypatch.setattr(GaussianNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, 0.0, replicas))
    runs = trials.runs(25, 100)
    wrong = statistics(runs, 2 * 0.1, trials.runs(256, 1024))["yes"]
    trials.caught("T3 decided statistic", "no shift at all", wrong, runs, 0.1)
