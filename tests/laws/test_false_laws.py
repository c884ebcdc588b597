"""False laws: sentences that sound right and are not, each of which the strategies of the other files must catch.

A suite that passes says nothing where it could not have failed. Every function here states a law that somebody might believe;
the test is that hypothesis finds a counter-example to it. Some were believed: the printed bound, with squares of squares, and
ranks counted from zero.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from certify import (
    Ellipsoid,
    GaussianNoise,
    UniformNoise,
    bound_curve,
    certified_radius,
    classify,
    deployed_bound,
    event_bound,
    mse_bound,
    percentile_bounds,
    statistic_bound,
)
from certify.bounds.classification import class_radius, other_limit
from certify.bounds.copies import event_interval
from certify.bounds.witnesses import Aimed
from certify.confidence import extreme_rank
from certify.montecarlo import Groups
from certify.montecarlo.sketch import Spectrum
from tests.laws.built import T2
from tests.strategies import copies, deltas, draws, noises, partitions, percentiles, problems, radii, rows, seeds

UNIT = GaussianNoise(1.0)
ENOUGH = st.integers(300, 700)
"""Draws that say something at moderate radii."""
MIDDLE = st.floats(0.05, 1.0)

LAWS = {}
"""Every false law by its name."""


def false(*strategies, **named):
    """A law that must be found wrong: one counter-example is enough, and always the same."""

    def register(law):
        asked = settings(
            phases=(Phase.explicit, Phase.generate),
            max_examples=400,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        LAWS[law.__name__] = asked(given(*strategies, **named)(law))
        return law

    return register


# In ρ and α


@false(problems(), MIDDLE, draws, seeds)
def a_bound_shrinks_with_the_radius(problem, rho, n, seed):
    options = {"n": n, "alpha": 0.05, "seed": seed, **T2}
    assert mse_bound(*problem, rho=2 * rho, **options).value <= mse_bound(*problem, rho=rho, **options).value


@false(problems(), MIDDLE, seeds)
def a_bound_is_proportional_to_the_square_of_the_radius(problem, rho, seed):
    """True of the population's bound for a linear map; draws, and every other function, add to it."""
    options = {"n": 500, "alpha": 0.05, "seed": seed, **T2}
    one, two = (mse_bound(*problem, rho=r, **options).value for r in (rho, 2 * rho))
    assert two == pytest.approx(4 * one, rel=1e-3)


@false(problems(("linear",), ("isotropic",)), MIDDLE, seeds)
def a_bound_vanishes_with_the_radius(problem, rho, seed):
    options = {"n": 500, "alpha": 0.05, "seed": seed, **T2}
    assert mse_bound(*problem, rho=1e-9, **options).value <= 1e-6 * mse_bound(*problem, rho=rho, **options).value


@false(problems(), MIDDLE, ENOUGH, seeds)
def half_the_confidence_is_half_the_bound(problem, rho, n, seed):
    one, two = (mse_bound(*problem, rho=rho, n=n, alpha=alpha, seed=seed, **T2).value for alpha in (0.1, 0.05))
    assert two >= 2 * one


@false(problems(), MIDDLE, draws, seeds)
def more_draws_are_never_a_larger_bound(problem, rho, n, seed):
    """At a given confidence they are so on average. A single further draw may be the one that moves an order statistic."""
    one, two = (mse_bound(*problem, rho=rho, n=k, alpha=0.05, seed=seed, **T2).value for k in (n, n + 1))
    assert two <= one


@false(problems(), MIDDLE, st.floats(1.01, 3), ENOUGH, seeds)
def a_certified_radius_grows_in_proportion_to_the_tolerance(problem, tolerance, factor, n, seed):
    options = {"n": n, "alpha": 0.05, "seed": seed, **T2}
    one, two = (certified_radius(*problem, tolerance=c, **options).rho for c in (tolerance, factor * tolerance))
    assert two == pytest.approx(factor * one, rel=1e-3)


@false(problems(), st.floats(0.1, 0.7), ENOUGH, seeds)
def a_curve_as_a_whole_costs_nothing(problem, rho, n, seed):
    """Pointwise bounds, read as a simultaneous statement."""
    options = {"rhos": [rho, 1.5 * rho, 2 * rho], "n": n, "alpha": 0.05, "seed": seed, **T2}
    assert (
        bound_curve(*problem, simultaneous=True, **options).values
        == bound_curve(*problem, simultaneous=False, **options).values
    )


# Between methods


@false(problems(), radii, ENOUGH, seeds)
def t4_is_at_most_t2(problem, rho, n, seed):
    options = {"rho": rho, "n": n, "alpha": 0.05, "seed": seed, "pilot": 40}
    values = [mse_bound(*problem, method=method, **options).value for method in ("coordinatewise", "dimension-free")]
    assert values[1] <= values[0]


@false(st.floats(1.5, 2.5), seeds)
def t2_is_at_most_t4(rho, seed):
    """Not for an output of high effective rank at ρ about 2."""
    y, options = (
        torch.zeros(200, dtype=torch.float64),
        {"rho": rho, "n": 2000, "alpha": 0.05, "seed": seed, "pilot": 40},
    )
    values = [
        mse_bound(lambda z: z, y, 1.0, method=method, **options).value
        for method in ("coordinatewise", "dimension-free")
    ]
    assert values[0] <= values[1]


