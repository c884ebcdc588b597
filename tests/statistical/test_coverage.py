"""Coverage of T1, T2, T3: how often a statement fails over many independent runs, and controls that must be caught.

The frame, H0 and the false-alarm rate are those of `trials`: a run fails if its *joint* statement is false somewhere in the
ellipsoid, by exactly known medians and percentiles. The controls put one classical mistake into the library each.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from certify import GaussianNoise, bound_curve, certified_radius, mse_bound, percentile_bounds
from certify.bounds import mse as mse_module
from certify.bounds import percentile as percentile_module
from certify.confidence import extreme_rank
from tests.statistical.trials import Trials, not_exactly, too_many
from tests.subjects import outputs_of

pytestmark = pytest.mark.statistical


def test_the_test_itself():
    """400 runs at α = .05: 20 failures are expected, 37 are still accepted, 60 are not."""
    assert not too_many(20, 400, 0.05)
    assert not too_many(36, 400, 0.05)
    assert too_many(60, 400, 0.05)
    assert not_exactly(0, 400, 0.05)


# Percentile boxes, joint over outputs.

M, ALPHA, RHO = 20, 0.2, 1.0
N = 31  # one rank each: (1 − Φ(−1))³¹ = .00472, just below α' = .2/40 = .005, so that the joint rate is nearly exact


def independent_outputs(runs: int, n: int = N) -> int:
    """Runs in which some of 20 independent medians leaves the box within ‖δ‖_Σ ≤ 1: the identity, truth ±σ."""
    y, noise = torch.zeros(M, dtype=torch.float64), GaussianNoise(0.5)
    failures = 0
    for seed in range(runs):
        b = percentile_bounds(lambda z: z, y, noise, rho=RHO, n=n, alpha=ALPHA, seed=seed, pilot=1)
        failures += bool((b.lower > -0.5 * RHO).any() or (b.upper < 0.5 * RHO).any())
    return failures


def test_joint_coverage_is_exactly_what_the_ranks_say(trials: Trials):
    """20 outputs, 40 events, α = .2. The two sides of a coordinate are (nearly) independent: rate 1 − (1 − a)⁴⁰ = .172.

    Rejected on either side, so a box that is far too wide fails as well.
    """
    runs = trials.runs(300)
    tail = GaussianNoise(0.5).tails(0.5, RHO).upper
    each = float(binom.cdf(extreme_rank(N, tail, ALPHA / (2 * M)) - 1, N, tail))
    exact = 1 - (1 - each) ** (2 * M)
    trials.covers("T1 box", independent_outputs(runs), runs, ALPHA, "20 independent outputs", exact)


def test_control_a_pointwise_alpha_is_caught(monkeypatch, trials: Trials):
    """Mistake: α' = α/2 for each output, summed up as if it were joint."""
    monkeypatch.setattr("certify.statements.questions.Percentile.each_side", lambda self, _: self.alpha / 2)
    runs = trials.runs(60, 200)
    trials.caught("T1 box", "α for each output instead of α/m", independent_outputs(runs), runs, ALPHA)


def test_control_ignoring_one_of_the_two_sides_is_caught(monkeypatch, trials: Trials):
    """Mistake: α' = 2α/m, as if each output had a quarter of its events."""
    monkeypatch.setattr(
        "certify.statements.questions.Percentile.each_side", lambda self, setting: 2 * self.alpha / setting.outputs
    )
    runs = trials.runs(150, 200)
    trials.caught("T1 box", "2α/m for each side", independent_outputs(runs, n=400), runs, ALPHA)


def test_control_a_rank_off_by_one_is_caught(monkeypatch, trials: Trials):
    """Mistake: one-based ranks read from zero, on both sides and, as published, on the lower one alone."""
    right = percentile_module.ranks

    def both(n, tails, alpha):
        low, high = right(n, tails, alpha)
        return low + 1, high + 1

    def lower(n, tails, alpha):
        low, high = right(n, tails, alpha)
        return low + 1, high

    for wrong, mistake in ((both, "ranks off by one"), (lower, "lower rank off by one, as published")):
        monkeypatch.setattr(percentile_module, "ranks", wrong)
        monkeypatch.setattr("certify.statements.questions.ranks", wrong)
        runs = trials.runs(60, 200)
        trials.caught("T1 box", mistake, independent_outputs(runs), runs, ALPHA)


def test_control_an_unshifted_percentile_is_caught(monkeypatch, trials: Trials):
    """Mistake: a shift that is 20 % too small."""
    right = GaussianNoise.tails
    monkeypatch.setattr(GaussianNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, 0.8 * rho, replicas))
    runs = trials.runs(60, 200)
    trials.caught("T1 box", "shift 20 % too small", independent_outputs(runs, n=400), runs, ALPHA)


