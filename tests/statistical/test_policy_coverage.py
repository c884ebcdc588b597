"""Coverage of an adaptive smoother's percentiles (T7), and the mistake that T7 is about. The frame: `trials`.

The toy adapts its noise to the input, σ(x) = .8 for x < 0 and 1.5 beyond. Adapting to the *noisy* input, by at least σ_min = ½,
is a random function of one Gaussian input and covered; its percentiles come from one integral. Adapting to the input itself
and certifying it with the noise that σ(y) gives, as if that were frozen, is the mistake.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import norm
from torch import Tensor

from certify import GaussianNoise, percentile_bounds
from certify.adaptive.policies import noise_then_adapt
from tests.statistical.trials import Trials

pytestmark = pytest.mark.statistical

ALPHA, P, RHO, FIRST, START = 0.1, 0.9, 1.0, 0.5, -0.2
BEFORE, BEYOND = 0.8, 1.5


def sigma_of(z: Tensor) -> Tensor:
    return torch.where(z < 0, BEFORE, BEYOND).to(torch.float64)


def percentile(start: float, p: float) -> float:
    """The p-th percentile of x + g + s(x + g) N at x = `start`, s² = σ² − ¼: ∫ Φ((v − x − g)/s(x + g)) dN(g; 0, ¼) = p."""
    grid = np.linspace(-8, 8, 20_001) * FIRST
    weight = norm.pdf(grid, scale=FIRST) * (grid[1] - grid[0])
    scale = np.sqrt(np.where(start + grid < 0, BEFORE, BEYOND) ** 2 - FIRST**2)
    return float(brentq(lambda v: (weight * ndtr((v - start - grid) / scale)).sum() - p, -20, 20))


def adapted_failures(runs: int) -> int:
    """Runs whose box the percentile leaves at one of nine points within ρ."""
    y, noise = torch.tensor([START], dtype=torch.float64), GaussianNoise(FIRST)
    adapted = noise_then_adapt(lambda z: z, sigma_of, FIRST)
    truth = [percentile(START + share * RHO * FIRST, P) for share in np.linspace(-1, 1, 9)]
    failures = 0
    for seed in range(runs):
        b = percentile_bounds(adapted, y, noise, rho=RHO, p=P, n=400, alpha=ALPHA, seed=seed, pilot=1)
        failures += b.lower.item() > min(truth) + 1e-6 or b.upper.item() < max(truth) - 1e-6
    return failures


def frozen_failures(runs: int) -> int:
    """Runs whose box, for the noise that s(y) gives, the percentile leaves at a y + δ that gets other noise."""
    y = torch.tensor([START], dtype=torch.float64)
    there = START + RHO * BEFORE  # = .6, where the noise is nearly twice as wide
    truth = there + BEYOND * float(ndtri(P))
    failures = 0
    for seed in range(runs):
        b = percentile_bounds(
            lambda z: z, y, GaussianNoise(BEFORE), rho=RHO, p=P, n=2000, alpha=ALPHA, seed=seed, pilot=1
        )
        failures += b.upper.item() < truth
    return failures


def test_coverage_of_noise_then_adapt(trials: Trials):
    runs = trials.runs(120)
    trials.covers("T7 noise, then adapt", adapted_failures(runs), runs, ALPHA, "a scale that jumps")


def test_control_an_adaptive_noise_certified_as_frozen_is_caught(trials: Trials):
    trials.caught(
        "T7 noise, then adapt", "adapts to the input itself, taken for frozen", frozen_failures(60), 60, ALPHA
    )
