"""T5 and T6: how far the median (or mean) of K draws, the one that is deployed, can be from a reference.

Statement. For every ‖δ‖_Σ ≤ ρ, with confidence 1 − α over the draws: ‖median_K − c‖ ≤ R with probability at least q over
the deployment noise. Three routes lead to such an R, all from single draws of f at y:

replicas (T5)           The distance itself is a statistic of K copies; n draws are about n // K values of it. Its percentile at
                        Φ(Φ⁻¹(q) + √K ρ). For the median and the mean.
order statistics (T6)   The k-th of K draws, k = ⌊K/2⌋ + 1, is at most the percentile at u unless a binomial fails, with
                        probability (1 − q)/(2m) per side of each of m outputs; T1 at percentile u. No √K.
dimension-free (T6)     s of K draws lie within the R₀ of r = ‖f − c‖'s percentile at Φ(Φ⁻¹(u) + ρ) with probability ≥ q;
                        then ‖median_K − c‖² ≤ R₀² s / (s − ⌈K/2⌉ + 1). No √K, no union over outputs.

At small ρ the first is smallest, at large ρ one of the others. In full: docs/theory/t05-deployed.md and
docs/theory/t06-deployed-two-routes.md.

Assumes: each δ is chosen independently of the deployment noise, which is fresh and secret; c, u and s are fixed without the
bounding draws. Safe direction: R may be too large.

Reference: THEORY T5, T6, T3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from certify._floats import length, up
from certify._text import shown
from certify.bounds.base import Evaluation, Evidence, Method, Setting, pilot_rank
from certify.bounds.copies import LimitEvidence, limit_verdict, statistic_limits
from certify.bounds.dimension_free import DistanceExceedances
from certify.bounds.percentile import (
    BoxEvidence,
    beyond,
    box_reach,
    draws_needed,
    guessed_reach,
    percentile_box,
)
from certify.bounds.statement import Distance, constant
from certify.confidence import extreme_rank, fewer_than
from certify.montecarlo import Accumulator, Distances, ExtremeRanks, Groups, whole_groups
from certify.noise import Noise, Tails

__all__ = [
    "BallEvidence",
    "DeployedBound",
    "DeployedMethod",
    "DimensionFreeRoute",
    "GroupsEvidence",
    "MeanReplicasRoute",
    "OrderStatisticsRoute",
    "RankedBoxEvidence",
    "ReplicasRoute",
]


@dataclass(frozen=True, kw_only=True)
class DeployedBound(Distance):
    """How far the deployed smoother, the median or mean of K draws, can be from a reference.

    With probability ≥ `q` over the deployment noise, ‖deployed − center‖ ≤ `value` for every ‖δ‖_Σ ≤ `rho`, with confidence
    1 − α over the n draws of f; an ℓ2 distance, not squared. `replicas` is K.
    """

    q: float
    replicas: int
    reference: str = constant("center")

    quantity: str = constant("deployed")
    unit: str = constant("l2 distance")

    def stated(self) -> dict[str, Any]:
        return {**super().stated(), "q": self.q, "replicas": self.replicas}


class DeployedMethod(Method):
    """A route: a `Method` that also knows q and K. Its values are distances, not squared."""

    def __init__(self, setting: Setting, alpha: float, aim: float, *, q: float, replicas: int) -> None:
        super().__init__(setting, alpha, aim)
        self.q, self.replicas = q, replicas


@dataclass(frozen=True, eq=False)
class GroupsEvidence(LimitEvidence):
    """An upper limit of the distance of K draws' median (or mean) from c, tested on draws of f in groups of K."""

    center: Tensor = field(default_factory=lambda: torch.zeros(()))
    smoother: str = "median"

    kind: ClassVar[str] = "groups"
    scalars: ClassVar[Mapping[str, type]] = {**LimitEvidence.scalars, "smoother": str}

    @classmethod
    def restored(
        cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor | None
    ) -> Self:
        made = super().restored(numbers, tensors, center)
        if center is None or made.smoother not in ("median", "mean"):
            raise ValueError("limits of a deployed distance need a center and a smoother")
        return replace(made, center=center)

    def witness(self) -> Groups:  # type: ignore[override]
        return Groups(self.center, self.replicas, self.smoother)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        values = cast(Groups, seen).values()
        if not len(values):
            return 1.0, f"fewer than K = {self.replicas} draws"
        # float32 is the coarsest arithmetic that an f is kept in.
        eps = 1000 * torch.finfo(torch.float32).eps
        slack = eps * float(length(self.center.double())) + eps * values
        above = int((values > self.upper + slack).sum())
        return limit_verdict(self, 0, above, len(values), noise, rho)


