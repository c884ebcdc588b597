"""T15: exact values, rounding, and tests that a perturbation could be found by."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import norm

from certify import GaussianNoise, indistinguishability


@pytest.mark.parametrize("rho", [0.0, 1e-200, 1e-9, 0.1, 0.25, 1.0, 3.0, 1e200])
@pytest.mark.parametrize(("replicas", "outcomes"), [(1, 1), (13, 1), (13, 7)])
def test_values(rho, replicas, outcomes):
    i = indistinguishability(rho=rho, replicas=replicas, outcomes=outcomes)
    exact = replicas * outcomes * Fraction(rho) ** 2 / 2
    assert (
        i.kl == math.inf
        if exact > Fraction(1e308)
        else exact <= Fraction(i.kl) <= exact * (1 + Fraction(1, 10**15)) + Fraction(5e-324)
    )
    r = math.sqrt(replicas * outcomes) * rho
    assert i.mu == pytest.approx(r)
    assert i.total_variation == pytest.approx(2 * norm.cdf(r / 2) - 1, abs=1e-13)
    assert (i.total_variation > 0) == (rho > 0)
    for level in (1e-6, 0.05, 0.5, 0.99):
        assert i.power(level) == pytest.approx(norm.cdf(norm.ppf(level) + r), abs=1e-11)
        assert level <= i.power(level) <= min(1.0, level + i.total_variation + 1e-11)
    # Pinsker: the two bounds of one fact agree
    assert i.total_variation <= math.sqrt(i.kl / 2) + 1e-12


def test_it_is_attained_by_who_averages_the_copies():
    """The Neyman–Pearson test of the copies' mean, for a shift of size ρ in the first coordinate: exact."""
    rho, replicas = 0.25, 13
    i, r = indistinguishability(rho=rho, replicas=replicas), math.sqrt(13) * 0.25
    t = np.linspace(-4, 6, 2001)
    before, after = norm.sf(t), norm.sf(t - r)
    assert (after - before).max() == pytest.approx(i.total_variation, abs=1e-6)
    for level in (0.01, 0.05, 0.5):
        assert norm.sf(norm.isf(level) - r) == pytest.approx(i.power(level), abs=1e-11)
    rng = np.random.default_rng(0)
    means = rng.normal(size=(20_000, replicas)).mean(axis=1) * math.sqrt(replicas)
    found = (means + r > norm.isf(0.05)).mean()
    assert abs(found - i.power(0.05)) < 4 * math.sqrt(found * (1 - found) / 20_000)


def test_more_outcomes_are_more_copies():
    assert indistinguishability(rho=0.2, replicas=13, outcomes=4) != indistinguishability(rho=0.2, replicas=52)
    for name in ("kl", "total_variation", "mu"):
        one, other = (indistinguishability(rho=0.2, replicas=k, outcomes=52 // k) for k in (13, 52))
        assert getattr(one, name) == getattr(other, name)


def test_no_event_moves_by_more():
    """T5 at its population value: p⁺ − p ≤ TV, with equality where p and p⁺ are mirror images."""
    i, noise = indistinguishability(rho=0.3, replicas=5), GaussianNoise(1.0)
    moved = [1 - noise.tails(p, 0.3, 5).upper - p for p in np.linspace(0.01, 0.99, 99)]
    assert max(moved) <= i.total_variation + 1e-12
    middle = norm.cdf(-math.sqrt(5) * 0.15)
    assert 1 - noise.tails(middle, 0.3, 5).upper - middle == pytest.approx(i.total_variation, abs=1e-10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rho": -1.0}, ValueError, "rho = -1.0: must be a finite number >= 0"),
        ({"rho": math.inf}, ValueError, "rho = inf"),
        ({"rho": 1.0, "replicas": 0}, ValueError, "replicas = 0: must be a whole number >= 1"),
        ({"rho": 1.0, "outcomes": 1.5}, TypeError, "outcomes = 1.5: must be a whole number"),
        ({"rho": 1.0, "copies": 3}, TypeError, "no option 'copies': did you mean 'replicas'"),
    ],
)
def test_bad_calls(options, error, message):
    with pytest.raises(error, match=message):
        indistinguishability(**options)


def test_bad_levels_and_words():
    i = indistinguishability(rho=0.25)
    for level in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"level = .*: must be strictly between 0 and 1"):
            i.power(level)
    assert "0.3478" in str(i)
    assert "T15" in str(i)