# Squared distances, radii and curves. exp moves further up than down, so that one side decides.

SIGMA, SCALE = 0.5, GaussianNoise(0.5)
ORIGIN = torch.zeros(1, dtype=torch.float64)
T2 = "coordinatewise"


def furthest(center: float, rho: float) -> float:
    """sup over |δ| ≤ σρ of (exp(δ) − c)²."""
    return max((math.exp(SIGMA * rho) - center) ** 2, (center - math.exp(-SIGMA * rho)) ** 2)


def distances(runs: int, alpha: float, n: int, **options) -> int:
    failures = 0
    for seed in range(runs):
        c = mse_bound(torch.exp, ORIGIN, SCALE, rho=1.0, n=n, alpha=alpha, seed=seed, method=T2, **options)
        center = 1.0 if c.reference == "population" else c.center.item()
        failures += furthest(center, 1.0) > c.value * (1 + 1e-12)
    return failures


@pytest.mark.parametrize("options", [{"center": torch.ones(1)}, {"pilot": 20}, {"reference": "population", "pilot": 1}])
def test_coverage_of_the_squared_distance(options, trials: Trials):
    """α = .1, 18 draws: a given center, one of separate pilot draws, the population's median.

    With the center given only the upper side decides: rate P[Bin(18, Φ(−1)) = 0] = .0447, rejected on either side.
    """
    runs, given = trials.runs(200), "center" in options
    exact = float(binom.cdf(0, 18, GaussianNoise(1.0).tails(0.5, 1.0).upper)) if given else None
    failures = distances(runs, 0.1, 18 if "reference" not in options else 25, **options)
    case = "exp, " + ("center given" if given else "population" if "reference" in options else "center by pilot draws")
    trials.covers("T2 distance", failures, runs, 0.1, case, exact)


def test_control_a_distance_with_the_next_rank_is_caught(monkeypatch, trials: Trials):
    """Mistake: one rank too few. The rate becomes P[Bin(18, Φ(−1)) ≤ 1] = .196."""
    monkeypatch.setattr(percentile_module, "extreme_rank", lambda n, tail, alpha: extreme_rank(n, tail, alpha) + 1)
    runs = trials.runs(250, 400)
    failures = distances(runs, 0.1, 18, center=torch.ones(1))
    trials.caught("T2 distance", "one rank too few", failures, runs, 0.1)


def radii(runs: int, alpha: float, n: int) -> int:
    """Runs in which the reported radius exceeds the true one, 1: tolerance (e^σ − 1)², center 1 given."""
    tolerance = (math.exp(SIGMA) - 1) ** 2
    found = [
        certified_radius(
            torch.exp, ORIGIN, SCALE, tolerance=tolerance, n=n, alpha=alpha, seed=seed, center=torch.ones(1), method=T2
        ).rho
        for seed in range(runs)
    ]
    assert np.mean(np.array(found) > 0) > 0.5
    return int(np.sum(np.array(found) > 1.0))


def test_coverage_of_the_certified_radius(trials: Trials):
    """α = .1, 60 draws, no correction for the search: exactly the level of the one true radius.

    Rejected on either side of P[Bin(60, Φ(−1)) ≤ t − 1].
    """
    runs, tail = trials.runs(150), GaussianNoise(1.0).tails(0.5, 1.0).upper
    exact = float(binom.cdf(extreme_rank(60, tail, 0.05) - 1, 60, tail))
    trials.covers("T3 radius", radii(runs, 0.1, 60), runs, 0.1, "exp", exact)


def test_control_a_radius_with_the_next_rank_is_caught(monkeypatch, trials: Trials):
    """Mistake: one rank too few, with 18 draws."""
    monkeypatch.setattr(percentile_module, "extreme_rank", lambda n, tail, alpha: extreme_rank(n, tail, alpha) + 1)
    runs = trials.runs(250, 400)
    trials.caught("T3 radius", "one rank too few", radii(runs, 0.1, 18), runs, 0.1)


def adversarial_center(draws: np.ndarray, alpha: float, tolerance: float) -> float:
    """A reference read off the bounding draws of the identity (σ = 1): it sits √C below the first upper bound that fails.

    Some radius of the continuum nearly always has a bound that falls short; this reference puts the tolerance there.
    """
    ordered, n = np.sort(draws), len(draws)
    for rho in np.linspace(0.02, 2.0, 100):
        rank = extreme_rank(n, GaussianNoise(1.0).tails(0.5, rho).upper, alpha / 2)
        if rank and ordered[n - rank] < rho:
            return float(ordered[n - rank] - math.sqrt(tolerance) * (1 - 1e-9))
    return -math.sqrt(tolerance)


