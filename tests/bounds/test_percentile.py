"""T1 + T3: the box against exactly known percentiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from certify import GaussianNoise, percentile_bounds, plan
from certify.confidence import extreme_rank
from tests.subjects import LINEAR, SUBJECTS, Subject, outputs_of

ALPHA = 1e-6  # the false-alarm rate of every test that compares one run with the truth


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("rho", [0.2, 1.0, 1.7])
@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_the_box_holds_both_percentiles_everywhere_in_the_ellipsoid(subject: Subject, rho, p):
    """At y and at perturbations on the boundary, the worst known ones among them."""
    b = percentile_bounds(
        subject.f, subject.y, GaussianNoise(subject.sigma), rho=rho, p=p, n=4000, alpha=ALPHA, pilot=64
    )
    assert b.status == "certified"
    for direction in [np.zeros(subject.y.shape), *subject.directions(8)]:
        for truth in subject.truth(p, rho * direction):
            slack = 1e-12 * (1 + truth.abs())  # f's own rounding
            assert bool((b.lower <= truth + slack).all())
            assert bool((truth - slack <= b.upper).all())


@pytest.mark.parametrize("subject", LINEAR, ids=lambda s: s.name)
def test_linear_maps_attain_the_box(subject: Subject):
    """For f = aᵀz the percentile moves by ‖Σ^{1/2} a‖ ρ, at δ = ρ Σ a/‖Σ^{1/2} a‖: 97 % of the box in every output."""
    rho, noise = 1.0, GaussianNoise(subject.sigma)
    n = 60_000 if len(subject.truth(0.5)[0]) < 10 else 120_000
    b = percentile_bounds(subject.f, subject.y, noise, rho=rho, n=n, alpha=0.05, pilot=64, batch_size=8192)
    at_y, _ = subject.truth(0.5)
    eye = torch.eye(subject.y.numel(), dtype=torch.float64)
    A = (subject.f(eye) - subject.f(torch.zeros_like(eye))).T
    scale = (A * subject.sigma).norm(dim=1)
    for i in range(len(at_y)):
        delta = rho * subject.sigma**2 * A[i] / scale[i]
        assert noise.norm(delta) == pytest.approx(rho)
        moved = subject.truth(0.5, delta.numpy())[0][i] - at_y[i]
        assert float(moved) == pytest.approx(float(scale[i]) * rho, rel=1e-6)
        assert 0.97 <= float(moved / (b.upper[i] - at_y[i])) <= 1.0
        assert 0.97 <= float(moved / (at_y[i] - b.lower[i])) <= 1.0


def test_the_box_tends_to_the_supremum():
    """Its excess shrinks like 1/√n (a factor 10 over n = 500, 5 000, 50 000, give or take 2.5)."""
    y = torch.zeros(1, dtype=torch.float64)
    excess = []
    for n in (500, 50_000):
        options = {"rho": 0.7, "n": n, "alpha": 0.01, "pilot": 1, "batch_size": 8192}
        seeds = [percentile_bounds(lambda z: z, y, 1.0, seed=s, **options) for s in range(10)]
        excess.append(float(np.mean([b.upper.item() - 0.7 for b in seeds])))
    assert 4 < excess[0] / excess[1] < 25


def test_the_box_is_made_of_the_stated_order_statistics():
    """Sorted by hand: the t-th smallest and t-th largest, with t from the joint share α/(2m)."""
    rho, p, n, alpha, m = 0.8, 0.3, 1000, 0.01, 3
    y = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    noise = GaussianNoise(torch.tensor([1.0, 0.1, 2.0]))

    def f(z):
        return z**3

    b = percentile_bounds(f, y, noise, rho=rho, p=p, n=n, alpha=alpha, pilot=64)
    draws = outputs_of(f, y, noise, n=n).sort(dim=0).values
    assert draws.shape == (n, m)
    tails = noise.tails(p, rho)
    low, high = extreme_rank(n, tails.lower, alpha / (2 * m)), extreme_rank(n, tails.upper, alpha / (2 * m))
    assert (b.lower_rank, b.upper_rank) == (low, high)
    assert torch.equal(b.lower, draws[low - 1])
    assert torch.equal(b.upper, draws[n - high])
    center = outputs_of(f, y, noise, n=64, stream="pilot").sort(dim=0).values[int(0.3 * 64)]
    assert torch.equal(b.center, center)


@pytest.mark.parametrize("m", [1, 2, 50])
def test_alpha_is_shared_by_all_outputs(m):
    """The ranks of m outputs at α are those of one output at α/m."""
    joint = percentile_bounds(lambda z: z.expand(-1, m), torch.zeros(1), 1.0, rho=1.0, n=2000, alpha=0.1)
    single = percentile_bounds(lambda z: z, torch.zeros(1), 1.0, rho=1.0, n=2000, alpha=0.1 / m)
    assert (joint.lower_rank, joint.upper_rank) == (single.lower_rank, single.upper_rank)


@pytest.mark.parametrize("name", ["constant", "constant without noise", "no noise anywhere"])
def test_without_spread_the_box_has_no_width(name):
    subject = SUBJECTS[name]
    b = percentile_bounds(subject.f, subject.y, GaussianNoise(subject.sigma), rho=3.0, n=20_000)
    expected = subject.f(subject.y[None])[0]
    assert torch.equal(b.lower, b.upper)
    torch.testing.assert_close(b.lower, expected, rtol=1e-12, atol=0)


def test_atoms_are_hit_exactly():
    """⌊z⌋ at y = ¼, σ = 2, ρ = ½: the population bounds are ⌈y − σρ⌉ − 1 = −1 and ⌊y + σρ⌋ = 1."""
    subject = SUBJECTS["floor"]
    b = percentile_bounds(
        subject.f, subject.y, GaussianNoise(subject.sigma), rho=0.5, n=100_000, alpha=0.01, batch_size=8192
    )
    assert (b.lower.item(), b.upper.item()) == (-1.0, 1.0)


@pytest.mark.parametrize("rho", [1.0, 3.0])
def test_an_abstention_says_how_many_draws_are_enough(rho):
    f, y = (lambda z: z.expand(-1, 7)), torch.zeros(1)
    needed = plan(rho=rho, outputs=7, alpha=0.01).n
    short = percentile_bounds(f, y, 1.0, rho=rho, n=needed - 1, alpha=0.01)
    assert short.status == "abstained"
    assert f"n >= {needed} is needed" in short.reason
    assert "7 outputs" in short.reason
    assert bool(torch.isinf(short.lower).all())
    assert bool(torch.isinf(short.upper).all())
    enough = percentile_bounds(f, y, 1.0, rho=rho, n=needed, alpha=0.01)
    assert (enough.status, enough.reason, enough.lower_rank, enough.upper_rank) == ("certified", "", 1, 1)


def test_no_number_of_draws_is_enough_beyond_float64():
    b = percentile_bounds(lambda z: z, torch.zeros(1), 1.0, rho=20.0, n=100)
    assert b.status == "abstained"
    assert "no number of draws is enough" in b.reason


def test_one_side_alone_may_be_finite():
    """At p = .99 the upper tail is too thin for 200 draws, the lower bound is not."""
    b = percentile_bounds(lambda z: z, torch.zeros(1), 1.0, rho=1.0, p=0.99, n=200)
    assert (b.status, b.upper.item(), b.upper_rank) == ("abstained", math.inf, 0)
    assert 0.0 < b.lower.item() < 1.4
