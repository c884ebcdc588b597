"""The limit of λ_max for T11: what it makes of Gaussian outputs, and what other limits could.

λ_i ∝ i^−a in 400 dimensions, λ_max = 1; n = 10 000 draws, R 1.25 times the largest of 1 000 pilot norms. (5) of the theory
page; the lower tail of nonnegative variables with E ‖x‖² x xᵀ, estimated and taken for known; and the same with w known.

And reference "center" at small ρ: what the bound of a linear map, clamped at six standard deviations, is made of.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch

from certify import GaussianNoise, mse_bound
from certify.bounds.likelihood_ratio import max_mean_shift
from certify.bounds.spectral_mean import SpectrumEvidence
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
        "",
        'Reference "center": 128 outputs, λ_i ∝ i^−0.4, clamped at six standard deviations, λ_max = 1, α = .001. Roots: of the',
        "bound, the truth, and the bound's parts: shift, distance of the reference, tail; in brackets what they truly are.",
        "",
        "| n | pilot | ρ | bound ÷ truth | root | truth | shift | reference | tail |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cases = [(1000, 100)] if quick else [(10_000, 1000), (10_000, 10_000), (100_000, 1000)]
    lines += [center(n, pilot, rho) for n, pilot in cases for rho in (0.05, 0.1, 0.25)]
    return "\n".join(lines)


def center(n: int, pilot: int, rho: float) -> str:
    """One line of the second table."""
    scale = torch.arange(1, 129, dtype=torch.float64) ** -0.2
    noise, ends = GaussianNoise(1.0), (-6 * scale, 6 * scale)
    how: dict[str, Any] = {"smoother": "mean", "method": "spectral", "reference": "center", "support": ends}
    bound = mse_bound(
        lambda z: (z * scale).clamp(*ends), torch.zeros_like(scale), noise, rho=rho, n=n, pilot=pilot, alpha=1e-3, **how
    )
    c, e = bound.center.to(torch.float64), cast(SpectrumEvidence, bound.evidence)
    truth = 0.0
    for start in (-scale * c, *(sign * torch.eye(128, dtype=torch.float64)[0] for sign in (1, -1))):
        delta = start
        for _ in range(300):  # the farthest point of an ellipsoid; the clamp is out of reach
            delta = rho * delta / delta.norm()
            truth = max(truth, float((scale * delta - c).norm()))
            delta = scale * (scale * delta - c)
    root, shift, away = math.sqrt(bound.value), max_mean_shift(noise, rho, e.second, e.radius), float(c.norm())
    return (
        f"| {n:,} | {pilot:,} | {rho:g} | {bound.value / truth**2:.2f} | {root:.3f} | {truth:.3f} | {shift:.3f} ({rho:g}) | "
        f"{e.center_offset:.3f} ({away:.3f}) | {max(root - shift - cast(float, e.center_offset), 0.0):.3f} (0) |"
    )
