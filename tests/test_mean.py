"""`mean_bound`, and `event_bound` with repeats (T14): closed forms, what is drawn, what is refused."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

import certify
from certify import GaussianNoise, UniformNoise, event_bound, mean_bound
from certify.statements.mean import Repeated

Y = torch.zeros(2, dtype=torch.float64)
ONE = GaussianNoise(1.0)


def rate(z: torch.Tensor) -> torch.Tensor:
    """.03 or .19, as the mean of the copies' first coordinate lies."""
    return torch.where(z[..., 0].mean(dim=1) > 0, 0.19, 0.03).to(torch.float64)


def fires(z, generator):
    return torch.rand(len(z), generator=generator, dtype=torch.float64) < rate(z)


def worst(rho: float, replicas: int) -> float:
    return 0.03 + 0.16 * float(norm.cdf(math.sqrt(replicas) * rho))


@pytest.mark.parametrize(("replicas", "rho", "most"), [(13, 0.25, 0.25), (1, 0.5, 0.20), (13, 0.05, 0.16)])
def test_an_event_that_chance_decides_has_a_small_bound(replicas, rho, most):
    """2 500 draws of four values: between the truth and little more than the dual's population value; T5 is far above."""
    e = event_bound(fires, Y, ONE, rho=rho, replicas=replicas, repeats=4, n=2500)
    assert worst(rho, replicas) < e.value < most
    assert (e.theorem, e.won, e.method, e.quantity, e.unit) == ("T14", "T14", "repeats", "mean", "probability")
    assert (e.status, e.repeats, e.n, e.alpha, e.side, e.lower) == ("certified", 4, 2500, 1e-3, "upper", 0.0)
    t5 = event_bound(fires, Y, ONE, rho=rho, replicas=replicas, n=10_000)
    assert t5.theorem == "T5"
    assert e.value < t5.value


def test_where_the_copies_decide_everything_t5_wins_at_little_cost():
    """g is 0 or 1: repeats say nothing new; the price is that of 7α/8 in place of α."""

    def decided(z, generator):
        return (z[..., 0].mean(dim=1) > 1.0 / math.sqrt(13)) & (torch.rand(len(z), generator=generator) < 2)

    e = event_bound(decided, Y, ONE, rho=0.2, repeats=3, n=3000)
    assert (e.won, e.method) == ("T5", "repeats")
    t5 = [event_bound(decided, Y, ONE, rho=0.2, n=3000, alpha=alpha).value for alpha in (1e-3, 1e-3 / 8)]
    assert e.value <= t5[1]
    assert e.value < t5[0] + 0.02


def test_every_radius_follows_from_the_same_limits():
    for curve in (False, True):
        e = event_bound(fires, Y, ONE, rho=0.25, repeats=4, n=2500, curve=curve)
        assert e.at(0.25) == e.value
        values = {rho: e.at(rho) for rho in (0.0, 0.02, 0.1, 0.25, 0.5, 1.0, 3.0)}
        assert list(values.values()) == sorted(values.values())
        assert all(worst(rho, 13) <= value <= 1 for rho, value in values.items())
        radius = e.radius(0.2)
        assert e.at(radius) <= 0.2 < e.at(radius + 1e-6)
        assert e.radius(0.01) == 0.0
        assert e.radius(1.0) == 64.0
    wide = event_bound(fires, Y, ONE, rho=0.25, repeats=4, n=2500, curve=True)
    narrow = event_bound(fires, Y, ONE, rho=0.25, repeats=4, n=2500)
    assert wide.at(1.0) < narrow.at(1.0)
    assert wide.at(0.02) < narrow.at(0.02)


def test_lower_and_two_sided():
    """The mirror image: 1 − S, with the same draws."""
    both = event_bound(fires, Y, ONE, rho=0.1, repeats=4, n=2500, two_sided=True)
    r = math.sqrt(13) * 0.1
    assert both.lower < 0.03 + 0.16 * norm.cdf(-r) < worst(0.1, 13) < both.value
    assert both.lower > 0.02
    assert both.side == "two-sided"
    least, most = both.interval(0.3)
    assert least < both.lower
    assert most > both.value
    asked = {"rho": 0.1, "n": 1000, "lower": -1, "upper": 1}
    up, down = mean_bound(tilted, Y, ONE, **asked), mean_bound(mirrored, Y, ONE, side="lower", **asked)
    assert down.value == pytest.approx(-up.value, abs=1e-9)
    assert (down.side, down.held.above) == ("lower", None)
    assert down.at(0.5) < down.value
    assert down.radius(down.value - 0.1) > 0.1


