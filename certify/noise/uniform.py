"""Uniform noise, against perturbations that are measured coordinate by coordinate: ℓ1.

What T1 says for Gaussian noise and ‖·‖_Σ, T13 says for uniform noise and Σ_j |δ_j|/(2h_j): everything that the bounds need to
know of a noise is here, and they take it as they take `certify.GaussianNoise`.

Statement. U has independent coordinates, U_j uniform on [−h_j, h_j], h_j ≥ 0; ‖δ‖ = Σ_j |δ_j|/(2h_j), with 0/0 = 0 and +∞ where
δ_j ≠ 0 = h_j. Let Z be K copies y + U_k of an input and Z' the copies y + δ + U_k. The total variation between their laws is

    1 − Π_j (1 − |δ_j|/2h_j)₊^K   ≤   r = 1 − (1 − ρ)₊^K        for ‖δ‖ ≤ ρ; for K = 1, r = min(1, ρ).

So for every event A, with p = P[Z ∈ A],

    p⁻ = p − r   ≤   P[Z' ∈ A]   ≤   p + r = p⁺,

and every bound that knows the noise by these two numbers alone holds with them in place of T1's: both percentiles of
f(y + δ + U) at p lie between the one of f(y + U) at p − ρ and the one at p + ρ. Where p − ρ ≤ 0 or p + ρ ≥ 1 there is no such
percentile: that end is infinite, whatever n, unless an a-priori support is known.

Proof. Both densities are 1/V on a box of volume V, so the most that an event gains is the share of the shifted box outside the
other; 1 − Σ a_j ≤ Π (1 − a_j) for a_j in [0, 1] (Weierstrass). In full, with what carries over: docs/theory/t13-uniform.md.

Tight: a perturbation of one coordinate attains r. For K = 1 the function z ↦ z_j moves by 2h_jρ = δ_j, all of the interval.

Assumes: exact uniform noise (known gap: THEORY T10). Safe direction: p − r and 1 − p − r are rounded down.

Reference: THEORY T13; for classifiers Lee et al. (2019), Levine and Feizi (2021).

>>> round(variation(0.1), 9), round(variation(0.1, replicas=2), 9)  # 1 − .9²
(0.1, 0.19)
>>> shifted(0.5, variation(0.1))  # doctest: +ELLIPSIS
Tails(lower=0.39999999999..., upper=0.39999999999...)

>>> import torch
>>> from certify import percentile_bounds
>>> noise = UniformNoise(0.5)
>>> noise.norm(torch.tensor([0.25, -0.5]))
0.75
>>> b = percentile_bounds(lambda z: z, torch.zeros(1), noise, rho=0.1, n=10_000)
>>> 0.1 <= float(b.upper) <= 0.14, b.theorem  # the truth is 2hρ = 0.1
(True, 'T13')
>>> percentile_bounds(lambda z: z, torch.zeros(1), noise, rho=0.5, n=10_000).status  # ρ ≥ min(p, 1 − p)
'abstained'
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from certify._floats import up
from certify._random import Source, uniforms
from certify._records import Shown
from certify.noise.base import ScaledNoise, ScaledRegion, scale_of
from certify.noise.protocol import Tails

__all__ = ["CrossPolytope", "UniformNoise", "shifted", "variation"]

# The sums below are good to a few ulp of 1; this is much more, and covers the rounding of ‖δ‖ itself, a few hundred ulp.
_SAFE = 1e-12


class UniformNoise(ScaledNoise):
    """Uniform noise: independent coordinates, U_j uniform on [−h_j, h_j]; one h for all, or a tensor of them.

    Equation
        ‖δ‖ = Σ_j |δ_j|/(2h_j), with 0/0 = 0 and +∞ wherever δ_j ≠ 0 but h_j = 0. ρ = 1 moves one coordinate by its whole width.

    Reference
        THEORY T13; for classifiers Lee et al. (2019), Levine and Feizi (2021).

    Args:
        half_width: h, in the unit of the input: a number, or a tensor that broadcasts to the input's shape. Finite and ≥ 0; a
            zero leaves that coordinate without noise, and the certified set then has no extent along it. (The standard
            deviation is h/√3.)

    Raises:
        ValueError, TypeError: `half_width` is negative, NaN, infinite or not real.
    """

    theorem, size = "T13", "Σ_j |δ_j|/(2h_j)"
    scale_name, symbol = "half_width", "h"

    def __init__(self, half_width: float | Tensor) -> None:
        self.half_width = scale_of("half_width", half_width)

    def standard(self, shape: Sequence[int], sources: Sequence[Source]) -> Tensor:
        """Uniforms on (−1, 1): no value is outside the rounded [y − h, y + h]."""
        # From k/2⁵³ in [0, 1) to (2k + 1)/2⁵³ − 1, exactly: symmetric about 0, and never −1, which 2u − 1 would be.
        return uniforms(shape, *sources).mul_(2).sub_(1).add_(2.0**-53)

    def length(self, scaled: Tensor) -> float:
        """Σ_j |δ_j|/(2h_j), halved last: twice the largest h is not finite."""
        return up(float(scaled.sum())) / 2

    def tails(self, p: float, rho: float, replicas: int = 1) -> Tails:
        """p⁻ and 1 − p⁺ with p^± = p ± r, r = 1 − (1 − ρ)^K, cut off at 0 and 1 (T13), rounded down.

        >>> UniformNoise(1.0).tails(0.5, 0.75)
        Tails(lower=0.0, upper=0.0)
        """
        return shifted(p, variation(rho, replicas))

    def chi2(self, rho: float) -> float:
        """+∞ for ρ > 0: shifted noise has values where there was none, and no density relative to what it was."""
        return math.inf if rho > 0 else 0.0

    def hockey_stick(self, slopes: NDArray[np.float64], rho: float, replicas: int = 1) -> NDArray[np.float64]:
        """r + (1 − r)(1 − s)₊ for s ≥ 0, r = 1 − (1 − ρ)^K; 1 − s for s ≤ 0 (T14): the densities are equal where both are.

        >>> UniformNoise(1.0).hockey_stick(np.array([-1.0, 0.5, 3.0]), 0.25)
        array([2.   , 0.625, 0.25 ])
        """
        s, r = np.asarray(slopes, dtype=np.float64), variation(rho, replicas)
        least = np.maximum(0.0, 1 - s)
        return np.where(s > 0, np.maximum(least, np.minimum(1.0, r + (1 - r) * least + (_SAFE if r else 0.0))), least)

    def region(self, shape: Sequence[int], rho: float) -> CrossPolytope:
        """{δ : ‖δ‖ ≤ ρ} for inputs of `shape`."""
        return CrossPolytope(self.scale_for(shape), rho)


class CrossPolytope(ScaledRegion, Shown):
    """{δ : Σ_j |δ_j|/(2h_j) ≤ ρ}: the certified set of uniform noise (T13), as `certify.Ellipsoid` is that of Gaussian noise.

    Its corners are ±2h_jρ on the axes. Coordinates without noise (h_j = 0) have no extent, and all sizes are taken over the d₊
    coordinates that have noise.

    Args:
        half_width: h of every input coordinate, shape (*input), ≥ 0.
        rho: radius ≥ 0; +∞ is the whole space of noised coordinates.

    >>> import torch
    >>> c = CrossPolytope(torch.tensor([1.5, 2.0]), rho=0.5)
    >>> c.l1_ball, round(c.l2_ball, 9), round(c.linf_ball, 9), round(math.exp(c.log_volume), 9)
    (1.5, 1.2, 0.857142857, 6.0)
    """

    p, widest = 1, 2.0
    __repr__ = ScaledRegion.__repr__

    def __init__(self, half_width: Tensor, rho: float) -> None:
        super().__init__(UniformNoise(half_width), rho)

    @property
    def half_width(self) -> Tensor:
        """h, shape (*input), float64."""
        return self.scale


def variation(rho: float, replicas: int = 1) -> float:
    """r = 1 − (1 − ρ)₊^K: the largest total variation over ‖δ‖ ≤ ρ, rounded up (T13).

    Args:
        rho: ρ ≥ 0.
        replicas: K, copies of the input that the same δ hits.
    """
    if rho >= 1:
        return 1.0
    r = rho if replicas == 1 else -math.expm1(replicas * math.log1p(-rho))
    return min(1.0, r * (1 + _SAFE))


def shifted(p: float, r: float) -> Tails:
    """p⁻ = p − r and 1 − p⁺ = 1 − p − r, both at least 0 and rounded down.

    Holds for any noise of which no perturbation in question moves more than r in total variation.

    Args:
        p: probability, 0 … 1.
        r: total variation, 0 … 1, rounded up.
    """
    return Tails(max(0.0, p - r) * (1 - _SAFE), max(0.0, (1 - p) - r) * (1 - _SAFE))
