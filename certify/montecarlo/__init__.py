"""Monte Carlo: seeded draws in blocks, one pass over them, and what is kept of them."""

from certify.montecarlo.accumulators import Accumulator, AllDraws, Counts, ExtremeRanks, pool
from certify.montecarlo.engine import Function, draw, median
from certify.montecarlo.streams import BLOCK, generator

__all__ = [
    "BLOCK",
    "Accumulator",
    "AllDraws",
    "Counts",
    "ExtremeRanks",
    "Function",
    "draw",
    "generator",
    "median",
    "pool",
]
