"""Gaussian noise G ~ N(0, Σ) with a diagonal Σ, and the ellipsoid that it certifies.

For every event A and every perturbation with ‖δ‖_Σ ≤ ρ, ‖δ‖_Σ² = Σ_j δ_j²/σ_j²,

    p⁻ = Φ(Φ⁻¹(p) − ρ)  ≤  P[y + δ + G ∈ A]  ≤  Φ(Φ⁻¹(p) + ρ) = p⁺,        p = P[y + G ∈ A].

The certified set is the ellipsoid with semi-axes ρσ_j. Coordinates without noise (σ_j = 0) have no extent, and all its sizes
are taken over the d₊ coordinates that have noise.

Reference: THEORY T1 and T8; the proxy radius is that of ANCER (Eiras et al. 2022).

>>> noise = GaussianNoise(0.5)
>>> noise.norm(torch.tensor([1.5, 2.0]))
5.0
>>> GaussianNoise(torch.tensor([1.0, 0.0])).norm(torch.tensor([3.0, 0.1]))
inf
>>> e = Ellipsoid(torch.tensor([3.0, 4.0]), rho=0.5)
>>> e.l2_ball, e.linf_ball, round(e.proxy_radius, 6)
(1.5, 1.2, 1.732051)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from certify._floats import length, up
from certify._random import Source, normals
from certify._records import Shown
from certify.noise.base import ScaledNoise, ScaledRegion, scale_of
from certify.noise.protocol import Noise, Tails

__all__ = ["Ellipsoid", "GaussianNoise", "as_noise"]

# ndtr and ndtri are accurate to a few ulp; tails shrink by this much more than that, which can only widen a bound.
_SAFE = 1e-12


def as_noise(noise: Noise | float, y: Tensor | None = None) -> Noise:
    """`noise` itself, or isotropic Gaussian noise for a number.

    Raises:
        TypeError: it is neither.
        ValueError: it does not fit the shape of the input `y`.
    """
    if not isinstance(noise, (Noise, Tensor, np.ndarray, np.generic)):
        promised = ("theorem", "size", "draw", "norm", "tails", "chi2", "hockey_stick", "region")
        missing = [name for name in promised if not hasattr(noise, name)]
        if len(missing) < len(promised):
            raise TypeError(
                f"noise is a {type(noise).__name__}: must be a number or a Noise, which has {missing[0]!r}, too"
            )
    if not isinstance(noise, Noise):
        noise = GaussianNoise(noise)
    if y is not None:
        noise.norm(torch.zeros_like(y))
    return noise


class GaussianNoise(ScaledNoise):
    """Gaussian noise G ~ N(0, Σ), Σ = diag(σ²): isotropic for one σ, anisotropic for a tensor of them.

    Equation
        ‖δ‖_Σ = sqrt(Σ_j δ_j²/σ_j²), with 0/0 = 0 and +∞ wherever δ_j ≠ 0 but σ_j = 0.

    Reference
        THEORY T1; Han et al. (2025), section 3.3; Eiras et al. (2022). With one σ: Cohen et al. (2019).

    Args:
        sigma: standard deviation, in the unit of the input: a number, or a tensor that broadcasts to the input's shape
            (one σ a token: shape (tokens, 1)). Finite and ≥ 0; a zero leaves that coordinate without noise, and the
            certified set then has no extent along it.

    Raises:
        ValueError, TypeError: `sigma` is negative, NaN, infinite or not real.
    """

    theorem, size = "T1", "‖δ‖_Σ"
    scale_name, symbol = "sigma", "σ"

    def __init__(self, sigma: float | Tensor) -> None:
        self.sigma = scale_of("sigma", sigma)

    def sigma_for(self, shape: Sequence[int]) -> Tensor:
        """σ over an input of `shape`, float64. Raises ValueError where it does not broadcast."""
        return self.scale_for(shape)

    def standard(self, shape: Sequence[int], sources: Sequence[Source]) -> Tensor:
        """Normals. Torch's float32 ones stop at 5.8, which one draw in two thousand would pass in 59 136 dimensions."""
        return normals(shape, *sources)

    def length(self, scaled: Tensor) -> float:
        """‖δ‖_Σ."""
        return up(float(length(scaled)))

    def tails(self, p: float, rho: float, replicas: int = 1) -> Tails:
        """p⁻ and 1 − p⁺ with p^± = Φ(Φ⁻¹(p) ± √K ρ) (T1; `replicas` = K by T5), rounded down.

        >>> GaussianNoise(1.0).tails(0.5, 1.0)  # doctest: +ELLIPSIS
        Tails(lower=0.15865525393..., upper=0.15865525393...)
        """
        z, shift = float(ndtri(p)), math.sqrt(replicas) * rho
        return Tails(float(ndtr(z - shift)) * (1 - _SAFE), float(ndtr(-z - shift)) * (1 - _SAFE))

    def chi2(self, rho: float) -> float:
        """χ²(N(δ, Σ) ‖ N(0, Σ)) = exp(ρ²) − 1 at ‖δ‖_Σ = ρ (T11)."""
        try:
            return math.expm1(rho * rho)
        except OverflowError:
            return math.inf

    def hockey_stick(self, slopes: NDArray[np.float64], rho: float, replicas: int = 1) -> NDArray[np.float64]:
        """E(L − s)₊ = Φ(r/2 − ln(s)/r) − s Φ(−r/2 − ln(s)/r), r = √K ρ; 1 − s for s ≤ 0 (T14), rounded up.

        >>> GaussianNoise(1.0).hockey_stick(np.array([-1.0, 1.0]), 1.0)  # 2; 2Φ(½) − 1
        array([2.        , 0.38292492])
        """
        s, r = np.asarray(slopes, dtype=np.float64), math.sqrt(replicas) * rho
        least = np.maximum(0.0, 1 - s)  # at no shift; never less, whatever rounding does
        if r == 0:
            return least
        r = max(r, 1e-300)  # more than was asked, lest the next line overflow
        log = np.log(np.where(s > 0, s, 1.0)) / r
        gained = ndtr(r / 2 - log) - s * ndtr(-r / 2 - log)
        return np.where(s > 0, np.maximum(least, np.minimum(1.0, gained + _SAFE)), least)

    def region(self, shape: Sequence[int], rho: float) -> Ellipsoid:
        """{δ : ‖δ‖_Σ ≤ ρ} for inputs of `shape` (T8)."""
        return Ellipsoid(self.sigma_for(shape), rho)


class Ellipsoid(ScaledRegion, Shown):
    """{δ : ‖δ‖_Σ ≤ ρ} for Σ = diag(σ²).

    Args:
        sigma: σ of every input coordinate, shape (*input), ≥ 0.
        rho: radius ≥ 0 in units of ‖·‖_Σ; +∞ is the whole space of noised coordinates.
    """

    p, widest = 2, 1.0
    __repr__ = ScaledRegion.__repr__

    def __init__(self, sigma: Tensor, rho: float) -> None:
        super().__init__(GaussianNoise(sigma), rho)

    @property
    def sigma(self) -> Tensor:
        """σ, shape (*input), float64."""
        return self.scale
