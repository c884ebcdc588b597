"""T5 against closed forms: a linear statistic of K copies, and the event that it exceeds a level, have known suprema."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from certify import GaussianNoise, MedianSmoother, deployed_distance, event_bound, mse_bound, statistic_bound
from certify.bounds.copies import event_interval, statistic_limits
from certify.confidence import clopper_pearson, extreme_rank

A = torch.tensor([0.7, -1.3, 0.4, 2.0], dtype=torch.float64)
SIGMA = torch.tensor([0.5, 1.0, 0.2, 0.0], dtype=torch.float64)
NOISE = GaussianNoise(SIGMA)
Y = torch.tensor([0.3, 0.1, -2.0, 1.0], dtype=torch.float64)
SCALE = float((A * SIGMA).norm())
CENTRE = float(A @ Y)


def linear(z: torch.Tensor) -> torch.Tensor:
    return (z @ A).mean(dim=1)


def supremum(q: float, rho: float, k: int) -> float:
    """The q-percentile of the mean of aᵀz over K copies at the worst δ: aᵀy + ρs + s Φ⁻¹(q)/√K."""
    return CENTRE + rho * SCALE + SCALE / math.sqrt(k) * float(ndtri(q))


@pytest.mark.parametrize(("k", "rho", "q"), [(1, 0.5, 0.9), (5, 0.3, 0.5), (13, 0.3, 0.95), (4, 0.01, 0.2)])
def test_linear_statistic_reaches_its_supremum(k, rho, q):
    bound = statistic_bound(linear, Y, NOISE, rho=rho, q=q, replicas=k, n=40_000, alpha=1e-3, seed=1)
    truth = supremum(q, rho, k)
    assert bound.status == "certified"
    assert truth <= bound.value <= truth + 0.25 * SCALE / math.sqrt(k)


def test_lower_is_the_mirror_image_of_upper():
    up = statistic_bound(linear, Y, NOISE, rho=0.2, q=0.9, replicas=3, n=5000)
    down = statistic_bound(lambda z: -linear(z), Y, NOISE, rho=0.2, q=0.9, replicas=3, n=5000, side="lower")
    assert down.value == -up.value
    both = statistic_bound(linear, Y, NOISE, rho=0.2, q=0.9, replicas=3, n=5000, side="two-sided")
    one = statistic_bound(linear, Y, NOISE, rho=0.2, q=0.95, replicas=3, n=5000, alpha=5e-4)
    assert both.value == one.value
    assert both.lower < CENTRE < both.value


@pytest.mark.parametrize(("k", "rho", "level"), [(1, 0.4, 1.0), (13, 0.3, 0.45), (5, 0.2, 0.1)])
def test_event_of_a_linear_statistic_reaches_its_supremum(k, rho, level):
    """P[aᵀ mean(z) > aᵀy + level·s] is at most Φ(√K (ρ − level)) inside the ellipsoid, and attains it."""
    event = event_bound(lambda z: linear(z) > CENTRE + level * SCALE, Y, NOISE, rho=rho, replicas=k, n=40_000)
    truth = float(ndtr(math.sqrt(k) * (rho - level)))
    assert truth <= event.value <= truth + 0.06


def test_two_sided_event_holds_both_ends():
    rho, k, level = 0.15, 5, 0.1
    event = event_bound(
        lambda z: linear(z) > CENTRE + level * SCALE, Y, NOISE, rho=rho, replicas=k, n=20_000, two_sided=True
    )
    assert event.lower <= float(ndtr(math.sqrt(k) * (-rho - level))) + 1e-12
    assert event.value >= float(ndtr(math.sqrt(k) * (rho - level)))
    assert event.lower > 0


def test_event_formula():
    """The shifted Clopper–Pearson limit, written out."""
    lower, upper = event_interval(30, 1000, NOISE, rho=0.3, replicas=13, alpha=0.01, two_sided=True)
    shift = 0.3 * math.sqrt(13)
    high, low = clopper_pearson(30, 1000, 0.005, "upper"), clopper_pearson(30, 1000, 0.005, "lower")
    assert upper == pytest.approx(float(ndtr(ndtri(high) + shift)), rel=1e-9)
    assert lower == pytest.approx(float(ndtr(ndtri(low) - shift)), rel=1e-9)
    assert event_interval(0, 500, NOISE, rho=0.3, replicas=13, alpha=0.01, two_sided=False)[0] == 0.0


@pytest.mark.parametrize("two_sided", [False, True])
def test_an_event_is_bounded_at_every_radius_by_one_limit(two_sided):
    """Φ(Φ⁻¹(p̄) + √K ρ) with one p̄: what `event_bound` says at each radius, from the same draws."""
    options = {"replicas": 5, "n": 3000, "two_sided": two_sided, "alpha": 0.01}

    def fires(z):
        return linear(z) > CENTRE + SCALE

    one = event_bound(fires, Y, NOISE, rho=0.2, **options)
    p = clopper_pearson(one.successes, 3000, 0.005 if two_sided else 0.01, "upper")
    assert one.at(0.0) == pytest.approx(p, rel=1e-9)
    for rho in (0.1, 0.2, 0.5):
        assert one.at(rho) == event_bound(fires, Y, NOISE, rho=rho, **options).value
        assert one.at(rho) == pytest.approx(float(ndtr(ndtri(p) + math.sqrt(5) * rho)), rel=1e-9)
        # No perturbation of this size makes the event likelier.
        assert one.at(rho) >= float(ndtr(math.sqrt(5) * (rho - 1)))


def test_the_radius_of_an_event_is_where_its_bound_leaves_the_rate():
    one = event_bound(lambda z: linear(z) > CENTRE + SCALE, Y, NOISE, rho=0.2, replicas=5, n=3000)
    for rate in (0.05, 0.3, 0.9):
        rho = one.radius(rate)
        assert one.at(rho) <= rate < one.at(rho * (1 + 1e-9))
        assert rho == pytest.approx((float(ndtri(rate)) - float(ndtri(one.at(0.0)))) / math.sqrt(5), rel=1e-6)
    assert one.radius(one.at(0.0) / 2) == 0.0
    assert one.radius(1.0) >= 32
    always = event_bound(lambda z: linear(z) > -100, Y, NOISE, rho=0.1, n=200)
    assert always.radius(0.99) == 0.0


def test_evidence_of_an_abstention_is_none():
    assert statistic_bound(linear, Y, NOISE, rho=0.5, q=0.9, replicas=13, n=100).evidence is None
    assert event_bound(lambda z: linear(z) > -100, Y, NOISE, rho=0.1, n=200).evidence is None


@pytest.mark.parametrize("side", ["upper", "lower", "two-sided"])
def test_evidence_of_a_statistic_is_its_limits(side):
    """And they follow from nothing else, so that a certificate can test them."""
    bound = statistic_bound(linear, Y, NOISE, rho=0.2, q=0.7, replicas=3, n=2000, side=side)
    held = bound.evidence
    assert held.implied(NOISE, 0.2) == bound.value
    assert (held.upper if side != "lower" else held.lower) == bound.value
    assert math.isinf(held.lower) is (side == "upper")
    assert math.isinf(held.upper) is (side == "lower")
    again = type(held).restored(held.numbers(), held.tensors(), None)
    assert again.numbers() == held.numbers()


def test_bounds_grow_with_radius_and_replicas():
    values = [statistic_bound(linear, Y, NOISE, rho=r, q=0.9, replicas=4, n=4000).value for r in (0.1, 0.3, 0.6)]
    assert values == sorted(values)
    events = [
        event_bound(lambda z: linear(z) > CENTRE + SCALE, Y, NOISE, rho=r, replicas=4, n=4000).value
        for r in (0.1, 0.3, 0.6)
    ]
    assert events == sorted(events)
    at_one = event_interval(5, 1000, NOISE, rho=0.3, replicas=1, alpha=0.01, two_sided=False)[1]
    assert event_interval(5, 1000, NOISE, rho=0.3, replicas=13, alpha=0.01, two_sided=False)[1] > at_one


def test_one_replica_is_the_percentile_bound():
    """K = 1 is T1 for the statistic itself: the same draws, the same rank."""
    from certify import percentile_bounds

    one = statistic_bound(lambda z: z[:, 0] @ A, Y, NOISE, rho=0.5, q=0.8, replicas=1, n=3000, alpha=0.01, seed=5)
    two = percentile_bounds(lambda z: z @ A, Y, NOISE, rho=0.5, p=0.8, n=3000, alpha=0.02, seed=5)
    assert one.value == two.upper.item()


def test_deployed_median_is_the_median_of_the_copies():
    center = torch.zeros(2, dtype=torch.float64)

    def f(z):
        return torch.stack([z @ A, z[:, 0]], dim=1)

    z = torch.randn(7, 13, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.norm(np.median(np.stack([(z @ A).numpy(), z[..., 0].numpy()], axis=2), axis=1), axis=1)
    np.testing.assert_allclose(deployed_distance(f, center)(z).numpy(), expected, rtol=1e-12)
    mean = deployed_distance(f, center, smoother="mean")(z)
    np.testing.assert_allclose(mean.numpy(), torch.stack([(z @ A).mean(1), z[..., 0].mean(1)], 1).norm(dim=1).numpy())


def test_deployed_distance_holds_at_perturbed_inputs():
    """The certified radius R covers fresh deployed medians at the boundary of the ellipsoid at least as often as stated."""

    def f(z):
        return torch.tanh(z * torch.tensor([1.0, 2.0, 3.0, 4.0]))

    y, noise, rho, q = torch.tensor([0.1, -0.2, 0.3, 0.0]), GaussianNoise(0.5), 0.3, 0.9
    center = mse_bound(f, y, noise, rho=1.0, n=1000).center
    bound = statistic_bound(deployed_distance(f, center), y, noise, rho=rho, q=q, replicas=13, n=5000, alpha=1e-3)
    source = torch.Generator().manual_seed(3)
    for _ in range(5):
        u = torch.randn(4, generator=source)
        delta = rho * 0.5 * u / u.norm()
        inside = 0
        for seed in range(200):
            deployed = MedianSmoother(f, noise, n=13)(y + delta, seed=seed)
            inside += float((deployed - center).norm()) <= bound.value
        # H0: P[inside] ≥ q. A false alarm has probability ≤ 1e-5 a direction.
        assert binom.cdf(inside, 200, q) > 1e-5


def test_a_random_statistic_gets_a_seeded_generator_and_ignores_the_batch_size():
    def event(z, generator):
        return torch.rand(z.shape[0], generator=generator) < 0.2

    values = {event_bound(event, Y, NOISE, rho=0.1, n=1000, batch_size=b, seed=7).successes for b in (1, 64, 500)}
    assert len(values) == 1
    assert 150 <= values.pop() <= 250


def test_batch_size_and_seed():
    one, two = (statistic_bound(linear, Y, NOISE, rho=0.1, n=700, batch_size=b, seed=2) for b in (3, 256))
    assert one.value == pytest.approx(two.value, rel=1e-12)
    assert statistic_bound(linear, Y, NOISE, rho=0.1, n=700, seed=3).value != one.value


def test_abstentions_say_what_would_do():
    few = statistic_bound(linear, Y, NOISE, rho=0.5, q=0.9, replicas=13, n=100)
    assert (few.status, few.value) == ("abstained", math.inf)
    needed = int(few.reason.split("n >= ")[1].split()[0])
    _, side = statistic_limits(needed, NOISE, q=0.9, side="upper", rho=0.5, replicas=13, alpha=1e-3)
    _, short = statistic_limits(needed - 1, NOISE, q=0.9, side="upper", rho=0.5, replicas=13, alpha=1e-3)
    assert side.rank == 1
    assert short.rank == 0
    always = event_bound(lambda z: linear(z) > -100, Y, NOISE, rho=0.1, n=200)
    assert (always.status, always.value) == ("abstained", 1.0)
    assert "200 of 200" in always.reason


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: event_bound(lambda z: linear(z), Y, NOISE, rho=0.1, n=64), "must be 0 or 1"),
        (
            lambda: event_bound(lambda z: z, Y, NOISE, rho=0.1, n=64),
            r"event returned shape \(64, 13, 4\) .*: must be \(64,\)",
        ),
        (lambda: statistic_bound(linear, Y, NOISE, rho=-1.0), r"rho = -1\.0: must be a finite number >= 0"),
        (lambda: statistic_bound(linear, Y, NOISE, rho=0.1, q=1.0), r"q = 1\.0"),
        (lambda: statistic_bound(linear, Y, NOISE, rho=0.1, replicas=0), "replicas = 0"),
        (lambda: statistic_bound(linear, Y, NOISE, rho=0.1, side="both"), "side = 'both'"),
        (lambda: statistic_bound(lambda z: linear(z) / 0, Y, NOISE, rho=0.1, n=64), "NaN or infinity"),
        (lambda: statistic_bound(linear, Y, GaussianNoise(torch.ones(3)), rho=0.1), r"sigma has shape \(3,\)"),
        (lambda: deployed_distance(linear, Y, smoother="mode"), "smoother = 'mode'"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_rank_is_the_largest_that_qualifies():
    tail = GaussianNoise(1.0).tails(0.8, 0.3, 5).upper
    rank = extreme_rank(400, tail, 0.1)
    assert binom.cdf(rank - 1, 400, tail) <= 0.1 < binom.cdf(rank, 400, tail)
