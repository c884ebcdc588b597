"""Laws of agreement: different ways to ask about the same draws give the same answer.

One box behind all bounds; a curve is its points; several questions at once are each of them alone; a statistic of one copy is a
percentile; an event is the statistic that is 0 or 1; a decision is the bound where drawing ended; "best" is one of the methods.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.special import ndtri

from certify import (
    GaussianNoise,
    bound_curve,
    certified_radius,
    decide_event,
    decide_mse,
    decide_statistic,
    deployed_bound,
    deployed_distance,
    event_bound,
    event_rate_over,
    mse_bound,
    percentile_bounds,
    plan,
    statistic_bound,
)
from certify.bounds.copies import event_interval
from certify.bounds.percentile import box_distance, draws_needed
from certify.confidence import clopper_pearson, looks, stopped_event
from certify.montecarlo import Groups
from certify.statements.ask import MSE, Curve, Deployed, Percentile, Radius, ask
from tests.laws.built import CHOOSING, T2, aims, part, prepared
from tests.strategies import (
    MODERATE,
    TAME,
    copies,
    draws,
    levels,
    percentiles,
    problems,
    radii,
    rows,
    seeds,
    tolerances,
)

references = st.sampled_from(["center", "population"])
methods = st.sampled_from(["coordinatewise", "dimension-free"])


def copied(f):
    """The largest output over the copies, as a statistic."""
    return lambda z: f(z.flatten(0, 1)).reshape(*z.shape[:2], -1).amax(dim=(1, 2))


# One box


@given(problems(), radii, levels, draws, seeds)
def test_one_box_behind_all_bounds(problem, rho, alpha, n, seed):
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 8}
    box, bound = percentile_bounds(*problem, **options), mse_bound(*problem, method="coordinatewise", **options)
    # An abstention may have half a box, which no distance follows from.
    assert torch.equal(box.lower, bound.lower)
    assert torch.equal(box.upper, bound.upper)
    assert bound.value == box_distance(box.lower, box.upper, bound.center, bound.center)
    assert (box.status, bound.status) in (("certified", "certified"), ("abstained", "abstained"))


@given(problems(outputs=()), percentiles, radii, levels, draws, seeds)
def test_a_statistic_of_one_copy_is_a_percentile(problem, p, rho, alpha, n, seed):
    """T5 with K = 1 is T1 for a single output, an end each with half of α; two-sided, both ends at once."""
    f, y, noise = problem
    box = percentile_bounds(f, y, noise, p=p, rho=rho, alpha=alpha, n=n, seed=seed, pilot=8)
    options = {"rho": rho, "n": n, "seed": seed, "replicas": 1}

    def alone(z):
        return f(z[:, 0])

    upper = statistic_bound(alone, y, noise, q=p, alpha=alpha / 2, **options)
    assert upper.value == float(box.upper)
    if p in (0.25, 0.5, 0.75):  # 1 − p is exact
        lower = statistic_bound(alone, y, noise, q=1 - p, side="lower", alpha=alpha / 2, **options)
        assert lower.value == float(box.lower)


@given(problems(outputs=()), st.sampled_from([0.25, 0.5, 0.75]), radii, levels, draws, seeds, copies)
def test_two_sides_are_each_of_them_with_half(problem, q, rho, alpha, n, seed, k):
    f, y, noise = problem
    options = {"rho": rho, "n": n, "seed": seed, "replicas": k}
    both = statistic_bound(copied(f), y, noise, q=q, side="two-sided", alpha=alpha, **options)
    sides = [
        statistic_bound(copied(f), y, noise, q=(1 + q) / 2, side=side, alpha=alpha / 2, **options)
        for side in ("lower", "upper")
    ]
    assert (both.lower, both.value) == (sides[0].value, sides[1].value)


@given(problems(outputs=()), percentiles, radii, levels, draws, seeds, st.integers(1, 4))
def test_copies_are_the_root_of_their_number(problem, q, rho, alpha, n, seed, k):
    """T5 is T1 in R^{Kd}: the same draws of K copies, taken for one input of K times as many numbers at radius √K ρ."""
    f, y, noise = problem
    assume(alpha < 0.5)
    deployed = statistic_bound(copied(f), y, noise, q=q, rho=rho, n=n, alpha=alpha, seed=seed, replicas=k)
    stacked = y.expand(k, *y.shape).clone()
    wide = GaussianNoise(noise.sigma_for(y.shape).expand(stacked.shape))
    options = {"rho": math.sqrt(k) * rho, "n": n, "alpha": 2 * alpha, "seed": seed, "pilot": 8}
    assert float(percentile_bounds(copied(f), stacked, wide, p=q, **options).upper) == deployed.value


# Events


@given(problems(outputs=()), percentiles, radii, levels, draws, seeds, copies)
def test_an_event_is_the_statistic_that_is_0_or_1(problem, q, rho, alpha, n, seed, k):
    """S ≤ 0 with probability ≥ q is P[S = 1] ≤ 1 − q: the two bounds say so for the same draws, but for a rounding."""
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "replicas": k}

    def event(z):
        return (copied(f)(z) > 0.3).double()

    bound, limit = event_bound(event, y, noise, **options), statistic_bound(event, y, noise, q=q, **options)
    assume(abs(bound.value - (1 - q)) > 1e-9 * (1 - q))
    allowed = noise.tails(q, rho, k).upper
    assume(abs(clopper_pearson(bound.successes, n, alpha) / max(allowed, 1e-300) - 1) > 1e-8)
    assert (limit.value <= 0) == (bound.value <= 1 - q)


@given(problems(outputs=()), radii, radii, levels, draws, seeds, copies, st.booleans())
def test_an_event_bound_knows_all_radii(problem, rho, other, alpha, n, seed, k, two_sided):
    """One count: the bound at another radius is the one that asking for that radius would have given."""
    f, y, noise = problem
    options = {"n": n, "alpha": alpha, "seed": seed, "replicas": k, "two_sided": two_sided}

    def event(z):
        return copied(f)(z) > 0.3

    one, two = (event_bound(event, y, noise, rho=radius, **options) for radius in (rho, other))
    assert one.at(other) == two.value
    assert one.successes == two.successes
    low, high = event_interval(one.successes, n, noise, rho=rho, replicas=k, alpha=alpha, two_sided=two_sided)
    assert (one.lower, one.value) == (low, high)
    assert one.radius(one.value) >= rho * (1 - 1e-6) or one.value == 1 or one.at(64.0) <= one.value


@given(
    st.lists(problems(outputs=(), inputs_of=((3,),)), min_size=1, max_size=4),
    st.lists(radii, min_size=1, max_size=3, unique=True),
    levels,
    st.integers(1, 150),
    seeds,
    st.lists(st.integers(1, 3), min_size=4, max_size=4),
    st.randoms(use_true_random=False),
    st.integers(1, 300),
)
def test_a_rate_is_about_a_set_of_prompts(found, rhos, alpha, n, seed, ks, random, batch_size):
    """Neither their order nor the batches matter; a curve is its radii; and the formula is that of one event."""
    cases = [(copied(f), y, noise, k) for (f, y, noise), k in zip(found, ks, strict=False)]
    # Two events at one input with one Σ and K are told apart by their order alone.
    named = {(str(y.tolist()), str(noise.sigma_for(y.shape).tolist()), k): (s, y, noise, k) for s, y, noise, k in cases}
    cases = list(named.values())
    rhos = sorted(rhos)

    def over(given_cases, **more):
        events = [lambda z, s=s: s(z) > 0.3 for s, _, _, _ in given_cases]
        _, ys, noises, replicas = zip(*given_cases, strict=True)
        return event_rate_over(
            events, ys, noises, rhos=rhos, replicas=list(replicas), n=n, alpha=alpha, seed=seed, **more
        )

    plain, moved = over(cases), list(cases)
    random.shuffle(moved)
    assert over(moved) == plain
    assert over(cases, batch_size=batch_size) == plain
    asked = {"replicas": max(k for *_, k in cases), "alpha": alpha, "two_sided": False}
    unit = GaussianNoise(1.0)
    assert list(plain.values) == [event_interval(plain.successes, n, unit, rho=rho, **asked)[1] for rho in rhos]
    assert plain.unperturbed == sum(not bool((noise.sigma > 0).any()) for _, _, noise, _ in cases)


# Several questions, several radii


@given(problems(TAME), radii, percentiles, tolerances, levels, draws, seeds, references)
def test_several_questions_are_each_of_them_alone(problem, rho, p, tolerance, alpha, n, seed, reference):
    """They share a pass, and accumulators wide enough for all."""
    options = {"n": n, "seed": seed, "pilot": 16}
    statements = [
        Percentile(rho, p, alpha),
        MSE(rho, alpha, "coordinatewise"),
        MSE(rho, alpha, "dimension-free"),
        MSE(rho, alpha, "spectral"),
        Radius(tolerance, alpha, "coordinatewise"),
        Curve([rho, 2 * rho], alpha, True, "coordinatewise"),
    ]
    together = ask(*problem, statements, reference=reference, **options)
    if reference == "center":
        more = [Deployed(rho, p, alpha, 3, method) for method in ("replicas", "order statistics", "dimension-free")]
        statements += more
        together = ask(*problem, statements, **options)
    for statement, answer in zip(statements, together, strict=True):
        alone = ask(*problem, [statement], reference=reference, **options)[0]
        for name in ("value", "values", "rho", "status", "lower_rank", "upper_rank"):
            assert getattr(alone, name, None) == getattr(answer, name, None)


@given(problems(), st.lists(radii, min_size=1, max_size=4, unique=True), levels, draws, seeds, st.booleans(), methods)
def test_a_curve_is_its_points(problem, rhos, alpha, n, seed, simultaneous, method):
    """T4's points choose their levels apart, so only T2's must increase."""
    rhos = sorted(rhos)
    options = {"n": n, "seed": seed, "pilot": 40, "method": method}
    k = bound_curve(*problem, rhos=rhos, alpha=alpha, simultaneous=simultaneous, **options)
    share = alpha / len(rhos) if simultaneous else alpha
    assert list(k.values) == [mse_bound(*problem, rho=rho, alpha=share, **options).value for rho in rhos]
    assert method == "dimension-free" or list(k.values) == sorted(k.values)


@given(problems(TAME, MODERATE), radii, levels, draws, seeds, references)
def test_best_is_the_method_that_it_names(problem, rho, alpha, n, seed, reference):
    """The value is that of the method named, asked for by name; it is the one of which least was expected."""
    options = {"n": n, "alpha": alpha, "seed": seed, "reference": reference}
    best = mse_bound(*problem, rho=rho, **options)
    assert best.value == mse_bound(*problem, rho=rho, method=best.method, **options).value
    assert best.considered[best.method] == min(best.considered.values())
    radius = certified_radius(*problem, tolerance=1.0, **options)
    assert radius.rho == certified_radius(*problem, tolerance=1.0, method=radius.method, **options).rho
    assert radius.considered[radius.method] == max(radius.considered.values())
    options.pop("reference")
    route = deployed_bound(*problem, rho=rho, replicas=3, **options)
    assert route.value == deployed_bound(*problem, rho=rho, replicas=3, method=route.method, **options).value
    assert route.considered[route.method] == min(route.considered.values())


# Evidence


@pytest.mark.parametrize("name", CHOOSING)
@part
@given(problem=problems(), rho=radii, alpha=levels, n=draws, seed=seeds, aim=aims)
def test_a_value_follows_from_its_evidence_which_survives_being_kept(name, problem, rho, alpha, n, seed, aim):
    """Numbers and tensors are all that a certificate keeps of it."""
    kind, more = CHOOSING[name]
    method, seen = prepared(problem, kind, n=n, alpha=alpha, seed=seed, aim=aim, **more)
    found = method.at(rho, seen)
    assert (found.evidence is None or math.isinf(found.value)) == math.isinf(found.value)
    if math.isinf(found.value):
        assert found.draws_needed is None or found.draws_needed > n or found.reason
        return
    held, noise = found.evidence, problem[2]
    assert held.reference == more.get("reference", "center")
    again = type(held).restored(held.numbers(), held.tensors(), method.setting.center)
    assert again.implied(noise, rho) == held.implied(noise, rho)
    assert found.value >= again.implied(noise, rho) * (1 - 1e-9)
    assert (again.reference, again.numbers()) == (held.reference, held.numbers())


# Supports


BOUNDED = ("sine", "sign", "atoms", "constant", "layer norm")


@given(problems(BOUNDED), radii, levels, draws, seeds)
def test_where_f_is_bounded_nothing_abstains(problem, rho, alpha, n, seed):
    """With a support every method has an answer, from a single draw on and at any radius; T2 no worse than without it."""
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 16}
    for method in ("coordinatewise", "dimension-free", "spectral"):
        bound = mse_bound(f, y, noise, method=method, support=f.support, **options)
        assert math.isfinite(bound.value), method
        assert bound.status == "certified"
    mean = mse_bound(f, y, noise, smoother="mean", support=f.support, **options)
    assert math.isfinite(mean.value)
    for smoother, method in (("median", "replicas"), ("median", "order statistics"), ("mean", "replicas")):
        more = {"smoother": smoother, "method": method, "replicas": 3, "support": f.support}
        assert math.isfinite(deployed_bound(f, y, noise, **more, **options).value), method
    box = percentile_bounds(f, y, noise, support=f.support, **options)
    free = percentile_bounds(f, y, noise, **options)
    assert bool((free.lower <= box.lower).all())
    assert bool((box.upper <= free.upper).all())
    known, without = (
        mse_bound(f, y, noise, method="coordinatewise", support=support, **options) for support in (f.support, None)
    )
    assert known.value <= without.value
    # Two values of f, and two medians of it, are no further apart than the support is wide.
    low, high = f.support.over(tuple(f.shape))
    width = float((high - low).square().sum())
    assert known.value <= 4 * width + 1e-9


# Decisions


@given(problems(), tolerances, radii, levels, st.integers(50, 700), seeds)
def test_a_distance_is_decided_by_the_bound_where_drawing_ended(problem, tolerance, rho, alpha, n, seed):
    f, y, noise = problem
    center = f(y[None])[0].detach()
    found = decide_mse(f, y, noise, tolerance=tolerance, rho=rho, n=n, alpha=alpha, seed=seed, center=center)
    if found.decided == "undecided":
        assert found.n == n
    assert (found.decided == "yes") == (found.value <= tolerance)
    if math.isfinite(found.value):
        share = _shares(problem, rho, alpha / 2, n)[found.n]  # the other half is that of "no"
        fixed = mse_bound(
            f, y, noise, rho=rho, n=found.n, alpha=share, seed=seed, center=center, method="coordinatewise"
        )
        assert fixed.value == pytest.approx(found.value, rel=1e-12)  # f sees other batches


def _shares(problem, rho, alpha, n):
    """Draws at which is looked → the α of that look."""
    outputs = math.prod(problem[0].shape)
    tail = problem[2].tails(0.5, rho)
    first = draws_needed(tail, alpha / (2 * outputs)) or n
    first = draws_needed(tail, looks(first, n, alpha)[0][1] / (2 * outputs)) or n
    return dict(looks(min(first, n), n, alpha))


@given(problems(outputs=()), percentiles, radii, levels, draws, seeds, copies)
def test_an_event_is_decided_by_the_count_where_drawing_ended(problem, target, rho, alpha, n, seed, k):
    (f, y, noise), options = problem, {"rho": rho, "replicas": k, "alpha": alpha, "seed": seed}

    def event(z):
        return copied(f)(z) > 0.3

    found = decide_event(event, y, noise, target=target, n=n, **options)
    fixed = event_bound(event, y, noise, n=found.n, **options)
    assert found.successes == fixed.successes
    assert found.n <= found.drawn <= found.maximum == n
    assert (found.decided == "yes") <= (found.value <= target)
    half = alpha / 2  # the other half is that of "no"
    assert found.value <= stopped_event(found.successes, found.n, noise, rho=rho, replicas=k, alpha=half)
    # Whatever is read at any time costs something: a bound for that number of draws alone is closer.
    assert found.decided == "yes" or fixed.value <= found.value * (1 + 1e-9)


@given(problems(outputs=()), percentiles, radii, levels, draws, seeds, copies, st.booleans())
def test_a_statistic_is_decided_as_the_event_that_it_passes_the_threshold(problem, q, rho, alpha, n, seed, k, upper):
    (f, y, noise), options = problem, {"rho": rho, "replicas": k, "alpha": alpha, "seed": seed, "n": n}

    def beyond(z):
        return copied(f)(z) > 0.3 if upper else copied(f)(z) < 0.3

    one = decide_statistic(copied(f), y, noise, threshold=0.3, q=q, side="upper" if upper else "lower", **options)
    other = decide_event(beyond, y, noise, target=1 - q, **options)
    assert (one.decided, one.n, one.successes) == (other.decided, other.n, other.successes)
    assert one.value == pytest.approx(other.value, rel=1e-9)


# Plans


@given(problems(), st.floats(0.05, 1.0), st.floats(1e-3, 0.4), seeds, st.booleans())
def test_a_plan_says_when_a_bound_is_finite(problem, rho, alpha, seed, population):
    """From so many draws on there is a bound, whatever the function; with one fewer there is none."""
    outputs = math.prod(problem[0].shape)
    n = plan(rho=rho, alpha=alpha, outputs=outputs, population=population).n
    options = {"alpha": alpha, "seed": seed, "reference": "population" if population else "center", **T2}
    assert mse_bound(*problem, rho=rho, n=n, **options).status == "certified"
    if n > 1:
        short = mse_bound(*problem, rho=rho, n=n - 1, **options)
        assert short.status == "abstained"
        assert f"n >= {n} is needed" in short.reason


# What must not matter


@given(problems(), radii, levels, draws, seeds, st.integers(1, 300))
def test_the_batch_size_is_invisible(problem, rho, alpha, n, seed, batch_size):
    """Exactly, where f works element by element: the same blocks, the same order, the same groups of K."""
    y, noise = problem[1], problem[2]
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed}
    one, other = (mse_bound(torch.sin, y, noise, batch_size=b, **options) for b in (None, batch_size))
    assert (one.value, one.method, one.considered) == (other.value, other.method, other.considered)
    for smoother in ("median", "mean"):
        found = [
            deployed_bound(torch.sin, y, noise, batch_size=b, replicas=5, q=0.7, smoother=smoother, **options).value
            for b in (None, batch_size)
        ]
        assert found[0] == found[1]


@given(problems(TAME, MODERATE), radii, levels, draws, seeds, st.integers(1, 300))
def test_the_batch_size_is_invisible_up_to_the_rounding_of_f(problem, rho, alpha, n, seed, batch_size):
    f, y, noise = problem
    assume(f.family not in ("steps", "sign"))  # an atom's edge may flip
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, **T2}
    values = [mse_bound(f, y, noise, batch_size=b, **options).value for b in (None, batch_size)]
    assert values[0] == pytest.approx(values[1], rel=1e-9, abs=1e-12)


@given(rows(shape=(3,)), st.integers(1, 9), st.sampled_from(["median", "mean"]))
def test_groups_of_draws_are_deployed_outputs(x, k, smoother):
    """T5 on groups of single draws measures what `deployed_distance` measures on K copies."""
    center = torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64)
    seen, whole = Groups(center, k, smoother), len(x) // k
    seen.update(x)
    copies_ = x[: whole * k].reshape(whole, k, 3)
    assert len(seen.values()) == whole
    if whole:
        distance = deployed_distance(lambda z: z, center, smoother)(copies_)
        torch.testing.assert_close(seen.values(), distance, rtol=1e-13, atol=1e-13)


@given(st.floats(1e-9, 1 - 1e-9), st.floats(1e-6, 8), st.floats(1e-6, 8))
@example(0.5, 1e-6, 1e-6)
def test_shifts_of_percentiles_add_up(p, a, b):
    """Φ(Φ⁻¹(Φ(Φ⁻¹(p) − a)) − b) = Φ(Φ⁻¹(p) − (a + b)), and the two tails mirror each other."""
    noise = GaussianNoise(1.0)
    once, twice = noise.tails(p, a + b).lower, noise.tails(noise.tails(p, a).lower, b).lower
    assert twice == pytest.approx(once, rel=1e-8)
    assert noise.tails(1 - p, a).upper == pytest.approx(noise.tails(p, a).lower, rel=1e-5)
    assert noise.tails(p, a).lower < p
    assert ndtri(noise.tails(p, a).lower) <= ndtri(p) - a + 1e-6
