"""Monte Carlo: seeded draws in blocks, one pass over them, and what is kept of them."""

from certify.montecarlo.accumulators import (
    SMOOTHERS,
    Accumulator,
    AllDraws,
    Counts,
    Distances,
    Exceedances,
    ExtremeRanks,
    Groups,
    median,
    pool,
    row_distances,
    smoothed,
    whole_groups,
)
from certify.montecarlo.counting import count_events
from certify.montecarlo.engine import Function, Progress, draw, draw_all, draw_packed
from certify.montecarlo.runs import RunFolder
from certify.montecarlo.streams import BLOCK, generator, row_seed

__all__ = [
    "BLOCK",
    "SMOOTHERS",
    "Accumulator",
    "AllDraws",
    "Counts",
    "Distances",
    "Exceedances",
    "ExtremeRanks",
    "Function",
    "Groups",
    "Progress",
    "RunFolder",
    "count_events",
    "draw",
    "draw_all",
    "draw_packed",
    "generator",
    "median",
    "pool",
    "row_distances",
    "row_seed",
    "smoothed",
    "whole_groups",
]
