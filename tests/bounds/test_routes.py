"""T5 and T6 for the deployed median and mean: closed forms, simulated deployments, and the combinatorics of K points."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import beta, binom, chi, norm

from certify import GaussianNoise, deployed_bound, layer_norm_support, percentile_bounds
from certify.bounds import ROUTES
from certify.bounds.deployed_distance import BallEvidence, RankedBoxEvidence, least_level
from tests.subjects import SUBJECTS, outputs_of

Y1, ONE = torch.zeros(1, dtype=torch.float64), GaussianNoise(1.0)
MEDIAN_ROUTES = ["replicas", "order statistics", "dimension-free"]
COPIES = [1, 2, 4, 5, 13]


def median_above(r: float, k: int, replicas: int) -> float:
    """P[the k-th smallest of K standard normals exceeds r]."""
    return float(beta.sf(norm.cdf(r), k, replicas - k + 1))


def median_quantile(p: float, replicas: int) -> float:
    """The p-quantile of the median of an odd number of standard normals."""
    k = (replicas + 1) // 2
    return float(norm.ppf(beta.ppf(p, k, replicas - k + 1)))


# One coordinate: everything is known in closed form.


@pytest.mark.parametrize("replicas", [1, 5, 13])
@pytest.mark.parametrize("rho", [0.1, 0.4])
def test_t5_in_one_dimension_is_the_shifted_percentile_of_the_distance(replicas, rho):
    """|median_K| at Φ(Φ⁻¹(q) + √K ρ), from n // K values of it."""
    q, n = 0.8, 100_000
    b = deployed_bound(
        lambda z: z, Y1, ONE, rho=rho, q=q, replicas=replicas, n=n, alpha=1e-4, center=Y1, method="replicas",
        batch_size=8192,
    )  # fmt: skip
    level = norm.cdf(norm.ppf(q) + math.sqrt(replicas) * rho)
    exact = median_quantile((1 + level) / 2, replicas)
    assert exact <= b.value <= 1.1 * exact
    # No deployment can be worse than the bound: |ρ + median_K| exceeds it with probability at most 1 − q.
    k = (replicas + 1) // 2
    assert median_above(b.value - rho, k, replicas) + median_above(b.value + rho, k, replicas) <= 1 - q


@pytest.mark.parametrize("replicas", COPIES)
@pytest.mark.parametrize("rho", [0.3, 1.0])
def test_order_statistics_are_exact_in_one_dimension(replicas, rho):
    """ρ plus the percentile of the (⌊K/2⌋ + 1)-th of K normals that (1 − q)/2 exceed: for odd K the worst δ attains it."""
    q, k = 0.9, replicas // 2 + 1
    b = deployed_bound(
        lambda z: z, Y1, ONE, rho=rho, q=q, replicas=replicas, n=100_000, alpha=1e-4, center=Y1,
        method="order statistics", batch_size=8192,
    )  # fmt: skip
    exact = rho + float(norm.ppf(beta.ppf(1 - (1 - q) / 2, k, replicas - k + 1)))
    assert exact <= b.value <= 1.06 * exact
    if replicas % 2:
        assert median_above(exact - rho, k, replicas) == pytest.approx((1 - q) / 2, rel=1e-9)
        assert median_above(0.95 * exact - rho, k, replicas) > (1 - q) / 2


@pytest.mark.parametrize("replicas", [2, 5])
def test_the_mean_of_copies_in_one_dimension(replicas):
    """|N(0, 1/K)| at Φ(Φ⁻¹(q) + √K ρ)."""
    q, rho = 0.75, 0.2
    b = deployed_bound(
        lambda z: z, Y1, ONE, rho=rho, q=q, replicas=replicas, n=100_000, alpha=1e-4, center=Y1, smoother="mean",
        batch_size=8192,
    )  # fmt: skip
    level = norm.cdf(norm.ppf(q) + math.sqrt(replicas) * rho)
    exact = float(norm.ppf((1 + level) / 2)) / math.sqrt(replicas)
    assert (b.smoother, b.method, b.theorem) == ("mean", "replicas", "T5")
    assert exact <= b.value <= 1.06 * exact


