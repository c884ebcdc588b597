"""T13: uniform noise against exact rational arithmetic, closed forms, and everything that takes a noise."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import kstest

from certify import (
    UniformNoise,
    bound_curve,
    certified_radius,
    decide_event,
    deployed_bound,
    event_bound,
    mse_bound,
    percentile_bounds,
    plan,
    statistic_bound,
)
from certify.bounds.likelihood_ratio import unsupported
from certify.confidence import extreme_rank
from certify.noise import GaussianNoise
from certify.noise.uniform import CrossPolytope, shifted, variation
from tests.subjects import outputs_of

FALSE_ALARM = 1e-6
Y = torch.zeros(2, dtype=torch.float64)


# The statement, in rational numbers.

Law = dict[int, Fraction]
"""Value of f → its probability."""


@dataclass(frozen=True)
class Cells:
    """f has a value for each cell of a grid; the noise is w_j cells wide and δ is whole cells: both laws are counts of cells.

    Attributes:
        widths: w, cells of the noise along each axis; 0: no noise.
        delta: δ in cells.
        values: f, of a cell.
    """

    widths: tuple[int, ...]
    delta: tuple[int, ...]
    values: dict[tuple[int, ...], int]

    @property
    def shares(self) -> list[Fraction]:
        """|δ_j|/w_j of the coordinates with noise."""
        return [Fraction(abs(d), w) for d, w in zip(self.delta, self.widths, strict=True) if w]

    @property
    def rho(self) -> Fraction:
        """‖δ‖, their sum."""
        return sum(self.shares, Fraction(0))

    def cells(self, delta: tuple[int, ...]) -> set[tuple[int, ...]]:
        """What the noise reaches from δ."""
        return set(itertools.product(*(range(d, d + max(w, 1)) for d, w in zip(delta, self.widths, strict=True))))

    def law(self, delta: tuple[int, ...]) -> Law:
        """Of f at δ."""
        cells, found = self.cells(delta), {}
        for cell in cells:
            v = self.values[cell]
            found[v] = found.get(v, Fraction(0)) + Fraction(1, len(cells))
        return found


def some_cells(rng: random.Random) -> Cells:
    """One to three axes, few values, so that there are atoms; where only δ reaches, f often has a value of its own."""
    widths = tuple(rng.choice([0, 1, 2, 3, 4, 5]) for _ in range(rng.randint(1, 3)))
    delta = tuple(rng.randint(-min(w, 2), min(w, 2)) if rng.random() < 0.7 else 0 for w in widths)
    reach = [range(min(0, d), max(w, 1) + max(0, d)) for d, w in zip(delta, widths, strict=True)]
    values = {cell: rng.randint(0, 4) for cell in itertools.product(*reach)}
    problem = Cells(widths, delta, values)
    if rng.random() < 0.5:
        value = rng.choice([-1, 9])
        for cell in problem.cells(delta) - problem.cells((0,) * len(delta)):
            values[cell] = value
    return problem


def lower_percentile(law: Law, p: Fraction) -> float:
    """Ē_p = inf{v : F(v) ≥ p}; −∞ for p ≤ 0."""
    return -math.inf if p <= 0 else float(next((v for v in sorted(law) if below(law, v) >= p), math.inf))


def upper_percentile(law: Law, p: Fraction) -> float:
    """E̲_p = inf{v : F(v) > p}; +∞ for p ≥ 1."""
    return float(next((v for v in sorted(law) if below(law, v) > p), math.inf)) if p < 1 else math.inf


def below(law: Law, v: float) -> Fraction:
    return sum((q for value, q in law.items() if value <= v), Fraction(0))


Shift = Callable[[Cells], Fraction]


def violations(shift: Shift, cases: int, seed: int = 0) -> int:
    """How many of so many random problems have a percentile at δ outside the two shifted ones at 0."""
    rng, wrong = random.Random(seed), 0
    for _ in range(cases):
        problem = some_cells(rng)
        here, there = problem.law((0,) * len(problem.delta)), problem.law(problem.delta)
        r = shift(problem)
        levels = {below(law, v) + s for law in (here, there) for v in law for s in (0, r, -r)}
        levels = {p for p in levels if 0 < p < 1} | {Fraction(1, 2)}
        wrong += any(
            lower_percentile(here, p - r) > lower_percentile(there, p)
            or upper_percentile(there, p) > upper_percentile(here, p + r)
            for p in levels
        )
    return wrong


def test_no_random_problem_breaks_the_statement():
    """2 000 problems, at every percentile at which either law has an atom's edge, closed ball, both percentiles."""
    assert violations(lambda problem: problem.rho, 2000) == 0


