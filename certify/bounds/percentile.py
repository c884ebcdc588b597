"""T1 + T3: a box that holds every percentile-smoothed output, for every perturbation in the ellipsoid.

Statement. With p^± = Φ(Φ⁻¹(p) ± ρ), for every ‖δ‖_Σ ≤ ρ both percentiles of f(y + δ + G) at p lie, coordinate by
coordinate, between the percentile of f(y + G) at p⁻ and the one at p⁺. From n draws the two are bounded by order
statistics, all 2m of them at once with probability 1 − α (α' = α/(2m) each).

Assumes: the draws are independent and Gaussian in exact arithmetic (known gap: THEORY T10); f does not read y except
through its argument. Safe direction: the box may be too large, never too small.

Reference: THEORY T1, T3; Han et al. (2025), Theorem 3.2; with Σ = σ²I Lemma 3.1, after Chiang et al. (2020).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from certify.bounds.base import Run
from certify.confidence import extreme_rank, smallest_draws
from certify.montecarlo import ExtremeRanks
from certify.noise import Noise, Tails
from certify.support import Support

__all__ = ["Box", "PercentileBounds", "percentile_box", "ranks"]


@dataclass(frozen=True)
class Box:
    """Joint bounds of one percentile of every output.

    Attributes:
        lower, upper: shape (*output), float64, ±∞ (or the a-priori support) where no rank qualifies.
        lower_rank, upper_rank: which draw, counted from its own end; 0: none.
    """

    lower: Tensor
    upper: Tensor
    lower_rank: int
    upper_rank: int


@dataclass(frozen=True)
class PercentileBounds:
    """What `certify.percentile_bounds` returns.

    Attributes:
        lower, upper: shape (*output): with probability 1 − α over the draws, for every ‖δ‖_Σ ≤ ρ, every coordinate's
            percentile-smoothed value at y + δ lies between them.
        center: the percentile estimated from separate pilot draws, shape (*output); no part of the claim.
        p, rho, alpha, n: percentile, radius, joint failure probability, draws.
        lower_rank, upper_rank: the order statistics used, counted from their own end; 0: none qualified.
        status: "certified", or "abstained" if any entry is infinite; `reason` then says what n would do.
    """

    lower: Tensor = field(repr=False)
    upper: Tensor = field(repr=False)
    center: Tensor = field(repr=False)
    p: float
    rho: float
    alpha: float
    n: int
    lower_rank: int
    upper_rank: int
    status: str
    reason: str
    run: Run = field(repr=False)
    theorem: str = "T1"


def ranks(n: int, tails: Tails, alpha: float) -> tuple[int, int]:
    """The ranks (from below, from above) that bound a percentile with `tails`, each failing with probability α."""
    return extreme_rank(n, tails.lower, alpha), extreme_rank(n, tails.upper, alpha)


def percentile_box(
    seen: ExtremeRanks,
    noise: Noise,
    *,
    p: float,
    rho: float,
    alpha: float,
    shape: tuple[int, ...],
    support: Support | None = None,
) -> Box:
    """The box of T1 from n draws, each of its 2m sides failing with probability at most α.

    Args:
        seen: extreme draws, holding the ranks needed.
        noise, p, rho: which percentile, shifted how far.
        alpha: failure probability of *one* side of one output; the union over outputs is the caller's.
        shape: output shape.
        support: a-priori support; the box is cut down to it.

    Raises:
        ValueError: a draw lies outside the support, so the support is wrong and anything that rests on it void.
    """
    low_rank, high_rank = ranks(seen.count, noise.tails(p, rho), alpha)
    lower = torch.full(shape, -torch.inf, dtype=torch.float64)
    upper = torch.full(shape, torch.inf, dtype=torch.float64)
    if low_rank:
        lower = seen.smallest(low_rank).to("cpu", torch.float64, copy=True)
    if high_rank:
        upper = seen.largest(high_rank).to("cpu", torch.float64, copy=True)
    if support is not None:
        floor, ceiling = support.box(shape)
        _check_support(seen, floor, ceiling)
        lower, upper = torch.maximum(lower, floor), torch.minimum(upper, ceiling)
    return Box(lower, upper, low_rank, high_rank)


def draws_needed(tails: Tails, alpha: float) -> int | None:
    """The smallest n that gives both sides a rank; None where a tail is below what float64 can plan for."""
    tail = min(tails)
    return smallest_draws(tail, alpha) if tail > 1e-12 else None


def enough(needed: int | None) -> str:
    """In words, what `draws_needed` found."""
    return "no number of draws is enough" if needed is None else f"n >= {needed} is needed"


def _check_support(seen: ExtremeRanks, floor: Tensor, ceiling: Tensor) -> None:
    if seen.low < 1 or seen.high < 1:
        return
    least, most = seen.smallest(1).to("cpu", torch.float64), seen.largest(1).to("cpu", torch.float64)
    outside = (least < floor) | (most > ceiling)
    if bool(outside.any()):
        where = tuple(int(i) for i in outside.nonzero()[0])
        raise ValueError(
            f"support = [{floor[where].item():.6g}, {ceiling[where].item():.6g}] at output {where}: a draw reached "
            f"[{least[where].item():.6g}, {most[where].item():.6g}]; the support must hold every value of f"
        )
