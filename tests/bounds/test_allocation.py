"""T16: a small exhaustive search, its laws with false ones that are caught, and two encoders of equal gain."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certify import GaussianNoise, allocation, bound_curve
from certify.bounds.allocation import allocate, grid


def total(values):
    """Their exact sum: one in floating point can lie above it."""
    values = list(values)
    return math.inf if math.inf in values else sum(map(Fraction, values))


def searched(bounds, rhos):
    """The statement, word for word."""
    rows = [[min(row[j:]) for j in range(len(row))] for row in bounds]
    radii, rho = [0.0, *rhos], rhos[-1]
    return max(
        total(row[j] for row, j in zip(rows, choice, strict=True))
        for choice in itertools.product(range(len(rhos)), repeat=len(rows))
        if sum(radii[j] ** 2 for j in choice) <= rho**2 * (1 + 1e-12)
    )


radii = st.lists(st.floats(0.01, 5.0), min_size=1, max_size=5, unique=True).map(sorted)


@st.composite
def problems(draw):
    rhos = draw(radii)
    numbers = st.floats(0, 100) | st.sampled_from([0.0, 1.0, math.inf])
    rows = draw(st.lists(st.lists(numbers, min_size=len(rhos), max_size=len(rhos)), min_size=1, max_size=4))
    return rows, rhos


@given(problems())
def test_it_is_the_largest_of_all_ways(problem):
    rows, rhos = problem
    found = allocate(rows, rhos)
    assert found.value == pytest.approx(float(searched(rows, rhos)), rel=1e-9)
    assert found.value >= searched(rows, rhos)
    spent = sum(([0.0, *rhos][rhos.index(r)] / rhos[-1]) ** 2 for r in found.radii)
    assert spent <= 1 + 1e-9


@given(problems())
def test_laws(problem):
    """Never above the sum; of one block its own bound; a constant block adds nothing; no smaller where a bound is larger."""
    rows, rhos = problem
    whole = allocate(rows, rhos)
    assert whole.value <= whole.full
    assert whole.full == pytest.approx(sum(row[-1] for row in rows))
    one = allocate(rows[:1], rhos)
    assert one.value == rows[0][-1] == one.full
    assert allocate([*rows, [0.0] * len(rhos)], rhos).value == pytest.approx(whole.value, rel=1e-12)
    assert whole.value >= max(row[-1] for row in rows)
    assert allocate([*rows[1:], [v + 1 for v in rows[0]]], rhos).value >= whole.value
    assert allocate(rows[::-1], rhos).value == pytest.approx(whole.value, rel=1e-12)


def truth(bounds, rho, steps=4001):
    """sup Σ_e b_e(r_e) over Σ r_e² ≤ ρ², for two functions, by a fine search."""
    share = np.linspace(0, 1, steps)
    return float((bounds[0](rho * np.sqrt(share)) + bounds[1](rho * np.sqrt(1 - share))).max())


SHAPES = [
    lambda r: r**2,
    lambda r: np.sqrt(r),
    lambda r: np.minimum(r, 0.4),
    lambda r: np.expm1(r**2),
    lambda r: (r > 0.7) * 2.0,
    lambda r: 0 * r,
]


def forgets_the_step_before(bounds, rhos):
    """Mistake: Σ r_{j_e}² ≤ ρ²: each block is charged the radius that its bound is taken at."""
    pairs = itertools.product(range(len(rhos)), repeat=2)
    allowed = [(i, j) for i, j in pairs if rhos[i] ** 2 + rhos[j] ** 2 <= rhos[-1] ** 2 * (1 + 1e-12)]
    return max((bounds[0][i] + bounds[1][j] for i, j in allowed), default=0.0)


def splits_evenly(bounds, rhos):
    """Mistake: each block gets ρ/√E."""
    at = next(j for j, r in enumerate(rhos) if r >= rhos[-1] / math.sqrt(2) * (1 - 1e-12))
    return bounds[0][at] + bounds[1][at]


def shortfalls(rule) -> int:
    """Of all pairs of shapes and three grids, how often a rule gives less than the truth."""
    short = 0
    for a, b in itertools.product(SHAPES, repeat=2):
        for rhos in (grid(1.0, 4), grid(1.0, 16), (0.3, 0.5, 1.0)):
            rows = [[float(v) for v in f(np.array(rhos))] for f in (a, b)]
            short += rule(rows, rhos) < truth((a, b), 1.0) * (1 - 1e-6)
    return short


def test_it_is_never_below_the_truth_and_false_rules_are():
    assert shortfalls(lambda rows, rhos: allocate(rows, rhos).value) == 0
    assert shortfalls(forgets_the_step_before) > 10
    assert shortfalls(splits_evenly) > 10


def test_two_blocks_of_equal_gain_need_little_more_than_half():
    """Linear, exact bounds b ρ²: half in the limit, and (1 + 2/J)/2 on a grid of J steps."""
    for steps in (16, 64):
        rhos = grid(2.0, steps)
        found = allocate([[3 * r * r for r in rhos]] * 2, rhos)
        assert found.share == pytest.approx(0.5 + 1 / steps)
        assert found.value >= 3 * 4.0  # the truth: all of ρ on one block
    three = allocate([[r * r for r in grid(1.0, 48)]] * 3, grid(1.0, 48))
    assert three.share == pytest.approx(1 / 3 + 1 / 48)


def blocks(rho, n, steps, **options):
    """Two linear encoders of equal gain, each with noise of its own, as curves from draws."""
    rng = torch.Generator().manual_seed(0)
    A = torch.linalg.qr(torch.randn(6, 6, generator=rng, dtype=torch.float64))[0]
    y, asked = torch.zeros(6, dtype=torch.float64), {"rhos": grid(rho, steps), "n": n, "alpha": 5e-4, **options}
    curves = [bound_curve(f, y, 1.0, seed=e, **asked) for e, f in enumerate((lambda z: z @ A, lambda z: -z @ A))]
    return allocation(*curves), curves


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"smoother": "mean", "method": "spectral", "reference": "population", "support": (-40.0, 40.0)}, 16),
        ({"method": "coordinatewise"}, 16),
    ],
)
def test_from_draws_it_is_at_most_six_tenths_of_full_radii(options, steps):
    found, curves = blocks(1.0, 4000, steps, **options)
    assert found.full == pytest.approx(sum(curve.values[-1] for curve in curves))
    assert found.value >= 1.0  # the truth: ρ² λ_max
    assert found.share <= (0.6 if options["method"] == "spectral" else 0.8)
    assert found.alpha == pytest.approx(1e-3)
    assert "T16" in str(found)


def test_a_sum_beyond_all_numbers_is_infinite():
    found = allocate([[1e308, 1e308]] * 3, [0.1, 0.2])
    assert found.value == found.full == math.inf


def test_one_radius_is_the_sum():
    f = lambda z: z  # noqa: E731
    curve = bound_curve(f, torch.zeros(2), GaussianNoise(1.0), rhos=[0.5], n=500)
    found = allocation(curve, curve)
    assert found.value == pytest.approx(2 * curve.values[0])
    assert found.value == found.full


CURVE = bound_curve(lambda z: z, torch.zeros(2), 1.0, rhos=[0.5, 1.0], n=200)
POINTWISE = bound_curve(lambda z: z, torch.zeros(2), 1.0, rhos=[0.5, 1.0], n=200, simultaneous=False)
OTHER = bound_curve(lambda z: z, torch.zeros(2), 1.0, rhos=[0.5, 0.9], n=200)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: allocation(), ValueError, "curves = .*: must be one curve for each block"),
        (lambda: allocation(CURVE, 3.0), TypeError, r"curves\[1\] is a float: must be a curve"),
        (lambda: allocation(CURVE, OTHER), ValueError, r"curves\[1\] has the radii \[0.5, 0.9\]: must be \[0.5, 1.0\]"),
        (lambda: allocation(POINTWISE, CURVE), ValueError, r"curves\[0\] is pointwise: must be simultaneous"),
        (lambda: allocate([], [1.0]), ValueError, "bounds is empty"),
        (lambda: allocate([[1.0, 2.0]], [1.0]), ValueError, r"bounds\[0\] has shape \(2,\): must be \(1,\)"),
        (lambda: allocate([[-1.0]], [1.0]), ValueError, r"bounds\[0\] = \[-1.0\]: must be numbers >= 0"),
        (lambda: allocate([[math.nan]], [1.0]), ValueError, r"bounds\[0\] = \[nan\]: must be numbers >= 0"),
        (lambda: allocate([[1.0, 2.0]], [1.0, 0.5]), ValueError, "rhos = .*strictly increasing"),
        (lambda: grid(0.0), ValueError, "rho = 0.0"),
        (lambda: grid(1.0, 0), ValueError, "steps = 0"),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
