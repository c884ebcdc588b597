"""Coverage: how often a statement fails over many independent runs, and controls that must be caught.

Every test runs a procedure R times on fresh draws (seeds 0 … R − 1, so each outcome repeats exactly) and counts the runs
in which its *joint* statement is false somewhere in the ellipsoid, from exactly known medians and percentiles.

    H0: the failure probability is at most α.    Rejected if P[Bin(R, α) ≥ failures] < 1e-4, the false-alarm rate.

The negative controls put one classical mistake into the library and go through the same test; there H0 must be rejected.
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
from tests.subjects import SUBJECTS, Subject

pytestmark = pytest.mark.statistical

FALSE_ALARM = 1e-4


def too_many(failures: int, runs: int, alpha: float) -> bool:
    """Whether H0: failure probability ≤ α is rejected, at a false-alarm rate of 1e-4."""
    return float(binom.sf(failures - 1, runs, alpha)) < FALSE_ALARM


def not_exactly(failures: int, runs: int, rate: float) -> bool:
    """Whether H0: failure probability = rate is rejected on either side, at a false-alarm rate of 1e-4."""
    tail = min(binom.sf(failures - 1, runs, rate), binom.cdf(failures, runs, rate))
    return float(tail) < FALSE_ALARM / 2


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


def test_joint_coverage_is_exactly_what_the_ranks_say():
    """20 outputs, 40 events, α = .2. The two sides of a coordinate are (nearly) independent: rate 1 − (1 − a)⁴⁰ = .172.

    Rejected on either side, so a box that is far too wide fails as well.
    """
    runs = 600
    failures = independent_outputs(runs)
    assert not too_many(failures, runs, ALPHA)
    tail = GaussianNoise(0.5).tails(0.5, RHO).upper
    each = float(binom.cdf(extreme_rank(N, tail, ALPHA / (2 * M)) - 1, N, tail))
    assert not not_exactly(failures, runs, 1 - (1 - each) ** (2 * M))


def test_control_a_pointwise_alpha_is_caught(monkeypatch):
    """Mistake: α' = α/2 for each output, summed up as if it were joint."""
    monkeypatch.setattr("certify.statements._Plan._side", lambda self: self.statement.alpha / 2)
    assert too_many(independent_outputs(200), 200, ALPHA)


def test_control_ignoring_one_of_the_two_sides_is_caught(monkeypatch):
    """Mistake: α' = 2α/m, as if each output had a quarter of its events."""
    monkeypatch.setattr("certify.statements._Plan._side", lambda self: 2 * self.statement.alpha / self.setting.outputs)
    assert too_many(independent_outputs(200, n=400), 200, ALPHA)


def test_control_a_rank_off_by_one_is_caught(monkeypatch):
    """Mistake: one-based ranks read from zero, on both sides and, as published, on the lower one alone."""
    right = percentile_module.ranks

    def both(n, tails, alpha):
        low, high = right(n, tails, alpha)
        return low + 1, high + 1

    def lower(n, tails, alpha):
        low, high = right(n, tails, alpha)
        return low + 1, high

    for wrong in (both, lower):
        monkeypatch.setattr(percentile_module, "ranks", wrong)
        monkeypatch.setattr("certify.statements.ranks", wrong)
        assert too_many(independent_outputs(200), 200, ALPHA)


def test_control_an_unshifted_percentile_is_caught(monkeypatch):
    """Mistake: a shift that is 20 % too small."""
    right = GaussianNoise.tails
    monkeypatch.setattr(GaussianNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, 0.8 * rho, replicas))
    assert too_many(independent_outputs(200, n=400), 200, ALPHA)


