"""Laws of scale: outputs near 1e-300 or 1e300 are outputs like any other, and what float64 cannot hold is rounded up.

The square of 1e-170 is 0, and a bound of 0 says that nothing moves. So for a scale s a squared distance is s² times that at
s = 1, or more; where s² itself leaves float64 it is the smallest number there is, or infinite with a reason.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from certify import GaussianNoise, UniformNoise, certified_radius, decide_mse, deployed_bound, mse_bound
from certify._floats import TOO_LARGE, half_way, length, mean, square, squared_length, squared_lengths, up
from certify.montecarlo import Groups, median, row_distances
from certify.statements.replicas import deployed_distance
from certify.support import Support
from tests.laws.built import CHOOSING, part, prepared, squared
from tests.laws.test_equivariant import _chosen

SMALLEST = 5e-324
Y, NOISE = torch.zeros(1, dtype=torch.float64), GaussianNoise(1.0)
MOVES = math.sqrt(5.0)
"""How far the median of (z, −2z) moves for ‖δ‖_Σ ≤ 1; no distance from a center can be bounded by less."""


def scaled(name, s):
    """A method's answer for s·(z, −2z) at ρ = 1."""
    kind, more = CHOOSING[name]
    options = {**more, "within": s * 8.0} if more.get("within") else more
    method, seen = prepared((lambda z: s * z, Y, NOISE), kind, n=2000, alpha=0.1, seed=3, aim=1.0, **options)
    return method, method.at(1.0, seen)


exponents = st.integers(-1000, 1000) | st.sampled_from(
    [-1074, -560, -545, -538, -537, -536, -520, 505, 508, 511, 512, 1018]
)


@pytest.mark.parametrize("name", CHOOSING)
@part
@given(exponents)
@example(-560)
@example(-1000)
@example(1000)
def test_no_scale_makes_a_bound_too_small(name, exponent):
    s = math.ldexp(1.0, exponent)  # of two: no digit changes
    method, found = scaled(name, s)
    power = 2 if squared(name) else 1
    # A mean of clipped values, or a median of several draws with probability q, moves a little less.
    least = Fraction(s) ** power * Fraction(MOVES * (0.9 if name.startswith(("T11", "T5", "T6")) else 1.0)) ** power
    if math.isinf(found.value):
        assert least > Fraction(2) ** 1000
        assert found.reason == TOO_LARGE or not squared(name)
        return
    assert Fraction(found.value) >= least
    one, plain = scaled(name, 1.0)
    if abs(exponent) < 470:  # where its square has all its digits, the answer is the same
        assert _chosen(method, s) == pytest.approx(_chosen(one, 1.0), rel=1e-12)
        assert float(Fraction(found.value) / Fraction(s) ** power) == pytest.approx(plain.value, rel=1e-12)
    # … and elsewhere it is at most what is chosen by numbers of a few digits.
    assert Fraction(found.value) <= 4 * Fraction(s) ** power * Fraction(plain.value) + 1000 * Fraction(SMALLEST)


@pytest.mark.parametrize("method", ["coordinatewise", "dimension-free", "spectral", "best"])
@pytest.mark.parametrize("s", [1e-170, 1e-300, 5e-324])
def test_outputs_whose_squares_are_lost_are_not_certified_not_to_move(method, s):
    c = mse_bound(lambda z: s * z, Y, NOISE, rho=1.0, n=2000, method=method)
    assert c.status == "certified"
    assert 0 < c.value <= 1e-300


@pytest.mark.parametrize("smoother", ["median", "mean"])
@pytest.mark.parametrize("s", [1e160, 1e200, 1e300, 1e307])
def test_outputs_whose_squares_overflow_abstain_with_the_reason(smoother, s):
    c = mse_bound(lambda z: s * z.clamp(-8, 8), Y, NOISE, rho=1.0, n=2000, smoother=smoother, support=(-8 * s, 8 * s))
    assert (c.status, c.value, c.reason) == ("abstained", math.inf, TOO_LARGE)
    r = certified_radius(lambda z: s * z.clamp(-8, 8), Y, NOISE, tolerance=1.0, n=2000, smoother=smoother)
    assert (r.status, r.rho) == ("abstained", 0.0)


@pytest.mark.parametrize("s", [1e-300, 1e-170, 1e170, 1e300])
@pytest.mark.parametrize("smoother", ["median", "mean"])
def test_a_deployed_distance_is_no_square(s, smoother):
    options = {"rho": 0.2, "q": 0.8, "replicas": 4, "n": 3000, "smoother": smoother}
    plain, other = (deployed_bound(lambda z, a=a: a * z, Y, NOISE, **options) for a in (1.0, s))
    assert other.method == plain.method
    assert other.value / s == pytest.approx(plain.value, rel=1e-9)


