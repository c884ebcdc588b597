"""Arguments at the ends of float64: no warning (they are errors here), no NaN, and values on the safe side."""

from __future__ import annotations

import contextlib
import itertools
import math

import pytest
import torch

from certify import (
    GaussianNoise,
    UniformNoise,
    bound_curve,
    certified_radius,
    decide_event,
    decide_mse,
    decide_statistic,
    deployed_bound,
    event_bound,
    event_rate_over,
    mse_bound,
    percentile_bounds,
    plan,
    statistic_bound,
)
from certify.bounds.likelihood_ratio import max_mean_shift
from certify.confidence import anytime_limit, clopper_pearson, extreme_rank

ALPHAS = (1e-300, 1e-16, 1e-3, 0.9, 1 - 2**-53)
RADII = (5e-324, 1e-300, 0.3, 40.0, 1e200, 1.7e308)
NOISES = (GaussianNoise(1.0), UniformNoise(1.0))
Y = torch.zeros(2, dtype=torch.float64)


def cut(z):
    return z.clamp(-3, 3)


def statistic(z):
    return z.mean(dim=(1, 2))


def event(z):
    return statistic(z) > 0


@pytest.mark.parametrize("n", [1, 10, 1000, 10**9])
def test_limits_of_a_probability(n):
    for s, alpha in itertools.product(sorted({0, 1, n // 2, n}), ALPHAS):
        for limit in (clopper_pearson, anytime_limit):
            upper, lower = limit(s, n, alpha), limit(s, n, alpha, "lower")
            assert 0 <= lower <= 1
            assert 0 <= upper <= 1
            if alpha < 0.5:
                assert lower <= s / n <= upper
    # All n seen, or none: α^{1/n}, to the last digits on either side.
    for alpha in ALPHAS:
        assert clopper_pearson(n, n, alpha, "lower") == pytest.approx(alpha ** (1 / n), rel=1e-8)
        assert clopper_pearson(0, n, alpha) == pytest.approx(-math.expm1(math.log(alpha) / n), rel=1e-8)


def test_ranks_tails_and_plans():
    for n, alpha, tail in itertools.product((1, 64, 10**9), ALPHAS, (5e-324, 1e-16, 0.5, 1 - 2**-53)):
        assert 0 <= extreme_rank(n, tail, alpha) <= n
    for noise, rho, p in itertools.product(NOISES, (0.0, *RADII), (5e-324, 1e-300, 0.5, 1 - 2**-53)):
        for copies in (1, 10**6):
            low, high = noise.tails(p, rho, copies)
            assert 0 <= low <= p
            assert 0 <= high <= 1 - p
        assert noise.chi2(rho) >= 0
    for alpha, n in itertools.product(ALPHAS, (1, 100, 10**12)):
        for more in ({}, {"target": 1e-300}, {"target": 1 - 2**-53}, {"p": 1e-300}):
            with contextlib.suppress(ValueError):  # too few draws for any radius; a warning is no ValueError
                assert plan(n=n, alpha=alpha, **more).rho >= 0
    for rho, second, theta in itertools.product(RADII, (5e-324, 1e-3, 1.0), (0.0, 0.5, 1.0)):
        assert 0 <= max_mean_shift(NOISES[0], rho, second, 1.0, theta) < math.inf


@pytest.mark.parametrize("alpha", [1e-300, 1 - 2**-53])
@pytest.mark.parametrize("noise", NOISES, ids=["gaussian", "uniform"])
def test_every_question(noise, alpha):
    for rho in (5e-324, 0.3, 40.0, 1e200):
        options = {"rho": rho, "alpha": alpha, "n": 64}
        made = [percentile_bounds(cut, Y, noise, pilot=5, **options)]
        for method, reference in itertools.product(
            ("coordinatewise", "dimension-free", "spectral"), ("center", "population")
        ):
            more = {"method": method, "reference": reference, "support": (-3, 3), "pilot": 5}
            made.append(mse_bound(cut, Y, noise, **more, **options))
        made.append(mse_bound(cut, Y, noise, smoother="mean", support=(-3, 3), pilot=5, **options))
        made.append(event_bound(event, Y, noise, two_sided=True, **options))
        made.append(decide_mse(cut, Y, noise, tolerance=1.0, pilot=5, **options))
        for q in (5e-324, 1 - 2**-53):
            made.append(statistic_bound(statistic, Y, noise, side="two-sided", q=q, **options))
            made.append(decide_statistic(statistic, Y, noise, threshold=1.0, q=q, **options))
            made.append(decide_event(event, Y, noise, target=q, **options))
            made += [
                deployed_bound(cut, Y, noise, method=method, replicas=3, q=q, pilot=5, **options)
                for method in ("replicas", "order statistics", "dimension-free")
            ]
        for one in made:
            value = getattr(one, "value", 0.0)
            assert value is None or not math.isnan(value), one
            assert str(one)
            assert one._repr_html_()
    options = {"alpha": alpha, "n": 64, "pilot": 5}
    assert bound_curve(cut, Y, noise, rhos=[5e-324, 1.0, 1e200], **options).values[-1] == math.inf
    assert certified_radius(cut, Y, noise, tolerance=5e-324, support=(-3, 3), **options).status == "abstained"
    rate = event_rate_over([event], [Y], [1.0], rhos=[5e-324, 1e200], alpha=alpha, n=64, two_sided=True)
    assert rate.values[1] == 1.0