def tilted(z):
    return torch.tanh(z[..., 0].mean(dim=1) * 2)


def mirrored(z):
    return -tilted(z)


def test_a_score_is_seen_itself_and_its_unit_is_kept():
    """S = 20 + 60·sigmoid: the truth is the integral of Φ(Φ⁻¹(P[g > t]) + r), attained by a function of one number."""

    def degrees(z):
        return 20 + 60 * torch.sigmoid(z[..., 0].mean(dim=1))

    m = mean_bound(degrees, Y, ONE, rho=0.5, replicas=4, repeats=5, lower=20, upper=80, n=4000, function="temperature")
    t = np.linspace(-8, 8, 4001) / 2  # the mean of four
    truth = np.trapezoid((20 + 60 / (1 + np.exp(-(t + 0.5)))) * norm.pdf(t, scale=0.5), t)
    assert truth < m.value < truth + 1.5
    assert (m.theorem, m.method, m.repeats, m.quantity, m.unit) == (
        "T14",
        "score",
        1,
        "mean",
        "the unit of the statistic",
    )
    assert (m.floor, m.ceiling) == (20.0, 80.0)
    assert m.run.function == "temperature"
    assert m.at(0.0) < m.value < m.at(1.0) < 80


def test_a_random_score():
    """Uniform on [0, 2g]: values in [0, 1] in place of hits."""

    def drawn(z, generator):
        return 2 * rate(z) * torch.rand(len(z), generator=generator, dtype=torch.float64)

    m = mean_bound(drawn, Y, ONE, rho=0.25, repeats=2, n=4000)
    assert worst(0.25, 13) < m.value < 0.25
    one = mean_bound(drawn, Y, ONE, rho=0.25, repeats=1, n=4000)
    assert one.won == "T5"
    assert m.value < one.value
    assert one.value == pytest.approx(float(norm.cdf(norm.ppf(0.115) + math.sqrt(13) * 0.25)), abs=0.03)


def test_uniform_noise_has_a_likelihood_ratio_of_its_own():
    """T13: r = .1 of the copies may come to lie where none did, with g = 1 there: T14 cannot say less than T5's p + r."""
    noise = UniformNoise(1.0)

    def half(z, generator):
        g = torch.where(z[:, 0, 0] > 0.6, 0.5, 0.1)
        return torch.rand(len(z), generator=generator) < g

    e = event_bound(half, torch.zeros(1), noise, rho=0.1, replicas=1, repeats=4, n=4000)
    truth = 0.1 + 0.4 * (0.2 + 0.1)
    t5 = event_bound(half, torch.zeros(1), noise, rho=0.1, replicas=1, n=4000, alpha=1e-3 / 8).value
    assert truth < 0.18 + 0.1 < e.value <= t5


def test_at_radius_zero_it_is_a_limit_of_the_mean():
    e = event_bound(fires, Y, ONE, rho=0.0, repeats=4, n=2500)
    assert 0.11 < e.value < 0.135


def test_nothing_follows_from_a_handful_of_draws():
    e = event_bound(lambda z, generator: torch.ones(len(z)), Y, ONE, rho=1.0, repeats=2, n=64)
    assert (e.value, e.status) == (1.0, "abstained")
    assert "n = 64 draws" in e.reason
    low = mean_bound(lambda z: z[:, 0, 0] * 0, Y, ONE, rho=1.0, n=64, side="lower", lower=0, upper=1)
    assert (low.value, low.status) == (0.0, "abstained")


def test_repeats_see_the_same_copies_and_have_randomness_of_their_own():
    seen = []

    def watching(z, generator):
        seen.append(z.clone())
        z.zero_()  # what one does to its copies is not for the next to see
        return torch.rand(len(z), generator=generator)

    repeated = Repeated(watching, 3, "statistic")
    z = torch.randn(5, 2, 1)
    values = repeated(z.clone(), torch.Generator().manual_seed(0))
    assert values.shape == (5, 3)
    assert all(torch.equal(copy, z) for copy in seen)
    assert len(set(values.flatten().tolist())) == 15
    again = repeated(z.clone(), torch.Generator().manual_seed(0))
    assert torch.equal(values, again)

    def reseeding(z, generator):  # what begins anew from its generator's seed is not the same value twice
        return torch.rand(len(z), generator=torch.Generator().manual_seed(generator.initial_seed()))

    assert len(set(Repeated(reseeding, 3, "statistic")(z, torch.Generator()).flatten().tolist())) == 15


