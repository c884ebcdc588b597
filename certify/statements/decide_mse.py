"""Deciding a squared distance early: at few draw counts, fixed beforehand and doubling, or by one event (THEORY T2, T3, T4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor

from certify import _validate
from certify._floats import grown, length
from certify._text import confidence, shown
from certify.bounds.base import Evidence, Setting
from certify.bounds.dimension_free import LayersEvidence
from certify.bounds.mse import MSEBound
from certify.bounds.percentile import draws_needed, enough
from certify.montecarlo import Function, median, row_distances
from certify.noise import Noise
from certify.statements.decision import Decision, answer, reason_why, single_process, until_decided
from certify.statements.drawing import DecideMSEOptions, Drawing
from certify.statements.stopping import StoppedCount, StoppedRanks

__all__ = ["decide_mse"]


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
    single_process()
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
        drawn = until_decided(self.drawing, bounds)
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
        return self._answer("coordinatewise", "T2", bounds, drawn, bounds.value, reason, lambda _: bounds.evidence)

    def dimension_free(self, q: float) -> Decision:
        """T4 with one level q: the event that f is further than R₀ from c."""
        center = self.center
        # A sum of m squares is good to m/2 ulp, far below this.
        reach = math.sqrt(self.tolerance) * math.sqrt((q - 0.5) / q) * (1 - 1e-10)

        def leaves(outputs: Tensor) -> Tensor:
            return grown(length(row_distances(outputs, center), dim=1), 1e-10) > reach

        counts = StoppedCount(self.drawing.noise.tails(q, self.rho).upper, self.alpha / 2, leaves)
        drawn = until_decided(self.drawing, counts)
        wanted = f"squared distance {shown(self.tolerance, 'exact')} (T4, level {shown(q, 'down', 4)})"
        reason = reason_why(counts, self.alpha, f"a distance beyond {shown(reach, 'down')}", wanted)
        limits = torch.tensor([q], dtype=torch.float64), torch.tensor([[reach]], dtype=torch.float64)
        evidence = LayersEvidence(center, *limits, False, center)
        value = self.tolerance if counts.decided == "yes" else math.inf
        return self._answer("dimension-free", "T4", counts, drawn, value, reason, lambda _: evidence)

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

    def _answer(
        self,
        method: str,
        theorem: str,
        stopped: StoppedCount | StoppedRanks,
        drawn: int,
        value: float,
        reason: str,
        evidence: Callable[[float], Evidence | None],
    ) -> Decision:
        return answer(
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
