"""Violations: a false bound is caught, a true one is not, and noise alone is not taken for a violation.

Rates are tested in the frame of `tests.statistical.trials`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri

from certify import GaussianNoise, event_bound, mean_bound, mse_bound, percentile_bounds, statistic_bound
from certify.bounds import METHODS, ROUTES
from certify.bounds.copies import event_interval
from certify.statements.ask import Deployed, ask
from experiments.soundness.verify import Fresh, deployed_distances, examine, mean_lower_limit, violates
from tests.statistical.trials import Trials
from tests.subjects import SUBJECTS, Subject

LINE = SUBJECTS["identity"]  # f(z) = z in one dimension, σ = .5: every bound on it is nearly exact
ISOTROPIC, WIDE = SUBJECTS["isotropic linear"], SUBJECTS["high dimension"]


def problem(subject: Subject) -> tuple:
    return subject.f, subject.y, GaussianNoise(subject.sigma)


def worst(subject: Subject, rho: float) -> torch.Tensor:
    return torch.as_tensor(subject.worst(rho)) * (1 - 1e-9)


def clamped(z: torch.Tensor) -> torch.Tensor:
    return z.clamp(-3, 3)


def bounds_of(subject: Subject, rho: float = 1.0, n: int = 4000) -> dict[str, object]:
    """A true bound of every kind on one subject, by its name."""
    f, y, noise = problem(subject)
    found: dict[str, object] = {
        "box": percentile_bounds(f, y, noise, rho=rho, p=0.5, n=n),
        "box at .2": percentile_bounds(f, y, noise, rho=rho, p=0.2, n=n),
    }
    for smoother, method in METHODS:
        support = None if smoother == "median" else (torch.full(y.shape, -30.0), torch.full(y.shape, 30.0))
        if smoother == "median" or subject is LINE:
            found[f"{method} {smoother}"] = mse_bound(
                f, y, noise, rho=rho, method=method, smoother=smoother, n=n, support=support
            )
    found["population"] = mse_bound(f, y, noise, rho=rho, method="coordinatewise", reference="population", n=n)
    routes = [Deployed(rho, 0.9, 1e-3, 5, method, smoother) for smoother, method in ROUTES]
    for bound in ask(f, y, noise, routes, n=5 * n):
        if math.isfinite(bound.value):
            found[f"deployed {bound.method} {bound.smoother}"] = bound
    return found


@pytest.mark.parametrize("subject", [LINE, ISOTROPIC, WIDE], ids=lambda s: s.name)
def test_true_bounds_are_not_violated_by_the_worst_perturbation(subject):
    f = subject.f
    for name, bound in bounds_of(subject, rho=0.5).items():
        for sign in (1, -1):
            verdict = violates(bound, f, sign * worst(subject, 0.5), n=4000, seed=11)
            assert not verdict.violated, (name, verdict)
            assert verdict.limit <= verdict.bound


def test_an_inflated_radius_is_caught_for_every_kind_of_bound():
    """A bound for ρ = ½ stated at ρ = 2, held against the perturbation that is worst there. T6's dimension-free route is
    loose in one dimension, by √(s/(s − ⌊K/2⌋)): stated at ρ = 4."""
    for name, bound in bounds_of(LINE, rho=0.5).items():
        rho = 4.0 if "deployed dimension-free" in name else 2.0
        inflated = replace(bound, rho=rho)  # type: ignore[type-var]
        verdicts = [violates(inflated, LINE.f, sign * worst(LINE, rho), n=4000, seed=12) for sign in (1, -1)]
        assert any(verdict.violated for verdict in verdicts), (name, verdicts)


@pytest.mark.parametrize("factor", [1.3, 2, 4])
def test_a_bound_divided_until_it_is_false_is_caught(factor):
    """T2 on the identity exceeds the truth (σρ)² by a few percent, so a third less is false."""
    bound = mse_bound(*problem(LINE), rho=1.0, n=40_000, center=LINE.y)
    assert bound.value / 1.3 < 0.25 <= bound.value
    verdict = violates(replace(bound, value=bound.value / factor), LINE.f, worst(LINE, 1.0), n=20_000, seed=3)
    assert verdict.violated
    assert verdict.ratio == pytest.approx(bound.value / factor / 0.25, rel=0.05)


def test_many_outputs_a_false_sum_is_caught():
    """48 outputs: each moves little, the sum is what is claimed."""
    bound = mse_bound(*problem(WIDE), rho=2.0, n=4000, center=WIDE.f(WIDE.y[None])[0])
    truth = WIDE.supremum(2.0)
    assert bound.value > 2 * truth
    assert violates(replace(bound, value=truth / 2), WIDE.f, worst(WIDE, 2.0), n=4000, seed=5).violated
    verdict = violates(bound, WIDE.f, worst(WIDE, 2.0), n=4000, seed=5)
    assert not verdict.violated
    assert verdict.estimate == pytest.approx(truth, rel=0.05)


def test_a_box_is_tested_on_all_outputs_whatever_the_attack_was_about():
    bound = percentile_bounds(*problem(WIDE), rho=1.0, n=4000)
    upper = bound.upper.clone()
    upper[17] = bound.center[17] - 0.1  # false even without a perturbation
    verdict = violates(replace(bound, upper=upper), WIDE.f, torch.zeros(200), n=4000, seed=6, focus=(3, 1))
    assert verdict.violated
    assert verdict.bound == pytest.approx(float(upper[17]))
    lower = bound.lower.clone()
    lower[4] = bound.center[4] + 0.1
    assert violates(replace(bound, lower=lower), WIDE.f, torch.zeros(200), n=4000, seed=6).violated


def test_events_and_statistics():
    """1[mean_K aᵀz > t] at K = 4: T5 is exact up to Monte Carlo slack, so ρ stated three times too large is false."""
    a, sigma = torch.tensor([0.6, -0.8], dtype=torch.float64), 0.5
    noise, y = GaussianNoise(sigma), torch.zeros(2, dtype=torch.float64)
    event = lambda z: (z @ a).mean(dim=1) > 0.35  # noqa: E731
    score = lambda z: (z @ a).mean(dim=1)  # noqa: E731
    bounds = {
        event: event_bound(event, y, noise, rho=0.3, replicas=4, n=4000),
        score: statistic_bound(score, y, noise, rho=0.3, q=0.8, replicas=4, n=4000),
    }
    for statistic, bound in bounds.items():
        honest = violates(bound, statistic, 0.3 * sigma * a, n=4000, seed=1)
        assert not honest.violated
        assert 1 <= honest.ratio < 1.3
        inflated = replace(bound, rho=0.9)
        assert violates(inflated, statistic, 0.9 * sigma * a, n=4000, seed=1).violated
        assert not violates(inflated, statistic, -0.9 * sigma * a, n=4000, seed=1).violated
    truth = float(ndtr(ndtri(1 - ndtr(0.35 / (sigma / 2))) + 2 * 0.3))
    assert violates(bounds[event], event, 0.3 * sigma * a, n=4000, seed=1).estimate == pytest.approx(truth, abs=0.03)


def test_what_chance_decides_is_attacked_too():
    """T14: an event at rates of .03 and .19, and such a rate as a score, at the shift that is worst for them."""
    noise, y, delta = (
        GaussianNoise(1.0),
        torch.zeros(2, dtype=torch.float64),
        torch.tensor([0.4, 0.0], dtype=torch.float64),
    )
    score = lambda z: torch.where(z[..., 0].mean(dim=1) > 0, 0.19, 0.03).double()  # noqa: E731

    def event(z, generator):
        return torch.rand(len(z), generator=generator, dtype=torch.float64) < score(z)

    asked = {"rho": 0.4, "replicas": 9, "n": 4000}
    worst = 0.03 + 0.16 * float(ndtr(3 * 0.4))
    for f, bound in (
        (event, event_bound(event, y, noise, repeats=4, **asked)),
        (score, mean_bound(score, y, noise, upper=0.5, **asked)),
    ):
        assert bound.theorem == "T14"
        honest = violates(bound, f, delta, n=4000, seed=1)
        assert not honest.violated
        assert honest.estimate == pytest.approx(worst, abs=0.02)
        assert honest.limit < worst < bound.value
        # Control: what holds without a perturbation, stated at ρ.
        assert violates(replace(bound, value=bound.at(0.0)), f, delta, n=4000, seed=1).violated
        assert not violates(replace(bound, value=worst), f, delta, n=4000, seed=1).violated
    lower = mean_bound(score, y, noise, side="lower", **asked)
    with pytest.raises(ValueError, match="bound has side = 'lower': must be 'upper' to be attacked from below"):
        violates(lower, score, delta, n=100)


def test_forgetting_the_root_of_k_is_caught():
    """Control: T5's bound with K = 16 copies counted as one."""
    event = lambda z: z.mean(dim=(1, 2)) > 0.5  # noqa: E731
    bound = event_bound(event, torch.zeros(1, dtype=torch.float64), GaussianNoise(1.0), rho=0.5, replicas=16, n=4000)
    _, one = event_interval(bound.successes, bound.n, bound.run.noise, rho=0.5, replicas=1, alpha=1e-3, two_sided=False)
    assert not violates(bound, event, torch.tensor([0.5]), n=4000, seed=2).violated
    assert violates(replace(bound, value=one), event, torch.tensor([0.5]), n=4000, seed=2).violated


