"""What noises with independent coordinates share: one scale a coordinate, and the sets that they certify.

G_j = s_j Z_j, with Z_j independent, of one law that is symmetric about 0, and s_j ≥ 0: one number, or a tensor of them. The
size of a perturbation is a norm of δ/s, with 0/0 = 0 and +∞ wherever δ_j ≠ 0 but s_j = 0; the certified set {δ : size ≤ ρ} has
no extent along coordinates without noise, and its sizes are taken over the d₊ others.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from certify import _validate
from certify._floats import length
from certify._random import Source
from certify._text import shown

__all__ = ["ScaledNoise", "ScaledRegion", "scale_of"]

_AT_ONCE = 2**15
"""Numbers drawn at once on the CPU, about."""


class ScaledNoise(ABC):
    """y + s ∘ Z: a noise that says how Z is drawn, how long δ/s is, and the rest of `certify.noise.Noise`."""

    scale_name: ClassVar[str]
    """Name of the argument, and of the only attribute, that holds s."""
    symbol: ClassVar[str]
    """What a sentence calls it."""

    @property
    def scale(self) -> Tensor:
        """s, as it was given."""
        scale: Tensor = getattr(self, self.scale_name)
        return scale

    def __repr__(self) -> str:
        if self.scale.numel() == 1:
            return f"{type(self).__name__}({shown(self.scale.item(), 'exact')})"
        low, high = shown(self.scale.min().item(), "down", 4), shown(self.scale.max().item(), "up", 4)
        return f"{type(self).__name__}({self.symbol} of shape {tuple(self.scale.shape)}, {low} … {high})"

    def scale_for(self, shape: Sequence[int]) -> Tensor:
        """s over an input of `shape`, float64. Raises ValueError where it does not broadcast."""
        _validate.broadcastable(self.scale_name, self.scale, shape, "the input's shape")
        return self.scale.to(torch.float64).expand(tuple(shape))

    def draw(self, y: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """y + G, `count` times: (count, *input), in y's dtype and on its device.

        Z and the sum are float64, rounded once at the end. The generator, on y's device or on the CPU, is the only source of
        randomness.
        """
        return self.draw_each(y, count, [generator])

    def draw_each(self, y: Tensor, count: int, sources: Sequence[Source]) -> Tensor:
        """What `draw` gives with each source, one after the other: (sources · count, *input)."""
        _validate.broadcastable(self.scale_name, self.scale, y.shape, "the input's shape")
        # Few at a time: in float64 they stay in the processor's cache.
        step = max(1, _AT_ONCE // max(1, count * y.numel()))
        parts: list[Tensor] = []
        for first in range(0, len(sources), step):
            z = self.standard((count, *y.shape), sources[first : first + step])
            if not parts:  # y by way of its own dtype: its device may have no float64
                scale, center = self.scale.to(z.device, torch.float64), y.to(z.device).double()
            parts.append(z.mul_(scale).add_(center).to(y.dtype))
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).to(y.device)

    def norm(self, delta: Tensor) -> float:
        """The size of a perturbation of the input's shape, in float64; +∞ outside the noised coordinates."""
        d = _validate.finite_tensor("delta", delta).detach().to("cpu", torch.float64)
        scale = self.scale_for(d.shape).to("cpu")
        if bool((d[scale == 0] != 0).any()):
            return math.inf
        # Where there is no noise d is 0 here, and 0/1 stands for 0/0.
        scaled = (d / torch.where(scale > 0, scale, 1.0)).abs()
        # A norm must not come out too small: what is not 0 is never 0 here, and no square underflows.
        return self.length(torch.where((d != 0) & (scaled == 0), 5e-324, scaled))

    @abstractmethod
    def standard(self, shape: Sequence[int], sources: Sequence[Source]) -> Tensor:
        """Z, float64, where `certify._random` draws it: as many of `shape`, one after the other, as there are sources."""

    @abstractmethod
    def length(self, scaled: Tensor) -> float:
        """The size of a perturbation with |δ|/s = `scaled`, rounded up."""


