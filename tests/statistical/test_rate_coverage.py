"""Coverage of an event's rate over a set of prompts (T5's corollary), and its controls. The frame: `trials`."""

from __future__ import annotations

import numpy as np
import pytest

from certify.bounds.rates import RateOver
from tests.statistical.trials import Trials
from tests.test_rates import Above, mean, over

pytestmark = pytest.mark.statistical

ALPHA, K, RHO = 0.1, 5, 0.3
EQUAL, UNEQUAL = [0.5] * 4, [0.2, 0.4, 0.6, 0.9]


def sampled(levels: list[float], replicas: int, runs: int) -> int:
    """Of `runs` repetitions of 400 draws in two stages, prompt and event, how many bounds are below the worst case."""
    rng, events = np.random.default_rng(5), [Above(i, level, K) for i, level in enumerate(levels)]
    p, worst = np.array([e.worst(0.0) for e in events]), mean(e.worst(RHO) for e in events)
    seen = (rng.random((runs, 400)) < p[rng.integers(len(p), size=(runs, 400))]).sum(axis=1)
    table = {
        s: RateOver(len(p), 0, s, 400, replicas, ALPHA, False, (RHO,), 0).at(RHO) for s in map(int, np.unique(seen))
    }
    return sum(table[int(s)] < worst for s in seen)


@pytest.mark.parametrize(("case", "levels"), [("four equal prompts", EQUAL), ("four unequal prompts", UNEQUAL)])
def test_the_bound_covers_the_worst_case(case: str, levels: list[float], trials: Trials) -> None:
    trials.covers("T5 rate", sampled(levels, K, 2000), 2000, ALPHA, case)


def test_control_forgotten_copies_are_caught(trials: Trials) -> None:
    """Mistake: one copy where there are five."""
    trials.caught("T5 rate", "ρ for √K ρ", sampled(EQUAL, 1, 2000), 2000, ALPHA)


def test_from_end_to_end(trials: Trials) -> None:
    """Whole runs of 128 draws, each with a seed of its own; told of one copy where there are five, they fail."""
    events, runs = [Above(i, 0.5, K) for i in range(3)], trials.runs(60)
    worst, failures = mean(e.worst(RHO) for e in events), {K: 0, 1: 0}
    for seed in range(runs):
        bound = over(events, n=128, alpha=ALPHA, seed=seed)
        for replicas in failures:
            told = RateOver(3, 0, bound.successes, 128, replicas, ALPHA, False, (RHO,), seed)
            failures[replicas] += told.at(RHO) < worst
    trials.covers("T5 rate", failures[K], runs, ALPHA, "three prompts, end to end")
    trials.caught("T5 rate", "ρ for √K ρ, end to end", failures[1], runs, ALPHA)