@pytest.mark.parametrize("replicas", [1, 2, 4, 5])
def test_the_ball_of_the_identity_is_a_percentile_of_chi(replicas):
    """R₀ of ‖z‖, m = 60, at Φ(Φ⁻¹(u) + ρ), times sqrt(s/(s − ⌈K/2⌉ + 1)), with the u that P[Bin(K, u) ≥ s] = q has."""
    m, q, rho = 60, 0.9, 0.5
    y = torch.zeros(m)
    b = deployed_bound(
        lambda z: z, y, ONE, rho=rho, q=q, replicas=replicas, n=20_000, center=y, method="dimension-free"
    )
    s = b.evidence.s
    u = brentq(lambda u: binom.sf(s - 1, replicas, u) - q, 1e-9, 1 - 1e-12, xtol=1e-14)
    assert b.evidence.u == pytest.approx(u, rel=1e-6)
    assert binom.sf(s - 1, replicas, b.evidence.u) >= q
    R = float(chi.ppf(norm.cdf(norm.ppf(u) + rho), m))
    exact = R * math.sqrt(s / (s - math.ceil(replicas / 2) + 1))
    assert exact <= b.value <= 1.04 * exact


def test_one_copy_is_the_percentile_bound_itself():
    """K = 1: the box between the percentiles at (1 ± q)/2, from the same draws and ranks as T1's own boxes."""
    subject = SUBJECTS["isotropic linear"]
    options = {"rho": 0.4, "n": 4000, "alpha": 0.01, "seed": 3}
    noise, q = GaussianNoise(subject.sigma), 0.7
    b = deployed_bound(subject.f, subject.y, noise, q=q, replicas=1, method="order statistics", **options)
    u = 1 - (1 - q) / (2 * 3)
    for p, side in ((1 - u, "lower"), (u, "upper")):
        box = percentile_bounds(subject.f, subject.y, noise, p=p, **options)
        assert torch.equal(getattr(box, side), getattr(b.evidence, side))


# Deployments, simulated.

SIMULATED = 100_000
A = np.array([[1.0, 0.4, 0.0, -0.3], [0.9, 0.5, 0.2, 0.0], [-0.2, 1.1, 0.3, 0.8]])


