"""Ranks, draws and limits against exact rational arithmetic: every rounding goes to the safe side (T10)."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from certify import GaussianNoise, mse_bound, plan
from certify.confidence import clopper_pearson, extreme_rank, inner_rank, last_that_holds, smallest_draws


def exact_cdf(k: int, n: int, q: Fraction) -> Fraction:
    """P[Bin(n, q) ≤ k] without rounding."""
    return sum((math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k + 1)), Fraction(0))


def exact_rank(n: int, q: Fraction, alpha: Fraction) -> int:
    """The largest t with P[Bin(n, q) ≤ t − 1] ≤ α, by trying all."""
    return max((t for t in range(n + 1) if exact_cdf(t - 1, n, q) <= alpha), default=0)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 17, 40])
@pytest.mark.parametrize("q", ["1/1000", "1/50", "1/7", "3/10", "49/100", "4/5"])
@pytest.mark.parametrize("alpha", ["1/100000", "1/977", "1/21", "1/4", "9/10"])
def test_rank_is_that_of_exact_sums(n, q, alpha):
    q, alpha = Fraction(q), Fraction(alpha)
    assert extreme_rank(n, float(q), float(alpha)) == exact_rank(n, q, alpha)


@pytest.mark.parametrize("alpha", [1e-300, 1e-280, 1e-250, 1e-200, 1e-140, 1e-16])
@pytest.mark.parametrize(
    ("n", "tail"), [(100, 0.5), (300, 0.999), (300, 0.9), (1000, 0.7), (1000, 0.5), (2000, 1e-11), (3000, 0.3)]
)
def test_ranks_where_hardly_anything_may_fail(n, tail, alpha):
    """scipy's quantile functions warn there: "Unable to bracket root"."""
    with mpmath.workdps(400):
        q = mpmath.mpf(tail)
        below = [mpmath.mpf(0)]  # P[Bin < k], k = 0 … n + 1
        term = (1 - q) ** n
        for k in range(n + 1):
            below.append(below[-1] + term)
            term *= q / (1 - q) * (n - k) / (k + 1)
        t = extreme_rank(n, tail, alpha)
        assert below[t] <= alpha
        assert below[t + 1] > alpha * (1 - 1e-6)
        t = inner_rank(n, tail, alpha)
        assert t == 0 or 1 - below[t] <= alpha
        assert 1 - below[t - 1 if t else n] > alpha * (1 - 1e-6)


def test_a_search_from_any_guess_ends_at_the_same_place():
    for n in (0, 1, 7, 100):
        for last in {0, 1, 5, 7, 64, 99, 100} & set(range(n + 1)):
            for guess in (-5, 0, 1, 6, 63, 101):
                assert last_that_holds(lambda t, last=last: t <= last, n, guess) == last


@pytest.mark.parametrize(("n", "tail", "alpha"), [(808, 0.02275, 1e-8), (10_000, 0.1586, 1e-9), (200_000, 1e-3, 1e-12)])
def test_rank_qualifies_and_the_next_does_not(n, tail, alpha):
    """In 50 digits: P[Bin ≤ t − 1] ≤ α < P[Bin ≤ t]."""
    t = extreme_rank(n, tail, alpha)
    with mpmath.workdps(50):
        q = mpmath.mpf(tail)
        term = (1 - q) ** n
        total = term
        for i in range(t - 1):
            term *= q / (1 - q) * (n - i) / (i + 1)
            total += term
        assert total <= mpmath.mpf(alpha)
        assert total + term * q / (1 - q) * (n - t + 1) / t > mpmath.mpf(alpha)


@pytest.mark.parametrize("n", [10**7, 10**8, 10**9])
@pytest.mark.parametrize("mean", [2.0, 8.0, 10.0, 20.0, 50.0])
def test_rank_is_on_the_safe_side_for_very_many_draws(n, mean):
    """Where 1 − tail is rounded n times over, α set to the float tail itself must not be overstepped in 50 digits."""
    from scipy.stats import binom

    tail, k = mean / n, int(mean / 5)
    t = extreme_rank(n, tail, float(binom.cdf(k, n, tail)))
    with mpmath.workdps(50):
        q, alpha = mpmath.mpf(tail), mpmath.mpf(float(binom.cdf(k, n, tail)))
        term = (1 - q) ** n
        total = term if t else mpmath.mpf(0)
        for i in range(t - 1):
            term *= q / (1 - q) * (n - i) / (i + 1)
            total += term
        assert t in (k, k + 1)
        assert total <= alpha


def test_rank_when_alpha_is_exactly_reached():
    """P[Bin(3, ½) ≤ 0] = 1/8: at α = 1/8 the rank may be given up for safety, never taken beyond."""
    assert extreme_rank(3, 0.5, 0.125) in (0, 1)
    assert extreme_rank(3, 0.5, 0.125 * (1 + 1e-6)) == 1
    assert extreme_rank(3, 0.5, 0.125 * (1 - 1e-6)) == 0


@pytest.mark.parametrize("tail", [0.0, -1.0, 5e-324])
def test_no_rank_without_a_tail(tail):
    assert extreme_rank(1000, tail, 1e-3) == 0


@pytest.mark.parametrize("tail", [0.5, 0.1587, 0.0228, 1e-4])
@pytest.mark.parametrize("alpha", [0.05, 1e-3, 8e-9])
def test_smallest_draws_suffice_and_one_fewer_do_not(tail, alpha):
    n = smallest_draws(tail, alpha)
    with mpmath.workdps(50):
        keep = 1 - mpmath.mpf(tail)
        assert keep**n <= mpmath.mpf(alpha) < keep ** (n - 1)