@pytest.mark.parametrize(
    ("mistake", "shift"),
    [
        ("the largest |δ_j|/2h_j for their sum", lambda c: max(c.shares, default=Fraction(0))),
        ("half of it", lambda c: c.rho / 2),
        ("a hundredth less", lambda c: c.rho * Fraction(99, 100)),
    ],
)  # fmt: skip
def test_a_wrong_statement_is_broken(mistake, shift):
    assert violations(shift, 600) > 0, mistake


def test_total_variation_is_the_share_of_the_shifted_box_outside_the_other():
    """1 − Π_j (1 − |δ_j|/2h_j)₊ ≤ min(1, ρ) by counting cells, with K = 2 copies as well; equality along one axis."""
    rng, tight = random.Random(1), 0
    for _ in range(500):
        problem = some_cells(rng)
        here, there = problem.cells((0,) * len(problem.delta)), problem.cells(problem.delta)
        for copies in (1, 2):
            count = len(here) ** copies
            gained = Fraction(count - len(here & there) ** copies, count)
            assert (
                gained == 1 - math.prod((max(1 - a, Fraction(0)) for a in problem.shares), start=Fraction(1)) ** copies
            )
            most = 1 - max(1 - problem.rho, Fraction(0)) ** copies
            assert gained <= most
            tight += gained == most
            if sum(d != 0 for d in problem.delta) == 1:
                assert gained == most
    assert tight > 100


# Arithmetic.


@pytest.mark.parametrize("replicas", [1, 2, 13])
@pytest.mark.parametrize("rho", [0.0, 1e-12, 1e-3, 0.1, 0.3, 0.5 - 1e-9, 0.9, 1.0, 7.0, math.inf])
@pytest.mark.parametrize("p", [1e-12, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.999, 1 - 1e-9])
def test_tails_are_never_too_large_and_hardly_too_small(p, rho, replicas):
    """p − r and 1 − p − r in 60 digits, r = 1 − (1 − ρ)^K. What is given away is 2·10⁻¹² of 1."""
    tails = UniformNoise(1.0).tails(p, rho, replicas)
    with mpmath.workdps(60):
        r = 1 - max(1 - mpmath.mpf(rho), mpmath.mpf(0)) ** replicas
        for got, exact in ((tails.lower, mpmath.mpf(p) - r), (tails.upper, 1 - mpmath.mpf(p) - r)):
            assert 0 <= got <= max(exact, 0)
            assert got >= exact * (1 - mpmath.mpf("3e-12")) - 2e-12 * r


def test_variation_of_replicas_is_less_than_their_sum():
    assert variation(0.1, 5) == pytest.approx(1 - 0.9**5, rel=1e-11)
    assert variation(0.1, 5) < 0.5
    assert variation(1e-18, 3) == pytest.approx(3e-18, rel=1e-11)
    assert variation(1.0) == variation(3.0, 7) == 1.0


def test_a_radius_that_is_rounded_down_is_covered_by_the_margin():
    """‖δ‖ as computed may be a few hundred ulp too small; r is rounded up by thousands."""
    rng = torch.Generator().manual_seed(0)
    h = torch.rand(60_000, generator=rng, dtype=torch.float64) + 1e-3
    delta = 1e-6 * torch.randn(60_000, generator=rng, dtype=torch.float64)
    with mpmath.workdps(40):
        exact = mpmath.fsum(
            abs(mpmath.mpf(d)) / (2 * mpmath.mpf(w)) for d, w in zip(delta.tolist(), h.tolist(), strict=True)
        )
        assert mpmath.mpf(variation(UniformNoise(h).norm(delta))) >= exact


# The noise.


