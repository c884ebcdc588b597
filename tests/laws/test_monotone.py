"""Laws of order: at the same draws a bound grows with ρ, with confidence and what is asked of it, and shrinks with evidence.

Every comparison is exact unless the law says otherwise: a bound that shrank by one ulp as ρ grew would be a wrong search for a
radius somewhere.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from certify import (
    GaussianNoise,
    certified_radius,
    decide_event,
    decide_mse,
    decide_statistic,
    mse_bound,
    percentile_bounds,
    plan,
)
from certify.bounds.copies import event_interval, statistic_limits
from certify.bounds.dimension_free import layer_cake, upper_limits
from certify.bounds.radius import largest_radius
from certify.bounds.rates import RateOver
from certify.bounds.spectral_mean import SpectrumEvidence
from certify.confidence import (
    anytime_limit,
    bernstein_slack,
    chernoff_limit,
    clopper_pearson,
    extreme_rank,
    smallest_draws,
)
from tests.laws.built import CHOOSING, ONE, T2, aims, part, prepared
from tests.strategies import copies, draws, levels, percentiles, problems, radii, seeds, tolerances

UNIT = GaussianNoise(1.0)
tails = st.floats(1e-4, 0.6)
confident = levels.filter(lambda alpha: alpha <= 0.5)
"""Above a half a limit may pass the estimate."""


@st.composite
def counts(draw):
    """(successes, n)."""
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


# In ρ


@given(problems(), percentiles, radii, radii, levels, draws, seeds)
@example(ONE, 0.5, 1.0, 1.0 + 1e-9, 0.01, 300, 0)  # the same rank, or one rank apart
def test_boxes_and_distances_grow_with_the_radius(problem, p, a, b, alpha, n, seed):
    low, high = sorted((a, b))
    options = {"n": n, "alpha": alpha, "seed": seed}
    inner, outer = (percentile_bounds(*problem, p=p, rho=rho, pilot=8, **options) for rho in (low, high))
    assert bool((outer.lower <= inner.lower).all())
    assert bool((inner.upper <= outer.upper).all())
    for reference in ("center", "population"):
        values = [mse_bound(*problem, rho=rho, reference=reference, **T2, **options).value for rho in (low, high)]
        assert values[0] <= values[1]


@pytest.mark.parametrize("name", CHOOSING)
@part
@given(problems(), st.lists(st.just(0.0) | radii, min_size=2, max_size=5), levels, draws, seeds, aims)
def test_an_answer_never_shrinks_as_the_radius_grows(name, problem, rhos, alpha, n, seed, aim):
    """At fixed draws, whatever the radius aimed at: the search for a radius rests on it (THEORY T3)."""
    kind, more = CHOOSING[name]
    method, seen = prepared(problem, kind, n=n, alpha=alpha, seed=seed, aim=aim, **more)
    values = [method.at(rho, seen).value for rho in sorted(rhos)]
    assert values == sorted(values)


@given(counts(), radii, radii, copies, confident, st.booleans())
def test_probabilities_and_rates_spread_with_the_radius(counted, a, b, k, alpha, two_sided):
    (successes, n), (low, high) = counted, sorted((a, b))
    found = [
        event_interval(successes, n, UNIT, rho=rho, replicas=k, alpha=alpha, two_sided=two_sided)
        for rho in (0.0, low, high)
    ]
    assert [upper for _, upper in found] == sorted(upper for _, upper in found)
    assert [lower for lower, _ in found] == sorted((lower for lower, _ in found), reverse=True)
    assert all(0 <= lower <= successes / n <= upper <= 1 for lower, upper in found)
    rate = RateOver(3, 0, successes, n, k, alpha, two_sided, (low, high), 0)
    assert [(rate.least(rho), rate.at(rho)) for rho in (0.0, low, high)] == found


@given(counts(), copies, levels, st.floats(1e-6, 1 - 1e-6))
def test_the_radius_of_a_rate_is_where_its_bound_leaves_it(counted, k, alpha, wanted):
    successes, n = counted
    rate = RateOver(3, 0, successes, n, k, alpha, False, (1.0,), 0)
    rho = rate.radius(wanted)
    if rho == 0:
        assert rate.at(1e-9) > wanted * (1 - 1e-6)
        return
    assert rate.at(rho) <= wanted
    assert rate.at(rho * (1 + 1e-9) + 1e-9) >= wanted * (1 - 1e-6)
    assert rate.radius(wanted / 2) <= rho


# In α


@given(problems(), radii, levels, levels, draws, seeds)
def test_boxes_and_distances_shrink_as_alpha_grows(problem, rho, a, b, n, seed):
    sure, unsure = sorted((a, b))
    options = {"n": n, "seed": seed}
    wide, narrow = (percentile_bounds(*problem, rho=rho, alpha=alpha, pilot=8, **options) for alpha in (sure, unsure))
    assert bool((wide.lower <= narrow.lower).all())
    assert bool((narrow.upper <= wide.upper).all())
    for reference in ("center", "population"):
        bounds = [
            mse_bound(*problem, rho=rho, alpha=x, reference=reference, **T2, **options).value for x in (sure, unsure)
        ]
        assert bounds[1] <= bounds[0]
    radius = [certified_radius(*problem, alpha=alpha, tolerance=1.0, **T2, **options).rho for alpha in (sure, unsure)]
    assert radius[0] <= radius[1]


CHOICES_WITHOUT_ALPHA = [name for name in CHOOSING if name.startswith(("T2", "T5", "T6 order", "T6 support"))]


@pytest.mark.parametrize("name", CHOICES_WITHOUT_ALPHA)
@part
@given(problems(), radii, levels, levels, draws, seeds)
def test_an_answer_shrinks_as_alpha_grows(name, problem, rho, a, b, n, seed):
    """For the methods whose choices do not depend on α; the parts of the others follow."""
    kind, more = CHOOSING[name]
    values = []
    for alpha in sorted((a, b)):
        method, seen = prepared(problem, kind, n=n, alpha=alpha, seed=seed, aim=0.5, **more)
        values.append(method.at(rho, seen).value)
    assert values[1] <= values[0]


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=200),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6, unique=True),
    radii,
    levels,
    levels,
)
def test_the_layers_of_t4_shrink_as_alpha_grows(distances, qs, rho, a, b):
    """At the same levels q."""
    n, levels_ = len(distances), torch.tensor(sorted(qs), dtype=torch.float64)
    ordered = torch.tensor(distances, dtype=torch.float64).sort().values[:, None]
    reach = torch.full((1,), math.inf, dtype=torch.float64)
    values = []
    for alpha in sorted((a, b)):
        ranks = [extreme_rank(n, UNIT.tails(q, rho).upper if q < 1 else 0.0, alpha) for q in levels_.tolist()]
        values.append(layer_cake(levels_, upper_limits(ordered, levels_, ranks, reach)))
    assert values[1] <= values[0]


@given(st.floats(0, 1), st.integers(1, 10_000), st.integers(1, 10_000), levels, levels, st.floats(0.1, 10))
@example(0.35395443828918166, 1, 1, 1e-9, 1e-9, 1.0)  # 1 + (mean − v)/(1 − mean) rounds to 0 on the way
def test_moments_are_limited_more_closely_by_more_draws_or_less_confidence(mean, a, b, x, y, radius):
    """The limits behind T11 and T12, at the same observed mean."""
    (few, many), (sure, unsure) = sorted((a, b)), sorted((x, y))
    for n, alpha in ((many, sure), (few, unsure)):
        assert mean <= chernoff_limit(mean, n, alpha) <= chernoff_limit(mean, few, sure) * (1 + 1e-9)
        assert bernstein_slack(mean, radius, n, alpha) <= bernstein_slack(mean, radius, few, sure)


spectra = st.fixed_dictionaries(
    {
        "second": st.floats(1e-6, 20.0),
        "outside": st.floats(0.0, 0.2),
        "center_offset": st.none() | st.floats(0.0, 2.0),
    }
)


@given(spectra, st.floats(1, 3), st.floats(1, 3), st.floats(1, 3), st.floats(0, 3))
@example(
    {"second": 7.0, "outside": 0.0, "center_offset": 0.125}, 1.0, 1.0, 2.0, 1.0
)  # past the distance of the origin, 0.141
def test_t11_grows_with_each_limit_it_rests_on(numbers, a, b, c, rho):
    """λ, p̄ and m: a larger one is never a smaller bound (up to the search for the best θ)."""
    zero = torch.zeros(2, dtype=torch.float64)

    def value(second, outside, center_offset):
        held = SpectrumEvidence(zero, zero + 0.1, second, 4.0, min(outside, 1.0), 5.0, 5.0, center_offset, 6.0)
        return held.implied(UNIT, rho)

    center_offset = numbers["center_offset"]
    plain = value(numbers["second"], numbers["outside"], center_offset)
    assert plain <= value(numbers["second"] * a, numbers["outside"], center_offset) * (1 + 1e-6)
    assert plain <= value(numbers["second"], numbers["outside"] * b, center_offset) * (1 + 1e-6)
    if center_offset is not None:
        assert plain <= value(numbers["second"], numbers["outside"], center_offset * c) * (1 + 1e-6)


# In the tolerance, the percentile and the number of copies


@given(problems(), tolerances, st.floats(1.0, 20), levels, draws, seeds)
def test_the_radius_grows_with_the_tolerance(problem, tolerance, factor, alpha, n, seed):
    options = {"alpha": alpha, "n": n, "seed": seed, **T2}
    small, large = (certified_radius(*problem, tolerance=c, **options).rho for c in (tolerance, tolerance * factor))
    assert small <= large * (1 + 2e-6)  # the search stops within 1e-6


@given(problems(), percentiles, percentiles, radii, levels, draws, seeds)
def test_the_box_moves_up_with_the_percentile(problem, p, q, rho, alpha, n, seed):
    options = {"rho": rho, "alpha": alpha, "n": n, "seed": seed, "pilot": 8}
    low, high = (percentile_bounds(*problem, p=level, **options) for level in sorted((p, q)))
    assert bool((low.lower <= high.lower).all())
    assert bool((low.upper <= high.upper).all())


@given(
    draws,
    percentiles,
    percentiles,
    radii,
    radii,
    st.lists(copies, min_size=2, max_size=2),
    levels,
    levels,
    st.booleans(),
)
def test_a_statistic_is_limited_less_closely_the_more_is_asked(n, p, q, a, b, ks, x, y, both):
    """A larger probability, radius, number of copies or confidence: a limit further out, one at a time and all together."""
    (q_low, q_high), (near, far), (few, many), (sure, unsure) = (sorted(pair) for pair in ((p, q), (a, b), ks, (x, y)))
    least = {"q": q_low, "rho": near, "replicas": few, "alpha": unsure}
    most = {"q": q_high, "rho": far, "replicas": many, "alpha": sure}
    for more in (*({**least, key: value} for key, value in most.items()), most):
        for side in ("two-sided",) if both else ("upper", "lower"):
            inner, outer = (statistic_limits(n, UNIT, side=side, **asked) for asked in (least, more))
            for one, other in zip(inner, outer, strict=True):
                assert (one is None) == (other is None)
                # A smaller rank is a draw further out; 0 is none at all.
                assert one is None or other.rank <= one.rank


# In the evidence


@given(st.integers(1, 4000), st.integers(0, 500), tails, tails, levels, levels)
@example(1, 1, 0.5, 0.5, 0.5, 0.5)
def test_ranks_grow_with_draws_tail_and_alpha(n, more, a, b, x, y):
    """Once a rank qualifies it does for every larger n; and smallest_draws is where that begins."""
    (thin, thick), (sure, unsure) = sorted((a, b)), sorted((x, y))
    rank = extreme_rank(n, thin, sure)
    assert rank <= extreme_rank(n + more, thin, sure)
    assert rank <= extreme_rank(n, thick, sure)
    assert rank <= extreme_rank(n, thin, unsure)
    assert (rank > 0) == (n >= smallest_draws(thin, sure))


@pytest.mark.parametrize("limit", [clopper_pearson, anytime_limit])
@given(counted=counts(), other=counts(), a=confident, b=confident, more=st.integers(1, 5))
def test_limits_of_a_probability(limit, counted, other, a, b, more):
    """They grow with the successes, close in as α grows, and fall where one draw more does not show the event."""
    (successes, n), (sure, unsure) = counted, sorted((a, b))
    upper, lower = limit(successes, n, sure), limit(successes, n, sure, "lower")
    assert lower <= successes / n <= upper
    again = min(other[0], n)
    if again >= successes:
        assert upper <= limit(again, n, sure)
        assert lower <= limit(again, n, sure, "lower")
    assert limit(successes, n, unsure) <= upper * (1 + 1e-12)
    assert lower <= limit(successes, n, unsure, "lower") * (1 + 1e-12)
    assert limit(successes, n + more, sure) <= upper * (1 + 1e-12)
    assert lower * (1 + 1e-12) >= limit(successes, n + more, sure, "lower")
    if limit is clopper_pearson:  # the two sides mirror each other
        assert limit(n - successes, n, sure) == pytest.approx(1 - lower, rel=1e-8, abs=1e-9)


@given(counts(), levels)
def test_a_limit_for_all_times_is_no_closer_than_one_for_a_single_time(counted, alpha):
    """Clopper and Pearson's is the least upper limit that grows with the successes."""
    successes, n = counted
    assert anytime_limit(successes, n, alpha) >= clopper_pearson(successes, n, alpha) * (1 - 1e-9)
    assert anytime_limit(successes, n, alpha, "lower") <= clopper_pearson(successes, n, alpha, "lower") * (1 + 1e-9)