# Noise is not a violation


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["median", "median of many", "mean", "box", "event", "deployed"])
def test_a_bound_that_is_exactly_true_is_seldom_declared_violated(kind, trials: Trials):
    """Bounds equal to the truth at the perturbation: what is left is the noise of the verdict. α = .05."""
    runs, n, f = trials.runs(300), 300, LINE.f
    delta, noise, y = torch.tensor([0.5], dtype=torch.float64), GaussianNoise(0.5), LINE.y
    base = mse_bound(f, y, noise, rho=1.0, n=500, center=y)
    if kind == "median":
        bound = replace(base, value=0.25)
    elif kind == "median of many":
        f, y, delta = torch.sin, torch.zeros(40, dtype=torch.float64), torch.full((40,), 0.5, dtype=torch.float64)
        true = 40 * math.sin(0.5) ** 2  # 40 increasing functions of one Gaussian each
        bound = replace(mse_bound(f, y, noise, rho=8.0, n=500, center=y, support=(-1.0, 1.0)), value=true)
    elif kind == "mean":
        f = lambda z: (z > 1.2).double()  # noqa: E731
        p, q = (float(ndtr((v - 1.2) / 0.5)) for v in (0.8, 0.3))
        known = mse_bound(
            f, y, noise, rho=1.0, n=500, center=torch.tensor([q], dtype=torch.float64), support=(0.0, 1.0)
        )
        bound = replace(known, value=(p - q) ** 2, smoother="mean")
    elif kind == "box":
        box = percentile_bounds(f, y, noise, rho=1.0, p=0.5, n=500)
        bound = replace(box, upper=torch.tensor([0.8], dtype=torch.float64))
    elif kind == "event":
        f = lambda z: z[:, 0, 0] > 1.0  # noqa: E731
        bound = replace(event_bound(f, y, noise, rho=1.0, replicas=1, n=500), value=float(ndtr(-0.4)))
    else:
        (asked,) = ask(f, y, noise, [Deployed(1.0, 0.9, 1e-3, 3, "replicas", "mean")], n=500, center=y)
        q90 = float(0.5 + 0.5 / math.sqrt(3) * ndtri(0.9))  # |N(.5, .5²/3)| to within Φ(−3.5)
        bound = replace(asked, value=q90)
    verdicts = [violates(bound, f, delta, n=n, alpha=0.05, seed=seed).violated for seed in range(runs)]
    trials.covers("verdict", sum(verdicts), runs, 0.05, kind)


