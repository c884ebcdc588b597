"""The certified set against closed forms, sampling and the norm it is defined by."""

from __future__ import annotations

import math

import pytest
import torch

from certify import Ellipsoid

SIGMA = torch.tensor([0.5, 2.0, 0.0, 1.25], dtype=torch.float64)


def test_a_ball_for_one_sigma():
    """Isotropic: everything is the ℓ2 ball of radius ρσ; its ℓ∞ ball is ρσ/√d, its volume π^{d/2} r^d/Γ(d/2+1)."""
    e = Ellipsoid(torch.full((3,), 0.25), rho=2.0)
    assert e.l2_ball == pytest.approx(0.5)
    assert e.l1_ball == pytest.approx(0.5)
    assert e.linf_ball == pytest.approx(0.5 / math.sqrt(3))
    assert e.proxy_radius == pytest.approx(0.5)
    assert e.log_volume == pytest.approx(math.log(4 / 3 * math.pi * 0.5**3))
    assert e.dimensions == 3


@pytest.mark.parametrize(
    ("sigma", "volume"),
    [([2.0], 2 * 2.0 * 1.5), ([2.0, 3.0], math.pi * 3.0 * 4.5), ([1.0, 0.0, 2.0], math.pi * 1.5 * 3.0)],
)
def test_log_volume_of_an_interval_an_ellipse_and_a_flat_one(sigma, volume):
    e = Ellipsoid(torch.tensor(sigma), rho=1.5)
    assert e.log_volume == pytest.approx(math.log(volume))
    d = e.dimensions
    ball = math.pi ** (d / 2) * e.proxy_radius**d / math.gamma(d / 2 + 1)
    assert ball == pytest.approx(volume)  # the proxy radius is that of the ball of equal volume


def test_log_volume_does_not_overflow_in_high_dimension():
    e = Ellipsoid(torch.full((59_136,), 1e-3), rho=0.1)
    assert e.proxy_radius == pytest.approx(1e-4)
    assert math.isfinite(e.log_volume)
    assert e.log_volume < -1e5


def test_without_radius_only_the_origin_is_inside():
    e = Ellipsoid(SIGMA, rho=0.0)
    assert e.contains(torch.zeros(4))
    assert not e.contains(torch.tensor([1e-300, 0.0, 0.0, 0.0], dtype=torch.float64))
    assert (e.l2_ball, e.linf_ball, e.proxy_radius, e.log_volume) == (0.0, 0.0, 0.0, -math.inf)


def test_an_infinite_radius_is_the_space_of_noised_coordinates_only():
    e = Ellipsoid(SIGMA, rho=math.inf)
    assert e.contains(torch.tensor([1e30, -1e9, 0.0, 5.0]))
    assert not e.contains(torch.tensor([0.0, 0.0, 1e-9, 0.0]))
    assert e.l2_ball == math.inf
    assert e.semi_axes.tolist() == [math.inf, math.inf, 0.0, math.inf]


def test_without_noise_nothing_has_extent():
    e = Ellipsoid(torch.zeros(3), rho=2.0)
    assert (e.dimensions, e.l2_ball, e.linf_ball, e.proxy_radius, e.log_volume) == (0, 0.0, 0.0, 0.0, -math.inf)
    assert "0 of 3" in repr(e)
