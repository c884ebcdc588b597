"""Laws: what must hold for every function, input and noise, at fixed draws.

Functions come from a small family (smooth, kinked, with atoms, constant, heavy-tailed) applied to a random linear map.
Pinned examples are the corners where a law has the least room.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.special import ndtri

from certify import Ellipsoid, GaussianNoise, bound_curve, certified_radius, mse_bound, percentile_bounds, plan
from certify.confidence import extreme_rank, smallest_draws
from certify.montecarlo import ExtremeRanks

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


@given(problems(), radii, radii, levels, draws, seeds)
@example(ONE, 1.0, 1.0 + 1e-9, 0.01, 300, 0)  # the same rank, or one rank apart
def test_bounds_grow_with_the_radius(problem, a, b, alpha, n, seed):
    low, high = sorted((a, b))
    options = {"n": n, "alpha": alpha, "seed": seed, "pilot": 8}
    inner, outer = (percentile_bounds(*problem, rho=rho, **options) for rho in (low, high))
    assert bool((outer.lower <= inner.lower).all())
    assert bool((inner.upper <= outer.upper).all())
    for reference in ("center", "population"):
        values = [mse_bound(*problem, rho=rho, reference=reference, **options).value for rho in (low, high)]
        assert values[0] <= values[1]


@given(problems(), radii, levels, levels, draws, seeds)
def test_bounds_shrink_as_alpha_grows(problem, rho, a, b, n, seed):
    sure, unsure = sorted((a, b))
    options = {"rho": rho, "n": n, "seed": seed, "pilot": 8}
    for reference in ("center", "population"):
        values = [mse_bound(*problem, alpha=alpha, reference=reference, **options).value for alpha in (sure, unsure)]
        assert values[1] <= values[0]
    radius = [
        certified_radius(*problem, alpha=alpha, n=n, seed=seed, pilot=8, tolerance=1.0).rho for alpha in (sure, unsure)
    ]
    assert radius[0] <= radius[1]


@given(problems(), st.floats(1e-3, 50), st.floats(1.0, 20), levels, draws, seeds)
def test_the_radius_grows_with_the_tolerance(problem, tolerance, factor, alpha, n, seed):
    options = {"alpha": alpha, "n": n, "seed": seed, "pilot": 8}
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
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 8}
    plain, mapped = mse_bound(f, y, noise, **options), mse_bound(lambda z: a * f(z) + b, y, noise, **options)
    sides = (a * plain.lower + b, a * plain.upper + b)
    lower, upper = sides if a > 0 else sides[::-1]
    torch.testing.assert_close(mapped.lower, lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mapped.upper, upper, rtol=1e-9, atol=1e-9)
    assert mapped.value == pytest.approx(a**2 * plain.value, rel=1e-6, abs=1e-9)


@given(problems(), radii, levels, draws, seeds, st.sampled_from([0.125, 4.0]))
def test_noise_and_input_scale_together(problem, rho, alpha, n, seed, a):
    """f(·/a) around a·y with aσ is the same problem, at the same ρ: ‖·‖_Σ has no unit."""
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 8}
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
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 8}
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
    box, bound = percentile_bounds(*problem, **options), mse_bound(*problem, **options)
    assert torch.equal(box.lower, bound.lower)
    assert torch.equal(box.upper, bound.upper)
    assert (box.status, bound.status) in (("certified", "certified"), ("abstained", "abstained"))


@given(
    problems(), levels, draws, seeds, st.sampled_from([1e-3, 0.1, 1.0, 10.0]), st.sampled_from(["center", "population"])
)
def test_the_radius_is_where_the_bound_leaves_the_tolerance(problem, alpha, n, seed, tolerance, reference):
    options = {"n": n, "alpha": alpha, "seed": seed, "pilot": 8, "reference": reference}
    r = certified_radius(*problem, tolerance=tolerance, **options)
    if r.rho > 0:
        assert mse_bound(*problem, rho=r.rho, **options).value == r.value <= tolerance
        assert mse_bound(*problem, rho=r.rho * (1 + 3e-6), **options).value > tolerance
    else:
        assert r.status == "abstained"
        assert mse_bound(*problem, rho=1e-6, **options).value > tolerance


@given(problems(), st.lists(radii, min_size=1, max_size=4, unique=True), levels, draws, seeds, st.booleans())
def test_a_curve_is_its_points(problem, rhos, alpha, n, seed, simultaneous):
    rhos = sorted(rhos)
    options = {"n": n, "seed": seed, "pilot": 8}
    k = bound_curve(*problem, rhos=rhos, alpha=alpha, simultaneous=simultaneous, **options)
    share = alpha / len(rhos) if simultaneous else alpha
    assert list(k.values) == [mse_bound(*problem, rho=rho, alpha=share, **options).value for rho in rhos]
    assert list(k.values) == sorted(k.values)


@given(problems(), radii, levels, draws, seeds, st.integers(1, 300))
def test_the_batch_size_is_invisible(problem, rho, alpha, n, seed, batch_size):
    """Up to the rounding of the matrix product inside f."""
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 8}
    f, y, noise = problem
    assume(f(y[None]).frac().abs().min() > 1e-6 or not noise.sigma.eq(0).all())  # an atom's edge may flip
    values = [mse_bound(f, y, noise, batch_size=b, **options).value for b in (None, batch_size)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


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

    @given(problems(), st.floats(0.1, 1.0), draws, seeds)
    def shrinks(problem, rho, n, seed):
        options = {"n": n, "alpha": 0.05, "seed": seed, "pilot": 8}
        assert mse_bound(*problem, rho=2 * rho, **options).value <= mse_bound(*problem, rho=rho, **options).value

    @given(problems(), st.floats(0.1, 1.0), seeds)
    def proportional(problem, rho, seed):
        options = {"n": 500, "alpha": 0.05, "seed": seed, "pilot": 8}
        one, two = (mse_bound(*problem, rho=r, **options).value for r in (rho, 2 * rho))
        assert two == pytest.approx(4 * one, rel=1e-3)

    for law in (shrinks, proportional):
        with pytest.raises(AssertionError):
            law()
