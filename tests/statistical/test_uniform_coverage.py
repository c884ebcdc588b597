"""Coverage of bounds for uniform noise (T13), and controls that must be caught.

The frame, H0 and the false-alarm rate are those of `trials`. Truths are closed forms: uniform and trapezoidal laws, and the
functions that attain T13.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binom

from certify import GaussianNoise, UniformNoise, certified_radius, event_bound, percentile_bounds
from certify.bounds import percentile as percentile_module
from certify.confidence import clopper_pearson, extreme_rank
from tests.statistical.trials import Trials

pytestmark = pytest.mark.statistical

Y = torch.zeros(1, dtype=torch.float64)


# Boxes, joint over outputs: the identity, each output moved by 2hρ along its own axis.

M, ALPHA, H, RHO = 20, 0.2, 0.5, 0.3
N = 24  # one rank each: .8²⁴ = .00472, just below α' = .2/40 = .005, so that the joint rate is nearly exact


def independent_outputs(runs: int, n: int = N, rho: float = RHO) -> int:
    """Runs in which some of 20 independent medians leaves the box within ‖δ‖ ≤ ρ: truth ±2hρ."""
    y, noise, failures = torch.zeros(M, dtype=torch.float64), UniformNoise(H), 0
    for seed in range(runs):
        b = percentile_bounds(lambda z: z, y, noise, rho=rho, n=n, alpha=ALPHA, seed=seed, pilot=1)
        failures += bool((b.lower > -2 * H * rho).any() or (b.upper < 2 * H * rho).any())
    return failures


def test_joint_coverage_is_exactly_what_the_ranks_say(trials: Trials):
    """20 outputs, 40 events, α = .2; rate 1 − (1 − a)⁴⁰ = .172. Rejected on either side."""
    runs = trials.runs(300)
    tail = UniformNoise(H).tails(0.5, RHO).upper
    each = float(binom.cdf(extreme_rank(N, tail, ALPHA / (2 * M)) - 1, N, tail))
    exact = 1 - (1 - each) ** (2 * M)
    trials.covers("T13 box", independent_outputs(runs), runs, ALPHA, "20 independent outputs", exact)


def test_control_the_gaussian_shift_is_caught(monkeypatch, trials: Trials):
    """Mistake: Φ(Φ⁻¹(p) ± ρ) for p ± ρ, as if the noise were Gaussian in the same units."""
    monkeypatch.setattr(UniformNoise, "tails", lambda self, *args: GaussianNoise(1.0).tails(*args))
    runs = trials.runs(60, 200)
    trials.caught("T13 box", "the Gaussian shift", independent_outputs(runs), runs, ALPHA)


def test_control_the_gaussian_of_the_same_deviation_is_caught(monkeypatch, trials: Trials):
    """Mistake: uniform noise taken for Gaussian with σ = h/√3, so that δ = 2hρ is 2√3 ρ. Near ρ = ½ its tail is too heavy."""

    def tails(self, p, rho, replicas=1):
        return GaussianNoise(1.0).tails(p, 2 * math.sqrt(3) * rho, replicas)

    assert tails(None, 0.5, 0.48).upper > 2 * UniformNoise(H).tails(0.5, 0.48).upper
    monkeypatch.setattr(UniformNoise, "tails", tails)
    runs = trials.runs(60, 200)
    wrong = independent_outputs(runs, n=110, rho=0.48)
    trials.caught("T13 box", "a Gaussian of the same standard deviation", wrong, runs, ALPHA)


def test_control_a_shift_that_is_too_small_is_caught(monkeypatch, trials: Trials):
    """Mistake: a shift that is 20 % too small."""
    right = UniformNoise.tails
    monkeypatch.setattr(UniformNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, 0.8 * rho, replicas))
    runs = trials.runs(60, 200)
    trials.caught("T13 box", "0.8 ρ instead of ρ", independent_outputs(runs, n=400), runs, ALPHA)


def test_control_a_pointwise_alpha_is_caught(monkeypatch, trials: Trials):
    """Mistake: α' = α/2 for each output."""
    monkeypatch.setattr("certify.statements.questions.Percentile.each_side", lambda self, _: self.alpha / 2)
    runs = trials.runs(60, 200)
    trials.caught("T13 box", "α for each output instead of α/m", independent_outputs(runs), runs, ALPHA)


def test_control_a_rank_off_by_one_is_caught(monkeypatch, trials: Trials):
    """Mistake: one-based ranks read from zero."""
    right = percentile_module.ranks

    def wrong(n, tails, alpha):
        low, high = right(n, tails, alpha)
        return low + 1, high + 1

    monkeypatch.setattr(percentile_module, "ranks", wrong)
    monkeypatch.setattr("certify.statements.questions.ranks", wrong)
    runs = trials.runs(60, 200)
    trials.caught("T13 box", "one rank too few", independent_outputs(runs), runs, ALPHA)


# One output whose law is known: a trapezoid, and steps that attain the bound.


