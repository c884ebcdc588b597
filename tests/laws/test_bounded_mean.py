"""Laws of T14: for every W, every law of g, every radius. And false ones, which are caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from certify import GaussianNoise, UniformNoise
from certify.bounds.mean_limits import Limits
from certify.bounds.weights import Piecewise, Polynomials
from certify.noise.uniform import variation

NOISES = (GaussianNoise(1.0), UniformNoise(1.0))
noises = st.sampled_from(NOISES)
radii = st.floats(0, 3) | st.sampled_from([0.0, 1e-9, 40.0])
copies = st.integers(1, 13)
coefficients = st.lists(st.floats(-5, 5) | st.sampled_from([0.0, 1.0]), min_size=2, max_size=6).map(np.array)


@st.composite
def laws(draw):
    """Levels of g and their probabilities."""
    size = draw(st.integers(1, 4))
    levels = np.array(draw(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), min_size=size, max_size=size)))
    weights = np.array(draw(st.lists(st.integers(1, 100), min_size=size, max_size=size)), dtype=float)
    return levels, weights / weights.sum()


def mean_of(w, law) -> float:
    levels, shares = law
    return float(
        sum(s * (binom.pmf(np.arange(len(w)), len(w) - 1, v) @ w) for v, s in zip(levels, shares, strict=True))
    )


def worst(noise, law, rho, replicas) -> float:
    """The most that E g can become: every {g > t} at once the worst event of its probability, as it can be."""
    order = np.argsort(law[0])
    levels, shares = law[0][order], law[1][order]
    tails = np.clip(1 - np.cumsum(shares)[:-1], 0, 1)
    if isinstance(noise, UniformNoise):
        after = np.minimum(1, tails + variation(rho, replicas) * (1 - 1e-11)) * (tails > 0)
    else:
        after = norm.cdf(norm.ppf(tails) + math.sqrt(replicas) * rho)
    return float(levels[0] + np.diff(levels) @ after)


def bound(w, law, noise, rho, replicas) -> float:
    return mean_of(w, law) + Polynomials(len(w) - 1).excess(w, noise, rho, replicas)


@given(coefficients, laws(), noises, radii, copies)
@example(np.array([0.0, 1.0]), (np.array([0.0, 1.0]), np.array([0.5, 0.5])), NOISES[0], 1.0, 1)
def test_no_w_gives_less_than_the_truth(w, law, noise, rho, replicas):
    assert bound(w, law, noise, rho, replicas) >= worst(noise, law, rho, replicas) - 1e-12


@given(coefficients, noises, radii, radii, copies)
def test_it_grows_with_the_radius_and_the_copies(w, noise, a, b, replicas):
    family = Polynomials(len(w) - 1)
    small, large = (family.excess(w, noise, rho, replicas) for rho in sorted((a, b)))
    assert small <= large + 1e-11
    assert large <= family.excess(w, noise, max(a, b), replicas + 1) + 1e-11


@given(st.floats(1e-6, 1 - 1e-6), noises, st.floats(0, 2), copies)
def test_with_a_linear_w_it_is_t5(p, noise, rho, replicas):
    """The least over λ, from both families."""
    t5 = 1 - noise.tails(p, rho, replicas).upper
    for family in (Polynomials(1), Polynomials(3), Piecewise([0.0, 0.3, 1.0])):
        found = Limits(family, family.linear[None], (p,), ("T14",)).bound(noise, rho, replicas)[0]
        assert found == pytest.approx(t5, abs=2e-6)
        assert found >= t5 - 1e-11


limits = st.lists(st.floats(0, 1), min_size=1, max_size=3)


@given(limits, st.integers(1, 4), st.integers(0, 1000), noises, st.floats(0, 1.5), copies)
@example([0.0], 1, 0, NOISES[0], 1e-308, 1)  # ln(s)/r is more than float64 has
def test_more_limits_and_smaller_ones_are_no_worse(m, j, seed, noise, rho, replicas):
    w = np.cumsum(np.random.default_rng(seed).exponential(size=(len(m), j + 1)), axis=1)

    def found(count, less=0.0):
        ends = [row[0] + v * (row[-1] - row[0]) - less for v, row in zip(m, w, strict=True)]  # as limits can be
        held = Limits(Polynomials(j), w[:count], tuple(ends[:count]), ("T14",) * count)
        return held.bound(noise, rho, replicas)[0]

    assert found(len(m)) <= found(1) + 1e-6
    assert found(len(m), less=0.1) <= found(len(m)) + 1e-6
    assert 0 <= found(len(m)) <= 1


@given(limits, st.integers(0, 1000), st.floats(0, 1.5), st.lists(st.floats(0, 10), min_size=3, max_size=3))
@example([0.0, 0.0], 60, 1.0, [0.0, 8.0, 0.0])  # little costs little: W may be as steep as one likes
def test_any_mixture_is_a_bound_and_none_below_the_best(m, seed, rho, a):
    w = np.cumsum(np.random.default_rng(seed).exponential(size=(len(m), 3)), axis=1)
    held = Limits(
        Polynomials(2),
        w,
        tuple(row[0] + v * (row[-1] - row[0]) for v, row in zip(m, w, strict=True)),
        ("T14",) * len(m),
    )
    assert held.value(np.array(a[: len(m)]), NOISES[0], rho, 1) >= held.bound(NOISES[0], rho, 1)[0] - 1e-4


# False laws: each is a mistake that could be made, and must be caught by the first law above.


def broken(false_bound, cases: int = 300) -> int:
    """How often a false bound is below the truth, over laws of g and increasing W."""
    rng, below = np.random.default_rng(0), 0
    for _ in range(cases):
        levels, shares = rng.random(3) * rng.choice([0.2, 1.0]), rng.dirichlet(np.ones(3))
        w = np.cumsum(rng.exponential(size=4)) - rng.random() * 2
        rho, replicas = rng.choice([0.1, 0.4]), int(rng.choice([1, 13]))
        found = false_bound(w, (levels, shares), rho, replicas)
        below += found < worst(NOISES[0], (levels, shares), rho, replicas) - 1e-9
    return below


def test_false_laws_are_caught():
    noise = NOISES[0]
    assert broken(lambda w, law, rho, k: bound(w, law, noise, rho, k)) == 0
    # ρ for √K ρ
    assert broken(lambda w, law, rho, k: bound(w, law, noise, rho, 1)) > 2
    # W(E g) for E W(g): as if the copies decided nothing
    assert broken(lambda w, law, rho, k: bound(w, (law[0] @ law[1] * np.ones(1), np.ones(1)), noise, rho, k)) > 2
    # W(0) taken off twice
    assert broken(lambda w, law, rho, k: bound(w, law, noise, rho, k) - w[0] * (w[0] > 0)) > 2
    # the mean of max(L − s, 0) at its mean: no convexity
    assert broken(lambda w, law, rho, k: bound(w, law, noise, 0.0, k)) > 2
    # slopes that are too steep: of degree² for degree
    assert (
        broken(lambda w, law, rho, k: mean_of(w, law) - w[0] + float(noise.hockey_stick(9 * np.diff(w), rho, k).mean()))
        > 2
    )


def test_an_input_drawn_anew_for_every_value_is_caught():
    """Sixteen inputs, each with an event of its own coordinate, all of which an attacker moves: Φ(r). The mean of these events
    at one noise is nearly constant; a draw of an input and its copies, which the values share, is not."""

    def quadratic(c):  # v + c (v − ½)²
        return np.array([c / 4, 0.5 - c / 4, 1 + c / 4])

    apart = np.arange(17) / 16, binom.pmf(np.arange(17), 16, 0.5)
    shared = np.array([0.0, 1.0]), np.array([0.5, 0.5])
    truth = norm.cdf(1.0)
    least = [min(bound(quadratic(c), law, NOISES[0], 1.0, 1) for c in (0, 1, 2, 4, 8)) for law in (apart, shared)]
    assert least[0] < truth - 0.15
    assert least[1] >= truth
