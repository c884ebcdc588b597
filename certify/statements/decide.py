"""Stopping early, soundly: draw until a question is decided, and no longer (T3, sequential).

A fixed-n bound may be read once. Reading it after every batch and stopping when it pleases is wrong: somewhere on the way
chance makes it pass. Two ways to look as often as one likes:

*One event.* Is P[event] at most p₀? With s successes and f failures so far, and θ = u p₀,

    M = ∫₀¹ u^s ((1 − u p₀)/(1 − p₀))^f  ½ u^{−1/2} du

is a mixture of likelihood ratios against p₀. If P[event] ≥ p₀ it is a nonnegative supermartingale that starts at 1, so by
Ville's inequality it *ever* reaches 1/α with probability at most α. Hence "yes" may be said the first time it does. Its
counterpart, θ = v p₀ with weight ½ v^{−3/2} on v > 1, says "no". Each has half of α: a decision and the limits that are
reported with it hold together. (Only one of the two decisions can be wrong; the limits can fail on either side.)

*Many order statistics.* A coordinate-wise bound is taken at few draw counts, fixed beforehand and doubling, each with its
share of half of α; the other half is for "no".

In full: docs/theory/t03-sequential.md.

Reference: THEORY T3, T5, T4, T2; Ville (1939); Robbins (1970); Howard, Ramdas, McAuliffe and Sekhon (2021).

>>> from certify.noise import GaussianNoise
>>> d = decide_event(lambda z: z.mean(dim=(1, 2)) > 3, torch.zeros(4), GaussianNoise(1.0), target=0.1, rho=0.2, replicas=5)
>>> d.decided, d.n < 500, d.maximum
('yes', True, 10000)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.special import betainc, betaincc, betaln
from scipy.stats import binom
from torch import Tensor

from certify import _validate
from certify._floats import grown, length
from certify._records import Shown
from certify._text import confidence, shown
from certify.bounds.base import Evidence, Run, Setting, default_pilot, recorded
from certify.bounds.copies import EventBound, EventEvidence, LimitEvidence, StatisticBound
from certify.bounds.dimension_free import LayersEvidence
from certify.bounds.mse import CoordinatewiseMSE, MSEBound
from certify.bounds.percentile import draws_needed, enough
from certify.confidence import last_that_holds, quantile_guess
from certify.montecarlo import Counts, ExtremeRanks, Function, Progress, draw, draw_all, median, row_distances
from certify.montecarlo.processes import Processes
from certify.noise import Noise, as_noise
from certify.progress import as_progress
from certify.statements.replicas import Asked
from certify.support import Inside, Support, as_support

__all__ = [
    "Decision",
    "anytime_limit",
    "decide_event",
    "decide_mse",
    "decide_statistic",
    "log_evidence_above",
    "log_evidence_below",
    "looks",
]

# p₀ is known to 1e-12 from above only (`Noise.tails` rounds down); where a larger p₀ is the safe one it grows by this.
_UP = 1 + 1e-11


@dataclass(frozen=True)
class Decision(Shown):
    """What the `decide_…` functions return.

    Attributes:
        decided: "yes": what was asked for is certified; "no": it cannot be, by this route, with any number of draws (not: it is
            false, or there is an attack); "undecided" at the maximum.
        value: the bound when drawing ended, and valid then: of P[event]; of P[S beyond the threshold]; of the squared
            distance (+∞ if there is none, and for "dimension-free" unless decided "yes").
        limit: what it was to keep: `value` ≤ `limit` is "yes".
        rho, alpha, replicas: as asked; replicas is 1 for a squared distance. With probability 1 − α all that is said here
            holds at once: the decision, `value`, `lower` and `upper`, wherever drawing ended.
        n: draws after which it was decided (all, if undecided). Does not depend on the batch size.
        drawn: draws that were made: n, and the rest of its batch.
        maximum: the most that would have been made.
        successes: how often the event was seen in n draws; None for "coordinatewise".
        allowed: p₀, the largest probability at y with which "yes" is possible; None for "coordinatewise".
        lower, upper: limits of the event's probability at y.
        reason: why it is not "yes", in words.
        evidence: for "yes", what a certificate keeps.
        quantity: "event", "statistic" or "mse", as in a certificate's claims.
        center: c of a squared distance.
        q, side: of a statistic, as asked.
    """

    decided: str
    value: float
    limit: float
    rho: float
    alpha: float
    replicas: int
    n: int
    drawn: int
    maximum: int
    successes: int | None
    allowed: float | None
    lower: float | None
    upper: float | None
    quantity: str
    theorem: str
    method: str
    reason: str
    evidence: Evidence | None = field(repr=False)
    run: Run = field(repr=False)
    center: Tensor | None = field(default=None, repr=False)
    q: float | None = None
    side: str = "upper"

    scope = "stopped early"

    @property
    def unit(self) -> str:
        """Of the claim."""
        return {"event": EventBound.unit, "statistic": StatisticBound.unit, "mse": MSEBound.unit}[self.quantity]

    @property
    def smoother(self) -> str:
        """ "median" for a squared distance, else "none": the deployed smoother."""
        return "median" if self.quantity == "mse" else "none"

    @property
    def reference(self) -> str:
        """ "center" for a squared distance, else "none"."""
        return "center" if self.quantity == "mse" else "none"

    @property
    def claimed(self) -> float:
        """What a certificate states: the bound of a probability or of a squared distance; of a statistic its threshold."""
        if isinstance(self.evidence, LimitEvidence):
            return self.evidence.lower if self.side == "lower" else self.evidence.upper
        if self.status == "certified":
            return self.value
        return {"event": 1.0, "mse": math.inf}.get(self.quantity, -math.inf if self.side == "lower" else math.inf)

    @property
    def saved(self) -> int:
        """Draws that were not needed."""
        return self.maximum - self.drawn

    @property
    def status(self) -> str:
        """ "certified" for "yes", else "abstained"."""
        return "certified" if self.decided == "yes" else "abstained"


def log_evidence_below(successes: Any, n: Any, p0: float) -> Any:
    """ln M against "P[event] ≥ p₀", for n draws with so many successes: large where the probability is below p₀.

    Increases in p₀ and decreases in the successes. Arrays of counts give an array.
    """
    s, f = np.asarray(successes, dtype=float), np.subtract(n, successes, dtype=float)
    with np.errstate(divide="ignore"):  # far above p₀ the integral underflows: no evidence
        kernel = betaln(s + 0.5, f + 1) + np.log(betainc(s + 0.5, f + 1, p0))
    return math.log(0.5) + kernel - (s + 0.5) * math.log(p0) - f * math.log1p(-p0)


def log_evidence_above(successes: Any, n: Any, p0: float) -> Any:
    """ln M against "P[event] ≤ p₀": large where the probability is above p₀. Without a success −∞ (in truth M ≤ 1).

    Decreases in p₀ and increases in the successes.
    """
    s, f = np.asarray(successes, dtype=float), np.subtract(n, successes, dtype=float)
    a = np.maximum(s, 1) - 0.5
    with np.errstate(divide="ignore"):
        kernel = betaln(a, f + 1) + np.log(betaincc(a, f + 1, p0))
    found = math.log(0.5) + kernel - (s - 0.5) * math.log(p0) - f * math.log1p(-p0)
    return np.where(s > 0, found, -np.inf)


def anytime_limit(successes: int, n: int, alpha: float, side: str = "upper") -> float:
    """A confidence limit of a probability that holds at all numbers of draws at once, rounded to the safe side.

    Equation
        P[ there is an n with p > limit(successes of n, n) ] ≤ α  (upper), whatever p is; the lower one likewise.

    Reference
        THEORY T3 (docs/theory/t03-sequential.md); Robbins (1970).

    Args:
        successes: how often the event was seen, 0 … n.
        n: independent draws, ≥ 1.
        alpha: failure probability of this one limit over all n.
        side: "upper" or "lower".

    >>> round(anytime_limit(0, 1000, 1e-3), 5)  # Clopper–Pearson, to be read once: 0.00688
    0.00804
    """
    n, successes = _validate.count("n", n), _validate.count("successes", successes, minimum=0)
    if successes > n:
        raise ValueError(f"successes = {successes}: must be at most n = {n}")
    alpha, side = _validate.probability("alpha", alpha), _validate.choice("side", side, ("upper", "lower"))
    if side == "upper":
        enough_at = _crossing(log_evidence_below, successes, n, alpha)
        return 1.0 if successes == n else _bisected(enough_at, holds=1.0, fails=successes / n)
    enough_at = _crossing(log_evidence_above, successes, n, alpha)
    return 0.0 if successes == 0 else _bisected(enough_at, holds=0.0, fails=successes / n)


def stopped_event(successes: int, n: int, noise: Noise, *, rho: float, replicas: int, alpha: float) -> float:
    """The bound of P[event] within ‖δ‖_Σ ≤ ρ from a count that may have been stopped at any time (T5, T3)."""
    upper = anytime_limit(successes, n, alpha)
    return 1.0 if upper >= 1 else 1.0 - noise.tails(upper, rho, replicas).upper


def looks(first: int, maximum: int, alpha: float) -> list[tuple[int, float]]:
    """When to look, and with what α: at `first`, doubled until `maximum`, and there; equal shares that add up to α.

    A look beyond two thirds of the maximum is left to the maximum.
    """
    counts = []
    while 3 * first <= 2 * maximum:
        counts.append(first)
        first *= 2
    counts.append(maximum)
    return [(count, alpha / len(counts)) for count in counts]


@_validate.suggests()
def decide_event(
    event: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    target: float,
    rho: float,
    replicas: int = 13,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    batch_size: int | None = None,
    policy: str = "frozen",
    function: str = "event happens",
    progress: Progress | bool | None = None,
) -> Decision:
    """Can it be certified that an event has at most the probability `target`, whatever is done to the input? (T5, T3)

    Equation
        for all ‖δ‖_Σ ≤ ρ:  P[event at y + δ] ≤ target   if   P[event at y] ≤ p₀ = Φ(Φ⁻¹(target) − √K ρ).

    Reference
        THEORY T5, T3 (docs/theory/t03-sequential.md).

    Args:
        event: batch (b, K, *input) → (b,) of 0/1 or booleans, as in `event_bound`.
        y, noise: as in `event_bound`.
        target: the probability to certify.
        rho: radius > 0 in units of ‖·‖_Σ.
        replicas: K, noisy copies that one event sees.
        n: the most draws.
        alpha: probability that anything in the answer is wrong, a "yes", a "no" or a limit, however often is looked.
        seed, batch_size, policy, function, progress: as in `event_bound`. Drawing ends with a batch: smaller ones save more.

    Returns:
        `Decision`; `value` is the bound of P[event].

    Raises:
        ValueError, TypeError: as `event_bound`.
        RuntimeError: several processes draw; stopping early needs one.
    """
    target = _validate.probability("target", target)
    asked = Asked(event, y, noise, rho, replicas, n, alpha, seed, "event", policy, function)
    allowed = asked.noise.tails(target, asked.rho, asked.replicas).lower
    seen = _Watched(allowed, asked.alpha / 2)
    drawn = _drawn(asked, seen, batch_size, as_progress(progress))
    return _of_counts(
        asked,
        seen,
        drawn,
        quantity="event",
        limit=target,
        what=("the event", f"a probability of at most {shown(target, 'exact')}"),
        evidence=lambda value: EventEvidence(0.0, value, asked.replicas, int(seen.ones)),
    )


@_validate.suggests()
def decide_statistic(
    statistic: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    threshold: float,
    rho: float,
    q: float = 0.95,
    side: str = "upper",
    replicas: int = 13,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    batch_size: int | None = None,
    policy: str = "frozen",
    function: str = "statistic",
    progress: Progress | bool | None = None,
) -> Decision:
    """Can it be certified that a statistic keeps to a threshold with probability q, whatever is done? (T5, T3)

    Equation
        for all ‖δ‖_Σ ≤ ρ:  P[S ≤ threshold at y + δ] ≥ q   if   P[S > threshold at y] ≤ p₀ = Φ(Φ⁻¹(1 − q) − √K ρ).

    Reference
        THEORY T5, T3 (docs/theory/t03-sequential.md).

    Args:
        statistic: S, batch (b, K, *input) → (b,), as in `statistic_bound`.
        y, noise: as in `statistic_bound`.
        threshold: fixed before the draws, in the unit of S.
        rho: radius > 0 in units of ‖·‖_Σ.
        q: probability over the deployment noise.
        side: "upper" (S ≤ threshold) or "lower" (S ≥ threshold).
        replicas, n, alpha, seed, batch_size, policy, function, progress: as in `decide_event`.

    Returns:
        `Decision`; `value` bounds the probability that S is beyond the threshold, `limit` is 1 − q.

    Raises:
        ValueError, TypeError, RuntimeError: as `decide_event`.
    """
    side, q = _validate.choice("side", side, ("upper", "lower")), _validate.probability("q", q)
    threshold = _validate.finite("threshold", threshold)
    asked = Asked(statistic, y, noise, rho, replicas, n, alpha, seed, "statistic", policy, function)
    if side == "upper":
        allowed = asked.noise.tails(q, asked.rho, asked.replicas).upper
    else:
        allowed = asked.noise.tails(1 - q, asked.rho, asked.replicas).lower
    beyond = (lambda s: s > threshold) if side == "upper" else (lambda s: s < threshold)
    seen = _Watched(allowed, asked.alpha / 2, beyond)
    drawn = _drawn(asked, seen, batch_size, as_progress(progress))
    ends = (-math.inf, threshold) if side == "upper" else (threshold, math.inf)
    return _of_counts(
        asked,
        seen,
        drawn,
        quantity="statistic",
        limit=1 - q,
        what=("a statistic beyond the threshold", f"q = {shown(q, 'exact')}"),
        evidence=lambda _: LimitEvidence(*ends, q, side, asked.replicas),
        q=q,
        side=side,
    )


def _of_counts(
    asked: Asked,
    seen: _Watched,
    drawn: int,
    *,
    quantity: str,
    limit: float,
    what: tuple[str, str],
    evidence: Callable[[float], Evidence],
    **of_statistic: Any,
) -> Decision:
    """The decision about a probability at the deployed smoother, from how often something was seen (T5).

    Args:
        asked, seen, drawn: the question, the count, the draws that were made.
        quantity, limit, of_statistic: fields of `Decision`.
        what: was counted, and is wanted, in words.
        evidence: bound → what a certificate keeps, for "yes".
    """
    yes, ones = seen.decided == "yes", int(seen.ones)
    lower, upper = seen.limits()
    value = stopped_event(ones, seen.count, asked.noise, rho=asked.rho, replicas=asked.replicas, alpha=asked.alpha / 2)
    value = min(value, limit) if yes else value
    return Decision(
        decided=seen.decided,
        value=value,
        limit=limit,
        rho=asked.rho,
        alpha=asked.alpha,
        replicas=asked.replicas,
        n=seen.count,
        drawn=drawn,
        maximum=asked.n,
        successes=ones,
        allowed=seen.allowed,
        lower=lower,
        upper=upper,
        quantity=quantity,
        theorem="T5",
        method="replicas",
        reason=asked.run.remark if yes else _why(seen, asked.alpha, *what),
        evidence=evidence(value) if yes else None,
        run=replace(asked.run, n=drawn),
        **of_statistic,
    )


@_validate.suggests()
def decide_mse(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    tolerance: float,
    rho: float,
    method: str = "coordinatewise",
    level: float | None = None,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    center: Tensor | None = None,
    support: Any = None,
    pilot: int | None = None,
    batch_size: int | None = None,
    policy: str = "frozen",
    function: str = "f",
    progress: Progress | bool | None = None,
) -> Decision:
    """Can it be certified that the median-smoothed output stays within a squared distance? (T2, T4, T3)

    Equation
        for all ‖δ‖_Σ ≤ ρ:  ‖E_½(y + δ) − c‖² ≤ tolerance.
        "coordinatewise": the bound of `mse_bound` at doubling numbers of draws, half of α shared by the looks.
        "dimension-free": follows from P[‖f − c‖ > R₀ at y] ≤ 1 − Φ(Φ⁻¹(q) + ρ), R₀² = tolerance (q − ½)/q, one event.

    Reference
        THEORY T2, T4, T3 (docs/theory/t03-sequential.md).

    Args:
        f, y, noise: as in `mse_bound`.
        tolerance: squared ℓ2 distance > 0, a sum over outputs, fixed before the draws.
        rho: radius > 0 in units of ‖·‖_Σ.
        method: "coordinatewise" (T2) or "dimension-free" (T4 with one level q).
        level: q in (½, 1) for "dimension-free"; None: the one that pilot draws let decide soonest.
        n: the most draws, pilot apart.
        alpha: probability that anything in the answer is wrong.
        center, support, pilot: as in `mse_bound`; the support serves "coordinatewise" only.
        seed, batch_size, policy, function, progress: as in `decide_event`.

    Returns:
        `Decision`.

    Raises:
        ValueError, TypeError: as `mse_bound`.
        RuntimeError: several processes draw; stopping early needs one.
    """
    tolerance, rho = _validate.positive("tolerance", tolerance), _validate.positive("rho", rho)
    method = _validate.choice("method", method, ("coordinatewise", "dimension-free"))
    if level is not None and _validate.probability("level", level) <= 0.5:
        raise ValueError(f"level = {level!r}: must be in (½, 1)")
    if level is not None and method == "coordinatewise":
        raise ValueError(f"level = {level!r}: only 'dimension-free' has one")
    alpha, n, seed = _validate.failure("alpha", alpha), _validate.count("n", n), _validate.seed_value(seed)
    y = _validate.own_tensor("y", y)
    noise = as_noise(noise, y)
    f = _validate.function("f", f)
    recorded(policy, function)
    known = as_support(support)
    if center is not None:
        center = _validate.own_tensor("center", center)
    needs_pilot = center is None or (method == "dimension-free" and level is None)
    pilots = default_pilot(n) if pilot is None else _validate.count("pilot", pilot)
    pilots = pilots if needs_pilot else 0
    _alone()
    report = as_progress(progress)

    def tick(now: int, _: int) -> None:
        if report is not None:
            report(now, n + pilots)

    how: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    trial = draw_all(f, y, noise, n=pilots, stream="pilot", progress=tick, again="early", **how) if pilots else None
    if trial is not None:
        shape = tuple(trial.shape[1:])
        if center is not None and tuple(center.shape) != shape:
            raise ValueError(f"center has shape {tuple(center.shape)}: must be {shape}, the shape of f's output")
        center = median(trial) if center is None else center
    if center is None:
        raise ValueError("center = None: must be given where there are no pilot draws")
    shape = tuple(center.shape)
    if known is not None:
        inside = Inside(known, shape)
        if trial is not None:
            inside.update(trial)
    run = Run.of(y, noise, n=n, seed=seed, pilot=pilots, policy=policy, support=known, function=function)
    question = _Distance(tolerance, rho, alpha, n, run, center, trial)

    def make(seen: _Watched | _Looks) -> int:
        return _counted(
            f,
            y,
            noise,
            n=n,
            seen=seen,
            shape=shape,
            support=known,
            progress=lambda now, _: tick(pilots + now, n),
            **how,
        )

    if method == "coordinatewise":
        return question.coordinatewise(make)
    return question.dimension_free(make, level)


@dataclass(frozen=True, eq=False)
class _Distance:
    """The question of `decide_mse`, its arguments checked and its pilot drawn."""

    tolerance: float
    rho: float
    alpha: float
    n: int
    run: Run
    center: Tensor
    pilot: Tensor | None

    def coordinatewise(self, make: Callable[[_Looks], int]) -> Decision:
        """T2 at doubling numbers of draws."""
        noise = self.run.noise
        setting = Setting(noise, self.n, tuple(self.center.shape), self.center, "center", self.run.support)
        seen = _Looks(setting, self.tolerance, self.rho, self.alpha / 2)
        drawn = make(seen)
        needed = draws_needed(noise.tails(0.5, self.rho), self.alpha / (4 * setting.outputs))
        if seen.decided == "no":
            reason = (
                f"with confidence {confidence(self.alpha)} the coordinate-wise bound exceeds "
                f"{shown(self.tolerance, 'exact')} at ρ = {shown(self.rho, 'exact')}, whatever the number of draws"
            )
        elif math.isfinite(seen.value):
            limit = shown(self.tolerance, "exact")
            reason = f"from n = {self.n} draws the bound is {shown(seen.value, 'up')} > tolerance {limit}"
        else:
            reason = f"n = {self.n} draws give no finite bound at ρ = {shown(self.rho, 'exact')}: {enough(needed)}"
        return self._decision(
            "coordinatewise", "T2", seen, drawn, seen.value, "" if seen.decided == "yes" else reason, seen.evidence
        )

    def dimension_free(self, make: Callable[[_Watched], int], level: float | None) -> Decision:
        """T4 with one level: the event that f is further than R₀ from c."""
        noise, center = self.run.noise, self.center
        q = self._level() if level is None else level
        # A sum of m squares is good to m/2 ulp, far below this.
        reach = math.sqrt(self.tolerance) * math.sqrt((q - 0.5) / q) * (1 - 1e-10)

        def leaves(outputs: Tensor) -> Tensor:
            return grown(length(row_distances(outputs, center), dim=1), 1e-10) > reach

        seen = _Watched(noise.tails(q, self.rho).upper, self.alpha / 2, leaves)
        drawn = make(seen)
        yes = seen.decided == "yes"
        reason = _why(
            seen,
            self.alpha,
            f"a distance beyond {shown(reach, 'down')}",
            f"squared distance {shown(self.tolerance, 'exact')} (T4, level {shown(q, 'down', 4)})",
        )
        evidence = LayersEvidence(
            center,
            torch.tensor([q], dtype=torch.float64),
            torch.tensor([[reach]], dtype=torch.float64),
            False,
            center,
        )
        value = self.tolerance if yes else math.inf
        return self._decision("dimension-free", "T4", seen, drawn, value, reason, evidence if yes else None)

    def _level(self) -> float:
        """The level whose event pilot draws let decide soonest: the largest KL(P[beyond R₀] ‖ p₀), if it is below p₀."""
        if self.pilot is None:
            raise ValueError("level = None: must be given where there are no pilot draws")
        away = length(row_distances(self.pilot, self.center), dim=1)
        best, chosen = -math.inf, 0.75
        for q in torch.linspace(0.51, 0.99, 97, dtype=torch.float64).tolist():
            often = float((away > math.sqrt(self.tolerance) * math.sqrt((q - 0.5) / q)).sum() + 0.5) / (len(away) + 1)
            p0 = max(self.run.noise.tails(q, self.rho).upper, 1e-300)
            speed = often * math.log(often / p0) + (1 - often) * (math.log1p(-often) - math.log1p(-p0))
            speed = speed if often < p0 else -speed
            if speed > best:
                best, chosen = speed, q
        return chosen

    def _decision(
        self,
        method: str,
        theorem: str,
        seen: _Watched | _Looks,
        drawn: int,
        value: float,
        reason: str,
        evidence: Evidence | None,
    ) -> Decision:
        lower, upper = seen.limits() if isinstance(seen, _Watched) else (None, None)
        return Decision(
            decided=seen.decided,
            value=value,
            limit=self.tolerance,
            rho=self.rho,
            alpha=self.alpha,
            replicas=1,
            n=seen.count,
            drawn=drawn,
            maximum=self.n,
            successes=int(seen.ones) if isinstance(seen, _Watched) else None,
            allowed=seen.allowed if isinstance(seen, _Watched) else None,
            lower=lower,
            upper=upper,
            quantity="mse",
            theorem=theorem,
            method=method,
            reason=reason or self.run.remark,
            evidence=evidence if seen.decided == "yes" else None,
            run=replace(self.run, n=drawn),
            center=self.center,
        )


class _Watched(Counts):
    """Counts an event, draw by draw, until it is decided whether its probability is at most `allowed`.

    Args:
        allowed: p₀, rounded down.
        alpha: failure probability of "yes" and the upper limit, and again of "no" and the lower one.
        happens: outputs (b, *output) → (b,) booleans; None: the outputs are 0 or 1 themselves.
    """

    def __init__(self, allowed: float, alpha: float, happens: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.allowed, self.alpha, self.happens = allowed, alpha, happens
        self.decided = "undecided"

    def widened(self, other: Counts) -> _Watched:
        return _Watched(self.allowed, self.alpha, self.happens)

    def update(self, outputs: Tensor) -> None:
        if self.decided != "undecided":
            return
        if self.happens is not None:
            outputs = self.happens(outputs).to(outputs.dtype)
        n = self.count + np.arange(1, outputs.shape[0] + 1)
        before = int(self.ones)
        super().update(outputs)  # checks that they are 0 or 1
        successes = before + outputs.to("cpu", torch.int64).cumsum(dim=0).numpy()
        yes, no = np.zeros(len(n), dtype=bool), np.zeros(len(n), dtype=bool)
        if self.allowed > 0:
            yes = log_evidence_below(successes, n, self.allowed) >= _enough(n, self.alpha)
        least = max(self.allowed * _UP, 1e-300)
        if least < 1:
            no = log_evidence_above(successes, n, least) >= _enough(n, self.alpha)
        found = np.flatnonzero(yes | no)
        if len(found):
            first = int(found[0])
            self.decided = "yes" if yes[first] else "no"
            self.count, self.ones = int(n[first]), int(successes[first])

    def limits(self) -> tuple[float, float]:
        """Limits of the probability, each valid with probability 1 − α wherever drawing ended, together with its decision."""
        ones = int(self.ones)
        return anytime_limit(ones, self.count, self.alpha, "lower"), anytime_limit(ones, self.count, self.alpha)


class _Looks(ExtremeRanks):
    """Takes the coordinate-wise bound at the numbers of draws that `looks` names, and stops at the first that decides.

    "Yes" by the bound itself. "No" by its mirror image: order statistics on the *inner* side of the percentiles at p^±, at
    which already the population's own bound Σ_i max{(U_i − c_i)², (c_i − L_i)²} exceeds the tolerance.
    """

    def __init__(self, setting: Setting, tolerance: float, rho: float, alpha: float) -> None:
        self.setting, self.tolerance, self.rho, self.alpha = setting, tolerance, rho, alpha
        self.value, self.decided = math.inf, "undecided"
        self.evidence: Evidence | None = None
        self.tails = setting.noise.tails(0.5, rho)
        first = draws_needed(self.tails, alpha / (2 * setting.outputs)) or setting.n
        # More looks leave less for each, and so take more draws before the first is worth it.
        first = draws_needed(self.tails, looks(first, setting.n, alpha)[0][1] / (2 * setting.outputs)) or setting.n
        self.plan = [
            (count, share, CoordinatewiseMSE(replace(setting, n=count), share, rho))
            for count, share in looks(min(first, setting.n), setting.n, alpha)
        ]
        self.inner = [
            tuple(_inner_rank(count, tail, share / (2 * setting.outputs)) for tail in self.tails)
            for count, share, _ in self.plan
        ]
        ranks = [need for _, _, method in self.plan for need in method.needs(rho) if isinstance(need, ExtremeRanks)]
        super().__init__(
            max([need.low for need in ranks] + [low for low, _ in self.inner]),
            max([need.high for need in ranks] + [high for _, high in self.inner]),
        )
        self._next = 0

    def widened(self, other: ExtremeRanks) -> _Looks:
        return _Looks(self.setting, self.tolerance, self.rho, self.alpha)

    def update(self, outputs: Tensor) -> None:
        rest = outputs
        while rest.shape[0] and self.decided == "undecided" and self._next < len(self.plan):
            count, _, method = self.plan[self._next]
            room = count - self.count
            super().update(rest[:room])
            rest = rest[room:]
            if self.count == count:
                self._look(method, *self.inner[self._next])
                self._next += 1

    def _look(self, method: CoordinatewiseMSE, low: int, high: int) -> None:
        evaluation = method.at(self.rho, {self.key: self})
        self.value, self.evidence = evaluation.value, evaluation.evidence
        if self.value <= self.tolerance:
            self.decided = "yes"
        elif self._at_least(low, high) > self.tolerance:
            self.decided = "no"

    def _at_least(self, low: int, high: int) -> float:
        """What the population's bound is at least; ranks from either end, 0: none."""
        center = self.setting.center.to("cpu", torch.float64)
        zeta = torch.zeros_like(center)
        if high:
            zeta = torch.maximum(zeta, (self.largest(high).to("cpu", torch.float64) - center).clamp(min=0).square())
        if low:
            zeta = torch.maximum(zeta, (center - self.smallest(low).to("cpu", torch.float64)).clamp(min=0).square())
        least = float(zeta.sum()) * (1 - 4e-16 * max(zeta.numel(), 1))
        support = self.setting.support
        return least if support is None else min(least, support.median_cap(self.setting.center))


