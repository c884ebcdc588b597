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
from functools import cached_property

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from certify import _validate
from certify._floats import length, up
from certify._random import normals
from certify._records import Shown
from certify._text import shown
from certify.noise.protocol import Noise, Tails, spread_of

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
        promised = ("theorem", "size", "draw", "norm", "tails", "chi2", "region")
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


class GaussianNoise:
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

    def __init__(self, sigma: float | Tensor) -> None:
        self.sigma = spread_of("sigma", sigma)

    def __repr__(self) -> str:
        if self.sigma.numel() == 1:
            return f"GaussianNoise({shown(self.sigma.item(), 'exact')})"
        low, high = self.sigma.min().item(), self.sigma.max().item()
        return f"GaussianNoise(σ of shape {tuple(self.sigma.shape)}, {shown(low, 'down', 4)} … {shown(high, 'up', 4)})"

    def sigma_for(self, shape: Sequence[int]) -> Tensor:
        """σ spread over an input of `shape`, float64. Raises ValueError where it does not broadcast."""
        _validate.broadcastable("sigma", self.sigma, shape, "the input's shape")
        return self.sigma.to(torch.float64).expand(tuple(shape))

    def draw(self, y: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` perturbed inputs y + G.

        Args:
            y: one input, shape (*input).
            count: how many.
            generator: the only source of randomness, on y's device or on the CPU.

        Returns:
            Shape (count, *input), y's dtype and device. The normals and the sum are float64, rounded once at the end: torch's
            float32 normals stop at 5.8 standard deviations, which one draw in two thousand would pass in 59 136 dimensions.
        """
        _validate.broadcastable("sigma", self.sigma, y.shape, "the input's shape")
        z = normals((count, *y.shape), generator)
        # y by way of its own dtype: its device may have no float64.
        z.mul_(self.sigma.to(z.device).double()).add_(y.to(z.device).double())
        return z.to(y.dtype).to(y.device)

    def norm(self, delta: Tensor) -> float:
        """‖δ‖_Σ of a perturbation of the input's shape, in float64; +∞ outside the noised coordinates."""
        d = _validate.finite_tensor("delta", delta).detach().to("cpu", torch.float64)
        sigma = self.sigma_for(d.shape).to("cpu")
        if bool((d[sigma == 0] != 0).any()):
            return math.inf
        # Where there is no noise d is 0 here, and 0/1 stands for 0/0.
        scaled = (d / torch.where(sigma > 0, sigma, 1.0)).abs()
        # A norm must not come out too small: what is not 0 is never 0 here, and no square underflows.
        return up(float(length(torch.where((d != 0) & (scaled == 0), 5e-324, scaled))))

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

    def region(self, shape: Sequence[int], rho: float) -> Ellipsoid:
        """{δ : ‖δ‖_Σ ≤ ρ} for inputs of `shape` (T8)."""
        return Ellipsoid(self.sigma_for(shape), rho)


class Ellipsoid(Shown):
    """{δ : ‖δ‖_Σ ≤ ρ} for Σ = diag(σ²).

    Args:
        sigma: σ of every input coordinate, shape (*input), ≥ 0.
        rho: radius ≥ 0 in units of ‖·‖_Σ; +∞ is the whole space of noised coordinates.
    """

    def __init__(self, sigma: Tensor, rho: float) -> None:
        if math.isnan(rho) or rho < 0:
            raise ValueError(f"rho = {rho!r}: must be >= 0")
        self.noise = GaussianNoise(sigma)
        self.sigma = self.noise.sigma.to(torch.float64)
        self.rho = float(rho)

    def __repr__(self) -> str:
        return (
            f"Ellipsoid(ρ = {shown(self.rho, 'down')}, {self.dimensions} of {self.sigma.numel()} coordinates, "
            f"inscribed ℓ2 ball {shown(self.l2_ball, 'down', 4)}, "
            f"longest semi-axis {shown(float(self.semi_axes.max()), 'down', 4)})"
        )

    @cached_property
    def _noised(self) -> Tensor:
        return self.sigma[self.sigma > 0]

    @property
    def dimensions(self) -> int:
        """d₊, the number of coordinates that carry noise."""
        return int(self._noised.numel())

    @cached_property
    def semi_axes(self) -> Tensor:
        """ρσ_j, shape (*input); 0 where there is no noise, even at ρ = ∞."""
        return torch.where(self.sigma > 0, self.rho * self.sigma, 0.0)

    @cached_property
    def l2_ball(self) -> float:
        """Radius of the largest inscribed ℓ2 ball, ρ min σ (also of the largest ℓ1 ball), over noised coordinates."""
        return self.rho * float(self._noised.min()) if self.dimensions else 0.0

    @property
    def l1_ball(self) -> float:
        """Radius of the largest inscribed ℓ1 ball: its corners lie on the axes, so the same ρ min σ."""
        return self.l2_ball

    @cached_property
    def linf_ball(self) -> float:
        """Radius of the largest inscribed ℓ∞ ball, ρ / sqrt(Σ_j σ_j⁻²)."""
        return self.rho / float(length(self._noised.reciprocal())) if self.dimensions else 0.0

    @cached_property
    def log_volume(self) -> float:
        """Natural logarithm of the d₊-dimensional volume, log(π^{d/2}/Γ(d/2 + 1)) + Σ_j log(ρσ_j); −∞ at ρ = 0."""
        d = self.dimensions
        if d == 0 or self.rho == 0:
            return -math.inf
        ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
        return ball + d * math.log(self.rho) + float(self._noised.log().sum())

    @cached_property
    def proxy_radius(self) -> float:
        """ρ (Π_j σ_j)^{1/d₊}: the radius of the ℓ2 ball of equal volume."""
        return self.rho * math.exp(float(self._noised.log().mean())) if self.dimensions and self.rho else 0.0

    def contains(self, delta: Tensor) -> bool:
        """Whether the perturbation δ, of shape (*input), lies in the (closed) set; never outside the noised coordinates."""
        size = self.noise.norm(delta)
        return size <= self.rho and math.isfinite(size)
