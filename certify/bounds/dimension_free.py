"""T4: a bound on the coordinate-wise median's movement that does not add up over coordinates.

Statement. Let r = ‖f − c‖ with c independent of the draws, 0 = q_0 < q_1 < … < q_J ≤ 1, and let R_i be joint upper limits
of r's percentiles at Φ(Φ⁻¹(q_i) + ρ) under y. Then for every ‖δ‖_Σ ≤ ρ

    ‖E_½(y + δ) − c‖²  ≤  min_{q_j > ½}  Σ_{i ≤ j} (q_i − q_{i−1}) R_i² / (q_j − ½).

Why: a median that is t_i away from c_i has half of the law of f_i at least |t_i| away from c_i, so at least q_j − ½ of it
within the lowest q_j of r; the squares add up to no more than r² does there. In full: docs/theory/t04-dimension-free.md.

There is no union over outputs, and only one number a draw (and row) is kept. It is better than T2 where many outputs move
independently of each other (a high effective rank) and ρ is about 1.5 or more. *By rows* (a row of the output a token) the
statement is made for each row by itself and added up, α shared.

Assumes: c, the levels q and whether rows are taken apart are fixed without the bounding draws. Safe direction: the bound
may be too large.

Reference: THEORY T4, T3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, cast

import torch
from torch import Tensor

from certify._floats import TOO_LARGE, distance, grown, in_units, length, square, unit_of
from certify.bounds.base import Evaluation, Evidence, Method, Setting, pilot_rank
from certify.bounds.percentile import beyond, box_reach, draws_needed
from certify.confidence import clopper_pearson, extreme_rank
from certify.montecarlo import Accumulator, Distances, Exceedances, row_distances
from certify.montecarlo.accumulators import Tallied, digest, part_of, state_of
from certify.noise import Noise, Tails

__all__ = ["DimensionFreeMSE", "DistanceExceedances", "LayersEvidence", "layer_cake", "upper_limits"]

_LAYERS = (1, 4, 8)
"""Numbers of levels to choose from."""


def layer_cake(levels: Tensor, radii: Tensor) -> float:
    """Σ_rows min_{q_j > ½} Σ_{i ≤ j} (q_i − q_{i−1}) R_i² / (q_j − ½), rounded up; ∞ where no level exceeds ½.

    Args:
        levels: q, shape (J,), increasing in (0, 1].
        radii: R, shape (rows, J).
    """
    useful = levels > 0.5
    if not bool(useful.any()):
        return math.inf
    steps = torch.diff(levels, prepend=levels.new_zeros(1))
    unit = unit_of(radii)
    area = (steps * (radii / unit).square()).cumsum(dim=1)
    bounds = area[:, useful] / (levels[useful] - 0.5)
    return in_units(float(bounds.min(dim=1).values.sum()), unit, 1e-12)


def upper_limits(distances: Tensor, levels: Tensor, ranks: list[int], reach: Tensor) -> Tensor:
    """The order statistics that stand for percentiles, cut down to what is known a priori: (rows, J).

    Args:
        distances: (n, rows), each row sorted by itself, increasing.
        levels: (J,).
        ranks: of each level, counted from the largest draw; 0: none qualifies.
        reach: (rows,), what no distance exceeds; ∞ where nothing is known.
    """
    n = distances.shape[0]
    limits = [distances[n - rank] if rank else torch.full_like(reach, math.inf) for rank in ranks]
    # A sum of m squares is good to m/2 ulp, far below this.
    stacked = torch.stack(limits, dim=1) if limits else reach.new_zeros((reach.numel(), 0))
    return torch.minimum(grown(stacked, 1e-10), reach[:, None])


@dataclass(frozen=True, eq=False)
class LayersEvidence(Evidence):
    """Upper limits of percentiles of ‖f − c'‖.

    Attributes:
        center: c, what the bound is a distance to, (*output).
        levels: q, (J,).
        radii: R, (rows, J), upper limits of the percentiles at Φ(Φ⁻¹(q) + ρ).
        apart: whether rows of the output are taken apart.
        origin: c', (*output), fixed without the bounding draws; c itself, unless c is far from where the draws are.
        lower, upper: for the population reference a box around the median at y, (*output); else None.
    """

    center: Tensor
    levels: Tensor
    radii: Tensor
    apart: bool
    origin: Tensor
    lower: Tensor | None = None
    upper: Tensor | None = None

    kind: ClassVar[str] = "layers"

    @property
    def reference(self) -> str:
        return "center" if self.lower is None else "population"

    def numbers(self) -> dict[str, float | int | str]:
        return {"apart": int(self.apart)}

    def tensors(self) -> dict[str, Tensor]:
        tensors = {"levels": self.levels, "radii": self.radii}
        if self.origin is not self.center:
            tensors["origin"] = self.origin
        return (
            tensors
            if self.lower is None or self.upper is None
            else {**tensors, "lower": self.lower, "upper": self.upper}
        )

    @classmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        levels, radii, apart = tensors["levels"], tensors["radii"], bool(numbers["apart"])
        rows = center.shape[0] if apart and center.ndim > 1 else 1
        if levels.ndim != 1 or not levels.numel() or radii.shape != (rows, len(levels)):
            raise ValueError(f"levels {tuple(levels.shape)}, radii {tuple(radii.shape)}: not limits of {rows} rows")
        if not bool((torch.diff(levels, prepend=levels.new_zeros(1)) > 0).all()) or float(levels[-1]) > 1:
            raise ValueError("levels: must increase from 0 to 1 at most")
        box = [tensors.get(name) for name in ("lower", "upper")]
        origin = tensors.get("origin", center)
        if any(part is not None and part.shape != center.shape for part in (origin, *box)):
            raise ValueError(f"origin or box: must have the shape of the center, {tuple(center.shape)}")
        if (box[0] is None) != (box[1] is None):
            raise KeyError("lower" if box[0] is None else "upper")
        return cls(center, levels, radii, apart, origin, *box)

    def implied(self, noise: Noise, rho: float) -> float:
        value = layer_cake(self.levels, self.radii)
        if self.lower is not None and self.upper is not None:
            apart = box_reach(self.lower, self.upper, self.origin)
        else:
            apart = distance(self.origin, self.center, 1e-12)
        return value if apart == 0 else square(math.sqrt(value) + apart, 1e-12)

    def witness(self) -> Together:
        parts: list[Accumulator] = [DistanceExceedances(self.origin, self.radii, self.apart)]
        if self.lower is not None and self.upper is not None:
            parts.append(Exceedances(self.lower, self.upper))
        return Together(parts)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        counts = cast(DistanceExceedances, cast(Together, seen).parts[0])
        tails = [_upper_tail(noise, float(q), rho) for q in self.levels]
        p = counts.above.numel() * min(
            beyond(int(times), counts.count, tail)
            for row in counts.above
            for times, tail in zip(row, tails, strict=True)
        )
        most = int(counts.above.max())
        phrase = f"most distances beyond one of {counts.above.numel()} limits: {most}"
        if len(cast(Together, seen).parts) > 1:
            box = cast(Exceedances, cast(Together, seen).parts[1])
            most = int(max(box.below.max(), box.above.max()))
            p = 2 * min(p, 2 * box.below.numel() * beyond(most, box.count, 0.5))
        return min(1.0, p), phrase


class Together:
    """Several accumulators that see the same draws."""

    def __init__(self, parts: list[Accumulator]) -> None:
        self.parts = parts
        self.key = " and ".join(part.key for part in parts)

    @property
    def ordered(self) -> bool:
        return any(part.ordered for part in self.parts)

    @property
    def count(self) -> int:
        return self.parts[0].count

    def update(self, outputs: Tensor) -> None:
        for part in self.parts:
            part.update(outputs)

    def merge(self, other: Together) -> None:
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.merge(theirs)

    def widened(self, other: Together) -> Together:
        return Together([mine.widened(theirs) for mine, theirs in zip(self.parts, other.parts, strict=True)])

    def state(self) -> dict[str, Tensor]:
        return state_of({str(i): part for i, part in enumerate(self.parts)})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for i, part in enumerate(self.parts):
            part.restore(part_of(state, str(i)))

    def described(self) -> str:
        return " and ".join(part.described() for part in self.parts)


class DistanceExceedances(Tallied):
    """Counts the draws whose distance from c exceeds limits, by more than the rounding of f.

    Args:
        center: c, (*output).
        limits: (rows, limits), or (1, limits) for the whole output.
        apart: whether rows are taken apart.
    """

    tallies = ("above",)

    def __init__(self, center: Tensor, limits: Tensor, apart: bool) -> None:
        self.center, self.limits, self.apart, self.count = center, limits, apart, 0
        self.key = f"distance exceedances {id(limits)}"
        self.above = torch.zeros(limits.shape, dtype=torch.int64)
        self._size = _joined(row_distances(torch.zeros_like(center)[None], center), apart)

    def update(self, outputs: Tensor) -> None:
        values = _joined(row_distances(outputs, self.center), self.apart)
        eps = 1000 * torch.finfo(outputs.dtype).eps
        slack = eps * self._size + eps * values
        self.count += outputs.shape[0]
        self.above += (values[:, :, None] > self.limits + slack[:, :, None]).sum(dim=0)

    def widened(self, other: DistanceExceedances) -> DistanceExceedances:
        return DistanceExceedances(self.center, self.limits, self.apart)

    def described(self) -> str:
        return f"distance exceedances {digest(self.center)} {digest(self.limits)} {self.apart}"


class DimensionFreeMSE(Method):
    """T4 in its layer-cake form. Every level of every row holds at once: α/(rows · levels) each.

    With the population reference half of α goes to a box around the median at y, which comes from pilot draws and is
    confirmed by the bounding ones: of each output, less than half lies beyond either side.
    """

    method, theorem, smoother, evidence = "dimension-free", "T4", "median", LayersEvidence

    def __init__(self, setting: Setting, alpha: float, aim: float) -> None:
        super().__init__(setting, alpha, aim)
        self.around = self._around()
        rows = setting.shape[0] if len(setting.shape) > 1 else 1
        shapes = [(apart, j) for apart in ((False, True) if rows > 1 else (False,)) for j in _LAYERS]
        origins = [setting.center]
        if setting.middle is not None and setting.middle is not setting.center:
            # A center that is somewhere else matters to the distance from it alone.
            origins = [setting.middle] if setting.reference == "population" else [setting.center, setting.middle]
        plans = [self._plan(origin, apart, j) for origin in origins for apart, j in shapes]
        self.plan = plans[1]
        if setting.pilot is not None:
            self.plan = min(plans, key=lambda plan: self._guess(aim, plan))

    def guess(self, rho: float) -> float:
        return math.inf if self.setting.pilot is None else self._guess(rho, self.plan)

    def needs(self, rho: float) -> list[Accumulator]:
        needed: list[Accumulator] = [Distances(self.plan.origin)]
        return needed if self.around is None else [*needed, Exceedances(*self.around, exact=True)]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        setting, plan = self.setting, self.plan
        distances = cast(Distances, seen[f"distances {id(plan.origin)}"]).rows()
        ordered = _joined(distances, plan.apart).sort(dim=0).values
        radii = self._limits(ordered, rho, plan)
        if setting.reference == "population":
            box = self._confirmed(seen)
            if box is None:
                return Evaluation(
                    math.inf, reason="the median at the input itself could not be bracketed: take more draws"
                )
            evidence = LayersEvidence(setting.center, plan.levels, radii, plan.apart, plan.origin, *box)
        else:
            evidence = LayersEvidence(setting.center, plan.levels, radii, plan.apart, plan.origin)
        value = evidence.implied(setting.noise, rho)
        if math.isfinite(value):
            return Evaluation(value, evidence)
        if bool((torch.isfinite(radii) & (plan.levels > 0.5)).any(dim=1).all()):
            return Evaluation(value, reason=TOO_LARGE)
        # The lowest level that can stand is one a little above a half; levels reach as far as draws do at the radius aimed at.
        tail = _upper_tail(setting.noise, 0.5, self.aim)
        return Evaluation(value, draws_needed=draws_needed(Tails(tail, tail), plan.share) if rho <= self.aim else None)

    @property
    def _budget(self) -> float:
        """α of the limits of the distances."""
        return self.alpha / 2 if self.setting.reference == "population" else self.alpha

    def _around(self) -> tuple[Tensor, Tensor] | None:
        """A box about the middle of the pilot draws, wide enough to be confirmed by n draws."""
        ordered, setting = self.setting.ordered, self.setting
        if setting.reference == "center" or ordered is None:
            return None
        count = len(ordered)
        union = math.log(8 * setting.outputs / self.alpha)
        off = 1.2 * (math.sqrt(union / (2 * setting.n)) + math.sqrt(union / (2 * count)))
        k = max(1, math.ceil(count * (0.5 - off)))
        return ordered[k - 1].clone(), ordered[count - k].clone()

    def _confirmed(self, seen: Mapping[str, Accumulator]) -> tuple[Tensor, Tensor] | None:
        if self.around is None:
            return None
        counts = cast(Exceedances, seen[Exceedances(*self.around, exact=True).key])
        share = self.alpha / (4 * self.setting.outputs)
        most = int(max(counts.below.max(), counts.above.max()))
        return self.around if clopper_pearson(most, counts.count, share) < 0.5 else None

    def _plan(self, origin: Tensor, apart: bool, levels: int) -> _Layers:
        # Levels reach as far as a rank qualifies at the radius aimed at, evenly spaced up to there.
        reach = self.setting.reach(origin)
        share = self._budget / ((len(reach) if apart else 1) * levels)
        least = -math.expm1(math.log(share) / self.setting.n)
        top = _level(self.setting.noise, least * (1 + 1e-6), self.aim)
        grid = [top * (j + 1) / levels for j in range(levels)] if top > 0 else []
        if bool(torch.isfinite(reach).all()):
            grid.append(1.0)
        away = distance(origin, self.setting.center, 1e-12)
        return _Layers(origin, away, apart, torch.tensor(grid, dtype=torch.float64), reach, share)

    def _limits(self, ordered: Tensor, rho: float, plan: _Layers) -> Tensor:
        n = self.setting.n
        reach = plan.reach if plan.apart else length(plan.reach)[None]
        ranks = [extreme_rank(n, _upper_tail(self.setting.noise, float(q), rho), plan.share) for q in plan.levels]
        if ordered.shape[0] != n:
            ranks = [pilot_rank(rank, n, ordered.shape[0]) if rank else 0 for rank in ranks]
        return upper_limits(ordered, plan.levels, ranks, reach)

    def _guess(self, rho: float, plan: _Layers) -> float:
        ordered = _joined(self.setting.distances(plan.origin), plan.apart).sort(dim=0).values
        value, away = layer_cake(plan.levels, self._limits(ordered, rho, plan)), plan.away
        if self.setting.reference == "population":
            away = math.inf
            if self.around is not None:
                lower, upper = (side.to("cpu", torch.float64) for side in self.around)
                away = box_reach(lower, upper, plan.origin)
        return square(math.sqrt(value) + away)


@dataclass(frozen=True, eq=False)
class _Layers:
    """What the distances are taken from, and at which levels.

    Attributes:
        origin, away: c', and ‖c' − c‖.
        apart: whether rows are taken apart.
        levels: (J,).
        reach: (rows,), what no distance exceeds.
        share: failure probability of one limit.
    """

    origin: Tensor
    away: float
    apart: bool
    levels: Tensor
    reach: Tensor
    share: float


def _joined(distances: Tensor, apart: bool) -> Tensor:
    return distances if apart else length(distances, dim=1, keepdim=True)


def _upper_tail(noise: Noise, level: float, rho: float) -> float:
    """The probability beyond the percentile at Φ(Φ⁻¹(level) + ρ), rounded down."""
    return noise.tails(level, rho).upper if level < 1 else 0.0


def _level(noise: Noise, tail: float, rho: float) -> float:
    """The highest level whose shifted percentile leaves at least `tail` beyond it; 0 if there is none."""
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        if 0 < middle < 1 and noise.tails(middle, rho).upper >= tail:
            low = middle
        else:
            high = middle
    return low