class ScaledRegion:
    """{δ : ‖δ/w‖_p ≤ ρ}, w the semi-axes at ρ = 1.

    Args:
        noise: whose scale has the input's shape, and whose `norm` is ‖δ/w‖_p.
        rho: radius ≥ 0; +∞ is the whole space of noised coordinates.
    """

    p: ClassVar[int]
    """1 or 2."""
    widest: ClassVar[float]
    """w in units of the scale."""

    def __init__(self, noise: ScaledNoise, rho: float) -> None:
        if math.isnan(rho) or rho < 0:
            raise ValueError(f"rho = {rho!r}: must be >= 0")
        self.noise, self.scale, self.rho = noise, noise.scale.to(torch.float64), float(rho)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(ρ = {shown(self.rho, 'down')}, {self.dimensions} of {self.scale.numel()} coordinates, "
            f"inscribed ℓ{self.p} ball {shown(self._inscribed(self.p), 'down', 4)}, "
            f"longest semi-axis {shown(float(self.semi_axes.max()), 'down', 4)})"
        )

    @cached_property
    def _axes(self) -> Tensor:
        """w of the noised coordinates, (d₊,)."""
        return self.widest * self.scale[self.scale > 0]

    @property
    def dimensions(self) -> int:
        """d₊, the number of coordinates that carry noise."""
        return int(self._axes.numel())

    @cached_property
    def semi_axes(self) -> Tensor:
        """ρw, shape (*input); 0 where there is no noise, even at ρ = ∞."""
        return torch.where(self.scale > 0, self.rho * self.widest * self.scale, 0.0)

    def _inscribed(self, q: float) -> float:
        """Radius of the largest inscribed ℓq ball: ρ min w for q ≤ p, beyond ρ/‖1/w‖_r with 1/r = 1/p − 1/q."""
        if not self.dimensions:
            return 0.0
        if q <= self.p:
            return self.rho * float(self._axes.min())
        inverse = self._axes.reciprocal()
        return self.rho / float(inverse.sum() if self.p == 1 and math.isinf(q) else length(inverse))

    @cached_property
    def l1_ball(self) -> float:
        """Radius of the largest inscribed ℓ1 ball, ρ min w: its corners lie on the axes."""
        return self._inscribed(1)

    @cached_property
    def l2_ball(self) -> float:
        """Radius of the largest inscribed ℓ2 ball: ρ min w for p = 2, ρ/sqrt(Σ_j w_j⁻²) for p = 1."""
        return self._inscribed(2)

    @cached_property
    def linf_ball(self) -> float:
        """Radius of the largest inscribed ℓ∞ ball: ρ/sqrt(Σ_j w_j⁻²) for p = 2, ρ/Σ_j w_j⁻¹ for p = 1."""
        return self._inscribed(math.inf)

    @cached_property
    def log_volume(self) -> float:
        """Natural logarithm of the d₊-dimensional volume, Σ_j log(ρw_j) and that of the ℓp ball of radius 1; −∞ at ρ = 0."""
        d = self.dimensions
        if d == 0 or self.rho == 0:
            return -math.inf
        unit = d * math.log(2) - math.lgamma(d + 1) if self.p == 1 else _ball_log_volume(d)
        return unit + d * math.log(self.rho) + float(self._axes.log().sum())

    @cached_property
    def proxy_radius(self) -> float:
        """The radius of the ℓ2 ball of equal volume; for p = 2 ρ (Π_j w_j)^{1/d₊}."""
        d = self.dimensions
        if d == 0 or self.rho == 0 or math.isinf(self.rho):
            return self.rho if d else 0.0
        if self.p == 2:
            return self.rho * math.exp(float(self._axes.log().mean()))
        return math.exp((self.log_volume - _ball_log_volume(d)) / d)

    def contains(self, delta: Tensor) -> bool:
        """Whether the perturbation δ, of shape (*input), lies in the (closed) set; never outside the noised coordinates."""
        size = self.noise.norm(delta)
        return size <= self.rho and math.isfinite(size)


def _ball_log_volume(d: int) -> float:
    """log(π^{d/2}/Γ(d/2 + 1)): of the ℓ2 ball of radius 1."""
    return d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)


def scale_of(name: str, value: float | Tensor) -> Tensor:
    """The scale of a noise, in a tensor of its own: finite and ≥ 0.

    Raises:
        ValueError, TypeError: it is not; `name` says which argument it was.
    """
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, Tensor, np.ndarray, np.generic, list, tuple)):
        raise TypeError(f"{name} = {value!r}: must be a number or a torch tensor, or an array or list of numbers")
    scale = _validate.tensor(name, value)
    bad = ~torch.isfinite(scale) | (scale < 0)
    if bool(bad.any()):
        raise ValueError(f"{name} holds {scale[bad].flatten()[0].item()!r}: every entry must be finite and >= 0")
    return scale.detach().clone()