def test_a_statistic_may_make_its_repeats_together():
    calls = []

    def together(z, generator, repeats):
        calls.append(len(z))
        return (torch.rand((len(z), repeats), generator=generator) < rate(z)[:, None]).double()

    e = event_bound(together, Y, ONE, rho=0.25, repeats=4, n=640, pilot=64)
    assert 0.15 < e.value < 0.6
    assert set(calls) <= {64}


def test_the_batch_does_not_matter_and_the_seed_does():
    asked = {"rho": 0.2, "repeats": 2, "n": 600, "pilot": 100}
    first = event_bound(fires, Y, ONE, **asked)
    assert event_bound(fires, Y, ONE, batch_size=7, **asked).value == first.value
    assert event_bound(fires, Y, ONE, seed=1, **asked).value != first.value
    m = mean_bound(tilted, Y, ONE, lower=-1, **asked).value
    assert mean_bound(tilted, Y, ONE, lower=-1, batch_size=13, **asked).value == pytest.approx(m, rel=1e-9)


def test_a_checkpoint_goes_on(tmp_path):
    asked = {"rho": 0.2, "repeats": 2, "n": 600, "pilot": 100}
    stop = {"after": 5}

    def failing(z, generator):
        stop["after"] -= 1
        if stop["after"] == 0:
            raise KeyboardInterrupt
        return fires(z, generator)

    with pytest.raises(KeyboardInterrupt):
        event_bound(failing, Y, ONE, checkpoint=tmp_path, **asked)
    assert any(tmp_path.iterdir())
    assert event_bound(failing, Y, ONE, checkpoint=tmp_path, **asked).value == event_bound(fires, Y, ONE, **asked).value


def outside(z, generator):
    return torch.full((len(z),), 1.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mean_bound(tilted, Y, ONE, rho=-1), ValueError, "rho = -1: must be a finite number >= 0"),
        (lambda: mean_bound(tilted, Y, ONE, rho=1, repeats=0), ValueError, "repeats = 0: must be a whole number >= 1"),
        (lambda: event_bound(fires, Y, ONE, rho=1, repeats=10**9), ValueError, "repeats = 1000000000: must be at most 100"),
        (lambda: mean_bound(tilted, Y, ONE, rho=1, lower=1), ValueError, "lower = 1, upper = 1.0: lower must be below"),
        (lambda: mean_bound(tilted, Y, ONE, rho=1, upper=math.inf), ValueError, "upper = inf: must be a finite number"),
        (lambda: mean_bound(tilted, Y, ONE, rho=1, lower=-1e308, upper=1e308), ValueError, "by a finite number"),
        (lambda: mean_bound(tilted, Y, ONE, rho=1, side="above"), ValueError, "side = 'above': must be one of"),
        (lambda: mean_bound(tilted, Y, ONE, rho=1, pilot=0), ValueError, "pilot = 0: must be a whole number >= 1"),
        (lambda: mean_bound(tilted, Y, ONE, rho=1, curve=1), TypeError, "curve = 1: must be True or False"),
        (lambda: mean_bound(3, Y, ONE, rho=1), TypeError, "statistic = 3: must be callable on a batch"),
        (lambda: mean_bound(tilted, Y, ONE, rho=1, repeat=2), TypeError, "no option 'repeat': did you mean 'repeats'"),
        (lambda: mean_bound(tilted, Y, ONE, rho=1, n=99), ValueError, r"statistic returned -0.\d+: must lie between lower"),
        (lambda: mean_bound(outside, Y, ONE, rho=1, n=99), ValueError, "statistic returned 1.5: must lie between"),
        (lambda: mean_bound(lambda z, generator: z, Y, ONE, rho=1, n=99), ValueError, r"returned shape \(64, 13, 2\)"),
        (lambda: mean_bound(lambda z, generator: 1, Y, ONE, rho=1, n=99), TypeError, "statistic returned a int"),
        (lambda: mean_bound(lambda z, generator: z[:, 0, 0] * math.nan, Y, ONE, rho=1, n=99), ValueError, "NaN or infinity"),
        (lambda: mean_bound(lambda z: z[:, 0, 0] * 1j, Y, ONE, rho=1, n=99), TypeError, "complex128: must be real"),
        (lambda: event_bound(outside, Y, ONE, rho=1, repeats=2, n=99), ValueError, "event returned 1.5: must be 0 or 1"),
        (lambda: event_bound(fires, Y, ONE, rho=1, repeats=1.5), TypeError, "repeats = 1.5: must be a whole number"),
        (lambda: event_bound(None, Y, ONE, rho=1, repeats=2), TypeError, "event = None: must be callable"),
    ],
)  # fmt: skip
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_nothing_is_drawn_before_a_bad_call_is_refused():
    calls = []
    with pytest.raises(ValueError, match="alpha"):
        mean_bound(lambda z: calls.append(1), Y, ONE, rho=1, alpha=2)
    with pytest.raises(ValueError, match="lower must be below"):
        mean_bound(lambda z: calls.append(1), Y, ONE, rho=1, lower=2)
    assert calls == []


