"""Confidence: from n draws to a statement about a percentile, a probability or a mean nobody can see (T3).

order statistics and Clopper–Pearson, read once    fixed_n.py
limits that hold at every number of draws          anytime.py
means of bounded variables                         moments.py
"""

from certify.confidence.anytime import (
    anytime_limit,
    enough_evidence,
    log_evidence_above,
    log_evidence_below,
    looks,
    stopped_event,
)
from certify.confidence.fixed_n import (
    UP,
    at_least,
    clopper_pearson,
    extreme_rank,
    fewer_than,
    inner_rank,
    last_that_holds,
    quantile_guess,
    smallest_draws,
)
from certify.confidence.moments import bennett, bernstein_slack, chernoff_limit, divergence, in_balls

__all__ = [
    "UP",
    "anytime_limit",
    "at_least",
    "bennett",
    "bernstein_slack",
    "chernoff_limit",
    "clopper_pearson",
    "divergence",
    "enough_evidence",
    "extreme_rank",
    "fewer_than",
    "in_balls",
    "inner_rank",
    "last_that_holds",
    "log_evidence_above",
    "log_evidence_below",
    "looks",
    "quantile_guess",
    "smallest_draws",
    "stopped_event",
]
