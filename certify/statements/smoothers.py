"""Smoothers: the estimators that are deployed.

A certificate speaks of an ideal smoothed function; what runs is its estimate from a few draws (13 in the paper), fresh ones at
every call.

>>> import torch
>>> from certify import GaussianNoise
>>> MedianSmoother(torch.abs, GaussianNoise(0.1), n=13)(torch.tensor([2.0]), seed=0).shape
torch.Size([1])
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from certify import _validate
from certify.montecarlo import Function, draw_all, smoothed
from certify.noise import Noise, as_noise

__all__ = ["MeanSmoother", "MedianSmoother"]


class _Smoother:
    smoother: ClassVar[str]

    @_validate.suggests()
    def __init__(self, f: Function, noise: Noise | float, n: int = 13, batch_size: int | None = None) -> None:
        self.noise, self.f = as_noise(noise), _validate.function("f", f)
        self.n, self.batch_size = _validate.count("n", n), batch_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n}, noise={self.noise!r})"

    @_validate.suggests()
    def __call__(self, y: Tensor, seed: int | None = None) -> Tensor:
        drawn = draw_all(
            self.f,
            _validate.finite_tensor("y", y),
            self.noise,
            n=self.n,
            seed=_validate.seed_or_fresh(seed),
            stream="deployment",
            batch_size=self.batch_size,
            again="never",  # a deployed call costs what it costs: certificates look
        )
        return smoothed(drawn, self.smoother)


class MedianSmoother(_Smoother):
    """The element-wise median of f over n noisy copies of the input.

    Equation
        h(y) = median(f(y + G_1), …, f(y + G_n)),  G_i the noise; for even n the average of the two middle values.

    Reference
        Chiang et al. (2020); Han et al. (2025), section 3.4, with n = 13.

    Args:
        f: batch (b, *input) → (b, *output).
        noise: what is added: a `Noise`, or a number: isotropic Gaussian.
        n: draws.
        batch_size: inputs in one call of f.

    Called with `(y, seed=None)`: one input (*input); returns (*output). The noise is fresh and from the operating system, as
    every statement about what is deployed presumes (T5, T6); global random state has no part in it. With a seed a run can be
    repeated, by an adversary who knows or guesses it too, and nothing is proven about that output.
    """

    smoother = "median"


class MeanSmoother(_Smoother):
    """The mean of f over n noisy copies of the input: as `MedianSmoother`, with the average (THEORY T11)."""

    smoother = "mean"
