"""T16: several encoders, each with noise and a bound of its own: an attacker must share his radius out.

Statement. Let the input consist of parts y_1, …, y_E with block-diagonal Σ, and block e of the output depend on part e alone.
Let B_e(r) bound the squared distance of block e within ‖δ_e‖_Σ ≤ r, at all radii of a grid 0 < r_1 < … < r_J = ρ at once. Then
for every ‖δ‖_Σ ≤ ρ the squared distance of the whole is at most

    max { Σ_e B_e(r_{j_e}) :  Σ_e r_{j_e − 1}² ≤ ρ² },        r_0 = 0.

Proof. ‖δ‖_Σ² = Σ_e ‖δ_e‖_Σ²; let r_{j_e} be the least radius of the grid at or above ‖δ_e‖_Σ (r_1 for δ_e = 0), so that
r_{j_e − 1} ≤ ‖δ_e‖_Σ. See docs/theory/t16-allocation.md.

It is never above Σ_e B_e(ρ), which an attacker would need √E ρ for. For B_e = b_e ρ² and a fine grid it is max_e b_e ρ².

Safe direction: the bound may be too large; sums are rounded up, and what a choice costs the attacker down.

Reference: THEORY T16.

>>> squares = [k / 16 for k in range(1, 17)]  # B(r) = r² on a grid of equal steps of r²
>>> best = allocate([squares, squares], [s**0.5 for s in squares])
>>> round(best.value, 9), best.full, round(best.share, 9)  # each part gets the grid's first step for nothing
(1.125, 2.0, 0.5625)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from certify import _validate
from certify._floats import least_above
from certify._records import Shown
from certify._text import shown

__all__ = ["Allocation", "allocate", "allocation", "grid"]

_SAFE = 1e-12


@dataclass(frozen=True)
class Allocation(Shown):
    """What `certify.allocation` returns.

    Attributes:
        value: the bound of the squared distance of all blocks together, at radius `rho`.
        radii: for each block the radius of the grid at which its bound entered: the worst way to share ρ out.
        full: what adding up the blocks' bounds at ρ gives: never less.
        rho: ρ.
        alpha: failure probability of all blocks' bounds together.
    """

    value: float
    radii: tuple[float, ...]
    full: float
    rho: float
    alpha: float

    theorem = "T16"
    quantity = "mse"
    unit = "squared ℓ2 distance"

    @property
    def share(self) -> float:
        """`value` as a part of `full`."""
        return self.value / self.full if 0 < self.full < math.inf else 1.0

    @property
    def sentence(self) -> str:
        """What it says, in words."""
        each = ", ".join(shown(r, "near", 3) for r in self.radii)
        return (
            f"Squared distance ≤ {shown(self.value, 'up')} within ‖δ‖_Σ ≤ {shown(self.rho, 'exact')} over {len(self.radii)} "
            f"blocks (T16; the worst shares {each}; full radii add up to {shown(self.full, 'up')})."
        )


def grid(rho: float, steps: int = 16) -> tuple[float, ...]:
    """Radii up to ρ with squares at equal distances: for B ∝ r² an allocation loses E/steps of B to the grid."""
    rho, steps = _validate.positive("rho", rho), _validate.count("steps", steps)
    return (*(rho * math.sqrt(k / steps) for k in range(1, steps)), rho)


def allocation(*curves: Any) -> Allocation:
    """The bound of several blocks of outputs together, from a simultaneous curve of each (T16).

    Equation
        max { Σ_e B_e(r_{j_e}) :  Σ_e r_{j_e − 1}² ≤ ρ² }.

    Reference
        THEORY T16 (docs/theory/t16-allocation.md).

    Args:
        *curves: of squared distances: what `certify.bound_curve(…, simultaneous=True)` returned for each block, which depends
            on a part of the input of its own, at the same radii (`grid`).

    Returns:
        `Allocation`, with failure probability Σα.

    Raises:
        ValueError, TypeError: no curves, radii that differ, or a curve whose points do not hold at once.
    """
    if not curves:
        raise ValueError("curves = (): must be one curve for each block of outputs")
    for i, curve in enumerate(curves):
        if not all(hasattr(curve, name) for name in ("rhos", "values", "simultaneous", "alpha")):
            raise TypeError(f"curves[{i}] is a {type(curve).__name__}: must be a curve, as certify.bound_curve returns")
        if tuple(curve.rhos) != tuple(curves[0].rhos):
            raise ValueError(
                f"curves[{i}] has the radii {list(curve.rhos)}: must be {list(curves[0].rhos)}, as the first"
            )
        if len(curve.rhos) > 1 and not curve.simultaneous:
            raise ValueError(f"curves[{i}] is pointwise: must be simultaneous, its radii are used at once")
    return allocate([curve.values for curve in curves], curves[0].rhos, sum(curve.alpha for curve in curves))


def allocate(bounds: Sequence[Sequence[float]], rhos: Sequence[float], alpha: float = 0.0) -> Allocation:
    """The same from numbers.

    Args:
        bounds: a row a block: B_e at each radius, ≥ 0, +∞ allowed; all hold at once.
        rhos: the radii, increasing, > 0; the last is ρ.
        alpha: failure probability of all these bounds, for the record.

    Raises:
        ValueError, TypeError: a row of another length, a bound below 0 or NaN.
    """
    radii = _validate.increasing("rhos", rhos)
    if not len(bounds):
        raise ValueError("bounds is empty: must have a row for each block")
    rho, rows = radii[-1], []
    for e, row in enumerate(bounds):
        values = np.asarray(row, dtype=np.float64)
        if values.shape != (len(radii),):
            raise ValueError(f"bounds[{e}] has shape {values.shape}: must be ({len(radii)},), one number a radius")
        if not bool((values >= 0).all()):
            raise ValueError(f"bounds[{e}] = {values.tolist()}: must be numbers >= 0")
        rows.append(np.minimum.accumulate(values[::-1])[::-1])  # what holds at a larger radius holds at a smaller one
    full = _sum(rows, [-1] * len(rows))
    costs = np.square(np.array([0.0, *radii[:-1]]) / rho) * (1 - _SAFE)
    # All ways to choose for the first blocks that no cheaper way is as bad as: cost, value, and the choices themselves.
    spent, value, chosen = np.zeros(1), np.zeros(1), np.zeros((1, 0), dtype=np.int64)
    for block in rows:
        with np.errstate(over="ignore"):  # ∞ is a bound
            total, worth = np.add.outer(spent, costs).ravel(), np.add.outer(value, block).ravel()
        order = np.lexsort((-worth, total))
        order = order[total[order] <= 1]
        best = np.maximum.accumulate(np.concatenate([[-1.0], worth[order][:-1]]))
        order = order[worth[order] > best]
        before, own = np.divmod(order, len(radii))
        spent, value = total[order], worth[order]
        chosen = np.concatenate([chosen[before], own[:, None]], axis=1)
    # The sums that were compared may each be off by an ulp a block.
    worst = min(_sum(rows, chosen[-1]) * (1 + 1e-15 * len(rows)), full)
    return Allocation(worst, tuple(radii[j] for j in chosen[-1]), full, rho, alpha)


def _sum(rows: Sequence[Any], choice: Sequence[int]) -> float:
    """One number of each row, added up and rounded up."""
    picked = [float(row[j]) for row, j in zip(rows, choice, strict=True)]
    return math.inf if math.inf in picked else least_above(sum(map(Fraction, picked), Fraction(0)))
