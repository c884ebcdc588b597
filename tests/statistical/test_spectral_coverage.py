"""Coverage of the spectral certificate (T11), and controls that must be caught.

The frame is that of `trials`; a run fails if its bound is below a movement that is known to happen.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import binom
from torch import Tensor

from certify import GaussianNoise
from certify.bounds import spectral_mean as spectral_module
from certify.confidence import chernoff_limit
from certify.montecarlo.sketch import Spectrum
from tests.bounds.test_spectral import bound, clamped, extremal, spread
from tests.statistical.trials import Trials

pytestmark = pytest.mark.statistical

ORIGIN = torch.zeros(1, dtype=torch.float64)


def failures(runs: int, f, y, moved: float, **options) -> int:
    """Runs in which the certified distance is below `moved`, one that is attained at some ‖δ‖ ≤ ρ."""
    return sum(bound(f, y, seed=seed, **options).value < (moved * (1 - 1e-9)) ** 2 for seed in range(runs))


# The function for which the bound is sharp: any λ that is too small shows.

EXTREMAL = {"rho": 1.0, "n": 300, "alpha": 0.1, "center": ORIGIN, "pilot": 0, "support": (-6.0, 6.0)}


def extremal_failures(runs: int, **options) -> int:
    f, moved, _ = extremal(1.0, 6.0)
    return failures(runs, f, ORIGIN, moved, **{**EXTREMAL, **options})


def test_coverage_of_the_function_that_attains_the_bound(trials: Trials):
    """α = .1: κ(L − 1) cut off at 6, which moves by S_1 at δ = ρ."""
    runs = trials.runs(200)
    trials.covers("T11 distance", extremal_failures(runs), runs, 0.1, "the function that attains it")


def test_control_the_empirical_moment_for_its_limit_is_caught(monkeypatch, trials: Trials):
    """Mistake: λ̂ in place of λ, no slack for the draws."""
    monkeypatch.setattr(spectral_module, "chernoff_limit", lambda mean, n, alpha: mean)
    runs = trials.runs(50, 150)
    trials.caught("T11 distance", "λ̂ for λ", extremal_failures(runs), runs, 0.1)


def test_control_a_wrong_divergence_is_caught(monkeypatch, trials: Trials):
    """Mistake: χ² = ρ², which is right for linear functions alone."""
    monkeypatch.setattr(GaussianNoise, "chi2", lambda self, rho: rho * rho)
    runs = trials.runs(20, 150)
    trials.caught("T11 distance", "χ² = ρ²", extremal_failures(runs, n=20_000), runs, 0.1)


def test_control_a_curve_of_another_radius_is_caught(monkeypatch, trials: Trials):
    """Mistake: a shift that is 20 % too small, in the law of L."""
    right = GaussianNoise.tails
    monkeypatch.setattr(GaussianNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, 0.8 * rho, replicas))
    f, moved, _ = extremal(1.0, 6.0)
    wrong = GaussianNoise(1.0)  # (the law of L is kept with the noise)
    runs = trials.runs(20, 60)
    wrong = failures(runs, f, ORIGIN, moved, noise=wrong, **{**EXTREMAL, "n": 20_000})
    trials.caught("T11 distance", "shift 20 % too small", wrong, runs, 0.1)


@pytest.mark.parametrize(("p", "n", "alpha"), [(0.05, 400, 0.1), (0.3, 100, 0.05)])
def test_the_limit_of_the_moment_fails_as_often_as_a_binomial_says(p, n, alpha, trials: Trials):
    """2 000 samples of a variable with values 0 and 1: the rate is P[Bin(n, p) ≤ k], exactly; Chernoff keeps it ≤ α."""
    runs = 2000
    found = np.array([chernoff_limit(k / n, n, alpha) for k in range(n + 1)])
    wrong = int((found[np.random.default_rng(1).binomial(n, p, runs)] < p).sum())
    exact = float(binom.cdf(int((found < p).sum()) - 1, n, p))
    trials.covers("T11 moment", wrong, runs, alpha, f"a coin of {p:g}, {n} draws", exact)
    assert wrong > 0
    trials.caught("T11 moment", f"the mean itself, a coin of {p:g}", *careless(p, n, runs), alpha)


def careless(p: float, n: int, runs: int) -> tuple[int, int]:
    """How often the mean of n coins is below p."""
    return int((np.random.default_rng(1).binomial(n, p, runs) / n < p).sum()), runs


# Other functions with known truth.


@pytest.mark.parametrize("cut", [0.5, 1.5, 2.5])
def test_coverage_of_a_step(cut, trials: Trials):
    """α = .1: f = 1[z > cut] moves by Φ(ρ − cut) − Φ(−cut)."""

    def f(z: Tensor) -> Tensor:
        return (z > cut).double()

    moved = float(ndtr(1 - cut) - ndtr(-cut))
    runs = trials.runs(100)
    wrong = failures(runs, f, ORIGIN, moved, rho=1.0, n=200, alpha=0.1, support=(0.0, 1.0), pilot=64)
    trials.covers("T11 distance", wrong, runs, 0.1, f"step at {cut}")


@pytest.mark.parametrize("reference", ["population", "center"])
@pytest.mark.parametrize("rho", [0.3, 1.5])
def test_coverage_of_a_linear_map(reference, rho, trials: Trials):
    """α = .1: ten outputs cut off at 6 standard deviations, pushed along the top singular vector."""
    A = spread(10, 3.0)
    f, support = clamped(A)
    left, singular, _ = torch.linalg.svd(A)
    y, wrong, runs = torch.zeros(10, dtype=torch.float64), 0, trials.runs(60)
    for seed in range(runs):
        found = bound(f, y, rho=rho, n=150, alpha=0.1, seed=seed, reference=reference, support=support, pilot=64)
        moved = rho * float(singular[0])
        if reference == "center":
            c = found.evidence.center
            moved = max(float((sign * moved * left[:, 0] - c).norm()) for sign in (-1, 1))
        wrong += found.value < (moved * (1 - 1e-6)) ** 2
    trials.covers("T11 distance", wrong, runs, 0.1, f"linear map, {reference}, ρ = {rho}")


# Heavy tails: values that few draws see, or none.


def rare(z: Tensor) -> Tensor:
    """tanh z, and 30 more beyond 3 standard deviations (one draw in 741)."""
    return torch.tanh(z) + 30 * (z > 3)


def rare_moves(rho: float) -> float:
    grid = np.linspace(-12, 12, 200_001)
    weight = np.exp(-grid * grid / 2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    moved = np.sum(weight * (np.tanh(grid + rho) - np.tanh(grid)))
    return float(moved + 30 * (ndtr(rho - 3) - ndtr(-3)))


RARE = {"rho": 1.0, "n": 300, "alpha": 0.1, "support": (-1.0, 31.0), "pilot": 64}


@pytest.mark.parametrize("reference", ["population", "center"])
def test_coverage_with_a_tail_that_is_cut(reference, trials: Trials):
    """α = .1; the center is given, 0, the mean of the part that is not rare."""
    moved = rare_moves(1.0) if reference == "population" else rare_moves(1.0) + 30 * ndtr(-3)
    options = {**RARE, "reference": reference, "center": ORIGIN}
    runs = trials.runs(60)
    trials.covers("T11 distance", failures(runs, rare, ORIGIN, moved, **options), runs, 0.1, f"heavy tail, {reference}")


@pytest.mark.parametrize(("reference", "name"), [("population", "_moved"), ("center", "_largest")])
def test_control_a_forgotten_tail_is_caught(monkeypatch, reference, name, trials: Trials):
    """Mistake: no (D − R) T(p̄)."""
    monkeypatch.setattr(spectral_module, name, lambda noise, p, rho: 0.0)
    options = {**RARE, "reference": reference, "center": ORIGIN}
    runs = trials.runs(30, 150)
    wrong = failures(runs, rare, ORIGIN, rare_moves(1.0), **options)
    trials.caught("T11 distance", f"the tail forgotten, {reference}", wrong, runs, 0.1)


# The mean, and the sketch.


def center_offset_failures(runs: int) -> int:
    """f = clamp(z + ½) on one output with c = 0: the limit of ‖E x‖ against ½."""
    wrong = 0
    for seed in range(runs):
        held = bound(
            lambda z: (z + 0.5).clamp(-8, 8),
            ORIGIN,
            rho=0.5,
            n=100,
            alpha=0.3,
            seed=seed,
            reference="center",
            center=ORIGIN,
            support=(-8.0, 8.0),
            pilot=0,
        ).evidence
        wrong += held.center_offset < 0.5
    return wrong


def test_coverage_of_the_center_offset(trials: Trials):
    """α = .3, half of which is the center offset's."""
    runs = trials.runs(200)
    trials.covers("T11 center offset", center_offset_failures(runs), runs, 0.15, "one output")


