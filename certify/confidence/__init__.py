"""Confidence: from n draws to a statement about a percentile or a probability nobody can see (T3)."""

from certify.confidence.fixed_n import (
    Plan,
    clopper_pearson,
    extreme_rank,
    last_that_holds,
    plan,
    quantile_guess,
    smallest_draws,
)

__all__ = [
    "Plan",
    "clopper_pearson",
    "extreme_rank",
    "last_that_holds",
    "plan",
    "quantile_guess",
    "smallest_draws",
]
