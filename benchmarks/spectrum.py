"""The limit of λ_max for T11: what it makes of Gaussian outputs, and what other limits could.

λ_i ∝ i^−a in 400 dimensions, λ_max = 1; n = 10 000 draws, R 1.25 times the largest of 1 000 pilot norms. (5) of the theory
page; the lower tail of nonnegative variables with E ‖x‖² x xᵀ, estimated and taken for known; and the same with w known.
"""

from __future__ import annotations

import math

import numpy as np

from certify.confidence import chernoff_limit

__all__ = ["table"]

ALPHA = 1e-3 / 3


def row(power: float, n: int, outputs: int) -> str:
    """One line of the table."""
    rng, scale = np.random.default_rng(0), np.arange(1.0, outputs + 1) ** (-power / 2)
    x, pilot = rng.normal(size=(n, outputs)) * scale, rng.normal(size=(n // 10, outputs)) * scale
    squared, largest = np.square(x).sum(axis=1), 1.25**2 * float(np.square(pilot).sum(axis=1).max())
    top = float(np.linalg.eigvalsh(x.T @ x / n)[-1])
    fourth = float(np.linalg.eigvalsh((x * squared[:, None]).T @ x / n)[-1])
    t = -math.log(ALPHA) / n
    limits = largest * chernoff_limit(top / largest, n, ALPHA), top + math.sqrt(2 * fourth * t), top + math.sqrt(6 * t)
    stable = float(np.square(scale).sum())
    return f"| {power:g} | {stable:.0f} | {largest:.0f} | {top:.2f} | " + " | ".join(f"{v:.2f}" for v in limits) + " |"


def table(quick: bool) -> str:
    """As Markdown."""
    n, outputs = (500, 20) if quick else (10_000, 400)
    lines = [
        "## The limit of λ_max (T11)",
        "",
        f"Gaussian outputs in {outputs} dimensions, λ_max = 1, n = {n:,}, α = {ALPHA:.1e}.",
        "",
        "| a | stable rank | R² | λ̂ | (5) | with E ‖x‖² x xᵀ | one known direction |",
        "|---|---|---|---|---|---|---|",
        *(row(power, n, outputs) for power in (0.5, 0.7, 1.0)),
    ]
    return "\n".join(lines)