def deployments(replicas: int, shift: np.ndarray, smoother: str, rng: np.random.Generator) -> np.ndarray:
    """‖median or mean of K draws of A(z + δ)‖ for 10⁵ deployments at one δ."""
    found = []
    for _ in range(10):  # float32: a tenth at a time, for the memory
        z = rng.standard_normal((replicas, SIMULATED // 10, 4), dtype=np.float32)
        outputs = z @ A.T.astype(np.float32) + (A @ shift).astype(np.float32)
        reduced = np.median(outputs, axis=0) if smoother == "median" else outputs.mean(axis=0)
        found.append(np.linalg.norm(reduced, axis=1))
    return np.concatenate(found)


@pytest.mark.parametrize("replicas", COPIES)
def test_deployments_at_the_worst_perturbation_keep_to_every_route(replicas):
    """H0: within the value with probability ≥ q; 10⁵ deployments at the δ that moves a linear map furthest, and at −½ δ.

    A false alarm has probability ≤ 1e-6 a route, and the bounds fail with α = 1e-6.
    """
    rng = np.random.default_rng(replicas)
    y, q, rho = torch.zeros(4, dtype=torch.float64), 0.9, 0.3
    matrix = torch.as_tensor(A.T.copy())
    _, _, right = np.linalg.svd(A)
    options = {"rho": rho, "q": q, "replicas": replicas, "n": 60_000, "alpha": 1e-6, "center": torch.zeros(3)}
    options["batch_size"] = 8192
    values = {
        (smoother, method): deployed_bound(
            lambda z: z @ matrix, y, ONE, method=method, smoother=smoother, **options
        ).value
        for smoother, method in ROUTES
    }
    for smoother in ("median", "mean"):
        for scale in (1.0, -0.5):
            distances = deployments(replicas, scale * rho * right[0], smoother, rng)
            for key, value in values.items():
                if key[0] == smoother:
                    assert math.isfinite(value)
                    inside = int((distances <= value).sum())
                    assert binom.cdf(inside, SIMULATED, q) > 1e-6, key
            if scale == 1.0:  # the test can fail: half of any of them is not enough
                least = min(value for key, value in values.items() if key[0] == smoother)
                assert binom.cdf(int((distances <= least / 2).sum()), SIMULATED, q) < 1e-6


# The combinatorics of T6.


def furthest_median(points: np.ndarray, how: str) -> float:
    """Squared length of the coordinate-wise median of K points: of the two middle ones where K is even."""
    ordered, k = np.sort(points, axis=-2), points.shape[-2]
    low, high = ordered[..., (k - 1) // 2, :], ordered[..., k // 2, :]
    middle = {"average": (low + high) / 2, "lower": low, "upper": high}[how]
    return float((middle**2).sum(axis=-1).max())


def constant(s: int, replicas: int) -> float:
    """Of a ball of radius 1: what BallEvidence says, squared."""
    return BallEvidence(torch.zeros(1), 1.0, 0.5, s, 0.5, replicas).implied(ONE, 1.0) ** 2


@pytest.mark.parametrize("replicas", range(1, 8))
def test_no_median_leaves_the_ball_by_more_than_the_constant(replicas):
    """s points in the unit ball of few dimensions, the others far out: 5 000 configurations for every s."""
    rng = np.random.default_rng(replicas)
    for s in range(replicas // 2 + 1, replicas + 1):
        for m in (1, 2, 3, 6):
            points = rng.standard_normal((1250, replicas, m)) * (rng.random((1250, replicas, m)) < 0.6)
            points /= np.maximum(np.linalg.norm(points, axis=2, keepdims=True), 1e-9)
            points[:, s:] = 100 * np.sign(rng.standard_normal((1250, replicas - s, m)) + 1)
            assert furthest_median(points, "average") <= constant(s, replicas) * (1 + 1e-12)


def corner(s: int, beyond: int, far: int) -> np.ndarray:
    """s unit vectors such that in every coordinate `beyond` of them share one positive value and the others are 0, and
    `far` points far out in all coordinates."""
    chosen = list(itertools.combinations(range(s), beyond))
    inside = np.zeros((s, len(chosen)))
    for column, rows in enumerate(chosen):
        inside[list(rows), column] = 1.0
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    return np.concatenate([inside, np.full((far, len(chosen)), 100.0)])


@pytest.mark.parametrize(("s", "replicas"), [(1, 1), (2, 3), (3, 3), (2, 2), (3, 4), (4, 4), (5, 7), (5, 6), (9, 13)])
def test_the_constant_is_attained(s, replicas):
    """In each coordinate just as many points of the ball as the median needs share a value; so no smaller constant holds,
    and one that counts another point is wrong."""
    beyond = s - math.ceil(replicas / 2) + 1
    reached = furthest_median(corner(s, beyond, replicas - s), "average")
    assert reached == pytest.approx(s / beyond, rel=1e-12)
    assert reached == pytest.approx(constant(s, replicas), rel=1e-12)
    assert reached > s / (beyond + 1) * (1 + 1e-9)


def test_an_even_number_needs_the_average_of_the_middle_two():
    """The upper of the two middle draws alone goes further: s/(s − K/2) there."""
    points = corner(3, 1, 1)
    assert furthest_median(points, "upper") == pytest.approx(3.0)
    assert constant(3, 4) == pytest.approx(1.5)
    assert furthest_median(points, "average") <= constant(3, 4)


@pytest.mark.parametrize("replicas", COPIES)
def test_the_percentile_that_holds_the_median_of_k_draws(replicas):
    """u is the least level with P[Beta(k, K − k + 1) ≤ u] ≥ 1 − (1 − q)/(2m), k = ⌊K/2⌋ + 1, from above."""
    y = torch.zeros(5, dtype=torch.float64)
    b = deployed_bound(lambda z: z, y, ONE, rho=0.2, q=0.95, replicas=replicas, n=3000, method="order statistics")
    k = replicas // 2 + 1
    u = float(beta.ppf(1 - 0.05 / 10, k, replicas - k + 1))
    assert b.evidence.p_high == pytest.approx(u, rel=1e-7)
    assert beta.sf(b.evidence.p_high, k, replicas - k + 1) <= 0.05 / 10
    assert b.evidence.p_low == 1 - b.evidence.p_high
    # The same for the lower end, which is the mirror image: the k-th largest is below 1 − u as rarely.
    assert binom.cdf(replicas - (replicas - k + 1), replicas, 1 - b.evidence.p_low) <= 0.05 / 10


def test_least_level_is_the_least():
    for limit in (0.5, 1e-3, 1e-9):
        u = least_level(lambda u: (1 - u) ** 3, limit)
        assert (1 - u) ** 3 <= limit
        assert (1 - u * (1 - 1e-7)) ** 3 > limit


# Draws: which are used and how.


@pytest.mark.parametrize("smoother", ["median", "mean"])
@pytest.mark.parametrize(("replicas", "n"), [(1, 500), (4, 1999), (5, 2000), (13, 5000)])
def test_t5_uses_whole_groups_of_consecutive_draws(replicas, n, smoother):
    """n // K values of the deployed smoother; what is left over is not used, and no draw twice."""
    y, q, rho, alpha = torch.zeros(3, dtype=torch.float64), 0.6, 0.1, 0.01
    center = torch.full((3,), 0.1, dtype=torch.float64)
    b = deployed_bound(
        torch.sin, y, ONE, rho=rho, q=q, replicas=replicas, n=n, alpha=alpha, center=center, smoother=smoother,
        method="replicas", pilot=64,
    )  # fmt: skip
    groups = [  # a group lies within one shard of 4 096 draws
        shard[: len(shard) // replicas * replicas].reshape(-1, replicas, 3)
        for shard in outputs_of(torch.sin, y, ONE, n=n).split(4096)
    ]
    draws = torch.cat(groups).numpy()
    values = len(draws)
    reduced = np.median(draws, axis=1) if smoother == "median" else draws.mean(axis=1)
    ordered = np.sort(np.linalg.norm(reduced - 0.1, axis=1))
    tail = norm.sf(norm.ppf(q) + math.sqrt(replicas) * rho)
    rank = int(np.searchsorted(binom.cdf(np.arange(values), values, tail), alpha, side="right"))
    assert b.value == pytest.approx(ordered[values - rank], rel=1e-9)
    assert b.evidence.replicas == b.replicas == replicas


def test_best_takes_t5_at_small_radii_and_t6_at_large_ones():
    y = torch.zeros(40)
    options = {"n": 6000, "replicas": 5, "q": 0.8}
    near, far = (deployed_bound(torch.tanh, y, ONE, rho=rho, **options) for rho in (0.05, 1.5))
    assert near.method == "replicas"
    assert far.theorem == "T6"
    for b in (near, far):
        assert set(b.considered) == set(MEDIAN_ROUTES)
        assert b.value == min(
            deployed_bound(torch.tanh, y, ONE, rho=b.rho, method=m, **options).value for m in MEDIAN_ROUTES
        )


@pytest.mark.parametrize("method", MEDIAN_ROUTES)
def test_too_few_draws_say_how_many_would_do(method):
    y = torch.zeros(2)
    options = {"rho": 0.3, "q": 0.6, "replicas": 3, "alpha": 0.01, "method": method}
    few = deployed_bound(lambda z: z, y, ONE, n=5, **options)
    assert (few.status, few.value) == ("abstained", math.inf)
    needed = int(few.reason.split("n >= ")[1].split()[0])
    assert math.isinf(deployed_bound(lambda z: z, y, ONE, n=needed - 1, **options).value)
    assert math.isfinite(deployed_bound(lambda z: z, y, ONE, n=needed, **options).value)


# Supports.


@pytest.mark.parametrize("key", ROUTES)
@pytest.mark.parametrize("n", [2, 40])
def test_few_draws_fall_back_on_the_support(key, n):
    """No value beyond the furthest point that a deployed output can be at, and none below what it is at its worst."""
    smoother, method = key
    y = torch.zeros(3, dtype=torch.float64)
    options = {"rho": 3.0, "replicas": 3, "n": n, "smoother": smoother, "method": method, "center": y}
    b = deployed_bound(torch.tanh, y, ONE, support=(-1.0, 1.0), **options)
    assert b.status == "certified"
    # T6's ball holds the median of three only within sqrt(3/2) of its radius.
    assert math.sqrt(3) * math.tanh(1.0) < b.value <= math.sqrt(3 * (1.5 if method == "dimension-free" else 1)) * 1.001
    assert deployed_bound(torch.tanh, y, ONE, **options).status == "abstained"


@pytest.mark.parametrize("key", ROUTES)
def test_rows_of_a_layer_norm_bound_what_is_deployed(key):
    """The far δ makes one input of the row huge: no output is further from the center than the value, by any route."""
    smoother, method = key
    module = torch.nn.LayerNorm(16).requires_grad_(False).eval()
    y = torch.zeros(2, 16)
    b = deployed_bound(
        module, y, ONE, rho=30.0, replicas=5, n=100, smoother=smoother, method=method, center=torch.zeros(2, 16),
        support=layer_norm_support(module),
    )  # fmt: skip
    assert b.status == "certified"
    delta = torch.zeros(2, 16)
    delta[:, 0] = 30.0 / math.sqrt(2)
    z = y + delta + torch.randn((500, 5, 2, 16), generator=torch.Generator().manual_seed(0))
    outputs = module(z)
    reduced = outputs.median(dim=1).values if smoother == "median" else outputs.mean(dim=1)
    assert float(reduced.flatten(1).norm(dim=1).max()) <= b.value


# Evidence.


BALL = {"radius": 1.0, "u": 0.9, "s": 5, "q": 0.5, "replicas": 5}


@pytest.mark.parametrize(
    "change",
    [{"u": 0.5}, {"u": 1.0}, {"u": 0.0}, {"q": 0.6}, {"q": 1.0}, {"s": 2}, {"s": 6}, {"replicas": 4}, {"u": math.nan}],
)
def test_a_ball_whose_numbers_do_not_fit_is_refused(change):
    """P[Bin(5, .9) ≥ 5] = .59: enough for q = .5, not for .6."""
    BallEvidence.restored(BALL, {}, torch.zeros(1))
    with pytest.raises(ValueError, match=r"u = |s = "):
        BallEvidence.restored({**BALL, **change}, {}, torch.zeros(1))


RANKED = {"p_low": 0.05, "p_high": 0.95, "to_center": 1, "q": 0.8, "replicas": 1}


@pytest.mark.parametrize(
    "change", [{"p_low": 0.06}, {"p_high": 0.94}, {"q": 0.9}, {"replicas": 0}, {"replicas": 2}, {"to_center": 0}]
)
def test_percentiles_that_do_not_hold_the_median_are_refused(change):
    """Two outputs, K = 1: (1 − q)/4 = .05 on each side. (Two copies are worse than one: the larger of two.)"""
    tensors, center = {"lower": -torch.ones(2), "upper": torch.ones(2)}, torch.zeros(2)
    RankedBoxEvidence.restored(RANKED, tensors, center)
    with pytest.raises(ValueError, match=r"u = |to_center = 0"):
        RankedBoxEvidence.restored({**RANKED, **change}, tensors, center)


def test_the_best_route_leaves_out_groups_that_cannot_be_formed():
    y = torch.zeros(2, dtype=torch.float64)
    r = deployed_bound(torch.tanh, y, 0.5, rho=0.5, replicas=4097, n=2000)
    assert set(r.considered) == {"order statistics", "dimension-free"}
    assert math.isfinite(r.value)