def trapezoid(v: float, halves: tuple[float, float]) -> float:
    """P[U_1 + U_2 ≤ v] for U_j uniform on ±halves_j: the integral of a ramp over the wider one."""
    narrow, wide = sorted(halves)
    ends = np.clip([(v + wide) / narrow, (v - wide) / narrow], -1, 1)
    ramp = [
        (e + 1) ** 2 / 4 * narrow + max((v + side * wide) - narrow, 0.0) for e, side in zip(ends, (1, -1), strict=True)
    ]
    return (ramp[0] - ramp[1]) / (2 * wide) if v < wide + narrow else 1.0


def test_the_trapezoid_is_one():
    """Against its known quarters: symmetric halves, ends, and a sum of 10⁶ draws."""
    assert trapezoid(0.0, (1.0, 0.5)) == pytest.approx(0.5)
    assert trapezoid(-1.5, (1.0, 0.5)) == pytest.approx(0.0)
    assert trapezoid(1.5, (1.0, 0.5)) == pytest.approx(1.0)
    assert trapezoid(-0.5, (1.0, 0.5)) == pytest.approx(0.25)
    assert trapezoid(-0.75, (1.0, 0.5)) == pytest.approx(0.75**2 / 4)
    z = np.random.default_rng(0).uniform(-1, 1, (10**6, 2)) @ [1.0, 0.5]
    for v in (-1.2, 0.3, 0.7, 1.4):
        assert float((z <= v).mean()) == pytest.approx(trapezoid(v, (1.0, 0.5)), abs=0.0025)


@pytest.mark.parametrize(("p", "rho", "n"), [(0.5, 0.3, 60), (0.8, 0.1, 120), (0.2, 0.05, 90)])
def test_coverage_of_a_linear_map(p, rho, n, trials: Trials):
    """α = .1: f = z_1 + z_2/2 has a trapezoidal law; the most that δ moves it is 2hρ, along the first axis."""
    noise, runs, failures = UniformNoise(torch.tensor([1.0, 1.0])), trials.runs(150), 0
    at = brentq(lambda v: trapezoid(v, (1.0, 0.5)) - p, -1.5, 1.5)
    y, weights = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    for seed in range(runs):
        b = percentile_bounds(
            lambda z: z @ weights[:, None], y, noise, rho=rho, p=p, n=n, alpha=0.1, seed=seed, pilot=1
        )
        failures += bool(b.lower > at - 2 * rho or b.upper < at + 2 * rho)
    trials.covers("T13 box", failures, runs, 0.1, f"linear, p = {p}, ρ = {rho}")


@pytest.mark.parametrize(("p", "rho", "n"), [(0.5, 0.3, 150), (0.7, 0.2, 80)])
def test_coverage_of_a_step_that_attains_the_bound(p, rho, n, trials: Trials):
    """1[z > t] with F_y(0) = p + ρ: at δ = 2hρ it is 0 with probability p, so its upper percentile is 1. The rate is exact."""
    noise, t, alpha = UniformNoise(1.0), 2 * (p + rho) - 1, 0.1
    runs = trials.runs(200)
    wrong = 0
    for seed in range(runs):
        b = percentile_bounds(lambda z: (z > t).double(), Y, noise, rho=rho, p=p, n=n, alpha=alpha, seed=seed, pilot=1)
        wrong += bool(b.upper < 1)
    tail = noise.tails(p, rho).upper
    exact = float(binom.cdf(extreme_rank(n, tail, alpha / 2) - 1, n, tail))
    trials.covers("T13 box", wrong, runs, alpha, f"a step, p = {p}, ρ = {rho}", exact)


# The certified radius.


def beyond_the_radius(runs: int) -> int:
    """Runs whose radius is more than the true one: max(z, 0) at 0 has a median of at most 2hρ, within 1 up to ρ = 1/2h = ¼."""
    options = {"tolerance": 1.0, "n": 150, "alpha": 0.1, "center": Y, "method": "coordinatewise", "pilot": 1}
    found = [certified_radius(lambda z: z.clamp(min=0), Y, UniformNoise(2.0), seed=s, **options) for s in range(runs)]
    assert any(r.rho > 0.1 for r in found)
    return sum(r.rho > 0.25 for r in found)


def test_coverage_of_the_certified_radius(trials: Trials):
    """α = .1, after a search; one of two sides can fail it, and does exactly when the rank just above ¼ falls short."""
    runs = trials.runs(100)
    rank = extreme_rank(150, UniformNoise(2.0).tails(0.5, 0.25 + 1e-7).upper, 0.05)
    exact = float(binom.cdf(rank - 1, 150, 0.25))
    trials.covers("T13 radius", beyond_the_radius(runs), runs, 0.1, "the positive part", exact)