@pytest.mark.parametrize("s", [1e-300, 1e-160])
def test_a_radius_for_a_tolerance_that_is_hardly_a_number(s):
    """The truth moves by (sρ)² > 0, so no radius is right for a tolerance of 0, and sqrt(tolerance)/s is the most."""
    tolerance = SMALLEST
    r = certified_radius(lambda z: s * z, Y, NOISE, tolerance=tolerance, n=2000, method="coordinatewise")
    assert r.rho == 0 or Fraction(s) ** 2 * Fraction(min(r.rho, 1e9)) ** 2 <= Fraction(tolerance)


def test_a_decision_at_the_edge_of_float64():
    """‖f − c‖ ≤ R₀ with R₀² = tolerance (q − ½)/q, which is no number of its own here."""
    d = decide_mse(
        lambda z: 1e-161 * z, Y, NOISE, tolerance=1e-323, rho=0.1, method="dimension-free", center=Y, level=0.9
    )
    assert d.decided != "yes"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_median_of_an_even_number_does_not_overflow(dtype):
    large = torch.finfo(dtype).max
    draws = torch.tensor([[large], [large], [-large], [large]], dtype=dtype)
    assert float(median(draws)) == large
    assert float(mean(draws)) == pytest.approx(large / 2)
    c = mse_bound(
        lambda z: torch.where(z.abs() <= 3, torch.full_like(z, large), -large),
        torch.zeros(1, dtype=dtype),
        NOISE,
        rho=0.1,
        n=300,
        pilot=64,
    )
    assert c.value == pytest.approx(0.0, abs=1e-12) or c.reason == TOO_LARGE


@pytest.mark.parametrize("s", [1e-320, 1e-170, 1e170, 1e300])
def test_distances_of_draws(s):
    x, c = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], dtype=torch.float64) * s, torch.zeros(2, 2, dtype=torch.float64)
    assert (row_distances(x, c) / s)[0].tolist() == pytest.approx([5.0, 0.0], rel=1e-3)
    groups = Groups(c, 2, "mean")
    groups.update(torch.cat([x, x]))
    assert float(groups.values()) / s == pytest.approx(5.0, rel=1e-3)
    deployed = deployed_distance(lambda z: z * s, torch.zeros(2, dtype=torch.float64))
    assert float(deployed(torch.tensor([[[3.0, 4.0]]], dtype=torch.float64))) / s == pytest.approx(5.0, rel=1e-3)


@pytest.mark.parametrize("s", [1e-300, 1e-170, 1e170, 1e300])
def test_what_a_support_allows(s):
    for known in (Support.ball(4), Support(-torch.ones(4).double(), torch.ones(4).double())):
        parts = (known.lower, known.upper, known.gain, known.offset)
        other = Support(*(None if part is None else s * part for part in parts))
        c = torch.full((2, 4), 0.25, dtype=torch.float64)
        assert (other.reach(s * c) / s).tolist() == pytest.approx(known.reach(c).tolist(), rel=1e-6)
        assert other.median_reach(s * c) / s == pytest.approx(known.median_reach(c), rel=1e-9)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
@example([5e-324])
@example([1e-162, 1e-162])
@example([1.7e308, 1.7e308])
def test_squares_and_lengths_against_exact_arithmetic(entries):
    x = torch.tensor(entries, dtype=torch.float64)
    truth = sum(Fraction(v) ** 2 for v in entries)
    for found in (squared_length(x, 4e-16 * len(entries)), float(squared_lengths(x[None], dim=1)) * (1 + 1e-15)):
        assert found == math.inf or Fraction(found) >= truth
        if found == math.inf:
            assert truth > Fraction(2) ** 1023
        elif truth > Fraction(2) ** -900:
            assert Fraction(found) <= truth * (1 + Fraction(1, 10**12))
        else:
            assert Fraction(found) <= 2 * truth + 8 * Fraction(SMALLEST)
    for found in (up(float(length(x)), 1e-15), up(float(length(x[None], dim=1)), 1e-15)):
        assert found == math.inf or Fraction(found) ** 2 >= truth
        assert found < math.inf or truth > Fraction(2) ** 2046
    assert all(Fraction(square(v)) >= Fraction(v) ** 2 * (1 - Fraction(1, 10**15)) for v in entries if abs(v) < 1e154)
    a, b = x[0], x[-1]
    assert min(a, b) <= half_way(a, b) <= max(a, b)


def test_the_size_of_a_perturbation_is_not_rounded_to_nothing():
    tiny, wide = torch.tensor([1e-320], dtype=torch.float64), 1e30
    assert GaussianNoise(wide).norm(tiny) > 0
    assert UniformNoise(wide).norm(tiny) > 0
    e = GaussianNoise(torch.full((3,), 1e200, dtype=torch.float64)).region((3,), 1.0)
    assert e.linf_ball == pytest.approx(1e200 / math.sqrt(3))