class ReplicasRoute(DeployedMethod):
    """T5 on the distance itself: √K ρ, from n // K values."""

    method, theorem, smoother, evidence = "replicas", "T5", "median", GroupsEvidence

    def guess(self, rho: float) -> float:
        pilot = self.setting.pilot
        if pilot is None or len(pilot) < self.replicas:
            return self._cap()
        groups = self._groups()
        groups.update(pilot)
        rank = self._rank(rho, self._values)
        values = groups.values().sort().values
        if not rank:
            return self._cap()
        return min(float(values[len(values) - pilot_rank(rank, self._values, len(values))]), self._cap())

    def needs(self, rho: float) -> list[Accumulator]:
        return [self._groups()]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        values = cast(Groups, seen[self._groups().key]).values().sort().values
        rank, cap = self._rank(rho, len(values)), self._cap()
        value = min(up(float(values[len(values) - rank]), 1e-10) if rank else math.inf, cap)
        if math.isinf(value):
            tail = self.setting.noise.tails(self.q, rho, self.replicas).upper
            needed = draws_needed(Tails(tail, tail), self.alpha)
            return Evaluation(math.inf, draws_needed=None if needed is None else needed * self.replicas)
        return Evaluation(
            value,
            GroupsEvidence(
                -math.inf, value, self.q, "upper", self.replicas, self.setting.center, smoother=self.smoother
            ),
        )

    def _cap(self) -> float:
        """What the distance of a deployed output never exceeds, by the support; ∞ without one."""
        return _median_reach(self.setting)

    @property
    def _values(self) -> int:
        return whole_groups(self.setting.n, self.replicas)

    def _groups(self) -> Groups:
        return Groups(self.setting.center, self.replicas, self.smoother)

    def _rank(self, rho: float, values: int) -> int:
        if not values:
            return 0
        _, upper = statistic_limits(
            values,
            self.setting.noise,
            q=self.q,
            side="upper",
            rho=rho,
            replicas=self.replicas,
            alpha=self.alpha,
        )
        return upper.rank if upper else 0


class MeanReplicasRoute(ReplicasRoute):
    """The same for the mean of K draws."""

    smoother = "mean"

    def _cap(self) -> float:
        # No row of a mean is further away than the furthest of what it is a mean of.
        return float(length(self.setting.reach(self.setting.center)))


@dataclass(frozen=True, eq=False)
class RankedBoxEvidence(BoxEvidence):
    """The box of T1 at two percentiles, between which the median of K draws lies; its distance from c is not squared."""

    q: float = 0.95
    replicas: int = 13

    kind: ClassVar[str] = "ranked-box"
    reference = "center"

    def numbers(self) -> dict[str, float | int | str]:
        return {**super().numbers(), "q": self.q, "replicas": self.replicas}

    @classmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        box = BoxEvidence.restored(numbers, tensors, center)
        q, replicas = float(numbers["q"]), int(numbers["replicas"])
        u = box.p_high
        if box.center is None:
            raise ValueError("to_center = 0: the distance of a deployed output is one from a center")
        needed = (1 - q) / (2 * box.lower.numel())
        if (
            not 0 < q < 1
            or replicas < 1
            or _fails(replicas, u) > needed * (1 + 1e-6)
            or box.p_low > (1 - u) * (1 + 1e-9)
        ):
            raise ValueError(f"percentile u = {u} does not hold the median of {replicas} draws with probability {q}")
        return cls(box.lower, box.upper, box.p_low, box.p_high, box.center, box.support, q=q, replicas=replicas)

    def implied(self, noise: Noise, rho: float) -> float:
        if self.center is None or not bool((self.lower <= self.upper).all()):
            return math.inf
        reach = box_reach(self.lower, self.upper, self.center)
        return reach if self.support is None else min(reach, self.support.median_reach(self.center))