def extremes(subject: Subject, p: float, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and largest p-th percentile of every output within the ellipsoid, over both kinds of percentile."""
    if subject.name.endswith("linear"):
        eye = torch.eye(subject.y.numel(), dtype=torch.float64)
        A = (subject.f(eye) - subject.f(torch.zeros_like(eye))).T
        reach = rho * (A * subject.sigma).norm(dim=1)
        return subject.truth(p)[0] - reach, subject.truth(p)[1] + reach
    reach = (1 - 1e-12) * subject.worst(rho)  # the open set, where both percentiles are covered
    found = [subject.truth(p, sign * reach) for sign in (-1, 0, 1)]
    return torch.stack([low for low, _ in found]).amin(dim=0), torch.stack([high for _, high in found]).amax(dim=0)


@pytest.mark.parametrize(("p", "rho", "n"), [(0.5, 1.0, 200), (0.8, 0.5, 300), (0.2, 0.3, 77)])
@pytest.mark.parametrize(
    "name",
    ["isotropic linear", "anisotropic linear", "heavy tails", "floor", "step", "sign at its jump", "exponential"],
)
def test_joint_coverage_of_percentile_boxes(name, p, rho, n):
    """300 runs at α = .1: dependent outputs, atoms, heavy tails."""
    subject, runs, alpha = SUBJECTS[name], 300, 0.1
    noise, (least, most) = GaussianNoise(subject.sigma), extremes(subject, p, rho)
    failures = 0
    for seed in range(runs):
        b = percentile_bounds(subject.f, subject.y, noise, rho=rho, p=p, n=n, alpha=alpha, seed=seed, pilot=1)
        failures += bool((b.lower > least + 1e-9).any() or (b.upper < most - 1e-9).any())
    assert not too_many(failures, runs, alpha)


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
def test_coverage_of_the_squared_distance(options):
    """400 runs at α = .1, 18 draws: a given center, one of separate pilot draws, the population's median."""
    assert not too_many(distances(400, 0.1, 18 if "reference" not in options else 25, **options), 400, 0.1)


def test_coverage_of_the_squared_distance_is_not_idle():
    """Only the upper side decides: rate P[Bin(18, Φ(−1)) = 0] = .0447, rejected on either side."""
    failures = distances(500, 0.1, 18, center=torch.ones(1))
    assert not not_exactly(failures, 500, float(binom.cdf(0, 18, GaussianNoise(1.0).tails(0.5, 1.0).upper)))


@pytest.mark.parametrize("name", ["isotropic linear", "anisotropic linear"])
def test_coverage_of_the_squared_distance_of_linear_maps(name):
    """300 runs at α = .1 with the true center: the supremum λ_max ρ²."""
    subject = SUBJECTS[name]
    noise, center = GaussianNoise(subject.sigma), subject.truth(0.5)[0]
    failures = sum(
        mse_bound(subject.f, subject.y, noise, rho=0.8, n=100, alpha=0.1, seed=seed, center=center, method=T2).value
        < subject.supremum(0.8)
        for seed in range(300)
    )
    assert not too_many(failures, 300, 0.1)


def test_control_a_distance_with_the_next_rank_is_caught(monkeypatch):
    """Mistake: one rank too few. The rate becomes P[Bin(18, Φ(−1)) ≤ 1] = .196."""
    monkeypatch.setattr(percentile_module, "extreme_rank", lambda n, tail, alpha: extreme_rank(n, tail, alpha) + 1)
    assert too_many(distances(400, 0.1, 18, center=torch.ones(1)), 400, 0.1)


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


def test_coverage_of_the_certified_radius():
    """300 runs at α = .1, 60 draws, no correction for the search: exactly the level of the one true radius.

    Rejected on either side of P[Bin(60, Φ(−1)) ≤ t − 1].
    """
    failures = radii(300, 0.1, 60)
    assert not too_many(failures, 300, 0.1)
    tail = GaussianNoise(1.0).tails(0.5, 1.0).upper
    assert not not_exactly(failures, 300, float(binom.cdf(extreme_rank(60, tail, 0.05) - 1, 60, tail)))


def test_control_a_radius_with_the_next_rank_is_caught(monkeypatch):
    """Mistake: one rank too few, with 18 draws."""
    monkeypatch.setattr(percentile_module, "extreme_rank", lambda n, tail, alpha: extreme_rank(n, tail, alpha) + 1)
    assert too_many(radii(400, 0.1, 18), 400, 0.1)


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


def test_control_a_reference_from_the_same_draws_is_caught():
    """THEORY T3: with the reference taken from the bounding draws the search needs a correction that it does not have.

    Identity, σ = 1, C = 25, 300 draws, α = .05: the true radius around c is √C − |c|. A reference of 0, fixed beforehand,
    passes on the very same draws.
    """
    runs, alpha, tolerance, n = 150, 0.05, 25.0, 300
    failures = {"fixed": 0, "from the draws": 0}
    for seed in range(runs):
        draws = []

        def f(z, draws=draws):
            draws.append(z)
            return z

        options = {"tolerance": tolerance, "n": n, "alpha": alpha, "seed": seed, "method": T2}
        start = torch.full((1,), -4.0, dtype=torch.float64)
        fixed = certified_radius(f, ORIGIN, 1.0, center=start, **options)
        failures["fixed"] += fixed.rho > 5.0 - 4.0
        center = adversarial_center(torch.cat(draws).numpy()[:, 0], alpha, tolerance)
        chosen = certified_radius(lambda z: z, ORIGIN, 1.0, center=ORIGIN + center, **options)
        failures["from the draws"] += chosen.rho > math.sqrt(tolerance) - abs(center) + 1e-9
    assert not too_many(failures["fixed"], runs, alpha)
    assert too_many(failures["from the draws"], runs, alpha)


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


def test_a_simultaneous_curve_covers_as_a_whole():
    """300 runs at α = .1 over 12 radii."""
    assert not too_many(curves(300, 0.1, simultaneous=True), 300, 0.1)


def test_control_a_pointwise_curve_does_not_cover_as_a_whole():
    """Mistake: reading pointwise bounds as one statement."""
    assert too_many(curves(600, 0.1, simultaneous=False), 600, 0.1)


def test_a_pointwise_curve_covers_point_by_point():
    """300 runs at α = .1, each of 4 radii on its own (Bonferroni over them)."""
    wrong = np.zeros(4)
    for seed in range(300):
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
    assert not any(too_many(int(count), 300, 0.1) for count in wrong)


def test_the_printed_inequality_6_fails_in_every_run():
    """Erratum (THEORY T2): Σ(ζ_i)² for f(y) = σy with σρ = ½ against the true movement ¼; the corrected sum never."""
    printed = corrected = 0
    for seed in range(50):
        c = mse_bound(lambda z: z, ORIGIN, 0.5, rho=1.0, n=2000, alpha=1e-3, seed=seed, center=ORIGIN, method=T2)
        zeta = mse_module.box_distance(c.lower, c.upper, c.center, c.center)
        printed += zeta**2 < 0.25
        corrected += zeta < 0.25
    assert (printed, corrected) == (50, 0)
