"""T3 + T8: the radius search against linear maps and made-up bounds."""

from __future__ import annotations

import math

import pytest
import torch

from certify import GaussianNoise, certified_radius, mse_bound, plan
from certify.bounds.base import Evaluation
from certify.bounds.radius import largest_radius


@pytest.mark.parametrize("truth", [1.5e-6, 1e-3, 0.3, 1.0, 1.7, 32.5, 63.0])
@pytest.mark.parametrize("closed", [True, False])
def test_the_search_finds_a_jump_from_below(truth, closed):
    """A bound that jumps over the tolerance at `truth`: never beyond, and within 2e-6 of it."""

    def bound(rho: float) -> Evaluation:
        return Evaluation(1.0 if rho < truth or (closed and rho == truth) else 2.0)

    rho, evaluation = largest_radius(bound, 1.5)
    assert rho <= truth
    assert rho >= truth * (1 - 3e-6) - 1e-6
    assert evaluation.value == 1.0


def test_the_search_on_a_smooth_bound():
    rho, evaluation = largest_radius(lambda r: Evaluation(r**2), 2.0)
    assert rho == pytest.approx(math.sqrt(2), rel=1e-5)
    assert evaluation.value == rho**2 <= 2.0


def test_the_search_knows_none_and_all():
    rho, evaluation = largest_radius(lambda r: Evaluation(5.0), 1.0)
    assert (rho, evaluation.value) == (0.0, 5.0)
    assert largest_radius(lambda r: Evaluation(0.5), 1.0)[0] == math.inf
    assert largest_radius(lambda r: Evaluation(1.0), 1.0)[0] == math.inf  # a tolerance is met when it is reached


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_the_radius_of_a_linear_map(sigma):
    """f(y) = 3y leaves (3σρ)² ≤ C up to ρ = √C/(3σ): reached to 97 %, never exceeded."""
    truth = 0.9
    tolerance = (3 * sigma * truth) ** 2
    y = torch.tensor([0.7], dtype=torch.float64)
    r = certified_radius(
        lambda z: 3 * z, y, sigma, tolerance=tolerance, n=200_000, alpha=0.01, center=3 * y, batch_size=8192
    )
    assert 0.97 * truth <= r.rho <= truth
    assert r.value <= tolerance
    assert r.ellipsoid.rho == r.rho
    assert r.ellipsoid.l2_ball == pytest.approx(sigma * r.rho)
    assert r.status == "certified"


def test_the_radius_tends_to_the_truth():
    y = torch.zeros(1, dtype=torch.float64)
    gaps = [
        1 - certified_radius(lambda z: z, y, 1.0, tolerance=1.0, n=n, alpha=0.01, center=y, seed=4).rho
        for n in (300, 3000, 30_000)
    ]
    assert 0 < gaps[2] < gaps[1] < gaps[0] < 0.5


def test_a_constant_is_certified_as_far_as_the_draws_reach():
    """No further than `plan` says n draws can speak."""
    r = certified_radius(
        lambda z: torch.ones(len(z), 3), torch.zeros(2), 1.0, tolerance=1e-9, n=500, alpha=0.01, method="coordinatewise"
    )
    assert r.rho == pytest.approx(plan(n=500, outputs=3, alpha=0.01).rho, rel=1e-5)
    assert r.rho <= plan(n=500, outputs=3, alpha=0.01).rho
    assert r.value == 0.0


def test_a_support_within_the_tolerance_certifies_everything():
    r = certified_radius(
        torch.tanh, torch.zeros(2), 1.0, tolerance=8.1, n=200, support=(-1.0, 1.0), center=torch.tensor([1.0, -1.0])
    )
    assert r.rho == math.inf
    assert r.value == pytest.approx(8.0)
    assert r.ellipsoid.contains(torch.tensor([1e9, 0.0]))


def test_a_hopeless_tolerance_abstains_with_the_bound_that_it_missed():
    r = certified_radius(lambda z: z, torch.zeros(1), 1.0, tolerance=1e-6, n=1000, center=torch.ones(1))
    assert (r.rho, r.status) == (0.0, "abstained")
    assert r.value > 1e-6
    assert "> tolerance 1e-06" in r.reason
    assert r.ellipsoid.l2_ball == 0.0
    assert r.lower is None


def test_too_few_draws_abstain():
    r = certified_radius(lambda z: z.expand(-1, 50), torch.zeros(1), 1.0, tolerance=1.0, n=5)
    assert (r.rho, r.status) == (0.0, "abstained")
    assert "n >= 17 is needed" in r.reason  # log2(100/1e-3) = 16.6


@pytest.mark.parametrize("reference", ["center", "population"])
def test_the_bound_at_the_radius_is_within_the_tolerance_and_above_it_is_not(reference):
    y = torch.zeros(4, dtype=torch.float64)
    options = {"n": 2000, "alpha": 0.01, "reference": reference, "seed": 1}
    r = certified_radius(torch.sin, y, GaussianNoise(0.5), tolerance=0.8, **options)
    assert mse_bound(torch.sin, y, GaussianNoise(0.5), rho=r.rho, **options).value == r.value <= 0.8
    assert mse_bound(torch.sin, y, GaussianNoise(0.5), rho=r.rho * (1 + 1e-5), **options).value > 0.8