@pytest.mark.statistical
def test_control_an_estimate_in_the_place_of_the_limit_is_caught(trials: Trials):
    """Mistake: declaring a violation where the estimate exceeds the bound. With a true bound that is half of the runs."""
    bound = replace(mse_bound(*problem(LINE), rho=1.0, n=500, center=LINE.y), value=0.25)
    delta = torch.tensor([0.5], dtype=torch.float64)
    verdicts = [violates(bound, LINE.f, delta, n=300, alpha=0.05, seed=seed) for seed in range(200)]
    wrong = sum(v.estimate > v.bound for v in verdicts)
    trials.caught("verdict", "the estimate in the place of its limit", wrong, 200, 0.05)


@pytest.mark.statistical
@pytest.mark.parametrize("bet", [0.05, 0.3, 1.2])
def test_the_lower_limit_of_a_mean(bet, trials: Trials):
    """Skewed draws, x = 1 with probability .02, else 0: the limit exceeds .02 in at most α of 2 000 runs. α = .05."""
    rng = np.random.default_rng(3)
    draws = torch.as_tensor(rng.random((2000, 400)) < 0.02).double()
    limits = [mean_lower_limit(x, 0.0, bet, 0.05) for x in draws]
    trials.covers("verdict", sum(limit > 0.02 for limit in limits), 2000, 0.05, f"lower limit of a mean, bet {bet}")
    shifted = [mean_lower_limit(-x, -1.0, bet, 0.05) for x in draws]
    wrong = sum(limit > -0.02 for limit in shifted)
    trials.covers("verdict", wrong, 2000, 0.05, f"lower limit of a negative mean, bet {bet}")


