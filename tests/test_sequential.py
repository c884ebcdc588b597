"""Stopping early: the martingale against integrals, the limits against it, decisions against fixed-n bounds."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from certify import Certificate, GaussianNoise, event_bound, mse_bound, statistic_bound
from certify.bounds.copies import EventEvidence
from certify.bounds.dimension_free import LayersEvidence
from certify.bounds.mse import BoxEvidence
from certify.cli import terminal
from certify.confidence import anytime_limit, clopper_pearson, log_evidence_above, log_evidence_below, looks
from certify.montecarlo.processes import Processes
from certify.statements.decide import decide_event, decide_statistic
from certify.statements.decide_mse import decide_mse
from certify.statements.stopping import StoppedCount

Y = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
NOISE = GaussianNoise(0.5)
A = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
SCALE = 0.5 * float(A.norm())
CENTRE = float(A @ Y)


def score(z: torch.Tensor) -> torch.Tensor:
    return (z @ A).mean(dim=1)


def exceeds(level: float):
    """The event that the mean score of the copies is more than `level` standard deviations of one above its mean."""
    return lambda z: score(z) > CENTRE + level * SCALE


def chance(level: float, rho: float, k: int) -> float:
    """The largest probability of `exceeds(level)` within ‖δ‖_Σ ≤ ρ."""
    return float(ndtr(math.sqrt(k) * (rho - level)))


# The martingale.


@pytest.mark.parametrize("p0", [1e-6, 0.003, 0.2, 0.7, 0.99])
@pytest.mark.parametrize(("s", "n"), [(0, 1), (0, 40), (1, 30), (7, 60), (30, 60), (20, 20), (2, 120)])
def test_the_evidence_is_the_integral_of_likelihood_ratios(s, n, p0):
    f = n - s

    def below(r):  # u = r², so that the weight ½ u^(−1/2) du is dr
        return r ** (2 * s) * math.exp(f * (math.log1p(-r * r * p0) - math.log1p(-p0)))

    def above(r):  # odds v = r⁻² times those of p₀, so that ½ v^(−3/2) dv is dr
        return math.exp(-2 * s * math.log(r) - n * math.log(p0 / r**2 + 1 - p0)) if r else 0.0

    integral = quad(below, 0, 1, epsabs=0, epsrel=1e-10, limit=500)[0]
    found = float(log_evidence_below(s, n, p0))
    if found == -math.inf:  # an incomplete beta function below 1e-308
        assert integral < 1
    else:
        assert found == pytest.approx(math.log(integral), abs=1e-7)
    if s:
        peak = 1.0 if s <= p0 * n else math.sqrt(p0 / (1 - p0) * (f + 0.5) / s)
        around = [min(1.0, peak * 4.0**k) for k in range(-3, 4)]
        integral = quad(above, 0, 1, epsabs=0, epsrel=1e-10, limit=500, points=around)[0]
        assert float(log_evidence_above(s, n, p0)) == pytest.approx(math.log(integral), abs=1e-7)
    else:
        assert float(log_evidence_above(s, n, p0)) == -math.inf


@pytest.mark.parametrize("p0", [0.002, 0.1, 0.5, 0.9])
def test_the_evidence_is_a_martingale_at_p0_and_falls_on_the_other_side(p0):
    """E[M after one more draw] = M at p = p₀; at most M at any p that "yes" would be wrong about, likewise for "no"."""

    def next_mean(evidence, s, n, p):
        return p * math.exp(evidence(s + 1, n + 1, p0)) + (1 - p) * math.exp(evidence(s, n + 1, p0))

    assert math.exp(log_evidence_below(0, 0, p0)) == pytest.approx(1.0, rel=1e-12)
    assert p0 * math.exp(log_evidence_above(1, 1, p0)) <= 1.0
    for s, n in [(0, 0), (0, 7), (3, 20), (20, 40), (5, 5), (1, 100)]:
        now = math.exp(log_evidence_below(s, n, p0))
        assert next_mean(log_evidence_below, s, n, p0) == pytest.approx(now, rel=1e-9)
        for p in (p0 + 0.3 * (1 - p0), 1.0):
            assert next_mean(log_evidence_below, s, n, p) <= now * (1 + 1e-9)
        assert next_mean(log_evidence_below, s, n, 0.3 * p0) >= now * (1 - 1e-9)
        if s:
            now = math.exp(log_evidence_above(s, n, p0))
            assert next_mean(log_evidence_above, s, n, p0) == pytest.approx(now, rel=1e-9)
            for p in (0.0, 0.3 * p0):
                assert next_mean(log_evidence_above, s, n, p) <= now * (1 + 1e-9)


def test_evidence_is_monotone_in_p0_and_in_the_successes():
    grid = np.linspace(0.001, 0.999, 200)
    for s, n in [(0, 50), (4, 50), (49, 50), (300, 5000)]:
        below = [float(log_evidence_below(s, n, p)) for p in grid]
        below = [max(v, -600.0) for v in below]
        above = [float(log_evidence_above(s, n, p)) for p in grid]
        assert all(b >= a - 1e-9 for a, b in pairwise(below))
        assert all(b <= a + 1e-9 for a, b in pairwise(above) if s)
    successes = np.arange(0, 201)
    assert (np.diff(np.maximum(log_evidence_below(successes, 200, 0.3), -600.0)) < 1e-9).all()
    assert (np.diff(log_evidence_above(successes[1:], 200, 0.3)) > -1e-9).all()


def test_ville_holds_exactly_over_all_paths_of_a_short_run():
    """The probability at p₀ of ever reaching 1/α within 400 draws, by recursion over all paths: at most α, yet not idle."""
    for evidence, idle in ((log_evidence_below, 0.5), (log_evidence_above, 0.1)):
        for p0, alpha in ((0.3, 0.1), (0.05, 0.05), (0.6, 0.2)):
            alive, crossed = np.array([1.0]), 0.0
            for n in range(1, 401):
                alive = np.append(alive * (1 - p0), 0.0) + np.append(0.0, alive * p0)
                reached = evidence(np.arange(n + 1), n, p0) >= math.log(1 / alpha)
                crossed += alive[reached].sum()
                alive[reached] = 0.0
            assert idle * alpha < crossed <= alpha


# Limits.


@pytest.mark.parametrize(("s", "n"), [(0, 10), (0, 100_000), (1, 10), (17, 300), (300, 300), (299, 300), (5, 10**7)])
@pytest.mark.parametrize("alpha", [0.1, 1e-3, 1e-6])
def test_limits_invert_the_martingale(s, n, alpha):
    upper, lower = anytime_limit(s, n, alpha), anytime_limit(s, n, alpha, "lower")
    assert 0 <= lower <= s / n <= upper <= 1
    if s < n:
        # Next to 1 a limit is known to fewer digits of its distance from 1.
        assert float(log_evidence_below(s, n, upper)) == pytest.approx(
            math.log(1 / alpha), abs=1e-3 if s < 0.99 * n else 1e-1
        )
        assert float(log_evidence_below(s, n, upper)) >= math.log(1 / alpha)
    else:
        assert upper == 1.0
    if s:
        assert float(log_evidence_above(s, n, lower)) == pytest.approx(math.log(1 / alpha), abs=1e-3)
        assert float(log_evidence_above(s, n, lower)) >= math.log(1 / alpha)
    else:
        assert lower == 0.0


def test_limits_are_wider_than_clopper_pearson_and_not_much_wider():
    for s, n in [(0, 1000), (1, 1000), (20, 1000), (300, 1000), (0, 10**6), (50, 10**6)]:
        for alpha in (0.05, 1e-3):
            fixed = clopper_pearson(s, n, alpha), clopper_pearson(s, n, alpha, "lower")
            upper, lower = anytime_limit(s, n, alpha), anytime_limit(s, n, alpha, "lower")
            assert lower <= fixed[1] <= fixed[0] <= upper
            room = fixed[0] - s / n
            assert upper - s / n <= 2.2 * room  # at once over all n, for about twice the width


def test_limits_grow_with_the_successes_and_shrink_with_alpha():
    uppers = [anytime_limit(s, 500, 0.01) for s in range(0, 500, 20)]
    lowers = [anytime_limit(s, 500, 0.01, "lower") for s in range(0, 500, 20)]
    assert uppers == sorted(uppers)
    assert lowers == sorted(lowers)
    assert anytime_limit(20, 500, 1e-6) > anytime_limit(20, 500, 0.1)
    assert anytime_limit(0, 2000, 0.01) < anytime_limit(0, 1000, 0.01)


def test_looks_double_and_share_alpha():
    for first, maximum in [(1, 1), (7, 5), (100, 10_000), (100, 160), (100, 149), (333, 100_000)]:
        plan = looks(first, maximum, 0.01)
        counts = [n for n, _ in plan]
        assert counts[-1] == maximum
        assert counts == sorted(set(counts))
        assert sum(share for _, share in plan) <= 0.01 * (1 + 1e-12)
        assert all(b == 2 * a for a, b in pairwise(counts[:-1]))


# Decisions.


def test_an_event_decided_yes_is_what_the_fixed_bound_says():
    options = {"rho": 0.2, "replicas": 5, "alpha": 1e-3, "seed": 1}
    d = decide_event(exceeds(1.2), Y, NOISE, target=0.1, n=20_000, **options)
    fixed = event_bound(exceeds(1.2), Y, NOISE, n=20_000, **options)
    assert (d.decided, d.status, d.reason) == ("yes", "certified", "")
    assert chance(1.2, 0.2, 5) <= d.value <= d.limit == 0.1
    assert fixed.value <= 0.1
    assert d.n <= d.drawn < d.maximum == 20_000
    assert d.saved == d.maximum - d.drawn
    assert d.saved > 15_000
    assert d.drawn <= 1.05 * d.n
    assert d.allowed == pytest.approx(float(ndtr(ndtri(0.1) - 0.2 * math.sqrt(5))), rel=1e-9)
    assert d.upper <= d.allowed * (1 + 1e-9)
    assert isinstance(d.evidence, EventEvidence)
    assert d.evidence.upper == d.value
    assert d.run.n == d.drawn


def test_an_event_decided_no_is_about_the_certificate():
    """P at y is .19; the target .2 allows .0156 at ρ = .5 and K = 7: no number of draws can certify it."""
    d = decide_event(exceeds(1 / 3), Y, NOISE, target=0.2, rho=0.5, replicas=7)
    truth = chance(1 / 3, 0.0, 7)
    assert (d.decided, d.status, d.evidence) == ("no", "abstained", None)
    assert truth < 0.2
    assert d.allowed < d.lower <= truth <= d.upper
    assert d.value > 0.2
    assert d.n < 1000
    assert "any number of draws" in d.reason
    assert event_bound(exceeds(1 / 3), Y, NOISE, rho=0.5, replicas=7, n=10_000).value > 0.2


@pytest.mark.parametrize("repeats", [1, 2, None])
def test_at_radius_zero_it_is_the_rate_at_the_input_itself(repeats):
    truth = chance(1 / 3, 0.0, 7)
    options = {"rho": 0.0, "replicas": 7, "repeats": repeats, "n": 8000}

    def event(z, generator):
        return exceeds(1 / 3)(z)

    d = decide_event(event, Y, NOISE, target=1.3 * truth, **options)
    assert (d.decided, d.rho) == ("yes", 0.0)
    assert truth <= d.value <= 1.3 * truth
    assert decide_event(event, Y, NOISE, target=0.7 * truth, **options).decided == "no"
    verdict = Certificate.of(d).check(event, Y, n=2000).verdicts[0]
    assert verdict.outcome == "not refuted"


def test_a_statistic_at_radius_zero():
    q = {"q": 0.9, "rho": 0.0, "replicas": 4}
    edge = CENTRE + SCALE * float(ndtri(0.9)) / 2
    assert decide_statistic(score, Y, NOISE, threshold=edge + 0.2 * SCALE, **q).decided == "yes"
    assert decide_statistic(score, Y, NOISE, threshold=edge - 0.2 * SCALE, **q).decided == "no"


def test_an_event_at_the_edge_stays_undecided():
    target = chance(0.5, 0.2, 3)
    d = decide_event(exceeds(0.5), Y, NOISE, target=target, rho=0.2, replicas=3, n=3000, alpha=1e-6)
    assert (d.decided, d.n, d.drawn, d.saved) == ("undecided", 3000, 3000, 0)
    assert d.lower < d.allowed < d.upper
    assert d.value > target
    assert "neither" in d.reason


def test_an_event_never_seen_takes_little_more_than_the_fewest_draws_there_could_be():
    """Fewest for a fixed n: ln α/ln(1 − p₀), with half of α for "yes"."""
    d = decide_event(lambda z: score(z) > 1e9, Y, NOISE, target=0.1, rho=0.3, replicas=13, n=100_000, batch_size=64)
    fewest = math.log(0.5e-3) / math.log1p(-d.allowed)
    assert (d.decided, d.successes, d.lower) == ("yes", 0, 0.0)
    assert fewest <= d.n <= 1.25 * fewest


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_when_it_is_decided_does_not_depend_on_the_batches(batch):
    d = decide_event(exceeds(1.0), Y, NOISE, target=0.2, rho=0.2, replicas=3, n=5000, batch_size=batch, seed=4)
    one = decide_event(exceeds(1.0), Y, NOISE, target=0.2, rho=0.2, replicas=3, n=5000, seed=4)
    assert (d.decided, d.n, d.successes, d.upper) == (one.decided, one.n, one.successes, one.upper)
    assert d.n <= d.drawn


def test_a_random_event_and_progress():
    def event(z, generator):
        return torch.rand(z.shape[0], generator=generator) < 0.01

    seen = []
    d = decide_event(
        event, Y, NOISE, target=0.5, rho=0.1, replicas=2, progress=lambda done, total: seen.append((done, total))
    )
    assert d.decided == "yes"
    assert seen[-1] == (d.drawn, 10_000)


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_a_statistic_decided_as_its_fixed_limit(side):
    sign = 1.0 if side == "upper" else -1.0
    options = {"rho": 0.2, "q": 0.9, "replicas": 4, "side": side, "n": 8000, "seed": 2}
    limit = statistic_bound(score, Y, NOISE, **options).value
    best = CENTRE + sign * SCALE * (0.2 + float(ndtri(0.9)) / 2)  # the true percentile at the worst δ
    assert sign * (limit - best) > 0
    clear = decide_statistic(score, Y, NOISE, threshold=limit + sign * 0.2 * SCALE, **options)
    assert (clear.decided, clear.theorem) == ("yes", "T5")
    assert clear.value <= clear.limit == pytest.approx(0.1)
    assert clear.evidence.numbers()[side] == limit + sign * 0.2 * SCALE
    assert clear.drawn < 8000
    never = decide_statistic(score, Y, NOISE, threshold=best - sign * 0.2 * SCALE, **options)
    assert (never.decided, never.evidence) == ("no", None)


def smooth(z: torch.Tensor) -> torch.Tensor:
    return torch.tanh(z * torch.tensor([1.0, 2.0, 3.0], dtype=z.dtype))


def test_a_coordinatewise_distance_decided_as_its_fixed_bound():
    options = {"rho": 0.8, "alpha": 1e-3, "seed": 3, "method": "coordinatewise"}
    fixed = mse_bound(smooth, Y, NOISE, n=20_000, **options)
    yes = decide_mse(smooth, Y, NOISE, tolerance=1.5 * fixed.value, n=20_000, **options)
    assert (yes.decided, yes.theorem, yes.successes) == ("yes", "T2", None)
    assert fixed.value <= yes.value <= yes.limit
    assert yes.saved > 15_000
    assert isinstance(yes.evidence, BoxEvidence)
    assert yes.evidence.implied(NOISE, 0.8) <= yes.value * (1 + 1e-12)
    assert torch.equal(yes.evidence.center, fixed.center)
    no = decide_mse(smooth, Y, NOISE, tolerance=0.5 * fixed.value, n=20_000, **options)
    assert (no.decided, no.evidence) == ("no", None)
    assert no.drawn < 20_000
    assert "whatever the number of draws" in no.reason
    edge = decide_mse(smooth, Y, NOISE, tolerance=0.97 * fixed.value, n=20_000, **options)
    assert (edge.decided, edge.n, edge.saved) == ("undecided", 20_000, 0)
    assert edge.value > edge.limit


def test_the_last_look_alone_is_the_fixed_bound(monkeypatch):
    """With a single look and all of α (here: of what is left for "yes") the value is that of `mse_bound`, to the last digit."""
    monkeypatch.setattr("certify.statements.stopping.looks", lambda first, maximum, alpha: [(maximum, alpha)])
    options = {"rho": 0.8, "n": 3000, "seed": 3, "method": "coordinatewise"}
    fixed = mse_bound(smooth, Y, NOISE, **options)
    for batch in (100, 256, 4096):
        d = decide_mse(smooth, Y, NOISE, tolerance=fixed.value, batch_size=batch, alpha=2e-3, **options)
        assert (d.decided, d.value, d.n) == ("yes", fixed.value, 3000)
        assert torch.equal(d.evidence.lower, fixed.lower)


def test_a_support_can_decide_and_too_few_draws_say_so():
    few = {"rho": 3.0, "n": 64, "pilot": 20}
    d = decide_mse(smooth, Y, NOISE, tolerance=20.0, **few)
    assert (d.decided, d.value) == ("undecided", math.inf)
    assert "n >= " in d.reason
    d = decide_mse(smooth, Y, NOISE, tolerance=20.0, support=(-1.0, 1.0), **few)
    assert d.decided == "yes"
    assert d.value <= 12.0 * (1 + 1e-12)


def spread(z: torch.Tensor) -> torch.Tensor:
    return z


@pytest.mark.parametrize("level", [None, 0.7])
def test_a_dimension_free_distance_is_one_event(level):
    """The identity in 200 dimensions: ‖f − c‖² is about 200 σ², with or without a level of one's own."""
    y, center = torch.zeros(200, dtype=torch.float64), torch.zeros(200, dtype=torch.float64)
    options = {"rho": 1.5, "center": center, "method": "dimension-free", "seed": 1, "level": level}
    yes = decide_mse(spread, y, 1.0, tolerance=1200.0, **options)
    assert (yes.decided, yes.theorem, yes.value) == ("yes", "T4", 1200.0)
    assert yes.saved > 5000
    assert isinstance(yes.evidence, LayersEvidence)
    q, radius = float(yes.evidence.levels), float(yes.evidence.radii)
    assert level is None or q == level
    assert radius**2 * q / (q - 0.5) == pytest.approx(1200.0, rel=1e-8)
    assert yes.evidence.implied(GaussianNoise(1.0), 1.5) <= yes.value
    assert yes.allowed == pytest.approx(float(ndtr(-ndtri(q) - 1.5)), rel=1e-9)
    no = decide_mse(spread, y, 1.0, tolerance=300.0, **options)
    assert (no.decided, no.value) == ("no", math.inf)


