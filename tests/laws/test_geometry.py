"""Laws of the certified set and of the noise: sizes, membership, and how far a shift can move any probability.

What the library computes is held against what it is defined as: points of the ellipsoid, events drawn at random and moved, sums
over a grid.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.special import ndtr

from certify import Ellipsoid, GaussianNoise
from certify._random import normals
from tests.strategies import INPUTS, deltas, noises, percentiles, radii, seeds

UNIT = GaussianNoise(1.0)
sizes = st.floats(1e-3, 30.0)
shapes = st.sampled_from(INPUTS)


@st.composite
def sets(draw):
    """(ellipsoid, a perturbation along its noised coordinates)."""
    shape = draw(shapes)
    noise = draw(noises(shape))
    return Ellipsoid(noise.sigma_for(shape), draw(sizes)), draw(deltas(noise, shape))


def scaled(ellipsoid, delta, factor):
    """δ made `factor` · ρ long."""
    return delta * (factor * ellipsoid.rho / ellipsoid.noise.norm(delta))


# The ellipsoid


@given(sets())
def test_membership_is_the_norm(found):
    """δ is inside iff ‖δ‖_Σ ≤ ρ; the norm is that of the definition, and scales."""
    ellipsoid, delta = found
    noise, live = ellipsoid.noise, ellipsoid.sigma > 0
    size = noise.norm(delta)
    assert size == pytest.approx(float((delta[live] / ellipsoid.sigma[live]).norm()), rel=1e-12)
    assert noise.norm(-3.0 * delta) == pytest.approx(3.0 * size, rel=1e-12)
    assert ellipsoid.contains(delta) == (size <= ellipsoid.rho)
    assert ellipsoid.contains(0 * delta)
    if size > 0:
        assert ellipsoid.contains(scaled(ellipsoid, delta, 1 - 1e-9))
        assert not ellipsoid.contains(scaled(ellipsoid, delta, 1 + 1e-9))
    outside = torch.where(live, 0.0, torch.tensor(1e-300, dtype=torch.float64))
    assert ellipsoid.contains(outside) == bool(live.all())


@given(shapes, st.data())
def test_the_norm_is_a_norm(shape, data):
    noise = data.draw(noises(shape))
    a, b = data.draw(deltas(noise, shape)), data.draw(deltas(noise, shape))
    assert noise.norm(a + b) <= (noise.norm(a) + noise.norm(b)) * (1 + 1e-12)
    k = data.draw(st.integers(1, 9))
    wide = GaussianNoise(noise.sigma_for(shape).expand(k, *shape))
    assert wide.norm(a.expand(k, *shape)) == pytest.approx(math.sqrt(k) * noise.norm(a), rel=1e-12)


@given(sets())
def test_semi_axes_touch_the_boundary(found):
    ellipsoid, _ = found
    axes = ellipsoid.semi_axes.reshape(-1)
    for i in range(axes.numel()):
        point = torch.zeros_like(axes)
        point[i] = axes[i]
        point = point.reshape(ellipsoid.sigma.shape)
        expected = ellipsoid.rho if float(axes[i]) > 0 else 0.0
        assert ellipsoid.noise.norm(point) == pytest.approx(expected, rel=1e-12)
        if float(axes[i]) > 0:
            assert ellipsoid.contains(point * (1 - 1e-9))
            assert not ellipsoid.contains(point * (1 + 1e-9))


@given(sets(), st.sampled_from(["l1_ball", "l2_ball", "linf_ball"]))
def test_inscribed_balls_are_inside_and_touch(found, name):
    """Whatever the direction, along the noised coordinates; in one direction there is no more room."""
    ellipsoid, delta = found
    order, radius = {"l1_ball": 1, "l2_ball": 2, "linf_ball": math.inf}[name], getattr(ellipsoid, name)
    sigma = ellipsoid.sigma
    if not ellipsoid.dimensions:
        assert radius == 0
        return
    smallest = float(sigma[sigma > 0].min())
    worst = {
        "l1_ball": (sigma == smallest).double() * _first(sigma == smallest),
        "l2_ball": (sigma == smallest).double() * _first(sigma == smallest),
        "linf_ball": (sigma > 0).double(),
    }[name]
    for direction in (delta, worst):
        length = float(torch.linalg.vector_norm(direction, order))
        if length > 0:
            assert ellipsoid.contains(direction * (radius * (1 - 1e-9) / length))
    length = float(torch.linalg.vector_norm(worst, order))
    assert ellipsoid.noise.norm(worst * (radius / length)) == pytest.approx(ellipsoid.rho, rel=1e-9)


def _first(mask):
    """1 at the first entry that is set, 0 elsewhere."""
    flat = mask.reshape(-1)
    return (torch.arange(flat.numel()) == int(flat.to(torch.int64).argmax())).reshape(mask.shape).double()


@given(sets())
def test_circumscribed_balls_hold_it(found):
    """No point of the set is further away than its longest semi-axis, nor outside the box of all of them."""
    ellipsoid, delta = found
    assume(ellipsoid.noise.norm(delta) > 0)
    point = scaled(ellipsoid, delta, 1.0)
    assert float(point.norm()) <= float(ellipsoid.semi_axes.max()) * (1 + 1e-9)
    assert bool((point.abs() <= ellipsoid.semi_axes * (1 + 1e-9)).all())
    assert ellipsoid.l2_ball <= ellipsoid.proxy_radius * (1 + 1e-9)
    assert ellipsoid.proxy_radius <= float(ellipsoid.semi_axes.max()) * (1 + 1e-9)


@given(sets(), st.floats(1.0, 100.0))
def test_sizes_scale_with_the_radius(found, factor):
    ellipsoid, delta = found
    larger = Ellipsoid(ellipsoid.sigma, factor * ellipsoid.rho)
    for name in ("l1_ball", "l2_ball", "linf_ball", "proxy_radius"):
        assert getattr(larger, name) == pytest.approx(factor * getattr(ellipsoid, name), rel=1e-12)
    torch.testing.assert_close(larger.semi_axes, factor * ellipsoid.semi_axes, rtol=1e-12, atol=0.0)
    if ellipsoid.dimensions:
        grown = larger.log_volume - ellipsoid.log_volume
        assert grown == pytest.approx(ellipsoid.dimensions * math.log(factor), rel=1e-9, abs=1e-9)
        # The proxy radius is that of the ball of this volume.
        d = ellipsoid.dimensions
        ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) + d * math.log(ellipsoid.proxy_radius)
        assert ellipsoid.log_volume == pytest.approx(ball, rel=1e-9, abs=1e-9)
    assert larger.contains(delta) >= ellipsoid.contains(delta)


@given(sets(), st.randoms(use_true_random=False))
def test_coordinates_may_be_permuted(found, random):
    """The norm, the membership and every size of the ellipsoid are symmetric in the coordinates."""
    plain, delta = found
    order = list(range(delta.numel()))
    random.shuffle(order)
    permuted = Ellipsoid(plain.sigma.reshape(-1)[order], plain.rho)
    assert permuted.noise.norm(delta.reshape(-1)[order]) == pytest.approx(plain.noise.norm(delta), rel=1e-12)
    for name in ("l2_ball", "l1_ball", "linf_ball", "log_volume", "proxy_radius", "dimensions"):
        assert getattr(permuted, name) == pytest.approx(getattr(plain, name), rel=1e-12, abs=1e-12)


# The noise


@given(shapes, st.data(), seeds)
def test_every_noise_is_its_sigma_times_the_same_normals(shape, data, seed):
    """z = y + σ ∘ g, to the last digit: a coordinate without noise is the input's own."""
    noise = data.draw(noises(shape))
    y = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).reshape(shape)
    z = noise.draw(y, 5, torch.Generator().manual_seed(seed))
    g = normals((5, *shape), torch.Generator().manual_seed(seed))
    sigma = noise.sigma_for(shape)
    assert torch.equal(z, y + g * sigma)
    assert torch.equal(z[:, sigma == 0], y[sigma == 0].expand(5, -1))


