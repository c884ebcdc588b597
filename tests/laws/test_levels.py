"""Levels (T17): on the prompts that share a Σ the smoother that adapts is the frozen one, and T7's counter-example is none.

In one dimension, as in `tests/laws/test_policies.py`: f(y) = |y|, σ(y) = 0.3 exp(3 max(tanh y, 0)), here rounded up to levels.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import ndtr

from certify.adaptive.token_noise import SigmaRule
from tests.laws.test_policies import RHO, SIGMA, Y, frozen

ROUNDING = 1e-8  # of the quadrature's root


def rule(gamma: float) -> SigmaRule:
    return SigmaRule(SIGMA, 3.0, math.inf, "none", gamma=gamma)


def relevance(y: float) -> float:
    return max(math.tanh(y), 0.0)


def covered(y: float, x: float, rho: float, gamma: float) -> bool:
    """Whether x is in C_ρ(y)."""
    here, there = (rule(gamma).word(relevance(v)) for v in (y, x))
    return here == there and abs(x - y) <= rho * here


def kept(y: float, x: float, rho: float, gamma: float) -> bool:
    """Whether the median of the smoother that adapts is at x where T1 at y, for Σ(y), says."""
    here, there = (rule(gamma).word(relevance(v)) for v in (y, x))
    lower, upper = (frozen(y, here, float(ndtr(side * rho))) for side in (-1, 1))
    return lower - ROUNDING <= frozen(x, there) <= upper + ROUNDING


def test_the_counter_example_is_none() -> None:
    """Its perturbed input is on another level: nothing is claimed of it. Called covered, it would be a violation still."""
    moved = Y + 0.99 * RHO * SIGMA
    assert not covered(Y, moved, RHO, 2.0)
    assert not kept(Y, moved, RHO, 2.0)
    # As far away on the other side it is on the same level, and the claim is true.
    assert covered(Y, Y - 0.99 * RHO * SIGMA, RHO, 2.0)
    assert kept(Y, Y - 0.99 * RHO * SIGMA, RHO, 2.0)


@given(st.floats(-0.5, 0.8), st.floats(-1, 1), st.floats(0.05, 2), st.sampled_from([1.25, 2.0, 4.0, 16.0]))
@example(Y, 0.99, RHO, 2.0)
@example(Y, 0.99, RHO, 16.0)  # one level holds both, and the claim is about twice the noise
def test_whatever_is_covered_keeps_the_claim(y: float, shift: float, rho: float, gamma: float) -> None:
    x = y + shift * rho * rule(gamma).word(relevance(y))
    assert not covered(y, x, rho, gamma) or kept(y, x, rho, gamma)


def test_without_the_level_it_is_false() -> None:
    """The law that forgets it is caught: within the radius alone, points of another level leave the bound."""
    grid = [(y / 50, shift / 20) for y in range(-20, 30) for shift in range(-20, 21)]
    inside = [(y, y + s * rule(2.0).word(relevance(y))) for y, s in grid]
    broken = [(y, x) for y, x in inside if not kept(y, x, 1.0, 2.0)]
    assert broken
    assert not any(covered(y, x, 1.0, 2.0) for y, x in broken)


@given(st.floats(0, 1), st.floats(0.5, 12), st.floats(1.01, 10), st.floats(1e-4, 10))
def test_sigma_is_at_least_the_plain_one_and_less_than_a_level_more(
    score: float, k: float, gamma: float, cap: float
) -> None:
    plain = SigmaRule(1e-4, k, cap, "none").word(score)
    levelled = SigmaRule(1e-4, k, cap, "none", gamma=gamma).word(score)
    assert plain * (1 - 1e-7) <= levelled <= min(gamma * plain, cap) * (1 + 1e-12)


@pytest.mark.parametrize("gamma", [1.25, 2.0, 4.0])
def test_covered_is_symmetric(gamma: float) -> None:
    points = [p / 25 for p in range(-20, 21)]
    assert all(covered(y, x, 0.7, gamma) == covered(x, y, 0.7, gamma) for y in points for x in points)