def test_smallest_draws_are_found_at_once_even_where_there_are_billions():
    """The rank's own safety asks for a little more than the formula, two parts in a hundred at 1e15."""
    for tail in (1e-9, 1e-12, 2e-14):
        exact = math.log(1e-9) / math.log1p(-tail)
        assert exact * (1 - 1e-9) <= smallest_draws(tail, 1e-9) <= exact * (1 + 2e-2)


@pytest.mark.parametrize(
    ("outputs", "alpha", "p", "replicas"), [(1, 0.05, 0.5, 1), (59_136, 1e-3, 0.5, 1), (7, 0.01, 0.9, 13)]
)
@pytest.mark.parametrize("rho", [0.1, 1.0])
def test_plan_for_a_radius_is_the_formula(outputs, alpha, p, replicas, rho):
    """n = max{ln α'/ln p⁺, ln α'/ln(1 − p⁻)}, α' = α/(2m)."""
    shift, z = math.sqrt(replicas) * rho, float(ndtri(p))
    share = alpha / (2 * outputs)
    least = max(math.log(share) / math.log(ndtr(z + shift)), math.log(share) / math.log(ndtr(-(z - shift))))
    assert plan(rho=rho, outputs=outputs, alpha=alpha, p=p, replicas=replicas).n == math.ceil(least)


def test_plan_with_the_population_reference_splits_alpha_in_four():
    assert plan(rho=1.0, outputs=5, alpha=0.01, population=True).n == plan(rho=1.0, outputs=10, alpha=0.01).n


@pytest.mark.parametrize("n", [50, 808, 10_000])
def test_plan_goes_both_ways(n):
    """The largest radius of n draws needs n draws again, and a little beyond it needs more."""
    reach = plan(n=n, outputs=3, alpha=0.01)
    assert plan(rho=reach.rho, outputs=3, alpha=0.01).n == n
    assert plan(rho=reach.rho * (1 + 1e-3), outputs=3, alpha=0.01).n > n
    noise, share = GaussianNoise(1.0), 0.01 / 6
    assert extreme_rank(n, min(noise.tails(0.5, reach.rho)), share) == 1
    assert extreme_rank(n, min(noise.tails(0.5, reach.rho * (1 + 1e-6))), share) == 0


@pytest.mark.parametrize(
    ("rho", "target", "replicas", "alpha"), [(0.3, 0.1, 13, 1e-3), (1.0, 0.5, 1, 0.05), (0.5, 0.01, 4, 1e-6)]
)
def test_plan_for_an_event_is_the_formula(rho, target, replicas, alpha):
    """Smallest n with Φ(Φ⁻¹(1 − α^{1/n}) + √K ρ) ≤ target, by trying n and n − 1; and back."""

    def reached(n: int) -> float:
        return float(ndtr(ndtri(1 - alpha ** (1 / n)) + math.sqrt(replicas) * rho))

    n = plan(rho=rho, target=target, replicas=replicas, alpha=alpha).n
    assert reached(n) <= target * (1 + 1e-9)
    assert reached(n - 1) > target
    back = plan(n=n, target=target, replicas=replicas, alpha=alpha)
    assert back.rho >= rho * (1 - 1e-9)
    assert plan(n=n - 1, target=target, replicas=replicas, alpha=alpha).rho < rho


def test_a_plan_reads_as_a_sentence():
    assert "808 draws" in str(plan(rho=2.0, outputs=59_136, alpha=1e-3))
    assert "never happens" in str(plan(rho=0.3, target=0.1, replicas=13))


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 1000), (3, 1000), (500, 1000), (999, 1000), (1000, 1000)])
@pytest.mark.parametrize("alpha", [0.05, 1e-3, 1e-9, 0.7])
def test_clopper_pearson_is_the_beta_quantile(k, n, alpha):
    upper = 1.0 if k == n else beta.isf(alpha, k + 1, n - k)
    lower = 0.0 if k == 0 else beta.ppf(alpha, k, n - k + 1)
    assert clopper_pearson(k, n, alpha) == pytest.approx(upper, rel=1e-9)
    assert clopper_pearson(k, n, alpha, side="lower") == pytest.approx(lower, rel=1e-9, abs=1e-300)
    assert clopper_pearson(k, n, alpha) >= upper
    assert clopper_pearson(k, n, alpha, side="lower") <= lower


@pytest.mark.parametrize(("k", "n", "alpha"), [(0, 20, 0.05), (4, 20, 1e-3), (30, 60, 0.01)])
def test_clopper_pearson_covers_in_exact_arithmetic(k, n, alpha):
    """At the upper limit, k or fewer successes have probability at most α."""
    limit = Fraction(clopper_pearson(k, n, alpha))
    assert exact_cdf(k, n, limit) <= Fraction(alpha)
    assert exact_cdf(k, n, limit * (1 - Fraction(1, 10**7))) > Fraction(alpha)


@pytest.mark.parametrize("alpha", [1e-300, 1e-250])
@pytest.mark.parametrize("n", [300, 1000])
def test_statements_at_the_least_alpha_give_no_warning(n, alpha):
    """Warnings are errors here. The truth is ρ² = 1; what so few draws cannot say is an abstention."""
    bound = mse_bound(lambda z: z, [0.0], 1.0, rho=1.0, n=n, alpha=alpha)
    assert bound.value >= 1.0
