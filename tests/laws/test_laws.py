"""Laws: what must hold for every function, input and noise, at fixed draws.

Functions come from a small family (smooth, kinked, with atoms, constant, heavy-tailed) applied to a random linear map.
Pinned examples are the corners where a law has the least room. What a method chooses on pilot draws (levels, the number of
draws in a ball, itself among others) may jump from one call to the next, so a law that compares calls names the method, or
compares answers of one method that was built once.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from certify import (
    Ellipsoid,
    GaussianNoise,
    bound_curve,
    certified_radius,
    deployed_bound,
    mse_bound,
    percentile_bounds,
    plan,
)
from certify.bounds import METHODS, ROUTES, Setting
from certify.bounds.radius import largest_radius
from certify.confidence import extreme_rank, smallest_draws
from certify.montecarlo import AllDraws, ExtremeRanks, draw, median, pool
from certify.support import as_support

SHAPES = {
    "sine": torch.sin,
    "relu": torch.relu,
    "steps": torch.floor,
    "sign": torch.sign,
    "cube": lambda z: z**3,
    "constant": lambda z: z * 0 + 2.0,
    "tails": lambda z: torch.sinh(3 * z),
}

seeds = st.integers(0, 2**40)
radii = st.floats(0.01, 2.5)
levels = st.floats(1e-4, 0.4)
draws = st.integers(1, 700)
methods = st.sampled_from(["coordinatewise", "dimension-free"])
references = st.sampled_from(["center", "population"])
T2 = {"method": "coordinatewise", "pilot": 8}


@st.composite
def problems(draw):
    """(f, y, noise): 1–4 inputs, 1–3 outputs, σ between 0 and 2."""
    d, m, seed = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 10_000))
    shape = SHAPES[draw(st.sampled_from(sorted(SHAPES)))]
    rng = torch.Generator().manual_seed(seed)
    A, y = torch.randn(d, m, generator=rng, dtype=torch.float64), torch.randn(d, generator=rng, dtype=torch.float64)
    sigma = torch.tensor(
        draw(st.lists(st.sampled_from([0.0, 0.05, 0.5, 2.0]), min_size=d, max_size=d)), dtype=torch.float64
    )
    return (lambda z: shape(z @ A)), y, GaussianNoise(sigma)


ONE = ((lambda z: z), torch.zeros(1, dtype=torch.float64), GaussianNoise(1.0))


def prepared(problem, kind, *, n, alpha, seed, aim, reference="center", within=None, **more):
    """A method built once, and what it has seen of n draws: outputs in two rows, f and −2f, perhaps cut off."""
    f, y, noise = problem

    def rows(z):
        found = torch.stack([f(z), -2 * f(z)], dim=1)
        return found if within is None else found.clamp(-within, within)

    kept = AllDraws()
    draw(rows, y, noise, n=40, seed=seed, stream="pilot", accumulators=[kept])
    pilot = kept.stacked()
    known = None if within is None else as_support((-within, within))
    setting = Setting(noise, n, tuple(pilot.shape[1:]), median(pilot), reference, known, pilot)
    method = kind(setting, alpha, aim, **more)
    seen = pool(method.needs(0.0))
    draw(rows, y, noise, n=n, seed=seed, stream="bounding", accumulators=seen.values())
    return method, seen


@given(problems(), radii, radii, levels, draws, seeds)
@example(ONE, 1.0, 1.0 + 1e-9, 0.01, 300, 0)  # the same rank, or one rank apart
def test_bounds_grow_with_the_radius(problem, a, b, alpha, n, seed):
    low, high = sorted((a, b))
    options = {"n": n, "alpha": alpha, "seed": seed}
    inner, outer = (percentile_bounds(*problem, rho=rho, pilot=8, **options) for rho in (low, high))
    assert bool((outer.lower <= inner.lower).all())
    assert bool((inner.upper <= outer.upper).all())
    for reference in ("center", "population"):
        values = [mse_bound(*problem, rho=rho, reference=reference, **T2, **options).value for rho in (low, high)]
        assert values[0] <= values[1]


@given(problems(), radii, levels, levels, draws, seeds)
def test_bounds_shrink_as_alpha_grows(problem, rho, a, b, n, seed):
    sure, unsure = sorted((a, b))
    options = {"n": n, "seed": seed, **T2}
    for reference in ("center", "population"):
        bounds = [mse_bound(*problem, rho=rho, alpha=x, reference=reference, **options) for x in (sure, unsure)]
        assert bounds[1].value <= bounds[0].value
    radius = [certified_radius(*problem, alpha=alpha, tolerance=1.0, **options).rho for alpha in (sure, unsure)]
    assert radius[0] <= radius[1]


@given(problems(), st.floats(1e-3, 50), st.floats(1.0, 20), levels, draws, seeds)
def test_the_radius_grows_with_the_tolerance(problem, tolerance, factor, alpha, n, seed):
    options = {"alpha": alpha, "n": n, "seed": seed, **T2}
    small, large = (certified_radius(*problem, tolerance=c, **options).rho for c in (tolerance, tolerance * factor))
    assert small <= large * (1 + 2e-6)  # the search stops within 1e-6


@given(st.integers(1, 4000), st.integers(0, 500), st.floats(1e-4, 0.5), st.floats(1e-6, 0.5))
@example(1, 1, 0.5, 0.5)
def test_feasibility_is_monotone_in_n(n, more, tail, alpha):
    """Once a rank qualifies it does for every larger n; and smallest_draws is where that begins."""
    assert extreme_rank(n, tail, alpha) <= extreme_rank(n + more, tail, alpha)
    assert (extreme_rank(n, tail, alpha) > 0) == (n >= smallest_draws(tail, alpha))


@given(st.floats(0.01, 4), levels, st.integers(1, 10_000), st.integers(1, 20), st.booleans())
def test_a_planned_number_of_draws_is_just_enough(rho, alpha, outputs, replicas, population):
    assume(rho * math.sqrt(replicas) < 6)
    n = plan(rho=rho, alpha=alpha, outputs=outputs, replicas=replicas, population=population).n
    share = alpha / ((4 if population else 2) * outputs)
    tails = GaussianNoise(1.0).tails(0.5, rho, replicas)
    assert extreme_rank(n, min(tails), share) == 1
    assert n == 1 or extreme_rank(n - 1, min(tails), share) == 0


@given(problems(), radii, levels, draws, seeds, st.sampled_from([-4.0, -1.0, 0.25, 8.0]), st.integers(-8, 8))
@example(ONE, 1.0, 0.01, 300, 0, -1.0, 0)  # a reflection swaps the two sides
def test_scale_and_shift_equivariance(problem, rho, alpha, n, seed, a, b):
    """f → a f + b maps the box to a·box + b (sides swapped where a < 0) and the bound to a² times itself."""
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, **T2}
    plain, mapped = mse_bound(f, y, noise, **options), mse_bound(lambda z: a * f(z) + b, y, noise, **options)
    sides = (a * plain.lower + b, a * plain.upper + b)
    lower, upper = sides if a > 0 else sides[::-1]
    torch.testing.assert_close(mapped.lower, lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mapped.upper, upper, rtol=1e-9, atol=1e-9)
    assert mapped.value == pytest.approx(a**2 * plain.value, rel=1e-6, abs=1e-9)


@given(problems(), radii, levels, draws, seeds, st.sampled_from([0.125, 4.0]), methods, references)
def test_noise_and_input_scale_together(problem, rho, alpha, n, seed, a, method, reference):
    """f(·/a) around a·y with aσ is the same problem, at the same ρ: ‖·‖_Σ has no unit."""
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "method": method, "reference": reference}
    plain = mse_bound(f, y, noise, **options)
    scaled = mse_bound(lambda z: f(z / a), a * y, GaussianNoise(a * noise.sigma), **options)
    assert scaled.value == pytest.approx(plain.value, rel=1e-9)


@given(problems(), st.floats(0.05, 2.0), st.floats(0.01, 2.0), levels, draws, seeds)
def test_isotropic_noise_is_lemma_3_1(problem, sigma, radius, alpha, n, seed):
    """Lemma 3.1 with ‖δ‖₂ ≤ radius: percentiles Φ(Φ⁻¹(p) ± radius/σ), a rank by its own sums, the same order statistic."""
    from scipy.stats import binom

    f, y, _ = problem
    kept = []

    def recording(z):
        out = f(z)
        kept.append(out)
        return out

    b = percentile_bounds(recording, y, sigma, rho=radius / sigma, n=n, alpha=alpha, seed=seed, pilot=8)
    X = torch.cat(kept)[8:].sort(dim=0).values
    level = 0.5 * math.erfc(-radius / sigma / math.sqrt(2))
    m = X[0].numel()
    k = next((k for k in range(1, n + 1) if binom.cdf(k - 1, n, level) >= 1 - alpha / (2 * m)), None)
    near = k is not None and abs(binom.sf(k - 1, n, level) / (alpha / (2 * m)) - 1) < 1e-7
    assume(not near)
    if k is None:
        assert bool(torch.isinf(b.upper).all())
        assert bool(torch.isinf(b.lower).all())
    else:
        assert torch.equal(b.upper, X[k - 1])
        assert torch.equal(b.lower, X[n - k])


@given(problems(), radii, levels, draws, seeds, st.randoms(use_true_random=False))
def test_outputs_may_be_permuted(problem, rho, alpha, n, seed, random):
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, **T2}
    plain = mse_bound(f, y, noise, **options)
    order = list(range(plain.center.numel()))
    random.shuffle(order)
    permuted = mse_bound(lambda z: f(z)[:, order], y, noise, **options)
    assert torch.equal(permuted.lower, plain.lower[order])
    assert torch.equal(permuted.upper, plain.upper[order])
    assert permuted.value == pytest.approx(plain.value, rel=1e-12)


@given(
    st.lists(st.floats(0.1, 3), min_size=1, max_size=6),
    st.integers(0, 10**6),
    st.floats(0.1, 3),
    st.randoms(use_true_random=False),
)
def test_input_coordinates_may_be_permuted(sigmas, seed, rho, random):
    """The norm, the membership and every size of the ellipsoid are symmetric in the coordinates."""
    sigma = torch.tensor(sigmas, dtype=torch.float64)
    delta = torch.randn(len(sigmas), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = list(range(len(sigmas)))
    random.shuffle(order)
    plain, permuted = Ellipsoid(sigma, rho), Ellipsoid(sigma[order], rho)
    assert permuted.noise.norm(delta[order]) == pytest.approx(plain.noise.norm(delta), rel=1e-12)
    for name in ("l2_ball", "l1_ball", "linf_ball", "log_volume", "proxy_radius"):
        assert getattr(permuted, name) == pytest.approx(getattr(plain, name), rel=1e-12, abs=1e-12)


@given(st.lists(st.sampled_from([0.0, 0.3, 2.0]), min_size=1, max_size=6), st.integers(0, 10**6), st.floats(0.1, 3))
def test_membership_is_the_norm_and_the_norm_is_one(sigmas, seed, rho):
    """‖tδ‖ = |t| ‖δ‖, the triangle inequality, δ inside iff ‖δ‖_Σ ≤ ρ."""
    sigma = torch.tensor(sigmas, dtype=torch.float64)
    rng = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(len(sigmas), generator=rng, dtype=torch.float64) * (sigma > 0) for _ in range(2))
    noise = GaussianNoise(sigma)
    assert noise.norm(-3.0 * a) == pytest.approx(3.0 * noise.norm(a), rel=1e-12)
    assert noise.norm(a + b) <= (noise.norm(a) + noise.norm(b)) * (1 + 1e-12)
    assert Ellipsoid(sigma, rho).contains(a) == (noise.norm(a) <= rho)
    if noise.norm(a) > 0:
        assert Ellipsoid(sigma, rho).contains(a * (rho * (1 - 1e-9) / noise.norm(a)))
        assert not Ellipsoid(sigma, rho).contains(a * (rho * (1 + 1e-9) / noise.norm(a)))


@given(
    st.integers(0, 10**6),
    st.integers(1, 300),
    st.integers(0, 40),
    st.integers(0, 40),
    st.lists(st.integers(1, 80), max_size=6),
)
def test_shards_merge_to_one_run(seed, n, low, high, cuts):
    x = torch.randn((n, 2), generator=torch.Generator().manual_seed(seed)).mul(3).round()
    whole = ExtremeRanks(low, high)
    whole.update(x)
    merged, start = ExtremeRanks(low, high), 0
    for size in [*cuts, n]:
        shard = ExtremeRanks(low, high)
        if start < n:
            shard.update(x[start : start + size])
        merged.merge(shard)
        start += size
    assert merged.count == whole.count == n
    for rank in range(1, min(low, n) + 1):
        assert torch.equal(merged.smallest(rank), whole.smallest(rank))
    for rank in range(1, min(high, n) + 1):
        assert torch.equal(merged.largest(rank), whole.largest(rank))


@given(problems(), radii, levels, draws, seeds)
def test_one_box_behind_all_bounds(problem, rho, alpha, n, seed):
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 8}
    box, bound = percentile_bounds(*problem, **options), mse_bound(*problem, method="coordinatewise", **options)
    assert torch.equal(box.lower, bound.lower)
    assert torch.equal(box.upper, bound.upper)
    assert (box.status, bound.status) in (("certified", "certified"), ("abstained", "abstained"))


@given(
    problems(), levels, draws, seeds, st.sampled_from([1e-3, 0.1, 1.0, 10.0]), st.sampled_from(["center", "population"])
)
def test_the_radius_is_where_the_bound_leaves_the_tolerance(problem, alpha, n, seed, tolerance, reference):
    options = {"n": n, "alpha": alpha, "seed": seed, "reference": reference, **T2}
    r = certified_radius(*problem, tolerance=tolerance, **options)
    if r.rho > 0:
        assert mse_bound(*problem, rho=r.rho, **options).value == r.value <= tolerance
        assert mse_bound(*problem, rho=r.rho * (1 + 3e-6), **options).value > tolerance
    else:
        assert r.status == "abstained"
        assert mse_bound(*problem, rho=1e-6, **options).value > tolerance


@given(problems(), st.lists(radii, min_size=1, max_size=4, unique=True), levels, draws, seeds, st.booleans(), methods)
def test_a_curve_is_its_points(problem, rhos, alpha, n, seed, simultaneous, method):
    """T4's points choose their levels apart, so only T2's must increase."""
    rhos = sorted(rhos)
    options = {"n": n, "seed": seed, "pilot": 40, "method": method}
    k = bound_curve(*problem, rhos=rhos, alpha=alpha, simultaneous=simultaneous, **options)
    share = alpha / len(rhos) if simultaneous else alpha
    assert list(k.values) == [mse_bound(*problem, rho=rho, alpha=share, **options).value for rho in rhos]
    assert method == "dimension-free" or list(k.values) == sorted(k.values)


@given(problems(), radii, levels, draws, seeds, st.integers(1, 300))
def test_the_batch_size_is_invisible(problem, rho, alpha, n, seed, batch_size):
    """Up to the rounding of the matrix product inside f."""
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, **T2}
    f, y, noise = problem
    assume(f(y[None]).frac().abs().min() > 1e-6 or not noise.sigma.eq(0).all())  # an atom's edge may flip
    values = [mse_bound(f, y, noise, batch_size=b, **options).value for b in (None, batch_size)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


# Methods that choose on pilot draws: what holds of one that was built once.

CHOOSING = {
    "T2 center": (METHODS["median", "coordinatewise"], {}),
    "T2 population": (METHODS["median", "coordinatewise"], {"reference": "population"}),
    "T4 center": (METHODS["median", "dimension-free"], {}),
    "T4 population": (METHODS["median", "dimension-free"], {"reference": "population"}),
    "T2 support": (METHODS["median", "coordinatewise"], {"within": 2.0}),
    "T4 support": (METHODS["median", "dimension-free"], {"within": 2.0}),
    "T11 center": (METHODS["mean", "spectral"], {"within": 5.0}),
    "T11 population": (METHODS["mean", "spectral"], {"within": 5.0, "reference": "population"}),
    "T12 center": (METHODS["median", "spectral"], {}),
    "T12 population": (METHODS["median", "spectral"], {"reference": "population"}),
    "T12 support": (METHODS["median", "spectral"], {"within": 2.0}),
    "T5 median": (ROUTES["median", "replicas"], {"q": 0.8, "replicas": 3}),
    "T5 mean": (ROUTES["mean", "replicas"], {"q": 0.8, "replicas": 2}),
    "T5 support": (ROUTES["mean", "replicas"], {"q": 0.8, "replicas": 2, "within": 2.0}),
    "T6 support": (ROUTES["median", "order statistics"], {"q": 0.9, "replicas": 5, "within": 2.0}),
    "T6 order statistics": (ROUTES["median", "order statistics"], {"q": 0.9, "replicas": 5}),
    "T6 dimension-free": (ROUTES["median", "dimension-free"], {"q": 0.9, "replicas": 4}),
}
aims = st.sampled_from([0.05, 0.5, 2.0])


@pytest.mark.parametrize("name", CHOOSING)
@given(problems(), st.lists(st.floats(0, 3), min_size=2, max_size=5), levels, draws, seeds, aims)
def test_an_answer_never_shrinks_as_the_radius_grows(name, problem, rhos, alpha, n, seed, aim):
    """At fixed draws, whatever the radius aimed at: the search for a radius rests on it (THEORY T3)."""
    kind, more = CHOOSING[name]
    method, seen = prepared(problem, kind, n=n, alpha=alpha, seed=seed, aim=aim, **more)
    values = [method.at(rho, seen).value for rho in sorted(rhos)]
    assert values == sorted(values)


@pytest.mark.parametrize("name", CHOOSING)
@given(problems(), radii, levels, draws, seeds, aims)
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


@given(problems(), levels, draws, seeds, st.sampled_from([1e-3, 0.1, 10.0]), references, aims)
def test_the_radius_of_t4_is_where_its_bound_leaves_the_tolerance(problem, alpha, n, seed, tolerance, reference, aim):
    kind = METHODS["median", "dimension-free"]
    method, seen = prepared(problem, kind, n=n, alpha=alpha, seed=seed, aim=aim, reference=reference)
    rho, found = largest_radius(lambda r: method.at(r, seen), tolerance)
    if rho > 0:
        assert method.at(rho, seen).value == found.value <= tolerance
        assert method.at(rho * (1 + 3e-6), seen).value > tolerance
    else:
        assert method.at(1e-6, seen).value > tolerance


MAPS = [(-2.0, 0.0), (0.25, 3.0), (8.0, -5.0)]


@pytest.mark.parametrize("name", ["T4 center", "T5 median", "T5 mean", "T6 order statistics", "T6 dimension-free"])
@given(problems(), radii, levels, draws, seeds, st.sampled_from(MAPS), st.randoms(use_true_random=False))
def test_answers_are_equivariant(name, problem, rho, alpha, n, seed, ab, random):
    """f → a f + b with its outputs permuted: a squared distance becomes a² times itself, a distance |a| times.

    Where levels are as good as each other on pilot draws the choice between them may flip on a rounding; both answers are
    then compared with the levels of the first.
    """
    kind, more = CHOOSING[name]
    (a, b), (f, y, noise) = ab, problem
    options = {"n": n, "alpha": alpha, "seed": seed, "aim": rho, **more}
    plain, seen = prepared(problem, kind, **options)
    order = list(range(plain.setting.shape[1]))
    random.shuffle(order)

    def moved(z):
        return a * f(z)[:, order] + b

    mapped, other = prepared((moved, y, noise), kind, **options)
    if name == "T4 center":
        assume(mapped.plan.apart == plain.plan.apart and torch.equal(mapped.plan.levels, plain.plan.levels))
    if name == "T6 dimension-free":
        assume(mapped.s == plain.s)
    factor = a**2 if name == "T4 center" else abs(a)
    expected = factor * plain.at(rho, seen).value
    assert mapped.at(rho, other).value == pytest.approx(expected, rel=1e-6, abs=1e-7 * (1 + factor))


@given(problems(), radii, levels, draws, seeds, st.integers(1, 300))
def test_the_batch_size_is_invisible_to_methods_that_choose(problem, rho, alpha, n, seed, batch_size):
    """Exactly, where f works element by element: the same blocks, the same order, the same groups of K."""
    y, noise = problem[1], problem[2]
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed}
    bounds = [mse_bound(torch.sin, y, noise, batch_size=b, **options) for b in (None, batch_size)]
    assert (bounds[0].value, bounds[0].method, bounds[0].considered) == (
        bounds[1].value, bounds[1].method, bounds[1].considered,
    )  # fmt: skip
    for smoother in ("median", "mean"):
        found = [
            deployed_bound(torch.sin, y, noise, batch_size=b, replicas=5, q=0.7, smoother=smoother, **options).value
            for b in (None, batch_size)
        ]
        assert found[0] == found[1]


@given(problems(), radii, levels, draws, seeds, references)
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


def test_a_false_law_is_caught():
    """Were the bound to *shrink* with the radius, or to grow in proportion to it, hypothesis would say so."""
    unshrunk = settings(phases=(Phase.explicit, Phase.generate))  # finding one is enough

    @unshrunk
    @given(problems(), st.floats(0.1, 1.0), draws, seeds)
    def shrinks(problem, rho, n, seed):
        options = {"n": n, "alpha": 0.05, "seed": seed, **T2}
        assert mse_bound(*problem, rho=2 * rho, **options).value <= mse_bound(*problem, rho=rho, **options).value

    @unshrunk
    @given(problems(), st.floats(0.1, 1.0), seeds)
    def proportional(problem, rho, seed):
        options = {"n": 500, "alpha": 0.05, "seed": seed, **T2}
        one, two = (mse_bound(*problem, rho=r, **options).value for r in (rho, 2 * rho))
        assert two == pytest.approx(4 * one, rel=1e-3)

    for law in (shrinks, proportional):
        with pytest.raises(AssertionError):
            law()
