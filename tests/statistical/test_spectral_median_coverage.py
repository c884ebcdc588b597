"""Coverage of the spectral certificate of the median (T12), and controls that must be caught.

The frame is that of `trials`; a run fails if its bound is below a movement that is known to happen.
"""

from __future__ import annotations

import pytest
import torch
from scipy.special import ndtri
from torch import Tensor

from certify.bounds import spectral_median as module
from certify.montecarlo.sketch import Indicators
from tests.bounds.test_spectral import spread
from tests.bounds.test_spectral_median import bound, linear
from tests.statistical.trials import Trials

pytestmark = pytest.mark.statistical


@pytest.fixture(autouse=True)
def _few_levels(monkeypatch):
    """Three levels to choose from instead of eighteen: the choice, on pilot draws, is most of the time of a small run."""
    monkeypatch.setattr(module, "_LEVELS", (0.2, 0.45, 0.8))


P = 0.45
"""How often a coin below shows 1 at the input itself; at half of the time its median is 1."""


def coins(z: Tensor) -> Tensor:
    """f_i = 1[z_i beyond its 55th percentile]: the median is 0, and 1 once z_i is pushed by .126."""
    return (z > float(ndtri(1 - P))).to(torch.float64)


def coin_failures(runs: int, m: int, **options) -> int:
    """Runs whose bound is below m: all m medians jump from 0 to 1 at ρ = .126 √m."""
    y, rho = torch.zeros(m, dtype=torch.float64), float(ndtri(1 - P)) * m**0.5 * (1 + 1e-6)
    options = {"n": 300, "alpha": 0.1, "pilot": 64, "center": torch.zeros(m, dtype=torch.float64), **options}
    return sum(bound(coins, y, rho=rho, seed=seed, **options).value < m * (1 - 1e-9) for seed in range(runs))


@pytest.mark.parametrize("m", [1, 30])
def test_coverage_of_coins(m, trials: Trials):
    """α = .1: one coin, and thirty that need a push each."""
    runs = trials.runs(80)
    trials.covers("T12 distance", coin_failures(runs, m), runs, 0.1, f"{m} coins")


def test_coverage_of_coins_with_the_population_reference(trials: Trials):
    """α = .1."""
    runs = trials.runs(80)
    wrong = coin_failures(runs, 3, reference="population", center=None)
    trials.covers("T12 distance", wrong, runs, 0.1, "3 coins, population")


def test_control_frequencies_without_slack_are_caught(monkeypatch, trials: Trials):
    """Mistake: p̂ for p and λ̂ for λ."""
    monkeypatch.setattr(module, "bernstein_slack", lambda second, radius, n, alpha: 0.0)
    monkeypatch.setattr(module, "chernoff_limit", lambda mean, n, alpha: mean)
    runs = trials.runs(80, 150)
    trials.caught("T12 distance", "p̂ for p and λ̂ for λ", coin_failures(runs, 1, n=100), runs, 0.1)


def test_control_forgotten_frequencies_are_caught(monkeypatch, trials: Trials):
    """Mistake: ½ for ½ − p, as if no output were beyond a level at the input itself."""
    monkeypatch.setattr(Indicators, "frequencies", lambda self: torch.zeros_like(self.expected))
    runs = trials.runs(20, 100)
    trials.caught("T12 distance", "½ for ½ − p", coin_failures(runs, 1), runs, 0.1)


def together_failures(runs: int) -> int:
    """Forty outputs that are all z, moved by ½ each: less than the only level, 1.2 standard deviations."""
    y, A = torch.zeros(1, dtype=torch.float64), torch.ones((40, 1), dtype=torch.float64)
    options = {"rho": 0.5, "n": 1000, "alpha": 0.1, "pilot": 200, "center": torch.zeros(40, dtype=torch.float64)}
    return sum(bound(linear(A), y, seed=seed, **options).value < 40 * 0.25 for seed in range(runs))


def test_control_a_limit_to_the_left_of_its_level_is_caught(monkeypatch, trials: Trials):
    """Mistake: W(τ) applied below τ as well."""
    monkeypatch.setattr(module, "_LEVELS", (1.2,))
    runs = trials.runs(30)
    trials.covers("T12 distance", together_failures(runs), runs, 0.1, "forty equal outputs, one level")
    right = module.layered
    monkeypatch.setattr(
        module, "layered", lambda reach, weights, levels, beyond: right(reach, weights, 0 * levels, beyond)
    )
    runs = trials.runs(15, 60)
    trials.caught("T12 distance", "a limit applied below its level", together_failures(runs), runs, 0.1)


@pytest.mark.parametrize(("reference", "rho"), [("center", 0.3), ("population", 1.2)])
def test_coverage_of_a_linear_map(reference, rho, trials: Trials):
    """α = .1: twelve outputs of stable rank 6, pushed along the top singular vector."""
    A = spread(12, 6.0)
    left, singular, _ = torch.linalg.svd(A)
    y, wrong, runs = torch.zeros(12, dtype=torch.float64), 0, trials.runs(80)
    for seed in range(runs):
        found = bound(linear(A), y, rho=rho, n=150, alpha=0.1, seed=seed, reference=reference, pilot=64)
        push = rho * float(singular[0]) * left[:, 0]
        c = found.evidence.center if reference == "center" else torch.zeros_like(push)
        wrong += found.value < max(float((sign * push - c).square().sum()) for sign in (-1, 1))
    trials.covers("T12 distance", wrong, runs, 0.1, f"linear map, {reference}")