def _inner_rank(n: int, tail: float, alpha: float) -> int:
    """The smallest t with P[Bin(n, tail) ≥ t] ≤ α: the t-th draw from the end lies inside the percentile (T3); 0: none."""
    tail = min(1.0, tail * _UP)
    limit = alpha * (1 - 1e-10 - 2e-16 * n)
    guess = n - quantile_guess(n, 1 - tail, limit)
    t = last_that_holds(lambda t: t == 0 or binom.sf(t - 1, n, tail) > limit, n, guess) + 1
    return t if t <= n else 0


def _enough(n: Any, alpha: float) -> Any:
    """What ln M must reach: ln 1/α, and the rounding of a sum of terms of the size n ln n."""
    return -math.log(alpha) + 1e-9 + 1e-14 * np.asarray(n, dtype=float)


def _crossing(evidence: Callable[[Any, Any, float], Any], s: int, n: int, alpha: float) -> Callable[[float], bool]:
    return lambda p0: bool(evidence(s, n, p0) >= _enough(n, alpha))


def _bisected(enough_at: Callable[[float], bool], *, holds: float, fails: float) -> float:
    """The end of the stretch from `holds` on which there is evidence enough; a number at which there is, or `holds`."""
    for _ in range(2000):
        middle = (holds + fails) / 2
        if not min(holds, fails) < middle < max(holds, fails) or abs(holds - fails) <= 1e-13 * middle:
            break
        holds, fails = (middle, fails) if enough_at(middle) else (holds, middle)
    return holds