@given(counts(), st.integers(0, 5000), radii, copies, levels)
def test_an_event_seen_more_often_is_bounded_less_closely(counted, more, rho, k, alpha):
    successes, n = counted
    asked = {"rho": rho, "replicas": k, "alpha": alpha, "two_sided": True}
    low, high = event_interval(successes, n, UNIT, **asked)
    less, greater = event_interval(min(n, successes + more), n, UNIT, **asked)
    assert low <= less
    assert high <= greater


# Plans


@given(st.floats(0.01, 4), st.floats(1, 1.5), levels, st.integers(1, 5000), st.integers(1, 20), copies)
def test_a_plan_grows_with_what_is_asked(rho, further, alpha, outputs, more, k):
    assume(further * rho * math.sqrt(k + 1) < 6)
    asked = {"rho": rho, "alpha": alpha, "outputs": outputs, "replicas": k}
    n = plan(**asked).n
    larger = {"rho": further * rho, "alpha": alpha / more, "outputs": outputs + more, "replicas": k + 1, "p": 0.8}
    for name, value in larger.items():
        assert n <= plan(**{**asked, name: value}).n
    assert n <= plan(**asked, population=True).n
    assert plan(n=n, **{key: value for key, value in asked.items() if key != "rho"}).rho >= rho * (1 - 1e-9)