class OrderStatisticsRoute(DeployedMethod):
    """T6, first route: every output's K-draw median lies between two percentiles, which T1 bounds."""

    method, theorem, smoother, evidence = "order statistics", "T6", "median", RankedBoxEvidence

    def __init__(self, setting: Setting, alpha: float, aim: float, *, q: float, replicas: int) -> None:
        super().__init__(setting, alpha, aim, q=q, replicas=replicas)
        self.u = least_level(lambda u: _fails(replicas, u), (1 - q) / (2 * setting.outputs))
        self.share = alpha / (2 * setting.outputs)

    def guess(self, rho: float) -> float:
        ordered, setting = self.setting.ordered, self.setting
        if ordered is None:
            return self._cap()
        rank = extreme_rank(setting.n, self._tail(rho), self.share)
        return min(guessed_reach(setting, ordered, rank, rank), self._cap())

    def needs(self, rho: float) -> list[Accumulator]:
        rank = extreme_rank(self.setting.n, self._tail(rho), self.share)
        return [ExtremeRanks(max(rank, 1), max(rank, 1))]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        setting, u = self.setting, self.u
        box = percentile_box(seen, setting, rho=rho, alpha=self.share, p=1 - u, p_high=u)
        value, cap = box_reach(box.lower, box.upper, setting.center), self._cap()
        held = setting.support if cap < value else None
        deployed: dict[str, Any] = {"q": self.q, "replicas": self.replicas}
        evidence = RankedBoxEvidence(box.lower, box.upper, 1 - u, u, setting.center, held, **deployed)
        if math.isfinite(value):
            return Evaluation(up(min(value, cap), 1e-12), evidence)
        return Evaluation(cap, evidence, draws_needed(Tails(self._tail(rho), self._tail(rho)), self.share))

    def _tail(self, rho: float) -> float:
        return min(self.setting.noise.tails(1 - self.u, rho).lower, self.setting.noise.tails(self.u, rho).upper)

    def _cap(self) -> float:
        support = self.setting.support
        return math.inf if support is None else support.median_reach(self.setting.center)