def test_an_event_without_randomness_has_nothing_to_repeat():
    e = event_bound(lambda z: z[..., 0].mean(dim=1) > 0.3, Y, ONE, rho=0.1, repeats=4, n=500)
    same = event_bound(lambda z: z[..., 0].mean(dim=1) > 0.3, Y, ONE, rho=0.1, n=500)
    assert e.value == same.value
    assert certify.mean_bound is mean_bound


def stated():
    """Claims of every kind: an event from above, one from both sides, a score from below."""
    asked = {"rho": 0.1, "n": 600, "pilot": 100}
    return (
        event_bound(fires, Y, ONE, repeats=2, function="the alarm rings", **asked),
        event_bound(fires, Y, ONE, repeats=3, two_sided=True, function="the alarm rings", **asked),
        mean_bound(tilted, Y, ONE, lower=-1, side="lower", function="tilt", **asked),
    )


FUNCTIONS = {"the alarm rings": fires, "tilt": tilted}


def test_a_certificate_holds_them_and_a_check_draws_afresh(tmp_path):
    results = stated()
    made = certify.Certificate.of(*results)
    made.save(tmp_path / "c")
    loaded = certify.Certificate.load(tmp_path / "c")
    assert loaded.claims == made.claims
    assert [c.value for c in loaded.claims] == [r.value for r in results]
    assert loaded.claims[1].lower == results[1].lower
    one, both, score = (c.sentence for c in loaded.claims)
    assert "the probability that the alarm rings, with 13 noisy copies, is at most" in one
    assert "is between" in both
    assert "the mean of the tilt, with 13 noisy copies, is at least" in score
    assert "T14, repeats" in one
    assert "T14, score" in score
    report = loaded.check(FUNCTIONS, Y, seed=3)
    assert [v.outcome for v in report.verdicts] == ["not refuted"] * 3
    for claim, result in zip(loaded.claims, results, strict=True):
        assert str(result).startswith(claim.sentence)


def tampered(made, i, tensors=lambda t: t, **changes):
    """A certificate in which one claim says something else."""
    claims = list(made.claims)
    numbers = {**claims[i].numbers, **changes.pop("numbers", {})}
    claims[i] = dataclasses.replace(claims[i], numbers=numbers, **changes)
    return dataclasses.replace(made, claims=tuple(claims), tensors=tensors(dict(made.tensors)))


def test_what_does_not_follow_is_refuted():
    made = certify.Certificate.of(*stated())
    first, second, third = made.claims

    def moved(i, name, change):
        key = f"{made.claims[i].tensors}.{name}"
        return lambda tensors: {**tensors, key: change(tensors[key])}

    cases = [
        tampered(made, 0, value=first.value - 0.01),
        tampered(made, 0, value=first.value - 0.01, numbers={"upper": first.value - 0.01}),
        tampered(made, 1, lower=second.lower + 0.01),
        tampered(made, 1, lower=second.lower + 0.01, numbers={"lower": second.lower + 0.01}),
        tampered(made, 2, value=third.value + 0.1, numbers={"lower": third.value + 0.1}),
        tampered(made, 0, replicas=1, numbers={"replicas": 1}),
        tampered(made, 0, moved(0, "above.mixture", lambda a: -a)),
        tampered(made, 0, moved(0, "above.coefficients", lambda w: w[:, :-1])),
        tampered(made, 2, moved(2, "below.nodes", lambda v: v.flip(0))),
        # limits that are too low: fresh draws contradict them
        tampered(made, 0, moved(0, "above.limits", lambda m: m * 0.5), value=0.01, numbers={"upper": 0.01}),
        tampered(made, 0, moved(0, "above.limits", lambda m: m - 0.5)),
    ]
    for i, case in enumerate(cases):
        assert case.check(FUNCTIONS, Y, seed=3, n=3000).refuted, i
    weaker = tampered(made, 0, value=first.value + 0.01)
    assert not weaker.check(FUNCTIONS, Y, seed=3).refuted