@false(st.integers(5, 60), st.floats(0.8, 2.2), ENOUGH, seeds)
def best_is_the_least_of_all_methods(outputs, rho, n, seed):
    """It is the one of which least was expected, before the draws: a minimum after them would cost confidence."""
    y, options = (
        torch.zeros(outputs, dtype=torch.float64),
        {"rho": rho, "n": n, "alpha": 0.05, "seed": seed, "pilot": 20},
    )
    best, *others = (
        mse_bound(lambda z: z, y, 1.0, method=m, **options).value for m in ("best", "coordinatewise", "dimension-free")
    )
    assert best <= min(others)


@false(st.floats(0.05, 2.0), MIDDLE, ENOUGH, seeds)
def the_printed_bound_holds(sigma, rho, n, seed):
    """Σ ζ² in place of Σ ζ, as the paper prints it: f(y) = y moves by σρ, and (σρ)⁴ is less than (σρ)² below 1."""
    bound = mse_bound(
        lambda z: z, torch.zeros(1, dtype=torch.float64), sigma, rho=rho, n=n, alpha=0.05, seed=seed, **T2
    )
    zeta = torch.maximum((bound.upper - bound.center).square(), (bound.center - bound.lower).square())
    assert float(zeta.square().sum()) >= (sigma * rho) ** 2


@false(problems(), MIDDLE, ENOUGH, seeds, st.floats(-1, 1))
def the_reference_does_not_matter(problem, rho, n, seed, shift):
    center = problem.f(problem.y[None])[0]
    options = {"rho": rho, "n": n, "alpha": 0.05, "seed": seed, "method": "coordinatewise"}
    one, two = (mse_bound(*problem, center=c, **options).value for c in (center, center + shift))
    assert two == pytest.approx(one, rel=1e-6)


@false(problems(), MIDDLE, ENOUGH, seeds)
def the_population_is_as_good_as_a_given_reference(problem, rho, n, seed):
    """It is bracketed from the same draws, which costs width and confidence."""
    options = {"rho": rho, "n": n, "alpha": 0.05, "seed": seed, **T2}
    one, two = (mse_bound(*problem, reference=kind, **options).value for kind in ("center", "population"))
    assert two <= one


# Copies, events, statistics


@false(problems(outputs=()), percentiles, MIDDLE, ENOUGH, seeds)
def copies_cost_nothing(problem, q, rho, n, seed):
    """√K ρ: a limit of the first copy alone, seen by a statistic of four."""
    (f, y, noise), options = problem, {"q": q, "n": n, "alpha": 0.05, "seed": seed}
    one, four = (statistic_bound(lambda z: f(z[:, 0]), y, noise, rho=rho, replicas=k, **options).status for k in (1, 4))
    assert one == four


@false(draws, st.data(), copies, MIDDLE)
def the_bound_of_an_event_is_linear_in_the_radius(n, data, k, rho):
    successes = data.draw(st.integers(0, n))
    low, middle, high = (
        event_interval(successes, n, UNIT, rho=r, replicas=k, alpha=0.05, two_sided=False)[1] for r in (0, rho, 2 * rho)
    )
    assert middle == pytest.approx((low + high) / 2, rel=1e-3)


@false(problems(outputs=()), MIDDLE, st.integers(1, 300), seeds)
def an_event_that_was_never_seen_does_not_happen(problem, rho, n, seed):
    f, y, noise = problem
    found = event_bound(lambda z: f(z[:, 0]) > 3, y, noise, rho=rho, n=n, alpha=0.05, seed=seed, replicas=1)
    assert found.successes > 0 or found.value < 1e-3


@false(problems(), MIDDLE, ENOUGH, seeds)
def a_deployed_median_is_within_the_bound_of_the_ideal_one(problem, rho, n, seed):
    """K draws have a spread of their own."""
    options = {"rho": rho, "n": n, "alpha": 0.05, "seed": seed, "pilot": 20}
    ideal = mse_bound(*problem, method="coordinatewise", **options).value
    assert deployed_bound(*problem, replicas=1, **options).value ** 2 <= ideal


# Draws and ranks


@false(st.integers(1, 3000), st.floats(1e-4, 0.6), st.floats(1e-4, 0.4))
def ranks_may_be_counted_from_zero(n, tail, alpha):
    """One rank further in, as published code has it: its failure probability is not α."""
    from scipy.stats import binom

    rank = extreme_rank(n, tail, alpha)
    assume(rank > 0)
    assert binom.cdf(rank, n, tail) <= alpha


@false(problems(), percentiles, MIDDLE, ENOUGH, seeds)
def a_box_is_the_percentiles_at_the_input_itself(problem, p, rho, n, seed):
    one, two = (percentile_bounds(*problem, p=p, rho=r, n=n, alpha=0.05, seed=seed, pilot=8) for r in (1e-9, rho))
    assert torch.equal(one.upper, two.upper)