def test_control_a_center_offset_without_slack_is_caught(monkeypatch, trials: Trials):
    """Mistake: ‖x̄‖ for ‖E x‖."""
    monkeypatch.setattr(spectral_module, "bernstein_slack", lambda second, radius, n, alpha: 0.0)
    runs = trials.runs(80, 200)
    trials.caught("T11 center offset", "‖x̄‖ for ‖E x‖", center_offset_failures(runs), runs, 0.15)


def sketched_failures(runs: int) -> int:
    f, support = clamped(spread(30, 29.0))
    y = torch.zeros(30, dtype=torch.float64)
    return failures(runs, f, y, 1 - 1e-6, rho=1.0, n=300, alpha=0.1, support=support, pilot=0, center=torch.zeros(30))


def test_coverage_with_a_coarse_sketch(monkeypatch, trials: Trials):
    """α = .1: 30 nearly flat outputs in a sketch of two rows."""
    monkeypatch.setattr(spectral_module, "Spectrum", lambda center, radius: Spectrum(center, radius, rows=2))
    runs = trials.runs(60)
    trials.covers("T11 distance", sketched_failures(runs), runs, 0.1, "a sketch of two rows")


def test_control_a_sketch_without_its_error_is_caught(monkeypatch, trials: Trials):
    """Mistake: the eigenvalue of the sketch itself, without what the sketch has forgotten (and no slack to hide it)."""
    monkeypatch.setattr(spectral_module, "Spectrum", lambda center, radius: Spectrum(center, radius, rows=2))
    monkeypatch.setattr(Spectrum, "_error", 0.0)
    monkeypatch.setattr(spectral_module, "chernoff_limit", lambda mean, n, alpha: mean)
    runs = trials.runs(20, 100)
    trials.caught("T11 distance", "the sketch's error forgotten", sketched_failures(runs), runs, 0.1)
