"""Plan: how many draws a statement needs, before any is made (T3, T5).

>>> plan(rho=2.0, outputs=59_136, alpha=1e-3).n
808
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from certify import _validate
from certify._records import Shown
from certify._text import failure, shown
from certify.confidence import extreme_rank, smallest_draws
from certify.noise import GaussianNoise, Noise

__all__ = ["Plan", "plan"]

_MOST_DRAWS = 1e15


@dataclass(frozen=True)
class Plan(Shown):
    """How many draws a statement needs, or how far a number of draws reaches.

    Attributes:
        n: draws: the smallest that give a finite joint bound at `rho`.
        rho: radius: the largest that `n` draws can speak about (when `n` was given), else the given one.
        outputs: outputs that must hold at once.
        alpha: failure probability of the joint statement.
        p: percentile.
        replicas: noisy copies K of the input that one statistic sees.
        target: for an event, the probability that is to be certified when the event is never seen; else None.
    """

    n: int
    rho: float
    outputs: int
    alpha: float
    p: float
    replicas: int
    target: float | None

    def __str__(self) -> str:
        joint = "" if self.outputs == 1 else f" jointly over {self.outputs:,} outputs"
        copies = "" if self.replicas == 1 else f", K = {self.replicas} replicas"
        if self.target is not None:
            return (
                f"n = {self.n:,} draws in which the event never happens certify a probability of at most "
                f"{shown(self.target, 'exact')} at ρ = {shown(self.rho, 'down')}{copies}, α = {failure(self.alpha)}"
            )
        return (
            f"n = {self.n:,} draws give a finite bound{joint} up to ρ = {shown(self.rho, 'down')} "
            f"at percentile p = {shown(self.p, 'exact')}{copies}, α = {failure(self.alpha)}"
        )


@_validate.suggests()
def plan(
    *,
    rho: float | None = None,
    n: int | None = None,
    outputs: int = 1,
    alpha: float = 1e-3,
    p: float = 0.5,
    replicas: int = 1,
    target: float | None = None,
    population: bool = False,
    noise: Noise | None = None,
) -> Plan:
    """The smallest n with a finite joint bound at ρ, or the largest ρ that n draws can speak about (T3, T5).

    Equation
        n ≥ max{ ln α'/ln p⁺, ln α'/ln(1 − p⁻) },  α' = α/(2m) (α/(4m) with the population median as reference);
        for an event that is never seen: Φ(Φ⁻¹(1 − α^{1/n}) + √K ρ) ≤ target.
        With another noise p^±, and what takes 1 − α^{1/n} to the target, are those of its `tails`.

    Args:
        rho: radius in units of ‖·‖_Σ (of `noise.norm`). Exactly one of `rho` and `n`.
        n: draws.
        outputs: number m of outputs that must hold at once (77 · 768 = 59 136 for Stable Diffusion v1.4's encoding).
        alpha: failure probability of the joint statement.
        p: percentile; .5 is the median.
        replicas: noisy copies K seen by one statistic; 1 for a statement about the smoothed function itself.
        target: plan for an event instead: the probability to certify if it is never seen.
        population: the reference is the population median itself, bracketed from the same draws.
        noise: another noise than Gaussian.

    Returns:
        A `Plan`.

    Raises:
        ValueError: neither or an impossible `rho`/`n`, or an argument out of range.

    >>> plan(rho=2.0, outputs=59_136, alpha=1e-3).n
    808
    >>> round(plan(n=10_000, outputs=59_136, alpha=1e-3).rho, 2)
    2.9
    """
    alpha, p = _validate.failure("alpha", alpha), _validate.probability("p", p)
    outputs, replicas = _validate.count("outputs", outputs), _validate.count("replicas", replicas)
    if (rho is None) == (n is None):
        raise ValueError(
            f"rho = {rho!r}, n = {n!r}: give exactly one of the two, the other is what the plan solves for"
        )
    rho = None if rho is None else _validate.positive("rho", rho)
    n = None if n is None else _validate.count("n", n)
    noise = noise or GaussianNoise(1.0)
    if target is not None:
        return _plan_event(rho, n, alpha, replicas, _validate.probability("target", target), noise)
    share = alpha / ((4 if population else 2) * outputs)

    if rho is not None:
        tail = min(noise.tails(p, rho, replicas))
        if tail * _MOST_DRAWS < -math.log(share):
            raise ValueError(f"rho = {rho!r}: so large that a finite bound needs more than {_MOST_DRAWS:.0e} draws")
        return Plan(smallest_draws(tail, share), rho, outputs, alpha, p, replicas, None)
    draws = n or 0

    def reaches(radius: float) -> bool:
        return extreme_rank(draws, min(noise.tails(p, radius, replicas)), share) > 0

    if not reaches(0.0):
        tail = min(noise.tails(p, 0.0, replicas))
        if tail * _MOST_DRAWS < -math.log(share):
            raise ValueError(f"p = {p!r}: so near its end that a finite bound needs more than {_MOST_DRAWS:.0e} draws")
        least = smallest_draws(tail, share)
        raise ValueError(f"n = {draws}: too few draws for any radius; at least {least} are needed at this α and m")
    return Plan(draws, _furthest(reaches), outputs, alpha, p, replicas, None)


def _furthest(reaches: Callable[[float], bool]) -> float:
    """The largest radius, rounded down, that is reached, if 0 is."""
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    return low


def _plan_event(rho: float | None, n: int | None, alpha: float, replicas: int, target: float, noise: Noise) -> Plan:
    # p̄ = 1 − α^{1/n} after n draws without the event may be as large as what the shift takes to the target.
    if rho is not None:
        p_bar = noise.tails(target, rho, replicas).lower
        if p_bar * _MOST_DRAWS < -math.log(alpha):
            raise ValueError(
                f"rho = {rho!r}: so large that target = {target!r} needs more than {_MOST_DRAWS:.0e} draws"
            )
        return Plan(math.ceil(math.log(alpha) / math.log1p(-p_bar)), rho, 1, alpha, target, replicas, target)
    p_bar = -math.expm1(math.log(alpha) / (n or 1))
    reach = _furthest(lambda radius: noise.tails(target, radius, replicas).lower >= p_bar)
    if reach <= 0:
        raise ValueError(f"n = {n}: too few draws to certify target = {target!r} at any radius")
    return Plan(n or 1, reach, 1, alpha, target, replicas, target)