@false(problems(), MIDDLE, ENOUGH, seeds)
def a_decreasing_map_keeps_the_ends(problem, rho, n, seed):
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": 0.05, "seed": seed, "pilot": 8}
    plain, mirrored = (percentile_bounds(g, y, noise, **options) for g in (f, lambda z: -f(z)))
    assert torch.equal(mirrored.lower, -plain.lower)


# Classes


def radius_of(others, n, alpha=0.05, noise=UNIT):
    return class_radius(other_limit(others, n, alpha, early=False), noise) or 0.0


@false(st.integers(10, 5000), st.data())
def a_class_has_the_radius_of_its_share_among_the_draws(n, data):
    """The estimate in place of its lower limit."""
    from scipy.stats import norm

    others = data.draw(st.integers(1, n // 2))
    assert radius_of(others, n) >= norm.ppf(1 - others / n)


@false(st.integers(100, 5000), st.data())
def the_runner_up_is_what_the_radius_is_about(n, data):
    """Half the distance to the second class alone, by estimates: published as an improvement, it needs a limit of its own."""
    from scipy.stats import norm

    others = data.draw(st.integers(2, n // 2))
    second = data.draw(st.integers(1, others))
    assert radius_of(others, n) >= (norm.ppf(1 - others / n) - norm.ppf(second / n)) / 2


@false(st.integers(10, 2000), st.data())
def another_draw_of_the_class_is_as_good_as_one_less_of_the_others(n, data):
    others = data.draw(st.integers(1, n // 2))
    assert radius_of(others, n + 1) >= radius_of(others - 1, n)


@false(st.integers(50, 2000), st.data())
def every_noise_of_unit_scale_certifies_the_same_radius(n, data):
    others = data.draw(st.integers(0, n // 3))
    assert radius_of(others, n, noise=UniformNoise(0.5)) == pytest.approx(radius_of(others, n), rel=0.01)


@false(problems(outputs=(2,)), ENOUGH, seeds)
def a_class_is_that_of_the_input_without_noise(problem, n, seed):
    f, y, noise = problem
    d = classify(f, y, noise, n=n, seed=seed, alpha=0.05)
    assert d.label is None or d.label == int(f(y[None]).argmax())


# Merging


@false(rows(60, (2,)), st.integers(2, 5), st.data())
def groups_may_be_cut_anywhere(x, k, data):
    """A group lies within one part of a run: what is left over of a part stays out."""
    center = torch.zeros(2, dtype=torch.float64)
    whole, merged = Groups(center, k, "median"), Groups(center, k, "median")
    whole.update(x)
    for piece in data.draw(partitions(len(x))):
        shard = Groups(center, k, "median")
        shard.update(x[piece])
        merged.merge(shard)
    assert torch.equal(merged.values(), whole.values())


@false(rows(100, (6,)), st.data())
def sketches_merge_to_the_same_digits(x, data):
    """To the same limits, up to their own error, in any order; not to the same numbers."""
    center = torch.zeros(6, dtype=torch.float64)
    whole, merged = Spectrum(center, 9.0, rows=1), Spectrum(center, 9.0, rows=1)
    whole.update(x)
    for piece in data.draw(partitions(len(x))):
        shard = Spectrum(center, 9.0, rows=1)
        shard.update(x[piece])
        merged.merge(shard)
    assert merged.largest == pytest.approx(whole.largest, rel=1e-6)


@false(st.integers(0, 10_000), st.integers(1, 299))
def directions_do_not_depend_on_where_a_run_is_cut(seed, cut):
    """A direction is chosen by earlier draws of the same part: parts choose their own, and test fewer draws."""
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parts = [Aimed(torch.zeros(3, dtype=torch.float64), 9.0) for _ in range(3)]
    for part, piece in zip(parts, (x, x[:cut], x[cut:]), strict=True):
        part.update(piece)
    parts[1].merge(parts[2])
    assert parts[1].tested == parts[0].tested


# The certified set


@false(st.sampled_from([(2,), (3,), (2, 2)]), st.data(), MIDDLE)
def an_ellipsoid_is_the_ball_of_its_proxy_radius(shape, data, rho):
    noise = data.draw(noises(shape, ["per coordinate"]))
    ellipsoid, delta = Ellipsoid(noise.sigma_for(shape), rho), data.draw(deltas(noise, shape))
    assert ellipsoid.contains(delta) == (float(delta.norm()) <= ellipsoid.proxy_radius)


@false(st.sampled_from([(2,), (3,), (2, 2)]), st.data(), MIDDLE)
def a_perturbation_beyond_the_noise_is_covered(shape, data, rho):
    """Where σ = 0 nothing is, however small."""
    noise = data.draw(noises(shape, ["some zero"]))
    ellipsoid = Ellipsoid(noise.sigma_for(shape), rho)
    assert ellipsoid.contains(torch.full(shape, 1e-12 * math.sqrt(rho), dtype=torch.float64))


@pytest.mark.parametrize("name", LAWS)
def test_a_false_law_is_caught(name):
    with pytest.raises(AssertionError):
        LAWS[name]()
