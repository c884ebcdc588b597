"""T5: what can be said of the smoother that is deployed, with K noisy copies, rather than of an ideal one.

Statement. Let S(z_1, …, z_K) be any scalar statistic of K noisy copies z_k = y + G_k of one input, with internal
randomness of its own if it likes. Its percentiles obey T1 with ρ replaced by √K ρ: for every ‖δ‖_Σ ≤ ρ the percentile at q
under y + δ is at most the one at Φ(Φ⁻¹(q) + √K ρ) under y; for a 0/1 statistic

    P_{y+δ}[S = 1]  ≤  Φ(Φ⁻¹(p) + √K ρ),      p = P_y[S = 1].

Proof. T1 in R^{Kd} with covariance I_K ⊗ Σ: the shift (δ, …, δ) has norm √K ‖δ‖_Σ. In full: docs/theory/t05-deployed.md.

Assumes: each δ is chosen independently of the deployment noise, which is fresh and secret (a published seed voids it);
references inside S do not depend on the draws; no draw is used in two copies. Safe direction: the bound may be too large.

Reference: THEORY T5; percentiles by T3, probabilities by Clopper and Pearson (1934).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self, cast

import torch
from torch import Tensor

from certify import _validate
from certify._records import Shown
from certify._text import shown
from certify.bounds.base import Evidence, Run
from certify.bounds.percentile import beyond, draws_needed
from certify.confidence import clopper_pearson, extreme_rank
from certify.montecarlo import Accumulator, Counts, Exceedances
from certify.noise import Noise, Tails

__all__ = ["EventBound", "EventEvidence", "LimitEvidence", "StatisticBound", "event_interval", "statistic_limits"]


@dataclass(frozen=True)
class StatisticBound(Shown):
    """What `certify.statistic_bound` returns.

    Attributes:
        value: side "upper": with probability ≥ q over the deployment noise, S ≤ value; "lower": S ≥ value; "two-sided":
            the upper end of an interval that holds S with probability ≥ q. For every ‖δ‖_Σ ≤ ρ, with confidence 1 − α.
        lower: the lower end for "two-sided", else −∞.
        q, side, rho, replicas, alpha, n: as asked.
        status: "certified" or "abstained", with a `reason` that says what n would do; the value is then ±∞.
    """

    value: float
    lower: float
    q: float
    side: str
    rho: float
    replicas: int
    alpha: float
    n: int
    status: str
    reason: str
    run: Run = field(repr=False)
    theorem: str = "T5"
    method: str = "replicas"

    quantity = "statistic"
    unit = "the unit of the statistic"

    @property
    def evidence(self) -> LimitEvidence | None:
        """What a certificate keeps."""
        if self.status != "certified":
            return None
        lower = self.value if self.side == "lower" else self.lower
        upper = math.inf if self.side == "lower" else self.value
        return LimitEvidence(lower, upper, self.q, self.side, self.replicas)


@dataclass(frozen=True)
class EventBound(Shown):
    """What `certify.event_bound` returns.

    Attributes:
        value: P[event] ≤ value at y + δ, over the deployment noise, for every ‖δ‖_Σ ≤ ρ, with confidence 1 − α.
        lower: P[event] ≥ lower likewise; 0 unless two-sided.
        successes: how often the event was seen in n draws at y.
        rho, replicas, alpha, n, two_sided: as asked.
        status: "abstained" where the value is 1.
    """

    value: float
    lower: float
    successes: int
    two_sided: bool
    rho: float
    replicas: int
    alpha: float
    n: int
    status: str
    reason: str
    run: Run = field(repr=False)
    theorem: str = "T5"
    method: str = "replicas"

    quantity = "event"
    unit = "probability"

    @property
    def side(self) -> str:
        """ "upper", or "two-sided"."""
        return "two-sided" if self.two_sided else "upper"

    def at(self, rho: float) -> float:
        """The upper bound at another radius, `rho` ≥ 0.

        It needs no confidence of its own: all radii rest on one limit of P[event] at y, so they hold at once with
        probability 1 − α.
        """
        return event_at(self, self.run.noise, rho, self.two_sided)

    def radius(self, rate: float) -> float:
        """The largest radius, rounded down, up to which P[event] ≤ rate (0 if there is none), like `at` at no further cost."""
        return event_radius(self.at, rate)

    @property
    def evidence(self) -> EventEvidence | None:
        """What a certificate keeps."""
        if self.status != "certified":
            return None
        return EventEvidence(self.lower, self.value, self.replicas, self.successes)


class _Counted(Protocol):
    """What the bound of an event at another radius needs to know."""

    @property
    def successes(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def replicas(self) -> int: ...
    @property
    def alpha(self) -> float: ...


def event_at(counted: _Counted, noise: Noise, rho: float, two_sided: bool) -> float:
    """The upper bound of P[event] at any radius, from how often the event was seen."""
    return event_interval(
        counted.successes,
        counted.n,
        noise,
        rho=rho,
        replicas=counted.replicas,
        alpha=counted.alpha,
        two_sided=two_sided,
    )[1]


def event_radius(at: Callable[[float], float], rate: float) -> float:
    """The largest radius, rounded down, up to which an increasing bound stays within `rate`; 0 if there is none."""
    if at(0.0) > rate:
        return 0.0
    low, high = 0.0, 1.0
    while at(high) <= rate and high < 64:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) <= rate else (low, middle)
    return low


@dataclass(frozen=True, eq=False)
class LimitEvidence(Evidence):
    """Limits of a statistic of K copies.

    Attributes:
        lower, upper: S lies between them with probability ≥ q at every ‖δ‖_Σ ≤ ρ; ±∞ where nothing is said.
        q, side: as in `StatisticBound`.
        replicas: K.
    """

    lower: float
    upper: float
    q: float
    side: str
    replicas: int

    kind: ClassVar[str] = "limit"

    def numbers(self) -> dict[str, float | int | str]:
        return {"lower": self.lower, "upper": self.upper, "q": self.q, "side": self.side, "replicas": self.replicas}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def restored(
        cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor | None
    ) -> Self:
        q, replicas, side = float(numbers["q"]), int(numbers["replicas"]), str(numbers["side"])
        if not 0 < q < 1 or replicas < 1 or side not in ("upper", "lower", "two-sided"):
            raise ValueError(f"q = {q}, replicas = {replicas}, side = {side!r}: out of range")
        return cls(float(numbers["lower"]), float(numbers["upper"]), q, side, replicas)

    def implied(self, noise: Noise, rho: float) -> float:
        return self.lower if self.side == "lower" else self.upper

    def witness(self) -> Exceedances:
        lower, upper = (torch.tensor(v, dtype=torch.float64) for v in (self.lower, self.upper))
        return Exceedances(lower, upper)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        counts = cast(Exceedances, seen)
        return limit_verdict(self, int(counts.below), int(counts.above), counts.count, noise, rho)


def limit_verdict(held: LimitEvidence, below: int, above: int, n: int, noise: Noise, rho: float) -> tuple[float, str]:
    """The p-value of limits of S, and a phrase, from how often n draws lay beyond them."""
    level = (1 + held.q) / 2 if held.side == "two-sided" else held.q
    low = noise.tails(1 - level, rho, held.replicas).lower if held.side != "upper" else 1.0
    high = noise.tails(level, rho, held.replicas).upper if held.side != "lower" else 1.0
    p_value = min(1.0, 2 * min(beyond(below, n, low), beyond(above, n, high)))
    return (
        p_value,
        f"{below + above} of {n:,} beyond, allowed mean {shown(n * min(1.0, low * (low < 1) + high * (high < 1)), 'up', 4)}",
    )


@dataclass(frozen=True, eq=False)
class EventEvidence(Evidence):
    """Limits of an event's probability at every ‖δ‖_Σ ≤ ρ, K, and how often the event was seen at y."""

    lower: float
    upper: float
    replicas: int
    successes: int

    kind: ClassVar[str] = "event"

    def numbers(self) -> dict[str, float | int | str]:
        return {
            "lower": self.lower,
            "upper": self.upper,
            "replicas": self.replicas,
            "successes": self.successes,
        }

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def restored(
        cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor | None
    ) -> Self:
        lower, upper = float(numbers["lower"]), float(numbers["upper"])
        replicas, successes = int(numbers["replicas"]), int(numbers["successes"])
        if not 0 <= lower <= upper <= 1 or replicas < 1 or successes < 0:
            raise ValueError(
                f"lower = {lower}, upper = {upper}, replicas = {replicas}, successes = {successes}: out of range"
            )
        return cls(lower, upper, replicas, successes)

    def implied(self, noise: Noise, rho: float) -> float:
        return self.upper

    def witness(self) -> Counts:
        return Counts()

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        counts = cast(Counts, seen)
        ones, n = int(counts.ones), counts.count
        # Undone, the shift gives what the claim says about the probability without a perturbation.
        p_value, phrase = 1.0, f"{ones} of {n:,} at δ = 0"
        if self.upper < 1:
            most = noise.tails(self.upper, rho, self.replicas).lower
            p_value = beyond(ones, n, most)
            phrase += f", allowed mean {shown(most * n, 'up', 4)}"
        if self.lower > 0:
            least = noise.tails(self.lower, rho, self.replicas).upper
            p_value = min(1.0, 2 * min(p_value, beyond(n - ones, n, least)))
        return p_value, phrase


