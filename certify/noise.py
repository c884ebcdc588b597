"""Noise: what is added to the input, and how it turns a perturbation into a shift of probabilities.

A smoothing certificate rests on one fact about its noise: how far can the probability of *any* event move when the
noise is shifted by a perturbation of size ρ? For Gaussian noise G ~ N(0, Σ) with a diagonal Σ the answer is

    p⁻ = Φ(Φ⁻¹(p) − ρ)  ≤  P[y + δ + G ∈ A]  ≤  Φ(Φ⁻¹(p) + ρ) = p⁺        for ‖δ‖_Σ ≤ ρ,  p = P[y + G ∈ A],

with ‖δ‖_Σ² = Σ_j δ_j²/σ_j². Every bound of the toolkit reaches the noise through what `Noise` lists and nothing else, so
another noise is one more class, in a file of its own (`certify.uniform`); CONTRIBUTING.md says how.

>>> noise = GaussianNoise(0.5)
>>> noise.norm(torch.tensor([1.5, 2.0]))
5.0
>>> GaussianNoise(torch.tensor([1.0, 0.0])).norm(torch.tensor([3.0, 0.1]))
inf
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from certify import _validate
from certify._floats import length, up
from certify._random import normals
from certify._text import shown

if TYPE_CHECKING:
    from certify.ellipsoid import Ellipsoid

__all__ = ["GaussianNoise", "Noise", "Region", "Tails", "as_noise", "spread_of"]

# ndtr and ndtri are accurate to a few ulp; tails shrink by this much more than that, which can only widen a bound.
_SAFE = 1e-12


class Tails(NamedTuple):
    """What is left outside a shifted percentile: `lower` = p⁻ and `upper` = 1 − p⁺, both rounded down.

    The second is kept as a complement because near 1 a float64 has no digits left, and a rank needs them.
    """

    lower: float
    upper: float


class Region(Protocol):
    """A certified set {δ : norm(δ) ≤ ρ}, and its sizes over the coordinates that have noise."""

    rho: float

    @property
    def dimensions(self) -> int:
        """d₊, the number of coordinates that carry noise."""

    @property
    def semi_axes(self) -> Tensor:
        """How far the set reaches along every axis, shape (*input)."""

    @property
    def l1_ball(self) -> float:
        """Radius of the largest inscribed ℓ1 ball."""

    @property
    def l2_ball(self) -> float:
        """Radius of the largest inscribed ℓ2 ball."""

    @property
    def linf_ball(self) -> float:
        """Radius of the largest inscribed ℓ∞ ball."""

    @property
    def log_volume(self) -> float:
        """Natural logarithm of the volume."""

    @property
    def proxy_radius(self) -> float:
        """The radius of the ℓ2 ball of equal volume."""

    def contains(self, delta: Tensor) -> bool:
        """Whether δ, of shape (*input), lies in the set."""


@runtime_checkable
class Noise(Protocol):
    """What a bound needs to know of a noise.

    Attributes:
        theorem: label of the page that proves `tails`.
        size: what `norm` measures, as sentences say it: "‖δ‖_Σ".
    """

    @property
    def theorem(self) -> str: ...
    @property
    def size(self) -> str: ...

    def draw(self, y: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` perturbed inputs y + G, shape (count, *y.shape), in y's dtype and on y's device.

        The generator, which is the only source of randomness, is on y's device, or on the CPU where that has no float64;
        `certify._random` has normals and uniforms for both.
        """

    def norm(self, delta: Tensor) -> float:
        """The size ρ of a perturbation, of the input's shape. Raises ValueError where the noise does not fit that shape."""

    def tails(self, p: float, rho: float, replicas: int = 1) -> Tails:
        """The worst percentiles that stand for `p` within `rho`, when the same shift hits `replicas` noisy copies.

        For every event A and every shift within `rho`: P[A] < p⁻ before it implies P[A] < p after it, and P[A] > p⁺ before
        implies P[A] > p after; and P[A] = p before leaves P[A] between p⁻ and p⁺ after. (Both readings agree for noise that
        is symmetric about 0.) Neither tail may grow with `rho`.
        """

    def chi2(self, rho: float) -> float:
        """The largest χ²-divergence between the shifted noise and the noise, over perturbations of size `rho`; +∞ where a shift
        gives probability to what had none. The spectral bounds (T11, T12) abstain if it is infinite for every ρ > 0.
        """

    def region(self, shape: Sequence[int], rho: float) -> Region:
        """The set of all perturbations of size `rho` at most, for inputs of `shape`."""


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


def spread_of(name: str, value: float | Tensor) -> Tensor:
    """The width of a noise, in a tensor of its own: finite and ≥ 0.

    Raises:
        ValueError, TypeError: it is not; `name` says which argument it was.
    """
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, Tensor, np.ndarray, np.generic, list, tuple)):
        raise TypeError(f"{name} = {value!r}: must be a number or a torch tensor, or an array or list of numbers")
    spread = _validate.tensor(name, value)
    bad = ~torch.isfinite(spread) | (spread < 0)
    if bool(bad.any()):
        where = spread[bad].flatten()[0].item()
        raise ValueError(f"{name} holds {where!r}: every entry must be finite and >= 0")
    return spread.detach().clone()


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
        from certify.ellipsoid import Ellipsoid  # which measures with this class

        return Ellipsoid(self.sigma_for(shape), rho)
