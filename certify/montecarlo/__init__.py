"""Monte Carlo: seeded draws in blocks, one pass over them, and what is kept of them."""

from certify.montecarlo.accumulators import (
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
    whole_groups,
)
from certify.montecarlo.engine import Function, Progress, draw, draw_all
from certify.montecarlo.runs import RunFolder
from certify.montecarlo.streams import BLOCK, generator

__all__ = [
    "BLOCK",
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
    "draw",
    "draw_all",
    "generator",
    "median",
    "pool",
    "row_distances",
    "whole_groups",
]
