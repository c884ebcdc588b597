"""T1 + T3: a box that holds every percentile-smoothed output, for every perturbation in the ellipsoid.

Statement. With p^± = Φ(Φ⁻¹(p) ± ρ), for every ‖δ‖_Σ ≤ ρ both percentiles of f(y + δ + G) at p lie, coordinate by
coordinate, between the percentile of f(y + G) at p⁻ and the one at p⁺. From n draws the two are bounded by order
statistics, all 2m of them at once with probability 1 − α (α' = α/(2m) each).

Assumes: the draws are independent and Gaussian in exact arithmetic (known gap: THEORY T10); f does not read y except
through its argument. Safe direction: the box may be too large, never too small.

Reference: THEORY T1, T3; Han et al. (2025), Theorem 3.2; with Σ = σ²I Lemma 3.1, after Chiang et al. (2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from certify._floats import length, squared_length, up
from certify._records import Record
from certify._text import shown
from certify.bounds.base import Evidence, Setting, pilot_rank
from certify.bounds.statement import Result, constant
from certify.confidence import at_least, extreme_rank, smallest_draws
from certify.montecarlo import Accumulator, Exceedances, ExtremeRanks
from certify.montecarlo.accumulators import part_of, state_of
from certify.noise import Noise, Tails
from certify.support import Support

__all__ = [
    "Box",
    "BoxEvidence",
    "PercentileBounds",
    "beyond",
    "box_distance",
    "box_reach",
    "draws_needed",
    "enough",
    "guessed_reach",
    "percentile_box",
    "ranks",
]


@dataclass(frozen=True)
class Box(Record):
    """Joint bounds of one percentile of every output.

    Attributes:
        lower, upper: shape (*output), float64, ±∞ (or the a-priori support) where no rank qualifies.
        lower_rank, upper_rank: which draw, counted from its own end; 0: none.
    """

    lower: Tensor
    upper: Tensor
    lower_rank: int
    upper_rank: int


@dataclass(frozen=True, eq=False)
class BoxEvidence(Evidence):
    """A box that holds percentiles of every output at every ‖δ‖_Σ ≤ ρ.

    Attributes:
        lower, upper: shape (*output).
        p_low, p_high: which percentiles: `lower` bounds the p_low-th from below, `upper` the p_high-th from above.
        center: what distances are measured to, (*output); None: to the population's own percentile, or no distance is.
        bracket: for a distance to the population's own percentile, (lower, upper) limits of that, at no perturbation.
        support: rows in an ellipsoid (a LayerNorm's), where that makes the distance smaller than the box does.
    """

    lower: Tensor
    upper: Tensor
    p_low: float = 0.5
    p_high: float = 0.5
    center: Tensor | None = None
    support: Support | None = None
    bracket: tuple[Tensor, Tensor] | None = None

    kind: ClassVar[str] = "box"

    @property
    def reference(self) -> str:
        return "population" if self.center is None else "center"

    def numbers(self) -> dict[str, float | int | str]:
        return {"p_low": self.p_low, "p_high": self.p_high, "to_center": int(self.center is not None)}

    def tensors(self) -> dict[str, Tensor]:
        kept = {"lower": self.lower, "upper": self.upper}
        if self.bracket is not None:
            kept |= {"start_lower": self.bracket[0], "start_upper": self.bracket[1]}
        if self.support is not None and self.support.gain is not None and self.support.offset is not None:
            kept |= {"gain": self.support.gain, "offset": self.support.offset}
        return kept

    @classmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        lower, upper = tensors["lower"], tensors["upper"]
        p_low, p_high = float(numbers["p_low"]), float(numbers["p_high"])
        if not (0 < p_low < 1 and 0 < p_high < 1):
            raise ValueError(f"p_low = {p_low}, p_high = {p_high}: must be strictly between 0 and 1")
        if lower.shape != upper.shape or (numbers["to_center"] and lower.shape != center.shape):
            raise ValueError(
                f"lower {tuple(lower.shape)}, upper {tuple(upper.shape)}: must have one shape, that of the center"
            )
        bracket = None
        if "start_lower" in tensors or "start_upper" in tensors:
            bracket = tensors["start_lower"], tensors["start_upper"]
            if any(side.shape != lower.shape for side in bracket) or bool((bracket[0] > bracket[1]).any()):
                raise ValueError(f"start_lower, start_upper: must be a box of the shape {tuple(lower.shape)}")
        held = None
        if "gain" in tensors:
            gain, offset = tensors["gain"], tensors["offset"]
            if gain.shape != lower.shape[-1:] or offset.shape != gain.shape or bool((gain < 0).any()):
                raise ValueError(f"gain {tuple(gain.shape)}, offset {tuple(offset.shape)}: must be those of a row")
            held = Support(torch.minimum(lower, upper), torch.maximum(lower, upper), gain, offset)
        return cls(lower, upper, p_low, p_high, center if numbers["to_center"] else None, held, bracket)

    def implied(self, noise: Noise, rho: float) -> float:
        if not bool((self.lower <= self.upper).all()):
            return math.inf  # nothing lies in it
        if self.center is None:
            return math.inf if self.bracket is None else box_distance(self.lower, self.upper, *self.bracket)
        distance = box_distance(self.lower, self.upper, self.center, self.center)
        return distance if self.support is None else min(distance, self.support.median_cap(self.center))

    def witness(self) -> Exceedances:
        return _Witness(self)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        counts = cast(_Witness, seen)
        if counts.outside:
            return 0.0, f"{counts.outside} of {counts.count:,} draws outside the ellipsoid that all lie in"
        p_value, phrase = self._beyond(counts, noise, rho)
        if counts.start is not None:
            p_value = 2 * min(p_value, self._beyond(counts.start, noise, 0.0)[0])
        return min(1.0, p_value), phrase

    def _beyond(self, counts: Exceedances, noise: Noise, rho: float) -> tuple[float, str]:
        low, high = noise.tails(self.p_low, rho).lower, noise.tails(self.p_high, rho).upper
        below, above = int(counts.below.max()), int(counts.above.max())
        p_value = 2 * self.lower.numel() * min(beyond(below, counts.count, low), beyond(above, counts.count, high))
        expected = max(low, high) * counts.count
        return p_value, f"most exceedances of one output: {max(below, above)}, allowed mean {shown(expected, 'up', 4)}"


class _Witness(Exceedances):
    """Counts exceedances of the box, of the bracket of a reference, and draws with a row outside the support's ellipsoid."""

    tallies = ("below", "above", "outside")

    def __init__(self, box: BoxEvidence) -> None:
        super().__init__(box.lower, box.upper)
        self.box, self.outside = box, 0
        self.start = None if box.bracket is None else Exceedances(*box.bracket)

    def update(self, outputs: Tensor) -> None:
        super().update(outputs)
        if self.start is not None:
            self.start.update(outputs)
        support = self.box.support
        if support is None or support.gain is None or support.offset is None:
            return
        gain, offset = support.gain.to("cpu", torch.float64), support.offset.to("cpu", torch.float64)
        away = (outputs.to("cpu", torch.float64) - offset) / gain
        squares = torch.where(away.isnan(), 0.0, away).square().sum(dim=-1)  # without gain: 0/0
        # float32 is the coarsest arithmetic that the gain has no room for.
        most = gain.numel() * (1 + self.ulps * torch.finfo(torch.float32).eps)
        self.outside += int((squares > most).reshape(len(outputs), -1).any(dim=1).sum())

    def merge(self, other: Self) -> None:
        super().merge(other)
        if self.start is not None and other.start is not None:
            self.start.merge(other.start)

    def state(self) -> dict[str, Tensor]:
        return super().state() | state_of({} if self.start is None else {"start": self.start})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        self.outside = int(self.outside)
        if self.start is not None:
            self.start.restore(part_of(state, "start"))

    def widened(self, other: Exceedances) -> Exceedances:
        return _Witness(self.box)


@dataclass(frozen=True, kw_only=True)
class PercentileBounds(Result):
    """What `certify.percentile_bounds` returns.

    Attributes:
        lower, upper: shape (*output): with probability 1 − α over the draws, for every ‖δ‖_Σ ≤ ρ, every coordinate's
            percentile-smoothed value at y + δ lies between them. Abstained if any entry is infinite.
        center: the percentile estimated from separate pilot draws, shape (*output); no part of the claim.
        p: which percentile.
        lower_rank, upper_rank: the order statistics used, counted from their own end; 0: none qualified.
        theorem: what the box rests on besides T3: T1 for Gaussian noise, T13 for uniform.
    """

    lower: Tensor = field(repr=False)
    upper: Tensor = field(repr=False)
    center: Tensor = field(repr=False)
    p: float
    lower_rank: int
    upper_rank: int

    quantity: str = constant("percentile")
    unit: str = constant("the unit of f's outputs")
    scope: str = constant("single")

    def stated(self) -> dict[str, Any]:
        own = {"p": self.p, "smoother": "percentile", "method": "order statistics", "outputs": self.center.numel()}
        return {**super().stated(), **own}


def ranks(n: int, tails: Tails, alpha: float) -> tuple[int, int]:
    """The ranks (from below, from above) that bound a percentile with `tails`, each failing with probability α."""
    return extreme_rank(n, tails.lower, alpha), extreme_rank(n, tails.upper, alpha)


def percentile_box(
    seen: Mapping[str, Accumulator],
    setting: Setting,
    *,
    rho: float,
    alpha: float,
    p: float = 0.5,
    p_high: float | None = None,
) -> Box:
    """The box of T1 from n draws, each of its 2m sides failing with probability at most α, cut down to the a-priori support.

    Args:
        seen: among them the extreme draws, holding the ranks needed.
        setting: what is known.
        rho: how far the percentile is shifted.
        alpha: failure probability of *one* side of one output; the union over outputs is the caller's.
        p: which percentile.
        p_high: the percentile that the upper end is about, if it is another one than `p`.
    """
    extremes, noise = cast(ExtremeRanks, seen[ExtremeRanks.key]), setting.noise
    tails = Tails(noise.tails(p, rho).lower, noise.tails(p if p_high is None else p_high, rho).upper)
    low, high = ranks(extremes.count, tails, alpha)
    sides = extremes.smallest(low) if low else None, extremes.largest(high) if high else None
    return Box(*_box(setting, *sides), low, high)


def _box(setting: Setting, lower: Tensor | None, upper: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both sides in float64; a missing one is ±∞, or the end of the a-priori support."""
    infinite = torch.full(setting.shape, torch.inf, dtype=torch.float64)
    low = -infinite if lower is None else lower.to("cpu", torch.float64, copy=True)
    high = infinite if upper is None else upper.to("cpu", torch.float64, copy=True)
    if setting.support is None:
        return low, high
    floor, ceiling = setting.support.over(setting.shape)
    return torch.maximum(low, floor), torch.minimum(high, ceiling)


def draws_needed(tails: Tails, alpha: float) -> int | None:
    """The smallest n that gives both sides a rank; None where a tail is below what float64 can plan for."""
    tail = min(tails)
    return smallest_draws(tail, alpha) if tail > 1e-12 else None


def enough(needed: int | None) -> str:
    """In words, what `draws_needed` found."""
    return "no number of draws is enough" if needed is None else f"n >= {needed} is needed"


def beyond(times: int, n: int, tail: float) -> float:
    """P[Bin(n, tail) ≥ times]: how likely so many draws beyond a limit are, if it leaves at most `tail` beyond it."""
    # Tails are rounded down; a little is given back before they stand for a maximum.
    return at_least(times, n, min(1.0, tail * (1 + 1e-9)))


def box_distance(lower: Tensor, upper: Tensor, center_low: Tensor, center_high: Tensor) -> float:
    """Σ_i ζ_i with ζ_i = max{(U_i − c_i)², (c_i − L_i)²} over c_i in [center_low_i, center_high_i], rounded up (T2)."""
    roots = _box_roots(lower, upper, center_low, center_high)
    return squared_length(roots, 4e-16 * max(roots.numel(), 1))


def box_reach(lower: Tensor, upper: Tensor, center: Tensor) -> float:
    """The root of `box_distance` from a center, rounded up, also where the square has no float64."""
    roots = _box_roots(lower, upper, center, center)
    return up(float(length(roots)), 4e-16 * max(roots.numel(), 1))


def _box_roots(lower: Tensor, upper: Tensor, center_low: Tensor, center_high: Tensor) -> Tensor:
    low, high = center_low.to("cpu", torch.float64), center_high.to("cpu", torch.float64)
    return torch.maximum((upper - low).abs(), (high - lower).abs())


def guessed_reach(setting: Setting, ordered: Tensor, low_rank: int, high_rank: int) -> float:
    """What `box_reach` from the center is roughly going to be, from sorted pilot draws; ranks as among n draws."""
    n, count = setting.n, len(ordered)
    lower = ordered[pilot_rank(low_rank, n, count) - 1] if low_rank else None
    upper = ordered[count - pilot_rank(high_rank, n, count)] if high_rank else None
    return box_reach(*_box(setting, lower, upper), setting.center)
