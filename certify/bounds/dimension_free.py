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
from scipy.special import ndtr, ndtri
from torch import Tensor

from certify.bounds.base import Evaluation, Evidence, Method, Setting, pilot_rank
from certify.bounds.percentile import beyond, draws_needed
from certify.confidence import extreme_rank
from certify.montecarlo import Accumulator, Distances, row_distances
from certify.noise import Noise, Tails
from certify.support import Support

__all__ = ["DimensionFreeMSE", "DistanceExceedances", "LayersEvidence", "a_priori_reach", "layer_cake", "upper_limits"]

_LAYERS = (1, 6, 16)
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
    area = (steps * radii.square()).cumsum(dim=1)
    bounds = area[:, useful] / (levels[useful] - 0.5)
    return float(bounds.min(dim=1).values.sum()) * (1 + 1e-12)


def upper_limits(distances: Tensor, levels: Tensor, ranks: list[int], reach: Tensor) -> Tensor:
    """The order statistics that stand for percentiles, cut down to what is known a priori: (rows, J).

    Args:
        distances: (n, rows), each row sorted by itself, increasing.
        levels: (J,).
        ranks: of each level, counted from the largest draw; 0: none qualifies.
        reach: (rows,), what no distance exceeds; ∞ where nothing is known.
    """
    n = distances.shape[0]
    found = [distances[n - rank] if rank else torch.full_like(reach, math.inf) for rank in ranks]
    # A sum of m squares is good to m/2 ulp, far below this.
    stacked = torch.stack(found, dim=1) if found else reach.new_zeros((reach.numel(), 0))
    return torch.minimum(stacked * (1 + 1e-10), reach[:, None])


def a_priori_reach(support: Support | None, center: Tensor) -> Tensor:
    """What the distance of a row of f from that of c cannot exceed: (rows,), float64; ∞ without a support."""
    rows = center.shape[0] if center.ndim > 1 else 1
    if support is None:
        return torch.full((rows,), math.inf, dtype=torch.float64)
    return support.reach(center)


@dataclass(frozen=True, eq=False)
class LayersEvidence(Evidence):
    """Upper limits of percentiles of ‖f − c‖.

    Attributes:
        center: c, (*output).
        levels: q, (J,).
        radii: R, (rows, J), upper limits of the percentiles at Φ(Φ⁻¹(q) + ρ).
        own: for the population reference the same at ρ = 0; else None.
        apart: whether rows of the output are taken apart.
    """

    center: Tensor
    levels: Tensor
    radii: Tensor
    own: Tensor | None
    apart: bool

    kind: ClassVar[str] = "layers"

    @property
    def reference(self) -> str:
        return "center" if self.own is None else "population"

    def numbers(self) -> dict[str, float | int | str]:
        return {"apart": int(self.apart)}

    def tensors(self) -> dict[str, Tensor]:
        kept = {"levels": self.levels, "radii": self.radii}
        return kept if self.own is None else {**kept, "own": self.own}

    @classmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        levels, radii, own = tensors["levels"], tensors["radii"], tensors.get("own")
        apart = bool(numbers["apart"])
        rows = center.shape[0] if apart and center.ndim > 1 else 1
        increasing = bool((torch.diff(levels, prepend=levels.new_zeros(1)) > 0).all()) and float(levels[-1]) <= 1
        if not increasing or any(part is not None and part.shape != (rows, len(levels)) for part in (radii, own)):
            raise ValueError(f"levels {tuple(levels.shape)}, radii {tuple(radii.shape)}: not limits of {rows} rows")
        return cls(center, levels, radii, own, apart)

    def implied(self, noise: Noise, rho: float) -> float:
        value = layer_cake(self.levels, self.radii)
        return value if self.own is None else (math.sqrt(value) + math.sqrt(layer_cake(self.levels, self.own))) ** 2

    def witness(self) -> DistanceExceedances:
        limits = self.radii if self.own is None else torch.cat([self.radii, self.own], dim=1)
        return DistanceExceedances(self.center, limits, self.apart)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        counts = cast(DistanceExceedances, seen)
        shifts = [rho] if self.own is None else [rho, 0.0]
        tails = [_upper_tail(noise, float(q), shift) for shift in shifts for q in self.levels]
        p = min(
            beyond(int(times), counts.count, tail)
            for row in counts.above
            for times, tail in zip(row, tails, strict=True)
        )
        most = int(counts.above.max())
        return min(1.0, counts.above.numel() * p), f"most distances beyond one of {counts.above.numel()} limits: {most}"


class DistanceExceedances:
    """Counts the draws whose distance from c exceeds limits, by more than the rounding of f.

    Args:
        center: c, (*output).
        limits: (rows, limits), or (1, limits) for the whole output.
        apart: whether rows are taken apart.
    """

    def __init__(self, center: Tensor, limits: Tensor, apart: bool) -> None:
        self.center, self.limits, self.apart, self.count = center, limits, apart, 0
        self.key = f"distance exceedances {id(limits)}"
        self.above = torch.zeros(limits.shape, dtype=torch.int64)
        self._size = _joined(row_distances(torch.zeros_like(center)[None], center), apart)

    def update(self, outputs: Tensor) -> None:
        values = _joined(row_distances(outputs, self.center), self.apart)
        slack = 1000 * torch.finfo(outputs.dtype).eps * (self._size + values)
        self.count += outputs.shape[0]
        self.above += (values[:, :, None] > self.limits + slack[:, :, None]).sum(dim=0)

    def merge(self, other: DistanceExceedances) -> None:
        self.count += other.count
        self.above += other.above

    def widened(self, other: DistanceExceedances) -> DistanceExceedances:
        raise ValueError("two sets of limits cannot share one count")


