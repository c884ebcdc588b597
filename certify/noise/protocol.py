"""Noise: what is added to the input, and how it turns a perturbation into a shift of probabilities.

A smoothing certificate rests on one fact about its noise: how far can the probability of *any* event move when the
noise is shifted by a perturbation of size ρ? Every bound of the toolkit reaches the noise through what `Noise` lists and
nothing else, so another noise is one more class, in a file of its own; CONTRIBUTING.md says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Noise", "Region", "Tails"]


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

    def hockey_stick(self, slopes: NDArray[np.float64], rho: float, replicas: int = 1) -> NDArray[np.float64]:
        """For each s the largest Q[A] − s P[A] over all events A and shifts Q of P within `rho`, for K copies, rounded up.

        With L = dQ/dP that is E_P(L − s)₊, and what Q gives to where P has nothing besides. It is at least max(0, 1 − s), and
        does not decrease with `rho`. T14 knows the noise by it.
        """

    def region(self, shape: Sequence[int], rho: float) -> Region:
        """The set of all perturbations of size `rho` at most, for inputs of `shape`."""