def test_control_a_reference_from_the_same_draws_is_caught(trials: Trials):
    """THEORY T3: with the reference taken from the bounding draws the search needs a correction that it does not have.

    Identity, σ = 1, C = 25, 300 draws, α = .05: the true radius around c is √C − |c|. A reference of 0, fixed beforehand,
    passes on the very same draws.
    """
    runs, alpha, tolerance, n = trials.runs(150), 0.05, 25.0, 300
    failures = {"fixed": 0, "from the draws": 0}
    for seed in range(runs):
        options = {"tolerance": tolerance, "n": n, "alpha": alpha, "seed": seed, "method": T2}
        start = torch.full((1,), -4.0, dtype=torch.float64)
        fixed = certified_radius(lambda z: z, ORIGIN, 1.0, center=start, **options)
        failures["fixed"] += fixed.rho > 5.0 - 4.0
        draws = outputs_of(lambda z: z, ORIGIN, 1.0, n=n, seed=seed)
        center = adversarial_center(draws.numpy()[:, 0], alpha, tolerance)
        chosen = certified_radius(lambda z: z, ORIGIN, 1.0, center=ORIGIN + center, **options)
        failures["from the draws"] += chosen.rho > math.sqrt(tolerance) - abs(center) + 1e-9
    trials.covers("T3 radius", failures["fixed"], runs, alpha, "identity, reference fixed beforehand")
    trials.caught("T3 radius", "a reference from the same draws", failures["from the draws"], runs, alpha)


RHOS = [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.1, 1.3, 1.5, 1.7, 2.0]


def curves(runs: int, alpha: float, simultaneous: bool) -> int:
    """Runs in which the curve of exp is too low at some of its 12 radii."""
    failures = 0
    for seed in range(runs):
        k = bound_curve(
            torch.exp,
            ORIGIN,
            SCALE,
            rhos=RHOS,
            n=400,
            alpha=alpha,
            seed=seed,
            simultaneous=simultaneous,
            center=torch.ones(1),
            method=T2,
        )
        failures += any(value < furthest(1.0, rho) for rho, value in zip(k.rhos, k.values, strict=True))
    return failures


def test_a_simultaneous_curve_covers_as_a_whole(trials: Trials):
    """α = .1 over 12 radii."""
    runs = trials.runs(150)
    trials.covers("T2 curve", curves(runs, 0.1, simultaneous=True), runs, 0.1, "exp, 12 radii")


def test_control_a_pointwise_curve_does_not_cover_as_a_whole(trials: Trials):
    """Mistake: reading pointwise bounds as one statement."""
    failures = curves(600, 0.1, simultaneous=False)
    trials.caught("T2 curve", "pointwise bounds read as one statement", failures, 600, 0.1)


def pointwise(runs: int) -> np.ndarray:
    """Runs in which the bound at each of four radii is too low."""
    wrong = np.zeros(4, dtype=int)
    for seed in range(runs):
        k = bound_curve(
            torch.exp,
            ORIGIN,
            SCALE,
            rhos=RHOS[2::3],
            n=200,
            alpha=0.1,
            seed=seed,
            simultaneous=False,
            center=torch.ones(1),
            method=T2,
        )
        wrong += [value < furthest(1.0, rho) for rho, value in zip(k.rhos, k.values, strict=True)]
    return wrong


def test_a_pointwise_curve_covers_point_by_point(trials: Trials):
    """α = .1, each of 4 radii on its own."""
    runs = trials.runs(150)
    for rho, failures in zip(RHOS[2::3], pointwise(runs), strict=True):
        trials.covers("T2 pointwise curve", int(failures), runs, 0.1, f"exp, ρ = {rho}")


def test_control_a_pointwise_curve_with_a_shorter_shift_is_caught(monkeypatch, trials: Trials):
    """Mistake: a shift that is 20 % too small."""
    right = GaussianNoise.tails
    monkeypatch.setattr(GaussianNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, 0.8 * rho, replicas))
    runs = trials.runs(50, 150)
    trials.caught("T2 pointwise curve", "shift 20 % too small", int(pointwise(runs).max()), runs, 0.1)


def test_the_printed_inequality_6_fails_in_every_run():
    """Erratum (THEORY T2): Σ(ζ_i)² for f(y) = σy with σρ = ½ against the true movement ¼; the corrected sum never."""
    printed = corrected = 0
    for seed in range(50):
        c = mse_bound(lambda z: z, ORIGIN, 0.5, rho=1.0, n=2000, alpha=1e-3, seed=seed, center=ORIGIN, method=T2)
        zeta = mse_module.box_distance(c.lower, c.upper, c.center, c.center)
        printed += zeta**2 < 0.25
        corrected += zeta < 0.25
    assert (printed, corrected) == (50, 0)