@st.composite
def events(draw):
    """A union of disjoint intervals of the real line, as a list of their ends."""
    ends = sorted(draw(st.lists(st.floats(-6, 6), min_size=2, max_size=8, unique=True)))
    return ends[: len(ends) // 2 * 2]


def probability(ends, shift):
    """Of the event under N(shift, 1)."""
    return math.fsum(float(ndtr(b - shift) - ndtr(a - shift)) for a, b in zip(ends[::2], ends[1::2], strict=True))


@given(events(), st.floats(0, 4), st.floats(-1, 1))
def test_no_event_moves_further_than_the_tails_say(ends, rho, share):
    """T1, by brute force: any event under a shift of at most ρ, against p⁻ and p⁺ of its probability."""
    p, moved = probability(ends, 0.0), probability(ends, share * rho)
    assume(1e-9 < p < 1 - 1e-9)
    tails = UNIT.tails(p, rho)
    assert tails.lower <= moved + 1e-12
    assert moved <= 1 - tails.upper + 1e-12
    # … and χ² says the same in its own way: (q − p)² ≤ χ² p (1 − p).
    assert (moved - p) ** 2 <= UNIT.chi2(rho) * p * (1 - p) + 1e-12


@given(percentiles, st.floats(1e-6, 6), st.integers(1, 20))
def test_a_half_space_attains_them(p, rho, k):
    """The event {u·z ≤ v} with the shift along u, and with K copies the mean over them: no bound can be smaller."""
    from statistics import NormalDist

    v = NormalDist().inv_cdf(p)
    tails = UNIT.tails(p, rho, k)
    # K copies moved by ρ: their normalised sum moves by √K ρ.
    assert tails.lower == pytest.approx(float(ndtr(v - math.sqrt(k) * rho)), rel=1e-7, abs=1e-15)
    assert tails.upper == pytest.approx(float(ndtr(-v - math.sqrt(k) * rho)), rel=1e-7, abs=1e-15)
    assert tails == UNIT.tails(p, math.sqrt(k) * rho)


@given(percentiles, percentiles, radii, radii)
def test_tails_are_ordered(p, q, a, b):
    (low, high), (near, far) = sorted((p, q)), sorted((a, b))
    assert UNIT.tails(low, near).lower <= UNIT.tails(high, near).lower
    assert UNIT.tails(low, near).upper >= UNIT.tails(high, near).upper
    for side in (0, 1):
        assert UNIT.tails(p, far)[side] <= UNIT.tails(p, near)[side] <= (p, 1 - p)[side]


@given(st.floats(0, 3), st.integers(1, 9))
@example(0.0, 1)
def test_chi_squared_is_the_variance_of_the_likelihood_ratio(rho, k):
    """E_P (L − 1)² summed on a grid; K independent copies multiply 1 + χ²."""
    x = np.linspace(-16, 20, 200_001)
    ratio = np.exp(rho * x - rho * rho / 2)
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    assert UNIT.chi2(rho) == pytest.approx(
        float(np.sum((ratio - 1) ** 2 * density) * (x[1] - x[0])), rel=1e-6, abs=1e-9
    )
    assert math.log1p(UNIT.chi2(math.sqrt(k) * rho)) == pytest.approx(
        k * math.log1p(UNIT.chi2(rho)), rel=1e-9, abs=1e-12
    )