def _drawn(asked: Asked, seen: _Watched, batch_size: int | None, progress: Progress | None) -> int:
    """Draws the statistic until it is decided; how many draws were made."""
    _alone()
    copies = asked.y.expand(asked.replicas, *asked.y.shape)
    return _counted(
        asked.statistic,
        copies,
        asked.noise,
        n=asked.n,
        seed=asked.seed,
        seen=seen,
        batch_size=batch_size,
        shape=(),
        progress=progress,
        called=asked.name,
    )


def _counted(
    f: Function,
    y: Tensor,
    noise: Noise,
    *,
    n: int,
    seed: int,
    seen: _Watched | _Looks,
    batch_size: int | None,
    shape: tuple[int, ...],
    progress: Progress | None,
    support: Support | None = None,
    called: str = "f",
) -> int:
    made = 0

    def until(done: int) -> bool:
        nonlocal made
        made = done
        return seen.decided != "undecided"

    draw(
        f,
        y,
        noise,
        n=n,
        seed=seed,
        stream="bounding",
        accumulators=[seen, *([] if support is None else [Inside(support, shape)])],
        batch_size=batch_size,
        output_shape=shape,
        progress=progress,
        until=until,
        called=called,
    )
    return made


def _alone() -> None:
    """Several processes would each come to a decision of their own from draws of their own."""
    count = Processes.current().count
    if count > 1:
        raise RuntimeError(f"{count} processes draw: stopping early needs a single one")


def _why(seen: _Watched, alpha: float, what: str, wanted: str) -> str:
    if seen.decided == "yes":
        return ""
    ones = int(seen.ones)
    if seen.decided == "no":
        return (
            f"{what}, seen in {ones} of the first {seen.count} draws, has with confidence {confidence(alpha)} a probability "
            f"above {shown(seen.allowed, 'down', 4)} at the input itself, the most with which {wanted} can be certified by "
            "any number of draws"
        )
    return (
        f"{what}, seen in {ones} of {seen.count} draws: that its probability is at most {shown(seen.allowed, 'up', 4)} is "
        "neither shown nor excluded"
    )
