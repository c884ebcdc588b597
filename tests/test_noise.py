"""Noise against closed forms and 60-digit arithmetic."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import kstest

from certify import GaussianNoise
from certify.noise import Noise, Tails

FALSE_ALARM = 1e-6


def test_norm_is_the_mahalanobis_length():
    """sqrt(Σ δ²/σ²) by hand: 3-4-5 triangles."""
    assert GaussianNoise(0.5).norm(torch.tensor([0.3, 0.4], dtype=torch.float64)) == pytest.approx(1.0, rel=1e-15)
    sigma = torch.tensor([2.0, 0.5], dtype=torch.float64)
    assert GaussianNoise(sigma).norm(torch.tensor([6.0, 2.0], dtype=torch.float64)) == pytest.approx(5.0, rel=1e-15)


def test_norm_of_nothing_over_nothing_is_zero_and_outside_the_noise_infinite():
    noise = GaussianNoise(torch.tensor([1.0, 0.0]))
    assert noise.norm(torch.tensor([3.0, 0.0])) == 3.0
    assert noise.norm(torch.tensor([3.0, 1e-30])) == math.inf
    assert GaussianNoise(0.0).norm(torch.zeros(4)) == 0.0


def test_norm_is_not_shortened_for_the_smallest_sigma():
    """A subnormal σ must not be replaced by a larger one: that would certify what is not."""
    sigma, delta = torch.tensor([5e-324], dtype=torch.float64), torch.tensor([1e-310], dtype=torch.float64)
    assert GaussianNoise(sigma).norm(delta) > 1e13


def test_sigma_broadcasts_over_the_width_of_a_token():
    sigma = torch.tensor([[0.5], [2.0]])
    delta = torch.tensor([[0.5, 0.5], [2.0, 2.0]])
    assert GaussianNoise(sigma).norm(delta) == pytest.approx(2.0)


def test_the_noise_keeps_its_own_sigma():
    sigma = torch.tensor([1.0])
    noise = GaussianNoise(sigma)
    sigma.mul_(2)
    assert noise.norm(torch.tensor([1.0])) == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_the_stated_gaussian(dtype):
    """Kolmogorov-Smirnov a coordinate, against N(y, σ²); H0: that law; false-alarm rate 1e-6 together."""
    y = torch.tensor([[1.0, -2.0], [0.0, 30.0]], dtype=dtype)
    sigma = torch.tensor([[0.5], [3.0]])
    z = GaussianNoise(sigma).draw(y, 20_000, torch.Generator().manual_seed(3))
    assert z.shape == (20_000, 2, 2)
    assert z.dtype == dtype
    for i in range(2):
        for j in range(2):
            standard = (z[:, i, j].double() - float(y[i, j])) / float(sigma[i, 0])
            assert kstest(standard.numpy(), "norm").pvalue > FALSE_ALARM / 4
            assert abs(float(standard.mean())) < 5 / math.sqrt(20_000)
            assert abs(float(standard.var()) - 1) < 5 * math.sqrt(2 / 20_000)


def test_coordinates_of_a_draw_are_independent():
    """Correlations of 20 000 draws stay below 5.5 standard errors (false alarm about 4e-8 a pair)."""
    z = GaussianNoise(1.0).draw(torch.zeros(6, dtype=torch.float64), 20_000, torch.Generator().manual_seed(0))
    correlation = np.corrcoef(z.numpy().T) - np.eye(6)
    assert np.abs(correlation).max() < 5.5 / math.sqrt(20_000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_zero_sigma_leaves_its_coordinate_exactly_alone(dtype):
    y = torch.tensor([0.1, 7.3, -1e3], dtype=dtype)
    z = GaussianNoise(torch.tensor([0.0, 1.0, 0.0])).draw(y, 50, torch.Generator().manual_seed(0))
    assert z.dtype == dtype
    assert bool((z[:, 0] == y[0]).all())
    assert bool((z[:, 2] == y[2]).all())
    assert bool((z[:, 1] != y[1]).any())


def test_half_precision_is_rounded_once_after_the_sum():
    y = torch.tensor([0.1, 2.5], dtype=torch.float16)
    half = GaussianNoise(0.3).draw(y, 30, torch.Generator().manual_seed(5))
    full = GaussianNoise(0.3).draw(y.double(), 30, torch.Generator().manual_seed(5))
    assert torch.equal(half, full.half())


def test_draws_leave_the_input_alone():
    y = torch.ones(3)
    GaussianNoise(1.0).draw(y, 5, torch.Generator().manual_seed(0))
    assert torch.equal(y, torch.ones(3))


def exact_tails(p: float, rho: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    with mpmath.workdps(60):
        target = mpmath.mpf(p)
        start = float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))
        z = mpmath.findroot(lambda x: mpmath.ncdf(x) - target, start)
        return mpmath.ncdf(z - mpmath.mpf(rho)), mpmath.ncdf(-z - mpmath.mpf(rho))


@pytest.mark.parametrize("rho", [1e-3, 0.5, 2.0, 8.0, 20.0])
@pytest.mark.parametrize("p", [1e-12, 1e-6, 0.01, 0.3, 0.5, 0.7, 0.99, 1 - 1e-6, 1 - 1e-12])
def test_tails_are_exact_to_eleven_digits_and_never_too_large(p, rho):
    """Φ(Φ⁻¹(p) ± ρ) in 60 digits; a tail that is too small only widens a bound."""
    lower, upper = exact_tails(p, rho)
    tails = GaussianNoise(1.0).tails(p, rho)
    for got, exact in ((tails.lower, lower), (tails.upper, upper)):
        with mpmath.workdps(60):
            assert mpmath.mpf(got) <= exact
            assert mpmath.mpf(got) >= exact * (1 - mpmath.mpf("1e-11"))


def test_a_tail_beyond_float64_is_zero():
    assert GaussianNoise(1.0).tails(0.5, 100.0) == Tails(0.0, 0.0)


def test_chi_squared_divergence():
    """E[(dQ/dP)²] − 1 = exp(ρ²) − 1, by Gauss-Hermite quadrature of exp(2ρx − ρ²) under N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    for rho in (0.1, 1.0, 1.7):
        moment = (weights * np.exp(2 * rho * nodes - rho**2)).sum() / math.sqrt(2 * math.pi)
        assert GaussianNoise(1.0).chi2(rho) == pytest.approx(moment - 1, rel=1e-9)
    assert GaussianNoise(1.0).chi2(1e-9) == pytest.approx(1e-18, rel=1e-9)
    assert GaussianNoise(1.0).chi2(1e3) == math.inf


def test_gaussian_noise_is_a_noise():
    assert isinstance(GaussianNoise(1.0), Noise)
    assert "0.25" in repr(GaussianNoise(0.25))
    assert "(2, 1)" in repr(GaussianNoise(torch.tensor([[1.0], [2.0]])))