@dataclass(frozen=True)
class Side:
    """One side of a limit: the probability left beyond the shifted percentile, and the rank that stands for it."""

    tail: float
    rank: int
    share: float

    @property
    def needed(self) -> int | None:
        """Draws that would have given this side a rank, if it has none; 0 if it has one."""
        return 0 if self.rank else draws_needed(Tails(self.tail, self.tail), self.share)


def statistic_limits(
    n: int, noise: Noise, *, q: float, side: str, rho: float, replicas: int, alpha: float
) -> tuple[Side | None, Side | None]:
    """The (lower, upper) order statistics that S keeps to with probability ≥ q at every ‖δ‖_Σ ≤ ρ (T5 + T3).

    Args:
        n: draws of S at y.
        q: probability over the deployment noise.
        side: "upper", "lower" or "two-sided" (then 1 − q and α are shared equally by the two sides).
        rho, replicas: radius, and copies K behind one draw.
        alpha: failure probability of the statement.
    """
    both = _validate.choice("side", side, ("upper", "lower", "two-sided")) == "two-sided"
    level, share = ((1 + q) / 2, alpha / 2) if both else (q, alpha)

    def one(tail: float) -> Side:
        return Side(tail, extreme_rank(n, tail, share), share)

    lower = one(noise.tails(1 - level, rho, replicas).lower) if side in ("lower", "two-sided") else None
    upper = one(noise.tails(level, rho, replicas).upper) if side in ("upper", "two-sided") else None
    return lower, upper


def event_interval(
    successes: int, n: int, noise: Noise, *, rho: float, replicas: int, alpha: float, two_sided: bool
) -> tuple[float, float]:
    """(lower, upper) limits of P[event] at every ‖δ‖_Σ ≤ ρ: Clopper–Pearson at y, shifted by √K ρ (T5).

    Args:
        successes, n: how often the event was seen.
        rho, replicas: radius, and copies K behind one draw.
        alpha: failure probability; shared by the two sides if `two_sided`, else all of it goes to the upper one.
    """
    share = alpha / 2 if two_sided else alpha
    high = clopper_pearson(successes, n, share, "upper")
    upper = 1.0 if high >= 1 else 1.0 - noise.tails(high, rho, replicas).upper
    if not two_sided:
        return 0.0, upper
    low = clopper_pearson(successes, n, share, "lower")
    return (0.0 if low <= 0 else noise.tails(low, rho, replicas).lower), upper
