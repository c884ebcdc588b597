"""Spectrum: the largest eigenvalue of a second moment, from a stream too wide for a covariance matrix.

Of every draw the accumulator takes the difference from a center, pulled back to a ball of radius R,

    x = (f − c) · min(1, R/‖f − c‖),

and keeps enough to know the largest eigenvalue of n⁻¹ Σ x xᵀ between two limits. With m outputs the matrix has m²
entries (59 136² for Stable Diffusion's encoding); the Frequent-Directions sketch keeps 4ℓ rows of m numbers instead:

- draws fill a buffer B of 4ℓ rows. When it is full, with singular values σ_1 ≥ σ_2 ≥ … and B = U diag(σ) Vᵀ, every σ_i² is
  reduced by δ = σ_{ℓ+1}² (those below become 0), which leaves ℓ rows at most and space for 3ℓ more;
- what a step takes from BᵀB is V diag(min(σ_i², δ)) Vᵀ, a matrix between 0 and δ I. So at any time, with Δ the sum of all
  δ so far, for *every* order and partition of the draws

      BᵀB  ⪯  Σ x xᵀ  ⪯  BᵀB + Δ I,      λ_max(BᵀB)  ≤  λ_max(Σ x xᵀ)  ≤  λ_max(BᵀB) + Δ.

There is no chance in it. While the x span no more than ℓ dimensions, Δ is 0 but for rounding. In between the upper limit
is close, because a direction that stands out loses δ in nearly every step. What counts is the size of the buffer, more than
what a step leaves of it: with 128 rows T12's bound is .01 to .7 % above that of the exact eigenvalue if 32 are left and ρ ≤ 1,
at a third less work than if 64 are; with 64 rows, 32 of them left, it is 1 to 5 % above. Two sketches merge by feeding the rows
of one to the other and adding their Δ. Only the 4ℓ × 4ℓ Gram matrix B Bᵀ is ever decomposed
. With m ≤ 4ℓ the m × m matrix takes no more memory than the buffer and is kept itself:
Δ = 0.

Reference: Liberty (2013), "Simple and deterministic matrix sketching"; Ghashami, Liberty, Phillips and Woodruff (2016),
"Frequent Directions"; THEORY T11.

>>> seen = Spectrum(torch.zeros(2), radius=10.0)
>>> seen.update(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 30.0]]))
>>> seen.count, seen.outside, seen.furthest
(3, 1, 30.0)
>>> round(seen.largest, 6), round(seen.least, 6)  # (4² + 10²)/3
(38.666667, 38.666667)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from certify._floats import in_units, length, up
from certify.montecarlo.accumulators import digest

__all__ = ["Indicators", "Spectrum", "indicators_radius"]

_EPS = torch.finfo(torch.float64).eps

_ROOM = 4
"""Rows of the buffer, in units of those that a step leaves."""

_ORDINARY = 2.0**200
"""Radii beyond this, or below its inverse, are taken in a unit of their own: squares of squares would leave float64."""


class Spectrum:
    """λ_max of the mean of x xᵀ between two limits, in O(rows · outputs) memory, and what goes with it.

    Args:
        center: c, shape (*output), independent of the draws.
        radius: R ≥ 0; differences longer than R are shortened to it.
        rows: ℓ ≥ 1, what a step leaves of 4ℓ rows; more rows, closer limits.

    Attributes:
        count: draws seen.
        outside: those with ‖f − c‖ > R.
        furthest: the largest ‖f − c‖ that `update` saw.
        unit: a power of two, what everything is kept in.
    """

    ordered = True

    def __init__(self, center: Tensor, radius: float, rows: int = 32) -> None:
        self.center, self.radius, self.rows = center, radius, rows
        self.key = f"spectrum {id(center)} {radius!r} {rows}"
        self.count, self.outside, self.furthest = 0, 0, 0.0
        ordinary = radius == 0 or not math.isfinite(radius) or 1 / _ORDINARY < radius < _ORDINARY
        self.unit = 1.0 if ordinary else math.ldexp(1.0, math.frexp(radius)[1] - 1)
        self._removed = 0.0  # Δ
        self._energy = 0.0  # Σ ‖x‖²
        self._rounding = 0.0  # how far BᵀB may be off by rounding, in spectral norm
        self._sum: Tensor | None = None
        self._kept: Tensor | None = None  # (4ℓ, m), the buffer B; or (m, m), the matrix itself
        self._filled = 0
        self._top: float | None = None  # λ_max(BᵀB), once it was asked for

    def widened(self, other: Spectrum) -> Spectrum:
        return Spectrum(self.center, self.radius, self.rows)

    def update(self, outputs: Tensor) -> None:
        x, distance, scale = self._away(outputs)
        self.outside += int((distance > self.radius / scale).sum())
        self.furthest = max(self.furthest, float(distance.max()) * scale)
        self.add(self._shortened(x, distance, scale))

    def add(self, x: Tensor) -> None:
        """Takes x itself, (draws, outputs), float64, in `unit`s, of which none is longer than R."""
        self.count += x.shape[0]
        self._sum = x.sum(dim=0) if self._sum is None else self._sum + x.sum(dim=0)
        flat = x.reshape(-1)
        self._energy += float(flat.dot(flat))
        self._take(x)

    def clipped(self, outputs: Tensor) -> Tensor:
        """x/R of every draw, (draws, outputs), float64; R > 0."""
        return self._shortened(*self._away(outputs)) / (self.radius / self.unit)

    def merge(self, other: Spectrum) -> None:
        mine, theirs = (self.radius, self.rows), (other.radius, other.rows)
        if mine != theirs or not torch.equal(self.center, other.center):
            raise ValueError(
                f"other has (radius, rows) = {theirs}: must be {mine}, with the same center, for the two to merge"
            )
        if other._kept is None or other._sum is None:
            return
        self.count += other.count
        self.outside += other.outside
        self.furthest = max(self.furthest, other.furthest)
        self._removed += other._removed
        self._energy += other._energy
        self._rounding += other._rounding
        self._sum = other._sum.clone() if self._sum is None else self._sum + other._sum.to(self._sum.device)
        if other._exact:
            if self._kept is None:
                self._kept = torch.zeros_like(other._kept)
            self._kept += other._kept.to(self._kept.device)
            self._top = None
        else:
            self._take(other._kept[: other._filled])

    def state(self) -> dict[str, Tensor]:
        numbers = [self._removed, self._energy, self._rounding, self.furthest]
        state = {
            "counts": torch.tensor([self.count, self.outside, self._filled]),
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }
        if self._kept is not None and self._sum is not None:
            state |= {"sum": self._sum, "kept": self._kept if self._exact else self._kept[: self._filled]}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count, self.outside, self._filled = (int(number) for number in state["counts"])
        self._removed, self._energy, self._rounding, self.furthest = (float(number) for number in state["numbers"])
        self._sum, self._kept, self._top = state.get("sum"), state.get("kept"), None
        if self._kept is not None and not self._exact:
            kept = self._kept.new_zeros((_ROOM * self.rows, self._kept.shape[1]))
            kept[: self._filled] = self._kept
            self._kept = kept

    def described(self) -> str:
        return f"spectrum {digest(self.center)} {self.radius!r} {self.rows}"

    @property
    def largest(self) -> float:
        """λ_max(n⁻¹ Σ x xᵀ) is at most this."""
        return in_units(self._least + self._error, self.unit)

    @property
    def largest_in_balls(self) -> float:
        """λ_max(n⁻¹ Σ x xᵀ)/R² is at most this; 0 where R is."""
        radius = self.radius / self.unit
        return (self._least + self._error) / radius / radius if radius > 0 else 0.0

    @property
    def least(self) -> float:
        """λ_max(n⁻¹ Σ x xᵀ) is at least this, up to rounding."""
        return self._least * self.unit * self.unit

    @property
    def _least(self) -> float:
        if self._kept is None:
            return 0.0
        if self._top is None:
            self._top = max(float(torch.linalg.eigvalsh(self._gram(self._kept))[-1]), 0.0)
        return self._top / self.count

    @property
    def error(self) -> float:
        """How far apart the two limits are: Δ/n and an allowance for rounding."""
        return in_units(self._error, self.unit)

    @property
    def _error(self) -> float:
        if not self.count:
            return 0.0
        # The last decomposition, and 3 ulp in every entry of x.
        once = self._rounding + self._step() + 8 * _EPS * self._energy
        return (self._removed + once) / self.count

    @property
    def mean(self) -> Tensor:
        """n⁻¹ Σ x, shape (*output), float64, on the CPU."""
        if self._sum is None:
            return torch.zeros(self.center.shape, dtype=torch.float64)
        return (self._sum / self.count).cpu().reshape(self.center.shape) * self.unit

    def direction(self) -> Tensor:
        """A unit vector along which n⁻¹ Σ x xᵀ is (nearly) largest, shape (outputs,), float64, on the CPU."""
        if self._kept is None:
            raise ValueError("no draws were seen: there is no direction yet")
        vector = torch.linalg.eigh(self._gram(self._kept)).eigenvectors[:, -1]
        if not self._exact:
            vector = vector.to(self._kept.device) @ self._kept[: self._filled]
        vector = vector.cpu()
        size = float(vector.norm())
        return vector / size if size > 0 else torch.full_like(vector, vector.numel() ** -0.5)

    @property
    def _exact(self) -> bool:
        return self.center.numel() <= _ROOM * self.rows

    def _away(self, outputs: Tensor) -> tuple[Tensor, Tensor, float]:
        """f − c and its length, in a scale in which neither overflows, and that scale."""
        scale = max(self.unit, 1.0)
        x, center = outputs.to(torch.float64), self.center.to(outputs.device, torch.float64)
        x = x - center if scale == 1 else x / scale - center / scale
        x = x.reshape(outputs.shape[0], -1)
        return x, length(x, dim=1), scale

    def _shortened(self, x: Tensor, distance: Tensor, scale: float) -> Tensor:
        """x, in units."""
        radius = self.radius / scale
        if bool((distance > radius).any()):
            x = x * torch.where(distance > radius, radius / distance, 1.0)[:, None]
        return x if self.unit == scale else x / (self.unit / scale)

    def _take(self, x: Tensor) -> None:
        self._top = None
        m = x.shape[1]
        if self._kept is None:
            self._kept = x.new_zeros((m if self._exact else _ROOM * self.rows, m))
        if self._exact:
            self._kept += (x.T @ x).to(self._kept.device)
            self._rounding += self._step()
            return
        x = x.to(self._kept.device)
        while x.shape[0]:
            space = self._kept.shape[0] - self._filled
            part, x = x[:space], x[space:]
            self._kept[self._filled : self._filled + part.shape[0]] = part
            self._filled += part.shape[0]
            if self._filled == self._kept.shape[0]:
                self._shrink(self._kept)

    def _shrink(self, buffer: Tensor) -> None:
        values, vectors = torch.linalg.eigh(self._gram(buffer))
        squares, left = values.flip(0).clamp_min(0), vectors.flip(1)[:, : self.rows]
        delta = float(squares[self.rows])
        top = squares[: self.rows]
        scale = torch.where(top > delta, ((top - delta) / top.clamp_min(1e-300)).sqrt(), 0.0)
        buffer[: self.rows] = (left * scale).T.to(buffer.device) @ buffer
        self._removed += delta
        self._rounding += self._step()
        self._filled = self.rows

    def _gram(self, buffer: Tensor) -> Tensor:
        """B Bᵀ, or the matrix itself: what has the eigenvalues. On the CPU, where small ones are decomposed fastest."""
        if self._exact:
            return buffer.cpu()
        rows = buffer[: self._filled]
        if rows.is_cuda:
            return (rows @ rows.T).cpu()
        # numpy sees that this is symmetric, and computes half of it.
        return torch.from_numpy(rows.numpy() @ rows.numpy().T)

    def _step(self) -> float:
        """An allowance for the rounding of one product and one decomposition.

        A product of k × m matrices is off by at most m ulp of the product of their Frobenius norms, a symmetric
        decomposition (and a multiplication by its vectors) by a small multiple of k ulp; no norm exceeds Σ ‖x‖².
        """
        return _EPS * self._energy * (self.center.numel() + 32 * _ROOM * self.rows)


def indicators_radius(scales: Tensor, expected: Tensor) -> float:
    """R = sup ‖(s, s) ∘ (h − b)‖: h⁺ and h⁻ are not both 1. `expected` = b, (2, *output)."""
    p, q = expected
    most = torch.maximum(p**2 + q**2, torch.maximum((1 - p) ** 2 + q**2, p**2 + (1 - q) ** 2))
    return up(float(length(scales * most.sqrt())), 1e-9)


class Indicators:
    """The spectrum of x = (s, s) ∘ (h − b) at one level (T12).

    Args:
        origin, scales: c and s, (*output).
        level: τ.
        expected: b, (2, *output).
        radius: R.
        rows: of the sketch.
    """

    ordered = True

    def __init__(
        self, origin: Tensor, scales: Tensor, level: float, expected: Tensor, radius: float, rows: int = 32
    ) -> None:
        self.origin, self.scales, self.level, self.expected, self.rows = origin, scales, level, expected, rows
        self.key = f"indicators {id(origin)} {id(expected)} {level!r} {rows}"
        self.spectrum = Spectrum(scales * expected, radius, rows)

    @property
    def count(self) -> int:
        return self.spectrum.count

    def widened(self, other: Indicators) -> Indicators:
        return Indicators(self.origin, self.scales, self.level, self.expected, self.spectrum.radius, self.rows)

    def update(self, outputs: Tensor) -> None:
        for part in outputs.split(64):  # (2m numbers a draw)
            if self._within:
                high, low = (value.to(outputs.device) for value in self._values)
                self.spectrum.add(torch.where(self.happens(part), high, low).reshape(len(part), -1))
            else:
                self.spectrum.update(self.beyond(part))

    @functools.cached_property
    def _within(self) -> bool:
        """Whether no x can be longer than R."""
        return indicators_radius(self.scales, self.expected) <= self.spectrum.radius

    @functools.cached_property
    def _values(self) -> tuple[Tensor, Tensor]:
        """x where h is 1, and where it is 0: (2, *output), in units."""
        unit, expected = self.spectrum.unit, self.scales * self.expected
        return (self.scales - expected) / unit, -expected / unit

    def beyond(self, outputs: Tensor) -> Tensor:
        """(s, s) ∘ h: (draws, 2, *output), float64."""
        scales = self.scales.to(outputs.device)
        return torch.where(self.happens(outputs), scales, torch.zeros_like(scales))

    def happens(self, outputs: Tensor) -> Tensor:
        """h: (draws, 2, *output), booleans."""
        away = outputs.to(torch.float64) - self.origin.to(outputs.device, torch.float64)
        threshold = self.level * self.scales.to(outputs.device)
        happens = torch.empty((len(away), 2, *away.shape[1:]), dtype=torch.bool, device=away.device)
        torch.gt(away, threshold, out=happens[:, 0])
        torch.lt(away, -threshold, out=happens[:, 1])
        return happens

    def merge(self, other: Indicators) -> None:
        self.spectrum.merge(other.spectrum)

    def state(self) -> dict[str, Tensor]:
        return self.spectrum.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.spectrum.restore(state)

    def described(self) -> str:
        return f"indicators {self.level!r} {self.spectrum.described()}"

    def frequencies(self) -> Tensor:
        """p̂, (2, *output)."""
        frequencies = self.expected + self.spectrum.mean / torch.where(self.scales > 0, self.scales, 1.0)
        return frequencies.clamp(0, 1)
