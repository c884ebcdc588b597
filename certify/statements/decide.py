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
from dataclasses import dataclass
from typing import Any, Unpack, cast

import numpy as np
import torch
from torch import Tensor

from certify import _validate
from certify._text import confidence, shown
from certify.bounds.base import Evidence
from certify.bounds.bounded_mean import MeanEvidence
from certify.bounds.copies import EventBound, EventEvidence, LimitEvidence, StatisticBound
from certify.bounds.mean_limits import LEAST, SPLITS, TRIED, Limits, Pilot, repeats_of
from certify.bounds.weights import Polynomials
from certify.confidence import stopped_event
from certify.confidence.betting import best_stake, speed
from certify.montecarlo import Function
from certify.montecarlo.batches import accepts
from certify.noise import Noise
from certify.statements.decision import Decision, answer, reason_why, single_process, until_decided
from certify.statements.drawing import DecideOptions, Drawing
from certify.statements.mean import Repeated, within
from certify.statements.stopping import FIRST, StoppedCount, StoppedMean

__all__ = ["decide_event", "decide_statistic"]

PILOT = 64
"""Pilot draws that choose W."""


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
        rho: radius ≥ 0 in units of ‖·‖_Σ; 0: the rate at y itself.
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
        single_process()
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
        drawn = until_decided(drawing, seen)
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
        return answer(
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
        rho: radius ≥ 0 in units of ‖·‖_Σ.
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
    drawn, ones = until_decided(drawing, counts), int(counts.ones)
    value = stopped_event(ones, counts.count, drawing.noise, rho=rho, replicas=drawing.replicas or 1, alpha=alpha / 2)
    return answer(
        drawing,
        counts,
        drawn,
        rho=rho,
        alpha=alpha,
        value=value,
        limit=limit,
        reason=reason_why(counts, alpha, *what),
        evidence=evidence,
        theorem="T5",
        method="replicas",
        **about,
    )