def test_the_lower_limit_of_a_mean_is_near_it_and_moves_with_the_draws():
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64).clamp(-4, 4)
    limit = mean_lower_limit(x, -4.0, 0.04, 1e-6)
    assert float(x.mean()) - 0.1 < limit < float(x.mean())
    assert mean_lower_limit(x + 5, 1.0, 0.04, 1e-6) == pytest.approx(limit + 5)
    assert mean_lower_limit(3 * x, -12.0, 0.04 / 3, 1e-6) == pytest.approx(3 * limit)
    assert mean_lower_limit(x, -4.0, 0.04, 1e-9) < limit
    assert mean_lower_limit(torch.zeros(5), 0.0, 1.0, 0.05) == -math.inf


def test_groups_of_k_draws():
    outputs = torch.arange(14.0)[:, None]
    center = torch.tensor([1.0])
    assert deployed_distances(outputs, center, 4).tolist() == [0.5, 4.5, 8.5]
    assert deployed_distances(outputs, center, 3, "mean").tolist() == [0.0, 3.0, 6.0, 9.0]


def test_a_family_makes_verdicts_stricter():
    bound = mse_bound(*problem(LINE), rho=1.0, n=4000)
    one, many = (violates(bound, LINE.f, worst(LINE, 1.0), family=k, seed=1) for k in (1, 10_000))
    assert (one.level, many.level) == (1e-3, 1e-7)
    assert many.limit < one.limit < one.estimate


def test_fresh_draws_share_their_noise_and_keep_the_dtype():
    seen = []

    def f(z: torch.Tensor) -> torch.Tensor:
        seen.append(z.dtype)
        return z

    y = torch.tensor([1.0, 2.0])
    fresh = Fresh(f, y, GaussianNoise(0.5), n=100, seed=4)
    moved = fresh.at(torch.tensor([0.25, 0.0], dtype=torch.float64)) - fresh.base
    torch.testing.assert_close(moved, torch.tensor([[0.25, 0.0]]).expand(100, 2), rtol=0, atol=1e-6)
    assert set(seen) == {torch.float32}


def test_abstentions_are_never_violated():
    bound = mse_bound(*problem(WIDE), rho=2.0, n=20, method="coordinatewise")
    assert bound.value == math.inf
    verdict = violates(bound, WIDE.f, worst(WIDE, 2.0), n=2000)
    assert not verdict.violated
    assert verdict.ratio == math.inf
    box = percentile_bounds(*problem(WIDE), rho=2.0, n=20)
    assert not violates(box, WIDE.f, worst(WIDE, 2.0), n=2000).violated


def test_bad_calls():
    f, y, noise = problem(LINE)
    bound = mse_bound(f, y, noise, rho=1.0, n=500)
    with pytest.raises(ValueError, match=r"delta has ‖δ‖_Σ = 2.0: must be at most ρ = 1.0"):
        violates(bound, f, torch.tensor([1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="support is None: a mean has no confidence limit"):
        violates(replace(bound, smoother="mean"), f, torch.tensor([0.1], dtype=torch.float64))
    with pytest.raises(TypeError, match="bound is a str"):
        examine("bound", torch.zeros(3, 1), alpha=0.1)
    with pytest.raises(ValueError, match="base is None"):
        examine(replace(bound, reference="population"), torch.zeros(3, 1), alpha=0.1)
    with pytest.raises(ValueError, match=r"x reaches -1.0: must have draws, none below 0.0"):
        mean_lower_limit(torch.tensor([-1.0]), 0.0, 1.0, 0.1)
    lower = statistic_bound(lambda z: z.mean(dim=(1, 2)), y, noise, rho=0.1, side="lower", replicas=2, n=500)
    with pytest.raises(ValueError, match="bound has side = 'lower': must be 'upper'"):
        violates(lower, lambda z: z.mean(dim=(1, 2)), torch.tensor([0.0], dtype=torch.float64))