@given(st.floats(0.01, 4), levels, st.integers(1, 10_000), st.integers(1, 20), st.booleans(), percentiles)
def test_a_planned_number_of_draws_is_just_enough(rho, alpha, outputs, replicas, population, p):
    assume(min(UNIT.tails(p, rho, replicas)) > 1e-9)
    n = plan(rho=rho, alpha=alpha, outputs=outputs, replicas=replicas, population=population, p=p).n
    share = alpha / ((4 if population else 2) * outputs)
    least = min(UNIT.tails(p, rho, replicas))
    assert extreme_rank(n, least, share) >= 1
    assert n == 1 or extreme_rank(n - 1, least, share) == 0


@given(st.floats(0.01, 2), levels, copies, st.floats(1e-3, 0.9))
def test_a_planned_event_is_certified_if_it_is_never_seen(rho, alpha, k, target):
    """With one draw in a thousand to spare for the safe roundings; and with one fewer than planned it is not."""
    assume(math.sqrt(k) * rho < 4)
    n = plan(rho=rho, alpha=alpha, replicas=k, target=target).n
    asked = {"rho": rho, "replicas": k, "alpha": alpha, "two_sided": False}
    assert event_interval(0, n + n // 1000 + 1, UNIT, **asked)[1] <= target
    assert n == 1 or event_interval(0, n - 1, UNIT, **asked)[1] > target
    assert plan(n=n, alpha=alpha, replicas=k, target=target).rho >= rho * (1 - 1e-9)


# Decisions

ORDER = {"no": 0, "undecided": 1, "yes": 2}


def ordered(weak, strong):
    """The decision of a weaker claim, and that of a stronger one about the same draws."""
    assert ORDER[weak.decided] >= ORDER[strong.decided]
    if strong.decided == "yes":
        assert weak.n <= strong.n
    if weak.decided == "no":
        assert strong.n <= weak.n


@given(
    problems(outputs=()),
    percentiles,
    percentiles,
    st.lists(radii, min_size=2, max_size=2),
    copies,
    levels,
    draws,
    seeds,
)
def test_a_weaker_claim_is_decided_yes_no_later(problem, a, b, rhos, k, alpha, n, seed):
    (f, y, noise), options = problem, {"replicas": k, "alpha": alpha, "n": n, "seed": seed}

    def event(z):
        return f(z.flatten(0, 1)).unflatten(0, z.shape[:2]).mean(dim=1) > 0.8

    def statistic(z):
        return f(z.flatten(0, 1)).unflatten(0, z.shape[:2]).mean(dim=1)

    (less, more), (near, far) = sorted((a, b)), sorted(rhos)
    for kind, weak in (("target", {"target": more, "rho": near}), ("rho", {"target": less, "rho": near})):
        strong = {"target": less, "rho": near if kind == "target" else far}
        ordered(*(decide_event(event, y, noise, **asked, **options) for asked in (weak, strong)))
    ordered(
        *(
            decide_statistic(statistic, y, noise, threshold=t, q=0.7, rho=near, **options)
            for t in (max(a, b) * 4, min(a, b) * 4)
        )
    )


@pytest.mark.parametrize("more", [{"method": "coordinatewise"}, {"method": "dimension-free", "level": 0.8}])
@given(
    problem=problems(),
    tolerance=tolerances,
    factor=st.floats(1, 20),
    rhos=st.lists(radii, min_size=2, max_size=2),
    alpha=levels,
    n=draws,
    seed=seeds,
)
def test_a_larger_distance_is_decided_yes_no_later(more, problem, tolerance, factor, rhos, alpha, n, seed):
    options = {"alpha": alpha, "n": n, "seed": seed, "pilot": 8, **more}
    strong, weak = (decide_mse(*problem, tolerance=c, rho=rhos[0], **options) for c in (tolerance, factor * tolerance))
    ordered(weak, strong)


# Where a bound leaves a tolerance


@given(
    problems(), levels, draws, seeds, st.sampled_from([1e-3, 0.1, 1.0, 10.0]), st.sampled_from(["center", "population"])
)
def test_the_radius_is_where_the_bound_leaves_the_tolerance(problem, alpha, n, seed, tolerance, reference):
    options = {"n": n, "alpha": alpha, "seed": seed, "reference": reference, **T2}
    r = certified_radius(*problem, tolerance=tolerance, **options)
    if r.rho == math.inf:  # nothing moves at all
        assert mse_bound(*problem, rho=64.0, **options).value <= tolerance
    elif r.rho > 0:
        assert mse_bound(*problem, rho=r.rho, **options).value == r.value <= tolerance
        assert mse_bound(*problem, rho=r.rho * (1 + 3e-6), **options).value > tolerance
    else:
        assert r.status == "abstained"
        assert mse_bound(*problem, rho=1e-6, **options).value > tolerance


@pytest.mark.parametrize("name", ["T4 center", "T4 population", "T12 center", "T11 center", "T6 dimension-free"])
@part
@given(problems(), levels, draws, seeds, st.sampled_from([1e-3, 0.1, 10.0]), aims)
def test_the_radius_of_a_method_that_chooses_is_where_its_bound_leaves_it(
    name, problem, alpha, n, seed, tolerance, aim
):
    kind, more = CHOOSING[name]
    method, seen = prepared(problem, kind, n=n, alpha=alpha, seed=seed, aim=aim, **more)
    rho, found = largest_radius(lambda r: method.at(r, seen), tolerance)
    if rho > 0:
        assert found.value <= tolerance
        assert math.isinf(rho) or method.at(rho, seen).value == found.value
        assert math.isinf(rho) or method.at(rho * (1 + 3e-6), seen).value > tolerance
    else:
        assert method.at(1e-6, seen).value > tolerance
