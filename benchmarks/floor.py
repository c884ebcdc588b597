"""Certificate ÷ floor: what a bound costs beyond drawing the same noise and running f on it.

Three ways, in turns: the floor; `mse_bound` as a user calls it, pilot draws and all; and what people write, which stacks every
output, sorts, and reads the same two order statistics off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.stats import binom, norm
from torch import Tensor

from benchmarks import subjects
from benchmarks.measure import in_turns, peak_memory
from certify import GaussianNoise, mse_bound
from certify.montecarlo.streams import BLOCK, sources

__all__ = ["Row", "rows"]

ALPHA = 1e-3


@dataclass(frozen=True)
class Row:
    """One line of the table. Ratios are (median, least, largest) over rounds, memory in MB beyond the model's own."""

    name: str
    n: int
    rho: float
    floor_seconds: float
    certificate: tuple[float, float, float]
    sorting: tuple[float, float, float]
    certificate_memory: float
    sorting_memory: float
    bounds: tuple[float, float]


def rows(quick: bool = False, device: str = "cpu") -> Iterator[Row]:
    """The table, a row when it is measured. `quick`: a tenth of the draws, one round, no large encoder."""
    share, rounds = (10, 1) if quick else (1, 5)
    small = subjects.embedded()
    for rho in (1.0, 2.0):
        yield row(small, 10_000 // share, rho, rounds, device)
    for outputs in (770, 8_442, 59_136):
        yield row(subjects.cheap(outputs), 10_000 // share, 1.0, rounds if outputs < 10_000 else 3, device)
    if not quick:
        yield row(subjects.large(device), 1_000, 1.0, 2, device, warm=False)


def row(subject: subjects.Subject, n: int, rho: float, rounds: int, device: str = "cpu", warm: bool = True) -> Row:
    """Times the three ways and measures their memory."""
    f, y, noise = subject.f, subject.y.to(device), subject.noise

    def floor() -> None:
        for z in batches(y, noise, n):
            f(z)

    def certificate() -> float:
        return mse_bound(f, y, noise, rho=rho, alpha=ALPHA, n=n, method="coordinatewise").value

    def sorting() -> float:
        return sorted_bound(torch.cat([f(z) for z in batches(y, noise, n)]), rho)

    with torch.no_grad():
        times = in_turns({"floor": floor, "certificate": certificate, "sorting": sorting}, rounds, warm=warm)
        memory = peak_memory(certificate), peak_memory(sorting)
    return Row(
        subject.name,
        n,
        rho,
        times["floor"].median,
        times["certificate"].over(times["floor"]),
        times["sorting"].over(times["floor"]),
        *memory,
        (times["certificate"].result, times["sorting"].result),
    )


def batches(y: Tensor, noise: GaussianNoise, n: int, size: int = 256, seed: int = 0) -> Iterator[Tensor]:
    """The noisy inputs of `certify`'s draws, 256 at a time."""
    blocks = -(-n // BLOCK)
    for first in range(0, blocks, size // BLOCK):
        some = range(first, min(first + size // BLOCK, blocks))
        yield noise.draw_each(y, BLOCK, sources(seed, "bounding", some, y.device))[: n - first * BLOCK]


def sorted_bound(outputs: Tensor, rho: float) -> float:
    """T2 the plain way: all outputs sorted, two ranks each from the binomial distribution, the distance from the median."""
    n = outputs.shape[0]
    flat = outputs.reshape(n, -1)
    ordered = flat.sort(dim=0).values
    level = ALPHA / (2 * flat.shape[1])
    tail = float(norm.cdf(-rho))
    rank = int(binom.ppf(level, n, tail))  # the largest t with P[Bin(n, tail) < t] ≤ level
    while rank and binom.cdf(rank - 1, n, tail) > level:
        rank -= 1
    if rank < 1:
        return float("inf")
    middle = ordered[n // 2]
    reach = torch.maximum(ordered[n - rank] - middle, middle - ordered[rank - 1])
    return float(reach.double().square().sum())