def test_control_a_radius_in_units_of_the_half_width_is_caught(monkeypatch, trials: Trials):
    """Mistake: |δ_j|/h_j for |δ_j|/2h_j, as if a shift of h moved everything."""
    right = UniformNoise.tails
    monkeypatch.setattr(UniformNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, rho / 2, replicas))
    trials.caught("T13 radius", "h for 2h", beyond_the_radius(60), 60, 0.1)


# Events of K copies: the worst there is.

K, P_HERE = 3, 0.1


def extremal(rho: float):
    """The event of T13 (b): some copy beyond y + h, or else all copies in what y and y + δ have in common and the first of
    them in a part of it, so that it has probability `P_HERE` at y and `P_HERE` + r at δ = 2hρ (h = 1, y = 0)."""
    part = P_HERE / (1 - rho) ** (K - 1)  # of the first copy's interval

    def event(z: torch.Tensor) -> torch.Tensor:
        x = z[:, :, 0]
        common = (x <= 1).all(dim=1) & (x >= -1 + 2 * rho).all(dim=1)
        return (x > 1).any(dim=1) | (common & (x[:, 0] > 1 - 2 * part))

    return event


def missed(runs: int, rho: float, n: int, alpha: float) -> int:
    """Runs whose bound is below the event's probability at δ."""
    truth = P_HERE + 1 - (1 - rho) ** K
    event, noise = extremal(rho), UniformNoise(1.0)
    found = [event_bound(event, Y, noise, rho=rho, replicas=K, n=n, alpha=alpha, seed=seed) for seed in range(runs)]
    return sum(e.value < truth for e in found)


def test_coverage_of_the_worst_event_is_exact(trials: Trials):
    """α = .1: the bound fails exactly where the limit of Clopper and Pearson does."""
    n, alpha, runs = 200, 0.1, trials.runs(200)
    exact = sum(float(binom.pmf(k, n, P_HERE)) for k in range(n) if clopper_pearson(k, n, alpha) < P_HERE)
    assert 0.05 < exact <= alpha
    trials.covers("T13 event", missed(runs, 0.1, n, alpha), runs, alpha, f"the worst event of {K} copies", exact)


def test_the_worst_event_is_what_it_says():
    """Its probabilities at y and at δ, from 200 000 draws, within five standard errors."""
    for shift, expected in ((0.0, P_HERE), (0.2, P_HERE + 1 - 0.9**K)):
        z = UniformNoise(1.0).draw(Y + shift, 200_000 * K, torch.Generator().manual_seed(0)).reshape(-1, K, 1)
        often = float(extremal(0.1)(z).double().mean())
        assert often == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / 200_000))


def test_control_copies_that_cost_nothing_are_caught(monkeypatch, trials: Trials):
    """Mistake: ρ for 1 − (1 − ρ)^K."""
    right = UniformNoise.tails
    monkeypatch.setattr(UniformNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, rho))
    runs = trials.runs(25, 100)
    trials.caught("T13 event", "ρ for all K copies", missed(runs, 0.1, 200, 0.1), runs, 0.1)


def test_control_the_root_of_the_number_of_copies_is_caught(monkeypatch, trials: Trials):
    """Mistake: √K ρ, which is right for Gaussian noise."""
    right = UniformNoise.tails
    monkeypatch.setattr(
        UniformNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, math.sqrt(replicas) * rho)
    )
    runs = trials.runs(25, 100)
    trials.caught("T13 event", "√K ρ", missed(runs, 0.1, 1000, 0.1), runs, 0.1)


def outside(runs: int, rho: float) -> int:
    """Runs whose bound for "some coordinate beyond its box" is below the truth at the δ of equal shares with ‖δ‖ = ρ."""
    noise, y = UniformNoise(torch.tensor([0.5, 2.0])), torch.zeros(2, dtype=torch.float64)
    h = noise.half_width.double()
    delta = h * rho / noise.norm(h)
    truth = 1 - float((1 - delta / (2 * h)).prod())

    def event(z: torch.Tensor) -> torch.Tensor:
        return (z[:, 0] > h).any(dim=1)

    found = [event_bound(event, y, noise, rho=rho, replicas=1, n=100, alpha=0.1, seed=seed) for seed in range(runs)]
    return sum(e.value < truth for e in found)


def test_coverage_of_a_shift_of_several_coordinates(trials: Trials):
    """α = .1: 1 − (1 − ρ/2)² is less than ρ, so it hardly ever fails."""
    runs = trials.runs(100)
    trials.covers("T13 event", outside(runs, 0.3), runs, 0.1, "a shift of two coordinates")


def test_control_the_largest_share_for_their_sum_is_caught(monkeypatch, trials: Trials):
    """Mistake: ‖δ‖ = max_j |δ_j|/2h_j: an ℓ∞ ball."""
    monkeypatch.setattr(UniformNoise, "norm", lambda self, delta: float((delta.abs() / (2 * self.half_width)).max()))
    runs = trials.runs(25, 60)
    trials.caught("T13 event", "the largest |δ_j|/2h_j for their sum", outside(runs, 0.3), runs, 0.1)
