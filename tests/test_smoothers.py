"""The deployed estimators against medians and means taken by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from certify import GaussianNoise, MeanSmoother, MedianSmoother
from certify.montecarlo import AllDraws, draw

Y = torch.tensor([[0.5, -1.0], [2.0, 0.0]])


def draws(n: int, seed: int) -> np.ndarray:
    kept = AllDraws()
    draw(torch.exp, Y, GaussianNoise(0.3), n=n, seed=seed, stream="deployment", accumulators=[kept])
    return kept.stacked().numpy()


@pytest.mark.parametrize("n", [1, 2, 12, 13, 100])
@pytest.mark.parametrize(("smoother", "reduce"), [(MedianSmoother, np.median), (MeanSmoother, np.mean)])
def test_a_smoother_is_the_median_or_mean_of_its_draws(smoother, reduce, n):
    out = smoother(torch.exp, GaussianNoise(0.3), n=n)(Y, seed=4)
    np.testing.assert_allclose(out.numpy(), reduce(draws(n, 4), axis=0), rtol=1e-6)


@pytest.mark.parametrize("smoother", [MedianSmoother, MeanSmoother])
def test_without_noise_it_is_the_function_itself(smoother):
    torch.testing.assert_close(smoother(torch.exp, GaussianNoise(0.0))(Y), torch.exp(Y))


def test_seeds_repeat_and_differ():
    smoother = MedianSmoother(torch.exp, 0.3)
    assert torch.equal(smoother(Y, seed=0), smoother(Y, seed=0))
    assert not torch.equal(smoother(Y, seed=0), smoother(Y, seed=1))
    assert smoother.n == 13


def test_many_draws_tend_to_the_smoothed_value():
    """Median of exp is exp(y); its mean is exp(y + σ²/2)."""
    assert torch.allclose(MedianSmoother(torch.exp, 0.3, n=40_000)(Y, seed=0), torch.exp(Y), rtol=0.01)
    assert torch.allclose(MeanSmoother(torch.exp, 0.3, n=40_000)(Y, seed=0), torch.exp(Y + 0.045), rtol=0.01)


def test_batches_do_not_matter_and_y_is_left_alone():
    before = Y.clone()
    assert torch.equal(
        MedianSmoother(torch.exp, 0.3, batch_size=5)(Y, seed=0), MedianSmoother(torch.exp, 0.3)(Y, seed=0)
    )
    assert torch.equal(Y, before)
    assert "MedianSmoother(n=13" in repr(MedianSmoother(torch.exp, 0.3))