class DimensionFreeMSE(Method):
    """T4 in its layer-cake form. Every level of every row holds at once: α/(rows · levels) each, half of that (and the
    bounds at ρ and at 0 added as distances) with the population reference.
    """

    method, theorem, smoother = "dimension-free", "T4", "median"

    def __init__(self, setting: Setting, alpha: float, aim: float) -> None:
        super().__init__(setting, alpha, aim)
        self.reach = a_priori_reach(setting.support, setting.center)
        self._pilot = None if setting.pilot is None else row_distances(setting.pilot, setting.center)
        shapes = [(apart, j) for apart in ((False, True) if len(self.reach) > 1 else (False,)) for j in _LAYERS]
        plans = [self._plan(apart, j) for apart, j in shapes]
        self.apart, self.levels = plans[1]
        if self._pilot is not None:
            self.apart, self.levels = min(plans, key=lambda plan: self._guess(aim, *plan))

    def guess(self, rho: float) -> float:
        return math.inf if self._pilot is None else self._guess(rho, self.apart, self.levels)

    def needs(self, rho: float) -> list[Accumulator]:
        return [Distances(self.setting.center)]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        setting = self.setting
        distances = cast(Distances, seen[f"distances {id(setting.center)}"]).rows()
        if bool((distances > self.reach * (1 + 1e-6)).any()):
            worst = int((distances / self.reach).max(dim=0).values.argmax())
            raise ValueError(
                f"support: a draw is {float(distances[:, worst].max()):.6g} from the center in row {worst}, where the "
                f"support allows {float(self.reach[worst]):.6g}; the support must hold every value of f"
            )
        ordered = _joined(distances, self.apart).sort(dim=0).values
        radii = self._limits(ordered, setting.n, rho, self.apart, self.levels)
        own = self._limits(ordered, setting.n, 0.0, self.apart, self.levels) if self._population else None
        evidence = LayersEvidence(setting.center, self.levels, radii, own, self.apart)
        value = evidence.implied(setting.noise, rho)
        if math.isfinite(value):
            return Evaluation(value, evidence)
        # The lowest level that can stand is one a little above a half.
        rows = len(self.reach) if self.apart else 1
        tail = _upper_tail(setting.noise, 0.5, rho)
        return Evaluation(
            value, draws_needed=draws_needed(Tails(tail, tail), self._share(rows, max(len(self.levels), 1)))
        )

    @property
    def _population(self) -> bool:
        return self.setting.reference == "population"

    def _share(self, rows: int, levels: int) -> float:
        return self.alpha / (rows * levels * (2 if self._population else 1))

    def _plan(self, apart: bool, levels: int) -> tuple[bool, Tensor]:
        # Levels reach as far as a rank qualifies at the radius aimed at, evenly spaced as Gaussian quantiles.
        rows = len(self.reach) if apart else 1
        least = -math.expm1(math.log(self._share(rows, levels)) / self.setting.n)
        top = _level(self.setting.noise, least * (1 + 1e-6), self.aim)
        grid: list[float] = []
        if top > 0:
            high = float(ndtri(top))
            grid = (
                [float(ndtr(high - (high + 2.5) * j / levels)) for j in range(levels)][::-1] if high > -2.5 else [top]
            )
        if bool(torch.isfinite(self.reach).all()):
            grid.append(1.0)
        return apart, torch.tensor(grid, dtype=torch.float64)

    def _limits(self, ordered: Tensor, n: int, rho: float, apart: bool, levels: Tensor) -> Tensor:
        reach = self.reach if apart else self.reach.square().sum()[None].sqrt()
        share = self._share(len(reach), max(int((levels < 1).sum()), 1))
        ranks = [extreme_rank(n, _upper_tail(self.setting.noise, float(q), rho), share) for q in levels]
        if ordered.shape[0] != n:
            ranks = [pilot_rank(rank, n, ordered.shape[0]) if rank else 0 for rank in ranks]
        return upper_limits(ordered, levels, ranks, reach)

    def _guess(self, rho: float, apart: bool, levels: Tensor) -> float:
        ordered = _joined(cast(Tensor, self._pilot), apart).sort(dim=0).values
        value = layer_cake(levels, self._limits(ordered, self.setting.n, rho, apart, levels))
        if not self._population:
            return value
        own = layer_cake(levels, self._limits(ordered, self.setting.n, 0.0, apart, levels))
        return (math.sqrt(value) + math.sqrt(own)) ** 2


def _joined(distances: Tensor, apart: bool) -> Tensor:
    return distances if apart else distances.square().sum(dim=1, keepdim=True).sqrt()


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
