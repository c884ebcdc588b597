"""Laws of uniform noise (T13): what must hold for every function, input, half-widths and radius, at fixed draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st

from certify import UniformNoise, certified_radius, event_bound, mse_bound, percentile_bounds
from certify.confidence import extreme_rank
from certify.noise.uniform import shifted, variation

SHAPES = {
    "sine": torch.sin,
    "steps": torch.floor,
    "sign": torch.sign,
    "cube": lambda z: z**3,
    "constant": lambda z: z * 0 + 2.0,
    "edge": lambda z: (z.abs() > 1).double(),
}

seeds = st.integers(0, 2**40)
radii = st.floats(1e-9, 1.5)
probabilities = st.floats(1e-9, 1 - 1e-9)
levels = st.floats(1e-4, 0.4)
draws = st.integers(1, 700)
copies = st.integers(1, 20)
T2 = {"method": "coordinatewise", "pilot": 8}


@st.composite
def problems(draw):
    """(f, y, noise): 1–4 inputs, 1–3 outputs, half-widths between 0 and 2."""
    d, m, seed = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 10_000))
    shape = SHAPES[draw(st.sampled_from(sorted(SHAPES)))]
    rng = torch.Generator().manual_seed(seed)
    A, y = torch.randn(d, m, generator=rng, dtype=torch.float64), torch.randn(d, generator=rng, dtype=torch.float64)
    h = draw(st.lists(st.sampled_from([0.0, 0.05, 0.5, 2.0]), min_size=d, max_size=d))
    return (lambda z: shape(z @ A)), y, UniformNoise(torch.tensor(h, dtype=torch.float64))


ONE = ((lambda z: z), torch.zeros(1, dtype=torch.float64), UniformNoise(1.0))


@given(problems(), radii, radii, levels, draws, seeds)
@example(ONE, 0.2, 0.2 + 1e-9, 0.01, 300, 0)  # the same rank, or one rank apart
@example(ONE, 0.5 - 1e-9, 0.5, 0.01, 300, 0)  # the last radius at which there could be a rank, and the first without
def test_bounds_grow_with_the_radius(problem, a, b, alpha, n, seed):
    low, high = sorted((a, b))
    options = {"n": n, "alpha": alpha, "seed": seed}
    inner, outer = (percentile_bounds(*problem, rho=rho, pilot=8, **options) for rho in (low, high))
    assert bool((outer.lower <= inner.lower).all())
    assert bool((inner.upper <= outer.upper).all())
    values = [mse_bound(*problem, rho=rho, **T2, **options).value for rho in (low, high)]
    assert values[0] <= values[1]


@given(problems(), radii, levels, levels, draws, seeds)
def test_bounds_shrink_as_alpha_grows(problem, rho, a, b, n, seed):
    sure, unsure = (mse_bound(*problem, rho=rho, alpha=x, n=n, seed=seed, **T2).value for x in sorted((a, b)))
    assert unsure <= sure


@given(problems(), st.floats(1e-6, 0.45), levels, draws, seeds, st.sampled_from([-4.0, -1.0, 0.25]), st.integers(-8, 8))
def test_scale_and_shift_of_the_output(problem, rho, alpha, n, seed, a, b):
    """f → a f + b maps the box to a·box + b, sides swapped where a < 0."""
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 8}
    plain, mapped = (
        percentile_bounds(f, y, noise, **options),
        percentile_bounds(lambda z: a * f(z) + b, y, noise, **options),
    )
    sides = (a * plain.lower + b, a * plain.upper + b)
    lower, upper = sides if a > 0 else sides[::-1]
    torch.testing.assert_close(mapped.lower, lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mapped.upper, upper, rtol=1e-9, atol=1e-9)


@given(problems(), st.floats(1e-6, 0.45), levels, draws, seeds, st.sampled_from([0.125, 4.0]))
def test_noise_and_input_scale_together(problem, rho, alpha, n, seed, a):
    """f(·/a) around a·y with a·h is the same problem, at the same ρ: ‖·‖ has no unit."""
    f, y, noise = problem
    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "pilot": 8}
    plain = percentile_bounds(f, y, noise, **options)
    scaled = percentile_bounds(lambda z: f(z / a), a * y, UniformNoise(a * noise.half_width), **options)
    torch.testing.assert_close(scaled.lower, plain.lower)
    torch.testing.assert_close(scaled.upper, plain.upper)


@given(problems(), probabilities, st.floats(1e-6, 1.0), levels, draws, seeds)
@example(ONE, 0.3, 0.3, 0.01, 300, 0)
def test_an_end_is_finite_exactly_where_a_rank_qualifies(problem, p, rho, alpha, n, seed):
    """With tails p − ρ and 1 − p − ρ by hand; none of them where ρ ≥ min(p, 1 − p)."""
    f, y, noise = problem
    b = percentile_bounds(f, y, noise, rho=rho, p=p, n=n, alpha=alpha, seed=seed, pilot=8)
    side = alpha / (2 * b.lower.numel())
    for end, rank, tail in ((b.lower, b.lower_rank, p - rho), (b.upper, b.upper_rank, 1 - p - rho)):
        assume(not 0 < tail < 1e-9)
        near = {extreme_rank(n, max(tail, 0.0) * (1 + slack), side) for slack in (-1e-8, 1e-8)}
        assert rank in near or rank in range(min(near), max(near) + 1)
        assert bool(torch.isfinite(end).all()) == (rank > 0)
        assert tail > 0 or rank == 0
    assert (b.status == "certified") == (b.lower_rank > 0 and b.upper_rank > 0)


@given(problems(), st.floats(1e-6, 3.0), levels, st.integers(50, 400), seeds)
def test_a_certified_radius_is_one_at_which_the_bound_is_within_the_tolerance(problem, tolerance, alpha, n, seed):
    options = {"n": n, "alpha": alpha, "seed": seed, **T2}
    r = certified_radius(*problem, tolerance=tolerance, **options)
    if 0 < r.rho < math.inf:
        assert r.rho < 0.5
        assert mse_bound(*problem, rho=r.rho, **options).value <= tolerance
        assert mse_bound(*problem, rho=r.rho * (1 + 1e-5), **options).value > tolerance
        assert r.ellipsoid.rho == r.rho


@given(probabilities, radii, radii, copies)
@example(0.5, 0.5, 1e-9, 1)
def test_shifts_of_probabilities_add_up(p, a, b, k):
    """(p − a) − b = p − (a + b); the tails mirror each other; k copies cost less than k times one, and multiply."""
    once, twice = shifted(p, variation(a + b)).lower, shifted(shifted(p, variation(a)).lower, variation(b)).lower
    assert twice == pytest.approx(once, abs=1e-11)
    assert shifted(1 - p, variation(a)) == pytest.approx(shifted(p, variation(a))[::-1], abs=1e-11)
    assert variation(a) <= variation(a, k) <= min(1.0, k * variation(a)) * (1 + 1e-9)
    assert 1 - variation(a, k + 1) == pytest.approx((1 - variation(a, k)) * (1 - variation(a)), abs=1e-11)
    assert shifted(p, variation(a)).lower < p


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(-5, 5)), min_size=1, max_size=6), copies)
def test_the_sum_covers_the_product(coordinates, k):
    """1 − Π_j (1 − |δ_j|/2h_j)₊^K ≤ r(‖δ‖) for every δ: what T13 proves, in floating point."""
    h, delta = (torch.tensor(list(column), dtype=torch.float64) for column in zip(*coordinates, strict=True))
    overlap = float((1 - delta.abs() / (2 * h)).clamp(min=0).prod()) ** k
    assert 1 - overlap <= variation(UniformNoise(h).norm(delta), k) + 1e-15


@given(problems(), st.floats(1e-6, 0.4), levels, st.integers(20, 400), seeds, st.integers(1, 4))
def test_an_event_and_its_opposite_bound_each_other(problem, rho, alpha, n, seed, k):
    """P[A] ≤ value and P[not A] ≥ 1 − value are one statement."""
    f, y, noise = problem

    def event(z):
        return f(z.flatten(0, 1)).unflatten(0, z.shape[:2])[..., 0].mean(dim=1) > 0.3

    options = {"rho": rho, "n": n, "alpha": alpha, "seed": seed, "replicas": k, "two_sided": True}
    happens, fails = event_bound(event, y, noise, **options), event_bound(lambda z: ~event(z), y, noise, **options)
    assert happens.value == pytest.approx(1 - fails.lower, abs=1e-9)
    assert happens.lower == pytest.approx(1 - fails.value, abs=1e-9)


def test_false_laws_are_caught():
    """Were K copies free, the radius measured by its largest entry, or the bound proportional to ρ, hypothesis would say so."""
    unshrunk = settings(phases=(Phase.explicit, Phase.generate), max_examples=200)  # finding one is enough

    @unshrunk
    @given(st.floats(0.01, 0.9), st.integers(2, 5))
    def free(rho, k):
        assert 1 - (1 - rho) ** k <= variation(rho)

    @unshrunk
    @given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(-5, 5)), min_size=1, max_size=6))
    def largest(coordinates):
        shares = [abs(delta) / (2 * h) for h, delta in coordinates]
        assert 1 - math.prod(max(1 - a, 0.0) for a in shares) <= variation(max(shares)) + 1e-12

    @unshrunk
    @given(problems(), st.floats(0.05, 0.2), seeds)
    def proportional(problem, rho, seed):
        one, two = (mse_bound(*problem, rho=r, n=500, alpha=0.05, seed=seed, **T2).value for r in (rho, 2 * rho))
        assert two == pytest.approx(4 * one, rel=1e-3)

    for law in (free, largest, proportional):
        with pytest.raises(AssertionError):
            law()