def test_norm_is_a_sum_of_shares():
    noise = UniformNoise(torch.tensor([0.5, 2.0], dtype=torch.float64))
    assert noise.norm(torch.tensor([0.25, -1.0], dtype=torch.float64)) == 0.5
    assert UniformNoise(torch.tensor([1.0, 0.0])).norm(torch.tensor([1.0, 0.0])) == 0.5
    assert UniformNoise(torch.tensor([1.0, 0.0])).norm(torch.tensor([1.0, 1e-30])) == math.inf
    assert UniformNoise(0.0).norm(torch.zeros(4)) == 0.0
    assert (
        UniformNoise(torch.tensor([1.7e308], dtype=torch.float64)).norm(torch.tensor([1.7e308], dtype=torch.float64))
        == 0.5
    )
    assert (
        UniformNoise(torch.tensor([5e-324], dtype=torch.float64)).norm(torch.tensor([1e-310], dtype=torch.float64))
        > 1e12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_the_stated_uniform(dtype):
    """Kolmogorov-Smirnov a coordinate, against U[y − h, y + h]; H0: that law; false-alarm rate 1e-6 together."""
    y, h = torch.tensor([1.0, -2.0, 30.0], dtype=dtype), torch.tensor([0.5, 3.0, 1.0])
    z = UniformNoise(h).draw(y, 20_000, torch.Generator().manual_seed(3))
    assert z.shape == (20_000, 3)
    assert z.dtype == dtype
    standard = (z.double() - y.double()) / h.double()
    for j in range(3):
        assert kstest(standard[:, j].numpy(), "uniform", args=(-1, 2)).pvalue > FALSE_ALARM / 3
        assert float(standard[:, j].abs().max()) <= 1 + 1e-5
    assert np.abs(np.corrcoef(standard.numpy().T) - np.eye(3)).max() < 5.5 / math.sqrt(20_000)


def test_draws_stay_inside_and_are_rounded_once():
    y, source = torch.tensor([0.1, 2.5], dtype=torch.float16), torch.Generator
    half = UniformNoise(torch.tensor([0.3, 0.0])).draw(y, 30, source().manual_seed(5))
    full = UniformNoise(torch.tensor([0.3, 0.0])).draw(y.double(), 30, source().manual_seed(5))
    assert torch.equal(half, full.half())
    assert bool((half[:, 1] == y[1]).all())

    def ends(shape, generator):
        """The least and the largest that there are."""
        return torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64).reshape(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("certify.noise.uniform.uniforms", ends)
        z = UniformNoise(1.0).draw(torch.zeros(1, dtype=torch.float64), 2, torch.Generator())
    assert float(z[0]) == -float(z[1]) == -(1 - 2.0**-53)  # symmetric, and inside the open interval


def test_the_representation_says_how_wide():
    assert repr(UniformNoise(0.25)) == "UniformNoise(0.25)"
    assert "(2, 1), 1 … 2" in repr(UniformNoise(torch.tensor([[1.0], [2.0]])))


# The certified set.


def test_cross_polytope():
    """h = (1.5, 2), ρ = ½: corners 1.5 and 2, area 2·1.5·2 = 6, ℓ2 ball 3·4/5 · ½ = 1.2, ℓ∞ ball ½/(1/3 + 1/4)."""
    c = UniformNoise(torch.tensor([1.5, 2.0, 0.0])).region((3,), 0.5)
    assert c.semi_axes.tolist() == [1.5, 2.0, 0.0]
    assert c.dimensions == 2
    assert c.l1_ball == 1.5
    assert c.l2_ball == pytest.approx(1.2)
    assert c.linf_ball == pytest.approx(6 / 7)
    assert math.exp(c.log_volume) == pytest.approx(6.0)
    assert c.proxy_radius == pytest.approx(math.sqrt(6 / math.pi))
    assert c.contains(torch.tensor([0.75, -1.0, 0.0]))
    assert not c.contains(torch.tensor([0.76, -1.0, 0.0]))
    assert not c.contains(torch.tensor([0.0, 0.0, 1e-9]))
    assert "2 of 3 coordinates" in repr(c)


def test_cross_polytope_of_nothing_and_of_everything():
    nothing = CrossPolytope(torch.zeros(2), 0.3)
    assert (nothing.l1_ball, nothing.l2_ball, nothing.linf_ball, nothing.proxy_radius) == (0, 0, 0, 0)
    assert nothing.log_volume == CrossPolytope(torch.ones(2), 0.0).log_volume == -math.inf
    everything = CrossPolytope(torch.tensor([1.0, 0.0]), math.inf)
    assert everything.contains(torch.tensor([1e9, 0.0]))
    assert not everything.contains(torch.tensor([0.0, 1.0]))
    assert everything.proxy_radius == math.inf
    with pytest.raises(ValueError, match=r"rho = nan: must be >= 0"):
        CrossPolytope(torch.ones(1), math.nan)


# Bounds that take the noise as it is.


def test_the_box_is_attained_by_one_coordinate():
    """f(z) = z_j: the percentile at p is h(2p − 1) and moves by 2hρ, the whole interval (n = 60 000: 95 % of it)."""
    noise, rho = UniformNoise(torch.tensor([0.5, 2.0])), 0.2
    for p in (0.3, 0.5):
        b = percentile_bounds(lambda z: z, Y, noise, rho=rho, p=p, n=60_000, alpha=0.05, batch_size=8192)
        at, most = noise.half_width.double() * (2 * p - 1), 2 * noise.half_width.double() * rho
        assert b.theorem == "T13"
        assert bool((b.lower <= at - most).all() and (b.upper >= at + most).all())
        assert bool((b.lower >= at - most / 0.95).all() and (b.upper <= at + most / 0.95).all())


def test_the_box_is_made_of_the_stated_order_statistics():
    """Sorted by hand, with T3's ranks for tails of p − ρ and 1 − p − ρ."""

    def f(z):
        return z**3

    rho, p, n, alpha = 0.25, 0.3, 1000, 0.01
    b = percentile_bounds(f, Y, UniformNoise(1.0), rho=rho, p=p, n=n, alpha=alpha, pilot=64)
    ordered = outputs_of(f, Y, UniformNoise(1.0), n=n).sort(dim=0).values
    low, high = extreme_rank(n, 0.05, alpha / 4), extreme_rank(n, 0.45, alpha / 4)
    assert (b.lower_rank, b.upper_rank) == (low, high)
    assert torch.equal(b.lower, ordered[low - 1])
    assert torch.equal(b.upper, ordered[n - high])


@pytest.mark.parametrize(("p", "rho"), [(0.5, 0.5), (0.5, 3.0), (0.2, 0.2), (0.9, 0.1)])
def test_beyond_the_noise_nothing_is_claimed_and_the_reason_says_so(p, rho):
    b = percentile_bounds(lambda z: z, Y, UniformNoise(1.0), rho=rho, p=p, n=2000)
    assert b.status == "abstained"
    assert "leaves no probability beyond the shifted percentile" in b.reason
    assert "no number of draws is enough without an a-priori support" in b.reason
    held = percentile_bounds(torch.sin, Y, UniformNoise(1.0), rho=rho, p=p, n=2000, support=(-1.0, 1.0))
    assert held.status == "certified"


def test_few_draws_are_another_reason():
    b = percentile_bounds(lambda z: z, Y, UniformNoise(1.0), rho=0.4, n=20)
    assert b.status == "abstained"
    needed = plan(rho=0.4, outputs=2, noise=UniformNoise(1.0)).n
    assert f"n >= {needed} is needed" in b.reason
    assert percentile_bounds(lambda z: z, Y, UniformNoise(1.0), rho=0.4, n=needed).status == "certified"


@pytest.mark.parametrize("smoother", ["median", "mean"])
def test_spectral_bounds_abstain(smoother):
    """f = 1[z > h] is 0 at y whatever is drawn, so λ = 0; at δ it is 1 with probability ρ: no λ·χ² can say so."""
    options = {"n": 300, "method": "spectral", "smoother": smoother, "support": (0.0, 1.0)}
    b = mse_bound(lambda z: (z > 1).double(), Y, UniformNoise(1.0), rho=0.1, **options)
    assert b.status == "abstained"
    assert b.value == math.inf
    assert "likelihood ratio" in b.reason
    assert "UniformNoise" in b.reason
    assert not unsupported(GaussianNoise(1.0))


def test_best_leaves_spectral_bounds_out_and_says_why_where_nothing_is_left():
    A = torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = mse_bound(lambda z: torch.sin(9 * z @ A), Y, UniformNoise(1.0), rho=0.1, n=500)
    assert b.status == "certified"
    assert set(b.considered) == {"coordinatewise", "dimension-free"}
    mean = mse_bound(torch.sin, Y, UniformNoise(1.0), rho=0.1, n=300, smoother="mean", support=(-1.0, 1.0))
    assert mean.status == "abstained"
    assert "likelihood ratio" in mean.reason
    r = certified_radius(torch.sin, Y, UniformNoise(1.0), tolerance=1.0, n=300, smoother="mean")
    assert r.rho == 0
    assert "likelihood ratio" in r.reason


def test_radius_and_curve():
    """f(z) = z at 0: the squared distance is (2hρ)² for one output, so within 1 up to ρ = ½/h."""
    noise = UniformNoise(2.0)
    options = {"n": 60_000, "center": Y[:1], "method": "coordinatewise", "batch_size": 8192}
    r = certified_radius(lambda z: z, Y[:1], noise, tolerance=1.0, **options)
    assert 0.23 < r.rho <= 0.25
    assert isinstance(r.ellipsoid, CrossPolytope)
    assert r.ellipsoid.l1_ball == pytest.approx(4 * r.rho)
    k = bound_curve(lambda z: z, Y, noise, rhos=[0.1, 0.2, 0.5], n=4000)
    assert k.values[0] < k.values[1] < k.values[2] == math.inf
    assert k.values[0] >= (4 * 0.1) ** 2 * 2


def test_an_event_that_was_never_possible():
    """1[max_k z_k > h]: probability 0 at y, 1 − (1 − ρ)^K at δ = 2hρ. The bound is just above it."""
    noise, rho = UniformNoise(1.0), 0.05
    e = event_bound(lambda z: z.amax(dim=(1, 2)) > 1, Y[:1], noise, rho=rho, replicas=4, n=20_000)
    assert e.successes == 0
    truth = 1 - (1 - rho) ** 4
    assert truth < e.value < truth + 5e-4
    z = noise.draw(Y[:1] + 2 * rho, 40_000, torch.Generator().manual_seed(0)).reshape(-1, 4)
    often = float((z > 1).any(dim=1).double().mean())
    assert often == pytest.approx(truth, abs=5 * math.sqrt(truth / 10_000))
    assert e.radius(truth) < rho < e.radius(e.value * (1 + 1e-9))


def test_deployed_statistics_and_decisions():
    noise = UniformNoise(1.0)
    d = deployed_bound(lambda z: z, Y, noise, rho=0.05, replicas=5, q=0.8, n=4000, center=Y)
    assert 0.1 < d.value < 2.0
    s = statistic_bound(lambda z: z[:, :, 0].amax(dim=1), Y, noise, rho=0.02, replicas=3, q=0.8, n=4000)
    assert 0.8 ** (1 / 3) * 2 - 1 + 0.04 < s.value <= 1  # max of 3 at q = .8, moved by 2hρ
    yes = decide_event(lambda z: z.amax(dim=(1, 2)) > 1, Y, noise, target=0.2, rho=0.05, replicas=3)
    assert yes.decided == "yes"
    no = decide_event(lambda z: z.amax(dim=(1, 2)) > 0, Y, noise, target=0.2, rho=0.5, replicas=3)
    assert no.decided == "no"


def test_plans_are_those_of_the_noise():
    """An event: n with 1 − α^{1/n} + r ≤ target, tried at n and n − 1; a percentile: (1 − (½ − ρ))ⁿ ≤ α/2m."""
    noise, rho, target, k = UniformNoise(1.0), 0.02, 0.2, 3
    p = plan(rho=rho, target=target, replicas=k, noise=noise)
    reached = [-math.expm1(math.log(1e-3) / n) + 1 - (1 - rho) ** k for n in (p.n, p.n - 1)]
    assert reached[0] <= target * (1 + 1e-9)
    assert reached[1] > target
    back = plan(n=p.n, target=target, replicas=k, noise=noise)
    assert rho <= back.rho < rho * 1.05
    assert plan(n=p.n - 1, target=target, replicas=k, noise=noise).rho < rho
    assert plan(rho=0.3, outputs=7, noise=noise).n == math.ceil(math.log(1e-3 / 14) / math.log(0.8))
    assert plan(n=1000, noise=noise).rho < 0.5


def test_shifted_is_for_any_total_variation():
    assert shifted(0.3, 0.1) == pytest.approx((0.2, 0.6), rel=1e-11)
    assert shifted(0.3, 1.0) == (0.0, 0.0)
    assert shifted(0.0, 0.0) == pytest.approx((0.0, 1.0), rel=1e-11)
