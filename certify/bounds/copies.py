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

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from certify import _validate
from certify._text import shown
from certify.bounds.base import Evidence
from certify.bounds.percentile import beyond, draws_needed
from certify.bounds.statement import Result, constant
from certify.confidence import clopper_pearson, extreme_rank
from certify.montecarlo import Accumulator, Counts, Exceedances
from certify.noise import Noise, Tails

__all__ = [
    "Counted",
    "EventBound",
    "EventEvidence",
    "LimitEvidence",
    "OfCopies",
    "StatisticBound",
    "event_interval",
    "statistic_limits",
]


@dataclass(frozen=True, kw_only=True)
class OfCopies(Result):
    """A statement about what is made of K noisy copies.

    Attributes:
        value: at most this, or at least, as `side` says.
        side: "upper", "lower", or "two-sided": between `lower` and `value`.
        lower: the lower end of a two-sided statement; otherwise what is trivially true.
        replicas: K.
    """

    value: float
    lower: float
    side: str
    replicas: int

    theorem: str = constant("T5")
    method: str = constant("replicas")

    def stated(self) -> dict[str, Any]:
        lower = self.lower if self.side == "two-sided" else None
        return {**super().stated(), **self.named("value", "side", "replicas", "method"), "lower": lower}


@dataclass(frozen=True, kw_only=True)
class StatisticBound(OfCopies):
    """What `certify.statistic_bound` returns.

    With probability ≥ `q` over the deployment noise S ≤ `value` (side "upper"), S ≥ `value` ("lower") or `lower` ≤ S ≤ `value`
    ("two-sided"), for every ‖δ‖_Σ ≤ `rho`, with confidence 1 − α. In an abstention the value is ±∞.
    """

    q: float

    quantity: str = constant("statistic")
    unit: str = constant("the unit of the statistic")

    def stated(self) -> dict[str, Any]:
        return {**super().stated(), "q": self.q}


class Counted:
    """The probability of an event, bounded at every radius: all rest on the same limits at y, and hold at once.

    One that was counted has `successes`, `n`, `replicas`, `alpha`, `two_sided` and `noise`, as `event_interval` takes them.
    """

    @functools.cached_property
    def _limits(self) -> tuple[float, float]:
        of: Any = self
        return count_limits(of.successes, of.n, of.alpha, two_sided=of.two_sided)

    def interval(self, rho: float) -> tuple[float, float]:
        """(lower, upper) limits of the probability at every ‖δ‖_Σ ≤ `rho`, `rho` ≥ 0."""
        return self._shifted(_validate.not_negative("rho", rho))

    def _shifted(self, rho: float) -> tuple[float, float]:
        of: Any = self
        return shifted_limits(self._limits, of.noise, rho, of.replicas)

    def at(self, rho: float) -> float:
        """The upper bound at a radius, with confidence 1 − α for all radii at once."""
        return self.interval(rho)[1]

    def least(self, rho: float) -> float:
        """The lower bound at a radius; 0 unless two-sided."""
        return self.interval(rho)[0]

    def radius(self, rate: float) -> float:
        """The largest radius, rounded down, up to which the probability stays within `rate`; 0 if there is none."""
        if self.at(0.0) > rate:
            return 0.0
        low, high = 0.0, 1.0
        while self._shifted(high)[1] <= rate and high < 64:
            low, high = high, 2 * high
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self._shifted(middle)[1] <= rate else (low, middle)
        return low


@dataclass(frozen=True, kw_only=True)
class EventBound(Counted, OfCopies):
    """What `certify.event_bound` returns.

    P[event] ≤ `value` at y + δ, over the deployment noise, for every ‖δ‖_Σ ≤ `rho`, with confidence 1 − α; P[event] ≥ `lower`
    likewise, which is 0 unless two-sided. Abstained where the value is 1.

    Attributes:
        successes: how often the event was seen in n draws at y.
    """

    successes: int

    quantity: str = constant("event")
    unit: str = constant("probability")

    @property
    def two_sided(self) -> bool:
        """Whether the probability is bounded from below, too."""
        return self.side == "two-sided"

    @property
    def noise(self) -> Noise:
        """The noise around y."""
        return self.run.noise


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
    scalars: ClassVar[Mapping[str, type]] = {"lower": float, "upper": float, "q": float, "side": str, "replicas": int}

    @classmethod
    def restored(
        cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor | None
    ) -> Self:
        made = cls(**cls._scalars(numbers))
        if not 0 < made.q < 1 or made.replicas < 1 or made.side not in ("upper", "lower", "two-sided"):
            raise ValueError(f"q = {made.q}, replicas = {made.replicas}, side = {made.side!r}: out of range")
        return made

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
    scalars: ClassVar[Mapping[str, type]] = {"lower": float, "upper": float, "replicas": int, "successes": int}

    @classmethod
    def restored(
        cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor | None
    ) -> Self:
        made = cls(**cls._scalars(numbers))
        if not 0 <= made.lower <= made.upper <= 1 or made.replicas < 1 or made.successes < 0:
            raise ValueError(f"{', '.join(f'{k} = {v}' for k, v in made.numbers().items())}: out of range")
        return made

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
    return shifted_limits(count_limits(successes, n, alpha, two_sided=two_sided), noise, rho, replicas)


def count_limits(successes: int, n: int, alpha: float, *, two_sided: bool) -> tuple[float, float]:
    """(lower, upper) limits of P[event] at y (Clopper–Pearson); the lower one is 0 unless `two_sided`."""
    share = alpha / 2 if two_sided else alpha
    high = clopper_pearson(successes, n, share, "upper")
    return (clopper_pearson(successes, n, share, "lower") if two_sided else 0.0), high


def shifted_limits(limits: tuple[float, float], noise: Noise, rho: float, replicas: int) -> tuple[float, float]:
    """What limits at y say of every ‖δ‖_Σ ≤ ρ, with K copies (T5)."""
    low, high = limits
    lower = noise.tails(low, rho, replicas).lower if low > 0 else 0.0
    return lower, 1.0 - noise.tails(high, rho, replicas).upper if high < 1 else 1.0
