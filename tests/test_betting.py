"""Limits of means by betting (T14): against exact limits, degenerate draws, and the order of things."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certify.confidence import clopper_pearson
from certify.confidence.betting import evidence_against, stake, upper_limit

HITS = np.array([0.0, 1.0])


def limit_of(counts, alpha=1e-3, values=HITS):
    low, high = float(values.min()), float(values.max())
    counts = np.asarray(counts, dtype=float)
    tau = stake(values, counts, int(counts.sum()), alpha, low, high)
    return upper_limit(values, counts, low=low, high=high, alpha=alpha, stake=tau)


@pytest.mark.parametrize(("hits", "n"), [(1, 1000), (10, 1000), (100, 1000), (500, 1000), (990, 1000), (1100, 10_000)])
@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.05])
def test_a_coins_limit_is_not_far_above_the_exact_one(hits, n, alpha):
    """With nothing known but bounds it is above Clopper and Pearson's, and by less than half of its width."""
    exact, found = clopper_pearson(hits, n, alpha), limit_of([n - hits, hits], alpha)
    assert exact < found < hits / n + 1.75 * (exact - hits / n)


def test_little_variance_gives_a_narrow_limit():
    """A mean of many coins is a narrow variable: Hoeffding's limit is of the width of the whole range."""
    x = np.random.default_rng(0).binomial(50, 0.3, size=4000) / 50
    tau = stake(x[:400], np.ones(400), 4000, 1e-3, 0.0, 1.0)
    found = upper_limit(x, low=0.0, high=1.0, alpha=1e-3, stake=tau)
    assert x.mean() < found < x.mean() + 4.3 * x.std() / math.sqrt(4000)
    assert found < x.mean() + math.sqrt(math.log(1000) / 8000) / 5


def test_ends():
    assert upper_limit(np.full(5, 2.0), low=2.0, high=2.0, alpha=0.1, stake=0.5) == 2.0
    assert limit_of([0, 100]) == 1.0  # nothing but the largest value
    never = limit_of([1000, 0])
    assert clopper_pearson(0, 1000, 1e-3) < never < 0.02
    assert upper_limit(HITS[:1], np.array([2.0]), low=0.0, high=1.0, alpha=1e-300, stake=0.5) == 1.0


counts = st.lists(st.integers(0, 300), min_size=3, max_size=3).filter(lambda c: sum(c) > 0)
values = st.sampled_from([np.array([0.0, 0.5, 1.0]), np.array([-3.0, -2.9, 10.0]), np.array([0.0, 1e-9, 2e-9])])
alphas, stakes = st.floats(1e-6, 0.5), st.floats(0.01, 0.9)


@given(values, counts, alphas, alphas, stakes)
@example(np.array([0.0, 1e-9, 2e-9]), [0, 0, 1], 0.5, 0.5, 0.5)  # 5 + 2x: ten million ulp of 5 wide
def test_laws(x, c, a, b, tau):
    """Between mean and end; no smaller for less α; a linear map of the draws maps the limit; counts are draws."""
    low, high, c = float(x.min()), float(x.max()), np.array(c, dtype=float)
    how = {"low": low, "high": high, "stake": tau}
    less, more = sorted((a, b))
    found = upper_limit(x, c, alpha=more, **how)
    assert x @ c / c.sum() - 1e-12 * (high - low) <= found <= high
    assert found <= upper_limit(x, c, alpha=less, **how) + 1e-15
    scaled = upper_limit(5 + 2 * x, c, low=5 + 2 * low, high=5 + 2 * high, alpha=more, stake=tau)
    assert scaled == pytest.approx(5 + 2 * found, rel=1e-9, abs=1e-9 * (high - low))
    draws = np.random.default_rng(0).permutation(np.repeat(x, c.astype(int)))
    assert upper_limit(draws, alpha=more, **how) == pytest.approx(found, rel=1e-12, abs=1e-20)


def test_evidence_against_a_mean():
    x = np.random.default_rng(1).random(2000)
    how = {"low": 0.0, "high": 1.0}
    assert evidence_against(x, mean=0.4, **how) < 1e-9
    assert evidence_against(x, mean=0.55, **how) > 0.05
    assert evidence_against(x, mean=1.0, **how) == 1.0
    assert evidence_against(x, mean=-0.1, **how) == 0.0
    assert evidence_against(x, mean=0.0, **how) < 1e-9
    assert evidence_against(np.zeros(9), mean=0.0, **how) == 1.0
    rng = np.random.default_rng(2)
    ps = [evidence_against((rng.random(200) < 0.1) * 1.0, mean=0.1, **how) for _ in range(400)]
    assert np.mean(np.array(ps) <= 0.05) <= 0.05
