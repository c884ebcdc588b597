"""The certified set: every perturbation δ with ‖δ‖_Σ ≤ ρ, an ellipsoid around the input.

Its semi-axes are ρσ_j. Coordinates without noise (σ_j = 0) have no extent, and all sizes are taken over the d₊
coordinates that have noise.

Reference: THEORY T8; the proxy radius is that of ANCER (Eiras et al. 2022).

>>> e = Ellipsoid(torch.tensor([3.0, 4.0]), rho=0.5)
>>> e.l2_ball, e.linf_ball, round(e.proxy_radius, 6)
(1.5, 1.2, 1.732051)
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from certify._floats import length
from certify._records import Shown
from certify._text import shown
from certify.noise import GaussianNoise

__all__ = ["Ellipsoid"]


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