def test_another_function_is_refuted_and_one_without_randomness_is_an_error():
    made = certify.Certificate.of(*stated()[:1])

    def often(z, generator):
        return torch.rand(len(z), generator=generator) < 0.6

    assert made.check(often, Y, seed=3).refuted
    with pytest.raises(ValueError, match="function takes no generator: must be random, 2 values of each draw"):
        made.check(lambda z: z[:, 0, 0] > 0, Y, seed=3)
    beyond = certify.Certificate.of(stated()[2]).check(lambda z: 3 * tilted(z), Y, seed=3)
    assert beyond.refuted
    assert "have values outside [-1, 1]" in beyond.verdicts[0].detail


def test_an_abstention_is_a_claim_too(tmp_path):
    e = event_bound(lambda z, generator: torch.ones(len(z)), Y, ONE, rho=1.0, repeats=2, n=64)
    certify.Certificate.of(e).save(tmp_path / "c")
    (claim,) = certify.Certificate.load(tmp_path / "c").claims
    assert (claim.status, claim.value) == ("abstained", 1.0)
    assert e.at(0.0) <= 1.0


# How many values go to each draw, chosen on pilot draws


def test_the_split_is_chosen_and_counts_values():
    told: list[tuple[int, int]] = []
    e = event_bound(fires, Y, ONE, rho=0.25, repeats=None, n=2000, progress=lambda *done: told.append(done))
    assert (e.method, e.repeats in (2, 3, 4, 6), e.n) == ("repeats", True, 2000 // e.repeats)
    assert e.run.pilot == 66  # of six values each: a fifth as many besides
    assert worst(0.25, 13) < e.value < event_bound(fires, Y, ONE, rho=0.25, n=2000).value
    assert told[-1][0] == told[-1][1] == 66 * 6 + e.n * e.repeats
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert event_bound(fires, Y, ONE, rho=0.25, repeats=None, n=2000, batch_size=7).value == e.value


def test_where_the_copies_decide_or_values_are_few_the_split_is_t5():
    def decided(z, generator):
        return (z[..., 0].mean(dim=1) > 1.0 / math.sqrt(13)) & (torch.rand(len(z), generator=generator) < 2)

    for event, n in ((decided, 1000), (fires, 299)):
        t5 = event_bound(event, Y, ONE, rho=0.2, n=n)
        e = event_bound(event, Y, ONE, rho=0.2, repeats=None, n=n)
        assert (type(e), e.value, e.successes, e.n) == (type(t5), t5.value, t5.successes, n)
    score = mean_bound(lambda z: rate(z), Y, ONE, rho=0.2, repeats=None, n=300)  # nothing to repeat
    assert (score.method, score.n, score.value) == (
        "score",
        300,
        mean_bound(lambda z: rate(z), Y, ONE, rho=0.2, n=300).value,
    )


def test_a_split_run_goes_on(tmp_path):
    how = {"rho": 0.25, "repeats": None, "n": 1500}
    base = event_bound(fires, Y, ONE, **how)

    def stop(done, total):
        if done > 0.6 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        event_bound(fires, Y, ONE, checkpoint=tmp_path, progress=stop, **how)
    heard: list[float] = []
    again = event_bound(
        fires, Y, ONE, checkpoint=tmp_path, progress=lambda done, total: heard.append(done / total), **how
    )
    assert again.value == base.value
    assert heard[0] > 0.6


def test_a_split_mean_of_two_sides_covers_both():
    m = mean_bound(fires, Y, ONE, rho=0.1, repeats=None, n=6000, side="two-sided")
    assert m.repeats in (1, 2, 3, 4, 6)
    r = math.sqrt(13) * 0.1
    assert m.lower < 0.03 + 0.16 * norm.cdf(-r) < worst(0.1, 13) < m.value
    with pytest.raises(ValueError, match="repeats = 0: must be a whole number >= 1"):
        mean_bound(fires, Y, ONE, rho=0.1, repeats=0)
