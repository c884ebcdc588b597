"""T13: uniform noise. A perturbation moves the probability of any event by at most its ℓ1 size, in units of the noise's width.

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
"""

from __future__ import annotations

import math

from certify.noise import Tails

__all__ = ["shifted", "variation"]

# The sums below are good to a few ulp of 1; this is much more, and covers the rounding of ‖δ‖ itself, a few hundred ulp.
_SAFE = 1e-12


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