@dataclass(frozen=True, eq=False)
class BallEvidence(Evidence):
    """An upper limit R₀ of the percentile of ‖f − c‖ at Φ(Φ⁻¹(u) + ρ), and s of K draws within it.

    Attributes:
        center: c, (*output).
        radius: R₀.
        u, s: percentile, and how many of K draws lie within with probability ≥ q.
        q, replicas: the probability, and K.
    """

    center: Tensor
    radius: float
    u: float
    s: int
    q: float
    replicas: int

    kind: ClassVar[str] = "ball"
    scalars: ClassVar[Mapping[str, type]] = {"radius": float, "u": float, "s": int, "q": float, "replicas": int}

    @classmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        made = cls(center=center, **cls._scalars(numbers))
        u, s, q, replicas = made.u, made.s, made.q, made.replicas
        if not (0 < u < 1 and 0 < q < 1 and replicas // 2 < s <= replicas):
            raise ValueError(f"u = {u}, q = {q}, s = {s}, replicas = {replicas}: out of range")
        if fewer_than(s, replicas, u) > (1 - q) * (1 + 1e-6):
            raise ValueError(f"s = {s} of {replicas} draws do not lie below the percentile at {u} with probability {q}")
        return made

    def implied(self, noise: Noise, rho: float) -> float:
        return up(self.radius * math.sqrt(self.s / _majority(self.s, self.replicas)))

    def witness(self) -> DistanceExceedances:
        return DistanceExceedances(self.center, torch.tensor([[self.radius]], dtype=torch.float64), False)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        counts = cast(DistanceExceedances, seen)
        tail, above = noise.tails(self.u, rho).upper, int(counts.above)
        return beyond(above, counts.count, tail), f"{above} beyond, allowed mean {shown(tail * counts.count, 'up', 4)}"


class DimensionFreeRoute(DeployedMethod):
    """T6, second route: s of K draws within a ball."""

    method, theorem, smoother, evidence = "dimension-free", "T6", "median", BallEvidence

    def __init__(self, setting: Setting, alpha: float, aim: float, *, q: float, replicas: int) -> None:
        super().__init__(setting, alpha, aim, q=q, replicas=replicas)
        self._reach = setting.reach(setting.center)
        self.reach = float(length(self._reach))
        self._pilot = None if setting.pilot is None else length(setting.distances(setting.center), dim=1).sort().values
        choices = [
            (least_level(lambda u, s=s: fewer_than(s, replicas, u), 1 - q), s)  # type: ignore[misc]
            for s in range(replicas // 2 + 1, replicas + 1)
        ]
        middle = choices[len(choices) // 2]
        self.u, self.s = middle if self._pilot is None else min(choices, key=lambda choice: self._guess(aim, *choice))

    def guess(self, rho: float) -> float:
        return math.inf if self._pilot is None else self._guess(rho, self.u, self.s)

    def needs(self, rho: float) -> list[Accumulator]:
        return [Distances(self.setting.center)]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        setting = self.setting
        distances = cast(Distances, seen[f"distances {id(setting.center)}"]).rows()
        ordered = length(distances, dim=1).sort().values
        rank = extreme_rank(setting.n, self._tail(rho), self.alpha)
        radius = min(up(float(ordered[len(ordered) - rank]), 1e-10) if rank else math.inf, self.reach)
        if math.isinf(radius):
            tail = self._tail(rho)
            return Evaluation(math.inf, draws_needed=draws_needed(Tails(tail, tail), self.alpha))
        evidence = BallEvidence(setting.center, radius, self.u, self.s, self.q, self.replicas)
        return Evaluation(up(evidence.implied(setting.noise, rho), 1e-12), evidence)

    def _tail(self, rho: float) -> float:
        return self.setting.noise.tails(self.u, rho).upper

    def _guess(self, rho: float, u: float, s: int) -> float:
        ordered, n = cast(Tensor, self._pilot), self.setting.n
        rank = extreme_rank(n, self.setting.noise.tails(u, rho).upper, self.alpha)
        radius = float(ordered[len(ordered) - pilot_rank(rank, n, len(ordered))]) if rank else self.reach
        return radius * math.sqrt(s / _majority(s, self.replicas))


def _median_reach(setting: Setting) -> float:
    """What the distance of a median from the center never exceeds, by the support's box and its rows; ∞ without one."""
    if setting.support is None:
        return math.inf
    box = box_reach(*setting.support.over(setting.shape), setting.center)
    return min(box, setting.support.median_reach(setting.center))


def _fails(replicas: int, u: float) -> float:
    """P[the (⌊K/2⌋ + 1)-th smallest of K draws is beyond their percentile at u] = P[Bin(K, u) ≤ ⌊K/2⌋]."""
    return fewer_than(replicas // 2 + 1, replicas, u)


def _majority(s: int, replicas: int) -> int:
    """How many of s draws in a ball are at or beyond each coordinate of the median of K: s − (K − 1)/2, for an even K, whose
    median averages the two middle draws, s − K/2 + 1.
    """
    return s - (replicas + 1) // 2 + 1


def least_level(fails: Callable[[float], float], limit: float) -> float:
    """The least u in (0, 1), rounded up, with fails(u) ≤ limit, for a function that decreases."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if fails(middle) > limit * (1 - 1e-9):
            low = middle
        else:
            high = middle
    return high
