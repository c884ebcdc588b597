"""Coverage of T4, T5 and T6, and controls that must be caught: each puts one mistake into the library.

The frame, H0 and the false-alarm rate are those of `trials`.

T4's and T6's values have room to spare beyond their confidence (a layer-cake sum of limits, a union over sides), so that a
run in which a limit fails is hardly ever one in which the value does. Both are therefore counted: the values, against the
exact law of what they bound, and the *limits* behind them, all of which must hold at once with probability 1 − α. It is
the limits that show the mistakes in confidence; the mistakes in a constant or in a sum show in the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, ncx2, norm

from certify import GaussianNoise, deployed_bound, event_bound, statistic_bound
from certify.bounds import METHODS, ROUTES, Evaluation, Setting, deployed_distance, dimension_free
from certify.confidence import extreme_rank
from certify.montecarlo import AllDraws, draw, median, pool
from certify.statements.ask import MSE, Deployed, ask
from tests.statistical.trials import Trials

pytestmark = pytest.mark.statistical

ONE = GaussianNoise(1.0)
QUICK, ALPHA = 200, 0.1


def identity(z: torch.Tensor) -> torch.Tensor:
    return z


def zeros(m: int) -> torch.Tensor:
    return torch.zeros(m, dtype=torch.float64)


def evaluations(
    kind, f, m: int, runs: int, *, n: int, rho: float, center: torch.Tensor, **more
) -> Iterator[Evaluation]:
    """Answers of one method, built once on pilot draws of its own, to `runs` sets of n draws around 0 ∈ R^m."""
    kept = AllDraws()
    draw(f, zeros(m), ONE, n=200, seed=10**6, stream="pilot", accumulators=[kept])
    setting = Setting(ONE, n, tuple(center.shape), center, "center", None, kept.stacked())
    method = kind(setting, ALPHA, rho, **more)
    for seed in range(runs):
        seen = pool(method.needs(rho))
        draw(f, zeros(m), ONE, n=n, seed=seed, stream="bounding", accumulators=seen.values())
        yield method.at(rho, seen)


def lengths(p: np.ndarray | float, m: int, away: float = 0.0) -> np.ndarray:
    """Percentiles of ‖z − c‖ for m standard normals and ‖c‖ = away."""
    return np.sqrt(ncx2.ppf(p, m, max(away**2, 1e-12)))


def shifted(levels, rho: float) -> np.ndarray:
    return norm.cdf(norm.ppf(np.asarray(levels)) + rho)


# T4.

T4 = METHODS["median", "dimension-free"]
M, RHO = 12, 0.7


def t4_failures(runs: int, n: int = 250) -> tuple[int, int]:
    """Runs in which a limit is below its percentile, and in which the value is below the truth, ρ²."""
    limits = values = 0
    truth = None
    for found in evaluations(T4, identity, M, runs, n=n, rho=RHO, center=zeros(M)):
        held = found.evidence
        truth = lengths(shifted(held.levels, RHO), M) if truth is None else truth  # of the same levels in every run
        limits += bool((held.radii[0].numpy() < truth).any())
        values += found.value < RHO**2
    return limits, values


def test_coverage_of_t4(trials: Trials):
    """α = .1: all limits at once, and the value."""
    runs = trials.runs(QUICK)
    limits, values = t4_failures(runs)
    trials.covers("T4 limits", limits, runs, ALPHA, "12 normals")
    trials.covers("T4 distance", values, runs, ALPHA, "12 normals")
    assert limits > 0


def one_level(monkeypatch) -> None:
    right = T4._plan
    monkeypatch.setattr(T4, "_plan", lambda self, origin, apart, levels: right(self, origin, apart, 1))


def test_coverage_of_one_level_of_t4_is_not_idle(monkeypatch, trials: Trials):
    """One limit takes all of α: rate P[Bin(n, tail) ≤ t − 1], rejected on either side."""
    one_level(monkeypatch)
    failures, n, tail, runs = 0, 250, 0.0, trials.runs(QUICK)
    for found in evaluations(T4, identity, M, runs, n=n, rho=RHO, center=zeros(M)):
        level = float(found.evidence.levels)
        tail = float(norm.sf(norm.ppf(level) + RHO))
        failures += float(found.evidence.radii) < float(lengths(shifted(level, RHO), M))
    exact = float(binom.cdf(extreme_rank(n, tail, ALPHA) - 1, n, tail))
    trials.covers("T4 limits", failures, runs, ALPHA, "12 normals, one level", exact)


def test_control_t4_without_a_union_over_its_levels_is_caught(monkeypatch, trials: Trials):
    """Mistake: every level has all of α. (The value does not show it: its least sum rarely rests on a limit that fails.)"""
    monkeypatch.setattr(dimension_free.DimensionFreeMSE, "_limits", without_union)
    runs = trials.runs(100, 200)
    trials.caught("T4 limits", "all of α for every level", t4_failures(runs)[0], runs, ALPHA)


def without_union(self, ordered, rho, plan):
    reach = plan.reach.square().sum()[None].sqrt()
    n = len(ordered)
    ranks = [extreme_rank(n, float(norm.sf(norm.ppf(float(q)) + rho)), self.alpha) for q in plan.levels]
    return dimension_free.upper_limits(ordered, plan.levels, ranks, reach)


def t4_around_its_own_draws(runs: int, own: bool, m: int = 400, n: int = 40) -> int:
    """Runs in which a limit of ‖f − c‖ is below its percentile, c the median of the very same draws, or of others."""
    failures = 0
    for seed in range(runs):
        kept = [AllDraws(), AllDraws()]
        for stream, accumulator in zip(("bounding", "pilot"), kept, strict=True):
            draw(identity, zeros(m), ONE, n=n, seed=seed, stream=stream, accumulators=[accumulator])
        draws = kept[0].stacked()
        center = median(draws if own else kept[1].stacked())
        method = T4(Setting(ONE, n, (m,), center), ALPHA, 0.3)
        (seen,) = method.needs(0.3)
        seen.update(draws)
        held = method.at(0.3, {seen.key: seen}).evidence
        truth = lengths(shifted(held.levels, 0.3), m, float(center.norm()))
        failures += bool((held.radii[0].numpy() < truth).any())
    return failures


def test_control_t4_around_the_median_of_the_same_draws_is_caught(trials: Trials):
    """Mistake: c from the bounding draws. They are nearer to their own median than any other draw is."""
    runs = trials.runs(60)
    trials.covers("T4 limits", t4_around_its_own_draws(runs, own=False), runs, ALPHA, "400 normals, c of other draws")
    runs = trials.runs(30, 200)
    wrong = t4_around_its_own_draws(runs, own=True)
    trials.caught("T4 limits", "a reference from the same draws", wrong, runs, ALPHA)


def jump(z: torch.Tensor) -> torch.Tensor:
    """1 beyond z = ρ: within ‖δ‖ ≤ ρ the median is 0, on its boundary both 0 and 1 are medians."""
    return (z > 0.999 * RHO).to(torch.float64)


def t4_values_at_a_jump(runs: int) -> int:
    found = evaluations(T4, jump, 1, runs, n=3000, rho=RHO, center=zeros(1))
    return sum(evaluation.value < 1.0 for evaluation in found)


def test_control_a_layer_cake_from_the_left_is_caught(monkeypatch, trials: Trials):
    """Mistake: Σ (q_i − q_{i−1}) R_{i−1}². The layer that holds q = ½ then counts as 0, and nothing is above a half."""
    runs = trials.runs(50)
    trials.covers("T4 distance", t4_values_at_a_jump(runs), runs, ALPHA, "a jump")
    right = dimension_free.layer_cake

    def left(levels, radii):
        return right(levels, torch.cat([torch.zeros_like(radii[:, :1]), radii[:, :-1]], dim=1))

    monkeypatch.setattr(dimension_free, "layer_cake", left)
    runs = trials.runs(20, 100)
    trials.caught("T4 distance", "layers summed from the left", t4_values_at_a_jump(runs), runs, ALPHA)


# T5: a statistic and an event of five copies, the mean of whose z is N(δ, 1/5).

K, T5_RHO, Q = 5, 0.3, 0.8


def statistic(z: torch.Tensor) -> torch.Tensor:
    return z.mean(dim=(1, 2))


def statistic_failures(runs: int, side: str = "upper") -> int:
    """Runs whose limit a statistic at the worst δ leaves with more than 1 − q."""
    failures, scale = 0, 1 / math.sqrt(K)
    for seed in range(runs):
        b = statistic_bound(
            statistic, zeros(1), ONE, rho=T5_RHO, q=Q, side=side, replicas=K, n=150, alpha=ALPHA, seed=seed
        )
        at_worst = [
            norm.cdf((b.value - shift) / scale) - norm.cdf((b.lower - shift) / scale) for shift in (-T5_RHO, 0, T5_RHO)
        ]
        failures += min(at_worst) < Q
    return failures


def test_coverage_of_a_statistic(trials: Trials):
    """α = .1; the bound is exact, so the rate is that of its one order statistic, rejected on either side."""
    runs, tail = trials.runs(QUICK), ONE.tails(Q, T5_RHO, K).upper
    exact = float(binom.cdf(extreme_rank(150, tail, ALPHA) - 1, 150, tail))
    trials.covers("T5 statistic", statistic_failures(runs), runs, ALPHA, "mean of five", exact)


def test_coverage_of_a_two_sided_statistic(trials: Trials):
    runs = trials.runs(QUICK)
    trials.covers("T5 statistic", statistic_failures(runs, "two-sided"), runs, ALPHA, "mean of five, two-sided")


def event_failures(runs: int, two_sided: bool = False) -> int:
    """The event mean > .45: its probability at the worst δ, against the bound."""
    failures, level = 0, 0.45
    most, least = (float(norm.cdf(math.sqrt(K) * (shift - level))) for shift in (T5_RHO, -T5_RHO))
    for seed in range(runs):
        e = event_bound(
            lambda z: statistic(z) > level, zeros(1), ONE, rho=T5_RHO, replicas=K, n=150, alpha=ALPHA, seed=seed,
            two_sided=two_sided,
        )  # fmt: skip
        failures += e.value < most or e.lower > least
    return failures


@pytest.mark.parametrize("two_sided", [False, True])
def test_coverage_of_an_event(two_sided, trials: Trials):
    """α = .1."""
    runs = trials.runs(QUICK)
    failures = event_failures(runs, two_sided)
    trials.covers("T5 event", failures, runs, ALPHA, f"mean of five, {'two-sided' if two_sided else 'one-sided'}")
    assert failures > 0


def deployed_means(runs: int) -> int:
    """Runs in which ‖mean of K − c‖ at the worst δ exceeds the value with more than 1 − q; c is far below, so one side."""
    failures, c = 0, torch.full((1,), -10.0, dtype=torch.float64)
    for seed in range(runs):
        b = deployed_bound(
            identity, zeros(1), ONE, rho=T5_RHO, q=Q, replicas=K, n=K * 150, alpha=ALPHA, seed=seed, center=c,
            smoother="mean", method="replicas", pilot=1,
        )  # fmt: skip
        failures += norm.sf((b.value - 10 - T5_RHO) * math.sqrt(K)) > 1 - Q
    return failures


def test_coverage_of_a_deployed_mean(trials: Trials):
    """α = .1, 150 groups of five draws of f: exact, as for any linear statistic."""
    runs, tail = trials.runs(QUICK), ONE.tails(Q, T5_RHO, K).upper
    exact = float(binom.cdf(extreme_rank(150, tail, ALPHA) - 1, 150, tail))
    trials.covers("T5 deployed", deployed_means(runs), runs, ALPHA, "mean of five", exact)


def test_coverage_of_a_deployed_median_by_t5(trials: Trials):
    """The median of five is at most as easy to move as their mean: fewer failures, none forbidden."""
    failures, c, runs = 0, torch.full((1,), -10.0, dtype=torch.float64), trials.runs(QUICK)
    for found in evaluations(
        ROUTES["median", "replicas"], identity, 1, runs, n=K * 150, rho=T5_RHO, center=c, q=Q, replicas=K
    ):
        failures += beta.sf(norm.cdf(found.value - 10 - T5_RHO), 3, 3) > 1 - Q
    trials.covers("T5 deployed", failures, runs, ALPHA, "median of five")


def test_control_t5_without_the_square_root_of_k_is_caught(monkeypatch, trials: Trials):
    """Mistake: ρ instead of √K ρ, for a statistic, an event and a deployed mean."""
    right = GaussianNoise.tails
    monkeypatch.setattr(GaussianNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, rho))
    for claim, failures in (("statistic", statistic_failures), ("event", event_failures), ("deployed", deployed_means)):
        runs = trials.runs(40, 150)
        trials.caught(f"T5 {claim}", "ρ for √K ρ", failures(runs), runs, ALPHA)


# T6, order statistics: percentiles at u of every output at once.

OUTPUTS, COPIES = 10, 5


def ranked(runs: int, n: int) -> Iterator[Evaluation]:
    kind = ROUTES["median", "order statistics"]
    return evaluations(kind, identity, OUTPUTS, runs, n=n, rho=RHO, center=zeros(OUTPUTS), q=0.9, replicas=COPIES)


def test_coverage_of_t6_by_order_statistics(trials: Trials):
    """α = .1, 10 outputs: the box against the percentiles that it is about, rejected on either side, and the
    exact probability that a deployed median leaves the box at the δ that moves one output furthest."""
    failures, left, runs = 0, 0, trials.runs(QUICK)
    u = float(beta.ppf(1 - 0.1 / (2 * OUTPUTS), 3, 3))
    n = 600
    for found in ranked(runs, n):
        box = found.evidence
        failures += bool(box.upper.min() < RHO + norm.ppf(u) or box.lower.max() > -RHO - norm.ppf(u))
        shift = np.eye(OUTPUTS)[0] * RHO
        above = beta.sf(norm.cdf(box.upper.numpy() - shift), 3, 3)
        below = beta.cdf(norm.cdf(box.lower.numpy() - shift), 3, 3)
        left += 1 - np.prod(1 - above - below) > 0.1
    tail = float(norm.sf(norm.ppf(u) + RHO))
    each = float(binom.cdf(extreme_rank(n, tail, ALPHA / (2 * OUTPUTS)) - 1, n, tail))
    exact = 1 - (1 - each) ** (2 * OUTPUTS)
    trials.covers("T6 order statistics", failures, runs, ALPHA, "10 normals, the box", exact)
    trials.covers("T6 order statistics", left, runs, ALPHA, "10 normals, the median of five")


RARE = 1.35


def rarely_one(z: torch.Tensor) -> torch.Tensor:
    """Each output is 1 where z > 1.35, and 0 elsewhere: a median of five is 1 in about 1 of 160 deployments."""
    return (z > RARE).to(torch.float64)


def nothing_happens(runs: int, q: float) -> int:
    """Runs with value 0, although with more than 1 − q some output of the deployed median is 1, at δ = 0 already."""
    kind = ROUTES["median", "order statistics"]
    some = 1 - beta.cdf(norm.cdf(RARE), 3, 3) ** OUTPUTS
    assert some > 1 - q
    found = evaluations(kind, rarely_one, OUTPUTS, runs, n=3000, rho=0.05, center=zeros(OUTPUTS), q=q, replicas=COPIES)
    return sum(evaluation.value == 0 for evaluation in found)


def test_control_t6_without_a_union_over_outputs_is_caught(monkeypatch, trials: Trials):
    """Mistake: u for (1 − q)/2 instead of (1 − q)/(2m). Each output alone is 0 often enough, all ten of them are not."""
    runs = trials.runs(50)
    trials.covers("T6 order statistics", nothing_happens(runs, 0.96), runs, ALPHA, "10 rare jumps")
    monkeypatch.setattr(
        deployed_distance, "least_level", lambda fails, limit: RIGHT_LEVEL(fails, min(0.5, limit * OUTPUTS))
    )
    runs = trials.runs(25, 100)
    trials.caught("T6 order statistics", "u for each output alone", nothing_happens(runs, 0.96), runs, ALPHA)


RIGHT_LEVEL = deployed_distance.least_level


# T6, dimension-free: s of K draws in a ball.

BALL = ROUTES["median", "dimension-free"]


def test_coverage_of_t6_by_a_ball(trials: Trials):
    """α = .1: one limit takes all of it, rejected on either side; the value leaves room for the rest."""
    n, failures, tail, runs = 400, 0, 0.0, trials.runs(QUICK)
    for found in evaluations(BALL, identity, M, runs, n=n, rho=RHO, center=zeros(M), q=0.8, replicas=COPIES):
        held = found.evidence
        assert binom.sf(held.s - 1, COPIES, held.u) >= 0.8
        tail = float(norm.sf(norm.ppf(held.u) + RHO))
        failures += held.radius < float(lengths(shifted(held.u, RHO), M))
        assert found.value >= held.radius
    exact = float(binom.cdf(extreme_rank(n, tail, ALPHA) - 1, n, tail))
    trials.covers("T6 ball", failures, runs, ALPHA, "12 normals, the ball", exact)


CORNERS = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)


def corners(z: torch.Tensor) -> torch.Tensor:
    """One of three unit vectors, each a third of the time: three different ones have the median (1, 1, 1)/√2."""
    cuts = torch.tensor(norm.ppf([1 / 3, 2 / 3]))
    return CORNERS[(z[:, :1] > cuts).sum(dim=1)]


def ball_failures(runs: int) -> int:
    """Runs whose value three draws leave with more than 1 − q = .1: all different, in 6 of 27 deployments, at δ = 0."""
    found = evaluations(BALL, corners, 1, runs, n=200, rho=0.2, center=zeros(3), q=0.9, replicas=3)
    return sum(6 / 27 > 0.1 and evaluation.value < math.sqrt(1.5) for evaluation in found)


def test_control_t6_with_a_constant_off_by_one_is_caught(monkeypatch, trials: Trials):
    """Mistake: s − (K − 1)/2 + 1 draws of the ball beyond each coordinate of the median, instead of s − (K − 1)/2."""
    runs = trials.runs(100)
    trials.covers("T6 ball", ball_failures(runs), runs, ALPHA, "three corners")
    right = deployed_distance._majority
    monkeypatch.setattr(deployed_distance, "_majority", lambda s, replicas: right(s, replicas) + 1)
    runs = trials.runs(25, 100)
    trials.caught("T6 ball", "a constant off by one", ball_failures(runs), runs, ALPHA)


def test_control_a_limit_with_a_later_rank_is_caught(monkeypatch, trials: Trials):
    """Mistake: four ranks further in."""
    monkeypatch.setattr(deployed_distance, "extreme_rank", lambda n, tail, alpha: extreme_rank(n, tail, alpha) + 4)
    runs = trials.runs(100, 200)
    failures = sum(
        found.evidence.radius < float(lengths(shifted(found.evidence.u, RHO), M))
        for found in evaluations(BALL, identity, M, runs, n=400, rho=RHO, center=zeros(M), q=0.8, replicas=COPIES)
    )
    trials.caught("T6 ball", "four ranks further in", failures, runs, ALPHA)


# The whole call, with pilot draws that choose.


def chosen(runs: int, n: int = 120) -> tuple[int, int]:
    """Runs in which a distance, and in which a deployed bound, is too small, of two statements about the same draws.

    References and methods come from pilot draws; values are held against the truth, ρ, and the exact law of a deployed median,
    around a reference that is not quite the truth.
    """
    wrong, left = 0, 0
    asked = [MSE(RHO, 0.05), Deployed(0.3, 0.7, 0.05, replicas=3)]
    for seed in range(runs):
        c, b = ask(identity, zeros(1), ONE, asked, n=n, pilot=64, seed=seed)
        wrong += (abs(c.center.item()) + RHO) ** 2 > c.value
        away = abs(b.center.item()) + 0.3
        left += beta.sf(norm.cdf(b.value - away), 2, 2) + beta.cdf(norm.cdf(-b.value - away), 2, 2) > 0.3
    return wrong, left


def test_coverage_of_what_best_chooses(trials: Trials):
    """α = .05."""
    runs = trials.runs(150)
    wrong, left = chosen(runs)
    trials.covers("best", wrong, runs, 0.05, "a distance")
    trials.covers("best", left, runs, 0.05, "a deployed median")
    assert wrong > 0


def test_control_a_choice_among_methods_with_too_short_a_shift_is_caught(monkeypatch, trials: Trials):
    """Mistake: a shift that is 20 % too small, in whatever is chosen."""
    right = GaussianNoise.tails
    monkeypatch.setattr(GaussianNoise, "tails", lambda self, p, rho, replicas=1: right(self, p, 0.8 * rho, replicas))
    runs = trials.runs(30, 100)
    trials.caught("best", "shift 20 % too small", chosen(runs, n=1200)[0], runs, 0.05)