def test_dimension_free_decides_what_many_draws_of_the_fixed_method_show():
    y, center = torch.zeros(200, dtype=torch.float64), torch.zeros(200, dtype=torch.float64)
    fixed = mse_bound(spread, y, 1.0, rho=1.5, n=10_000, center=center, method="dimension-free").value
    assert (
        decide_mse(spread, y, 1.0, tolerance=1.5 * fixed, rho=1.5, center=center, method="dimension-free").decided
        == "yes"
    )


def test_the_decision_counts_each_draw_once():
    """n draws of the event at hand, counted again from the whole run with the same seed."""
    d = decide_event(exceeds(0.6), Y, NOISE, target=0.5, rho=0.1, replicas=2, seed=9, n=4000)
    again = event_bound(exceeds(0.6), Y, NOISE, rho=0.1, replicas=2, seed=9, n=d.n)
    assert d.successes == again.successes
    assert binom.sf(d.successes - 1, d.n, chance(0.6, 0.0, 2)) > 1e-6


def test_bad_calls_are_refused(monkeypatch):
    event = exceeds(1.0)
    for wrong, message in [
        ({"target": 0.0}, "target = 0.0"),
        ({"target": 1.5}, "target = 1.5"),
        ({"rho": -1.0}, "rho = -1.0"),
        ({"n": 0}, "n = 0"),
        ({"alpha": 1.0}, "alpha = 1.0"),
        ({"replicas": 0}, "replicas = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            decide_event(event, Y, NOISE, **({"target": 0.1, "rho": 0.2} | wrong))
    with pytest.raises(ValueError, match="must be 0 or 1"):
        decide_event(score, Y, NOISE, target=0.1, rho=0.2)
    with pytest.raises(ValueError, match="NaN or infinity"):
        decide_statistic(lambda z: score(z) * math.nan, Y, NOISE, threshold=1.0, rho=0.2)
    with pytest.raises(ValueError, match="threshold = inf"):
        decide_statistic(score, Y, NOISE, threshold=math.inf, rho=0.2)
    with pytest.raises(ValueError, match="side = 'both'"):
        decide_statistic(score, Y, NOISE, threshold=1.0, rho=0.2, side="both")
    for wrong, message in [
        ({"tolerance": -1.0}, "tolerance = -1.0"),
        ({"method": "best"}, "method = 'best'"),
        ({"level": 0.6}, "only 'dimension-free'"),
        ({"level": 0.4, "method": "dimension-free"}, "level = 0.4"),
        ({"center": torch.zeros(2)}, "must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            decide_mse(smooth, Y, NOISE, **({"tolerance": 1.0, "rho": 0.2} | wrong))
    with pytest.raises(ValueError, match="successes = 5"):
        anytime_limit(5, 4, 0.1)
    monkeypatch.setattr(Processes, "current", classmethod(lambda cls: Processes(0, 2)))
    with pytest.raises(RuntimeError, match="2 processes draw"):
        decide_event(event, Y, NOISE, target=0.1, rho=0.2)


# In certificates.


def linear(z: torch.Tensor) -> torch.Tensor:
    return z * A


def decisions(tolerance: float = 40.0) -> list:
    common = {"rho": 0.3, "n": 4000, "seed": 3}
    return [
        decide_mse(linear, Y, NOISE, tolerance=tolerance, **common),
        decide_mse(linear, Y, NOISE, tolerance=tolerance, method="dimension-free", **common),
        decide_event(exceeds(1.0), Y, NOISE, target=0.2, replicas=5, function="exceeds", **common),
        decide_statistic(score, Y, NOISE, threshold=CENTRE + 2 * SCALE, q=0.9, replicas=5, function="score", **common),
    ]


def test_a_certificate_of_decisions_is_kept_and_tested_again(tmp_path):
    made = decisions()
    assert [d.decided for d in made] == ["yes"] * 4
    certificate = Certificate.of(*made)
    assert [claim.quantity for claim in certificate.claims] == ["mse", "mse", "event", "statistic"]
    assert [claim.n for claim in certificate.claims] == [d.n for d in made]
    assert {claim.scope for claim in certificate.claims} == {"stopped early"}
    assert certificate.claims[3].value == CENTRE + 2 * SCALE
    loaded = Certificate.load(certificate.save(tmp_path / "kept"))
    assert loaded.claims == certificate.claims
    assert loaded.curve is None
    functions = {"f": linear, "exceeds": exceeds(1.0), "score": score}
    report = loaded.check(functions, Y, seed=9, n=4000)
    assert not report.refuted
    with pytest.raises(ValueError, match="decided early"):
        loaded.event(loaded.claims[2])


def test_a_certificate_of_a_false_decision_is_refuted():
    made = decisions()
    lie = dataclasses.replace(made[2], value=0.01, evidence=dataclasses.replace(made[2].evidence, upper=0.01))
    report = Certificate.of(lie).check({"exceeds": exceeds(0.0)}, Y, seed=9, n=4000)
    assert report.refuted


def test_an_undecided_question_is_an_abstention():
    made = decide_mse(linear, Y, NOISE, tolerance=1e-3, rho=0.3, n=400, seed=3)
    claim = Certificate.of(made).claims[0]
    assert (claim.status, claim.value, claim.reason) == ("abstained", math.inf, made.reason)


# What is asked, and what a "no" says.

NO = {
    "coordinatewise": lambda: decide_mse(lambda z: z, torch.zeros(4), 0.1, rho=1.0, tolerance=0.02),
    "dimension-free": lambda: decide_mse(
        lambda z: z, torch.zeros(4), 0.1, rho=1.0, tolerance=0.02, method="dimension-free"
    ),
    "event": lambda: decide_event(exceeds(1 / 3), Y, NOISE, target=0.2, rho=0.5, replicas=7, function="the vote fails"),
    "statistic": lambda: decide_statistic(score, Y, NOISE, threshold=CENTRE, rho=0.5, q=0.8, replicas=7),
}
"""Questions to which the answer is "no". Of the first two the truth is yes: the smoothed identity moves by .1 at most."""


@pytest.mark.parametrize("made", NO.values(), ids=NO)
def test_a_no_is_about_the_bound_and_never_about_the_truth(made):
    decision = made()
    assert decision.decided == "no"
    shown = html.unescape(re.sub("<[^>]*>", " ", decision._repr_html_()))
    with terminal.out.capture() as printed:
        terminal.show_decision(decision)
    for text in (str(decision), shown, printed.get()):
        text = " ".join(text.split())
        question, answer = text.split("?", 1)
        assert re.search(r"\bCan the .*bound .*\((T2|T4|T5)\) certify that ", question)
        assert answer.startswith(" No. ")
        said = [s for s in re.split(r"(?<=[.])\s+(?=[A-Z])", answer) if re.search("exceed|above|beyond|further", s)]
        assert len(said) >= 2
        for sentence in said:
            assert re.search("does not mean|coordinate-wise bound exceeds|at the input itself", sentence), sentence
        assert "does not mean that a perturbation" in text


def test_only_a_no_needs_a_caveat():
    for decision in decisions():
        assert decision.decided == "yes"
        assert "does not mean" not in str(decision)
        assert "Can the " in str(decision)


def test_a_count_says_of_which_draws_it_is():
    no = NO["event"]()
    assert no.n < no.drawn
    assert f"seen in {no.successes} of the first {no.n} draws" in no.reason
    assert f"in the first {no.n} draws without perturbation, which decide it" in str(no)
    edge = decide_event(exceeds(0.5), Y, NOISE, target=chance(0.5, 0.2, 3), rho=0.2, replicas=3, n=3000, alpha=1e-6)
    assert edge.decided == "undecided"
    assert f"{edge.successes:,} times in the 3,000 draws without perturbation" in str(edge)
    assert "decide it" not in str(edge)


# Several values of each draw (T14)


def by_chance(z, generator):
    """Probability .09 or .13, as the mean of the copies lies."""
    return torch.rand(len(z), generator=generator) < torch.where(z.mean(dim=(1, 2)) > 0, 0.13, 0.09)


def test_several_values_show_what_one_cannot():
    """T5: .11 is above what .3 allows at K = 13, ρ = .25. T14 measures that the copies decide little."""
    how = {"target": 0.3, "rho": 0.25, "n": 20_000}
    assert decide_event(by_chance, torch.zeros(1), NOISE, **how).decided == "no"
    found = [decide_event(by_chance, torch.zeros(1), NOISE, repeats=None, batch_size=b, **how) for b in (64, 300)]
    d = found[0]
    assert (d.decided, d.theorem, d.quantity, d.unit, d.successes) == ("yes", "T14", "mean", "probability", None)
    assert (d.n, d.value) == (found[1].n, found[1].value)
    assert 0.11 < d.value <= 0.3
    assert d.n * d.evidence.repeats < 4000 <= 20_000 <= d.maximum * d.evidence.repeats + d.evidence.repeats
    (claim,) = Certificate.of(d).claims
    assert (claim.quantity, claim.scope, claim.value, claim.status) == ("mean", "stopped early", d.value, "certified")
    verdict = Certificate.of(d).check(by_chance, torch.zeros(1), n=400).verdicts[0]
    assert verdict.outcome == "not refuted"
    assert "can the bound over 13 noisy copies (t14)" in str(d).lower()


def test_an_easy_question_has_a_small_pilot():
    """T5 answers it from fewer values than 64 pilot draws take; what is hard for T5 has them."""
    easy, hard = (
        decide_event(by_chance, torch.zeros(1), NOISE, target=target, rho=0.25, repeats=None, n=20_000)
        for target in (0.75, 0.3)
    )
    assert (easy.decided, hard.decided) == ("yes", "yes")
    assert easy.pilot_values == 16 * 6
    assert easy.drawn * easy.repeats + easy.pilot_values < 64 * 6
    assert hard.pilot_values == (16 + 64) * 6
    assert (hard.theorem, hard.repeats) == ("T14", hard.evidence.repeats)
    assert f", each of {hard.repeats} values" in str(hard)
    assert "480 values of pilot draws" in str(hard)
    one = decide_event(by_chance, torch.zeros(1), NOISE, target=0.75, rho=0.25, n=20_000)
    assert (one.repeats, one.pilot_values) == (1, 0)


def test_several_values_say_no_or_nothing_and_leave_it_to_t5():
    often = decide_event(by_chance, torch.zeros(1), NOISE, target=0.15, rho=0.25, repeats=2, n=20_000)
    assert (often.decided, often.status, often.claimed, often.evidence) == ("no", "abstained", 1.0, None)
    assert often.theorem == "T14"
    few = decide_event(by_chance, torch.zeros(1), NOISE, target=0.3, rho=0.25, repeats=2, n=8)
    assert (few.decided, few.n) == ("undecided", 8)

    def decided(z, generator):
        return (z.mean(dim=(1, 2)) > 0.5) & (torch.rand(len(z), generator=generator) < 2)

    for event in (decided, lambda z: z.mean(dim=(1, 2)) > 0.5):  # the copies decide everything
        how = {"target": 0.3, "rho": 0.1, "n": 4000}
        several, one = (decide_event(event, torch.zeros(1), NOISE, repeats=j, **how) for j in (None, 1))
        assert (several.theorem, several.n, several.successes) == ("T5", one.n, one.successes)
    with pytest.raises(ValueError, match="repeats = 0: must be a whole number >= 1"):
        decide_event(by_chance, torch.zeros(1), NOISE, target=0.3, rho=0.25, repeats=0)


def test_where_no_probability_is_allowed_the_first_event_decides():
    seen = StoppedCount(0.0, 0.05)
    seen.update(torch.zeros(100, dtype=torch.float64))
    assert (seen.decided, seen.count) == ("undecided", 100)
    seen.update(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    assert (seen.decided, seen.count) == ("no", 102)
