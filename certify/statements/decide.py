"""Stopping early, soundly: draw until a question is decided, and no longer (T3, sequential).

A fixed-n bound may be read once. Reading it after every batch and stopping when it pleases is wrong: somewhere on the way
chance makes it pass. Two ways to look as often as one likes:

*One event.* Is P[event] at most p₀? Evidence against "at least p₀" ever reaches 1/α with probability at most α
(`certify.confidence.anytime`), so "yes" may be said the first time it does; its counterpart says "no". Each has half of α: a
decision and the limits that are reported with it hold together. (Only one of the two decisions can be wrong; the limits can
fail on either side.)

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
from typing import Any, Unpack, cast

import numpy as np
import torch
from torch import Tensor

from certify import _validate
from certify._floats import grown, length
from certify._text import confidence, shown
from certify.bounds.base import Evidence, Setting
from certify.bounds.bounded_mean import MeanEvidence
from certify.bounds.copies import EventBound, EventEvidence, LimitEvidence, StatisticBound
from certify.bounds.dimension_free import LayersEvidence
from certify.bounds.mean_limits import LEAST, SPLITS, TRIED, Limits, Pilot, repeats_of
from certify.bounds.mse import MSEBound
from certify.bounds.percentile import draws_needed, enough
from certify.bounds.statement import Result, constant
from certify.bounds.weights import Polynomials
from certify.confidence import stopped_event
from certify.confidence.betting import best_stake, speed
from certify.montecarlo import Function, median, row_distances
from certify.montecarlo.engine import accepts
from certify.montecarlo.processes import Processes
from certify.noise import Noise
from certify.statements.drawing import DecideMSEOptions, DecideOptions, Drawing
from certify.statements.mean import Repeated, within
from certify.statements.stopping import FIRST, StoppedCount, StoppedMean, StoppedRanks

__all__ = ["Decision", "decide_event", "decide_mse", "decide_statistic"]

PILOT = 64
"""Pilot draws that choose W."""


@dataclass(frozen=True, kw_only=True)
class Decision(Result):
    """What the `decide_…` functions return.

    Attributes:
        decided: "yes": the target is certified; "no": it cannot be, by this route, with any number of draws (not: it is
            false, or there is an attack); "undecided" at the maximum.
        value: the bound when drawing ended, and valid then: of P[event]; of P[S beyond the threshold]; of the squared
            distance (+∞ if no bound holds, and for "dimension-free" unless decided "yes").
        limit: what it was to keep: `value` ≤ `limit` is "yes".
        rho, alpha, replicas: as asked; replicas is 1 for a squared distance. With probability 1 − α all that is said here
            holds at once: the decision, `value`, `lower` and `upper`, wherever drawing ended.
        status: "certified" for "yes", else "abstained".
        n: draws after which it was decided (all, if undecided). Does not depend on the batch size.
        drawn: draws that were made: n, and the rest of its batch.
        maximum: the most that would have been made.
        repeats: j, values of each of these draws; more than 1: T14.
        pilot_values: values that pilot draws took besides; the choice between T5 and T14 is made on them.
        successes: how often the event was seen in n draws; None for "coordinatewise" and several values of each draw.
        allowed: p₀, the largest probability at y with which "yes" is possible; None for these.
        lower, upper: limits of the event's probability at y; None for these.
        reason: why it is not "yes", in words.
        evidence: for "yes", what a certificate keeps.
        quantity: "event", "statistic", "mse", or for several values of each draw "mean", as in a certificate's claims.
        center: c of a squared distance.
        q, side: of a statistic, as asked.
    """

    decided: str
    value: float
    limit: float
    replicas: int
    drawn: int
    maximum: int
    successes: int | None
    allowed: float | None
    lower: float | None
    upper: float | None
    method: str
    smoother: str = constant("none")
    reference: str = constant("none")
    repeats: int = 1
    pilot_values: int = 0
    center: Tensor | None = field(default=None, repr=False)
    q: float | None = None
    side: str = "upper"
    scope: str = constant("stopped early")

    @property
    def claimed(self) -> float:
        """What a certificate states: the bound of a probability or of a squared distance; of a statistic its threshold."""
        if isinstance(self.evidence, LimitEvidence):
            return self.evidence.lower if self.side == "lower" else self.evidence.upper
        if self.status == "certified":
            return self.value
        return {"event": 1.0, "mean": 1.0, "mse": math.inf}.get(
            self.quantity, -math.inf if self.side == "lower" else math.inf
        )

    @property
    def saved(self) -> int:
        """Draws that were not needed."""
        return self.maximum - self.drawn

    @property
    def measured_to(self) -> Tensor | None:
        return self.center

    def stated(self) -> dict[str, Any]:
        own = self.named("method", "smoother", "reference", "q", "side", "scope")
        if self.center is None:
            about: dict[str, Any] = {"replicas": self.replicas}
        else:
            about = {"p": 0.5, "outputs": self.center.numel()}
        return {**super().stated(), **own, **about, "value": self.claimed}


@_validate.suggests(DecideOptions)
def decide_event(
    event: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    target: float,
    rho: float,
    replicas: int = 13,
    repeats: int | None = 1,
    alpha: float = 1e-3,
    **options: Unpack[DecideOptions],
) -> Decision:
    """Can it be certified that an event has at most the probability `target`, whatever is done to the input? (T5, T14, T3)

    Equation
        for all ‖δ‖_Σ ≤ ρ:  P[event at y + δ] ≤ target   if   P[event at y] ≤ p₀ = Φ(Φ⁻¹(target) − √K ρ)  (T5),
        or if E W(g) at y is at most target + W(0) − ∫ H(W'), W chosen on pilot draws  (T14).

    Reference
        THEORY T5, T14, T3 (docs/theory/t03-sequential.md, docs/theory/t14-bounded-means.md).

    Args:
        event: batch (b, K, *input) → (b,) of 0/1 or booleans, as in `event_bound`.
        y, noise: as in `event_bound`.
        target: the probability to certify.
        rho: radius > 0 in units of ‖·‖_Σ.
        replicas: K, noisy copies that one event sees.
        repeats: j, values of each draw of the copies; 1: T5. None: n counts values in all, and pilot draws of six values
            each choose what lets expect an answer soonest: 16, and where T5 is expected to take more than the pilot itself, 64
            others, T5 among the choices; below n = 300 it is T5 without any.
        alpha: probability that anything in the answer is wrong, a "yes", a "no" or a limit, at any number of draws.
        **options: of drawing: those of `certify.statements.drawing.Drawing`; n is the most draws. Drawing ends with a batch:
            the first has 16 at most, later ones as many as it takes at least to decide.

    Returns:
        `Decision`; `value` is the bound of P[event].

    Raises:
        ValueError, TypeError: as `event_bound`.
        RuntimeError: several processes draw; stopping early needs one.
    """
    target = _validate.probability("target", target)
    rho, alpha = _validate.not_negative("rho", rho), _validate.failure("alpha", alpha)
    replicas = _validate.count("replicas", replicas)
    options.setdefault("function", "event happens")
    several = repeats_of(repeats)
    drawing = Drawing(event, y, noise, called="event", replicas=replicas, **options)
    pilot_values = 0
    if several != 1 and accepts(event, "generator") and (several or drawing.n >= LEAST):
        question = _Repeated(drawing, event, target, rho, replicas, alpha)
        if (chosen := question.chosen(several)) is not None:
            return question.decision(*chosen)
        pilot_values = question.pilot_values
    counts = StoppedCount(drawing.noise.tails(target, rho, replicas).lower, alpha / 2)
    return _of_counts(
        drawing,
        counts,
        rho=rho,
        alpha=alpha,
        quantity=EventBound.quantity,
        unit=EventBound.unit,
        limit=target,
        what=("the event", f"a probability of at most {shown(target, 'exact')}"),
        evidence=lambda value: EventEvidence(0.0, value, replicas, int(counts.ones)),
        pilot_values=pilot_values,
    )


@dataclass(eq=False)
class _Repeated:
    """The question of `decide_event` with several values of each draw (T14)."""

    drawing: Drawing
    event: Function
    target: float
    rho: float
    replicas: int
    alpha: float
    pilot_values: int = 0

    def chosen(self, repeats: int | None) -> tuple[Polynomials, Any, float] | None:
        """The family, W and the stake that let expect an answer soonest, by pilot draws; None: T5, for lack of a W too."""
        drawing, noise, tried = self.drawing, self.drawing.noise, repeats or TRIED
        values, best = drawing.n, None
        drawing.f, drawing.shape = Repeated(self.event, tried, "event"), (tried,)
        _single_process()
        if repeats is None:
            pilot, most = self._pilot(min(FIRST, values // (5 * TRIED))), min(PILOT, values // (5 * TRIED))
            fastest = self._by_count(pilot)
            if fastest * TRIED * most < math.log(2 / self.alpha) and most > len(pilot):
                pilot = self._pilot(most)
                fastest = self._by_count(pilot)
        else:
            pilot, fastest = self._pilot(PILOT), -math.inf
        for j in (repeats,) if repeats else SPLITS:
            halves = [half[:, : tried // j * j].reshape(-1, j) for half in (pilot[0::2], pilot[1::2])]
            family = Polynomials(j)
            both, parts = Pilot(family, np.concatenate(halves)), [Pilot(family, half) for half in halves]
            for draws in dict.fromkeys((max(125, values // j if repeats is None else values), 2000, 500, 125)):
                about: dict[str, Any] = {"noise": noise, "rho": self.rho, "replicas": self.replicas, "n": draws}
                w, quick = both.choose(**about, alpha=self.alpha / 2)[0], []
                if self._allowed(family, w) <= float(w.min()):  # however often it is drawn
                    continue
                for a, b in (parts, parts[::-1]):  # judged on other draws than those that chose it
                    v = a.choose(**about, alpha=self.alpha / 2)[0]
                    ends: dict[str, float] = {
                        "low": float(v.min()),
                        "high": float(v.max()),
                        "mean": self._allowed(family, v),
                    }
                    quick.append(speed(family.estimates(v, b.values), family.estimates(v, a.values), **ends) / j)
                if sum(quick) / 2 > fastest:
                    fastest, best = sum(quick) / 2, (family, w, both)
        if repeats is None:
            drawing.n = values if best is None else values // best[0].repeats
        if best is None:
            drawing.f, drawing.shape = self.event, ()
            return None
        family, w, both = best
        drawing.f, drawing.shape = Repeated(self.event, family.repeats, "event"), (family.repeats,)
        x, ends = family.estimates(w, both.values), {"low": float(w.min()), "high": float(w.max())}
        return family, w, best_stake(x, mean=self._allowed(family, w), **ends)

    def _pilot(self, draws: int) -> Any:
        self.drawing.pilot = draws
        found = self._values(cast(Tensor, self.drawing.pilot_draws(True)))
        self.pilot_values += found.size
        return found

    def _by_count(self, pilot: Any) -> float:
        """What one value is expected to add to the logarithm of T5's evidence for "yes"; 0 if none."""
        p0 = self.drawing.noise.tails(self.target, self.rho, self.replicas).lower
        p = (float(pilot.sum()) + 0.5) / (pilot.size + 1)
        return p * math.log(p / p0) + (1 - p) * (math.log1p(-p) - math.log1p(-p0)) if 0 < p < p0 < 1 else 0.0

    def _values(self, outputs: Tensor) -> Any:
        return within(outputs.to("cpu", torch.float64), 0.0, 1.0, "event").numpy()

    def _allowed(self, family: Polynomials, w: Any) -> float:
        """The largest E W(g) with which the target is kept to, rounded down."""
        least = self.target - family.excess(w, self.drawing.noise, self.rho, self.replicas)
        return least - 1e-12 * (1 + float(np.abs(w).max()))

    def decision(self, family: Polynomials, w: Any, tau: float) -> Decision:
        """Draws, and decides."""
        drawing, half = self.drawing, self.alpha / 2
        seen = StoppedMean(family, w, self._allowed(family, w), tau, half, self._values)
        drawn = _until_decided(drawing, seen)
        limits = Limits(family, w[None], (seen.limit(),), ("T14",))
        scale: dict[str, Any] = {"replicas": self.replicas, "repeats": family.repeats, "floor": 0.0, "ceiling": 1.0}
        held = MeanEvidence.of(limits, None, drawing.noise, self.rho, side="upper", **scale)
        sure, target = confidence(self.alpha), shown(self.target, "exact")
        reason = {
            "yes": "",
            "no": f"with confidence {sure} no number of draws gives {target} by the W that the pilot draws chose, of "
            f"{family.repeats} values of each of {seen.count:,} draws",
            "undecided": f"{seen.count:,} draws of {family.repeats} values each neither show {target} nor exclude it by "
            "this W",
        }[seen.decided]
        return _decision(
            drawing,
            seen,
            drawn,
            rho=self.rho,
            alpha=self.alpha,
            value=held.upper,
            limit=self.target,
            reason=reason,
            evidence=lambda _: held,
            theorem="T14",
            method="repeats",
            quantity="mean",
            unit="probability",
            repeats=family.repeats,
            pilot_values=self.pilot_values,
        )


@_validate.suggests(DecideOptions)
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
    alpha: float = 1e-3,
    **options: Unpack[DecideOptions],
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
        replicas, alpha, **options: as in `decide_event`.

    Returns:
        `Decision`; `value` bounds the probability that S is beyond the threshold, `limit` is 1 − q.

    Raises:
        ValueError, TypeError, RuntimeError: as `decide_event`.
    """
    side, q = _validate.choice("side", side, ("upper", "lower")), _validate.probability("q", q)
    threshold = _validate.finite("threshold", threshold)
    rho, alpha = _validate.not_negative("rho", rho), _validate.failure("alpha", alpha)
    replicas = _validate.count("replicas", replicas)
    options.setdefault("function", "statistic")
    drawing = Drawing(statistic, y, noise, called="statistic", replicas=replicas, **options)
    if side == "upper":
        allowed, ends = drawing.noise.tails(q, rho, replicas).upper, (-math.inf, threshold)
    else:
        allowed, ends = drawing.noise.tails(1 - q, rho, replicas).lower, (threshold, math.inf)
    beyond = (lambda s: s > threshold) if side == "upper" else (lambda s: s < threshold)
    return _of_counts(
        drawing,
        StoppedCount(allowed, alpha / 2, beyond),
        rho=rho,
        alpha=alpha,
        quantity=StatisticBound.quantity,
        unit=StatisticBound.unit,
        limit=1 - q,
        what=("a statistic beyond the threshold", f"q = {shown(q, 'exact')}"),
        evidence=lambda _: LimitEvidence(*ends, q, side, replicas),
        q=q,
        side=side,
    )


def _of_counts(
    drawing: Drawing,
    counts: StoppedCount,
    *,
    rho: float,
    alpha: float,
    limit: float,
    what: tuple[str, str],
    evidence: Callable[[float], Evidence],
    **about: Any,
) -> Decision:
    """Draws, and decides about a probability at the deployed smoother from how often something happened (T5).

    Args:
        drawing, counts: what is drawn and counted.
        rho, alpha, limit, about: fields of `Decision`.
        what: was counted, and is wanted, in words.
        evidence: bound → what a certificate keeps, for "yes".
    """
    drawn, ones = _until_decided(drawing, counts), int(counts.ones)
    value = stopped_event(ones, counts.count, drawing.noise, rho=rho, replicas=drawing.replicas or 1, alpha=alpha / 2)
    return _decision(
        drawing,
        counts,
        drawn,
        rho=rho,
        alpha=alpha,
        value=value,
        limit=limit,
        reason=_reason(counts, alpha, *what),
        evidence=evidence,
        theorem="T5",
        method="replicas",
        **about,
    )


def _decision(
    drawing: Drawing,
    stopped: StoppedCount | StoppedMean | StoppedRanks,
    drawn: int,
    *,
    rho: float,
    alpha: float,
    value: float,
    limit: float,
    reason: str,
    evidence: Callable[[float], Evidence | None],
    **about: Any,
) -> Decision:
    """What became of a question.

    Args:
        drawing, stopped, drawn: what was drawn, what decided, and the draws that were made.
        rho, alpha, value, limit, about: fields of `Decision`.
        reason: why it is not "yes".
        evidence: bound → what a certificate keeps, for "yes".
    """
    yes, run = stopped.decided == "yes", drawing.run()
    counts = stopped if isinstance(stopped, StoppedCount) else None
    lower, upper = counts.limits() if counts else (None, None)
    value = min(value, limit) if yes else value
    return Decision(
        decided=stopped.decided,
        value=value,
        limit=limit,
        rho=rho,
        alpha=alpha,
        replicas=drawing.replicas or 1,
        n=stopped.count,
        drawn=drawn,
        maximum=drawing.n,
        successes=int(counts.ones) if counts else None,
        allowed=counts.allowed if counts else None,
        lower=lower,
        upper=upper,
        status="certified" if yes else "abstained",
        reason=run.remark if yes else reason,
        evidence=evidence(value) if yes else None,
        run=replace(run, n=drawn),
        **about,
    )


@_validate.suggests(DecideMSEOptions)
def decide_mse(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    tolerance: float,
    rho: float,
    method: str = "coordinatewise",
    level: float | None = None,
    alpha: float = 1e-3,
    **options: Unpack[DecideMSEOptions],
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
        alpha: probability that anything in the answer is wrong.
        **options: of drawing, as in `decide_event`, and center, support and pilot; the support serves "coordinatewise" only.

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
    alpha = _validate.failure("alpha", alpha)
    drawing = Drawing(f, y, noise, **options)
    _single_process()
    trial = drawing.pilot_draws(method == "dimension-free" and level is None)
    center = median(cast(Tensor, trial)) if drawing.center is None else drawing.center
    question = _Distance(drawing, tolerance, rho, alpha, center)
    if method == "coordinatewise":
        return question.coordinatewise()
    return question.dimension_free(question.best_level(cast(Tensor, trial)) if level is None else level)


@dataclass(frozen=True, eq=False)
class _Distance:
    """The question of `decide_mse`, its pilot drawn."""

    drawing: Drawing
    tolerance: float
    rho: float
    alpha: float
    center: Tensor

    def coordinatewise(self) -> Decision:
        """T2 at doubling numbers of draws."""
        n, noise = self.drawing.n, self.drawing.noise
        setting = Setting(noise, n, tuple(self.center.shape), self.center, "center", self.drawing.support)
        bounds = StoppedRanks(setting, self.tolerance, self.rho, self.alpha / 2)
        drawn = _until_decided(self.drawing, bounds)
        rho, tolerance = shown(self.rho, "exact"), shown(self.tolerance, "exact")
        if bounds.decided == "yes":
            reason = ""
        elif bounds.decided == "no":
            reason = (
                f"with confidence {confidence(self.alpha)} the coordinate-wise bound exceeds "
                f"{tolerance} at ρ = {rho}, whatever the number of draws"
            )
        elif math.isfinite(bounds.value):
            reason = f"from n = {n} draws the bound is {shown(bounds.value, 'up')} > tolerance {tolerance}"
        else:
            needed = draws_needed(noise.tails(0.5, self.rho), self.alpha / (4 * setting.outputs))
            reason = f"n = {n} draws give no finite bound at ρ = {rho}: {enough(needed)}"
        return self._decision("coordinatewise", "T2", bounds, drawn, bounds.value, reason, lambda _: bounds.evidence)

    def dimension_free(self, q: float) -> Decision:
        """T4 with one level q: the event that f is further than R₀ from c."""
        center = self.center
        # A sum of m squares is good to m/2 ulp, far below this.
        reach = math.sqrt(self.tolerance) * math.sqrt((q - 0.5) / q) * (1 - 1e-10)

        def leaves(outputs: Tensor) -> Tensor:
            return grown(length(row_distances(outputs, center), dim=1), 1e-10) > reach

        counts = StoppedCount(self.drawing.noise.tails(q, self.rho).upper, self.alpha / 2, leaves)
        drawn = _until_decided(self.drawing, counts)
        wanted = f"squared distance {shown(self.tolerance, 'exact')} (T4, level {shown(q, 'down', 4)})"
        reason = _reason(counts, self.alpha, f"a distance beyond {shown(reach, 'down')}", wanted)
        limits = torch.tensor([q], dtype=torch.float64), torch.tensor([[reach]], dtype=torch.float64)
        evidence = LayersEvidence(center, *limits, False, center)
        value = self.tolerance if counts.decided == "yes" else math.inf
        return self._decision("dimension-free", "T4", counts, drawn, value, reason, lambda _: evidence)

    def best_level(self, pilot: Tensor) -> float:
        """The level whose event pilot draws let decide soonest: the largest KL(P[beyond R₀] ‖ p₀), if it is below p₀."""
        away = length(row_distances(pilot, self.center), dim=1)
        best, chosen = -math.inf, 0.75
        for q in torch.linspace(0.51, 0.99, 97, dtype=torch.float64).tolist():
            often = float((away > math.sqrt(self.tolerance) * math.sqrt((q - 0.5) / q)).sum() + 0.5) / (len(away) + 1)
            p0 = max(self.drawing.noise.tails(q, self.rho).upper, 1e-300)
            speed = often * math.log(often / p0) + (1 - often) * (math.log1p(-often) - math.log1p(-p0))
            speed = speed if often < p0 else -speed
            if speed > best:
                best, chosen = speed, q
        return chosen

    def _decision(
        self,
        method: str,
        theorem: str,
        stopped: StoppedCount | StoppedRanks,
        drawn: int,
        value: float,
        reason: str,
        evidence: Callable[[float], Evidence | None],
    ) -> Decision:
        return _decision(
            self.drawing,
            stopped,
            drawn,
            rho=self.rho,
            alpha=self.alpha,
            value=value,
            limit=self.tolerance,
            reason=reason,
            evidence=evidence,
            theorem=theorem,
            method=method,
            quantity=MSEBound.quantity,
            unit=MSEBound.unit,
            smoother="median",
            reference="center",
            center=self.center,
        )


def _until_decided(drawing: Drawing, stopped: StoppedCount | StoppedMean | StoppedRanks) -> int:
    """Draws until `stopped` has decided; how many draws were made."""
    _single_process()
    return drawing.draw_until(stopped, stopped.next_draws)


def _single_process() -> None:
    """Several processes would each come to a decision of their own from draws of their own."""
    count = Processes.current().count
    if count > 1:
        raise RuntimeError(f"{count} processes draw: stopping early needs a single one")


def _reason(counts: StoppedCount, alpha: float, what: str, wanted: str) -> str:
    if counts.decided == "yes":
        return ""
    ones = int(counts.ones)
    if counts.decided == "no":
        return (
            f"{what}, seen in {ones} of the first {counts.count} draws, has with confidence {confidence(alpha)} a probability "
            f"above {shown(counts.allowed, 'down', 4)} at the input itself, the most with which {wanted} can be certified by "
            "any number of draws"
        )
    return (
        f"{what}, seen in {ones} of {counts.count} draws: that its probability is at most {shown(counts.allowed, 'up', 4)} is "
        "neither shown nor excluded"
    )
