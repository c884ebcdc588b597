"""T14: the mean of a bounded statistic of K noisy copies: what the noise decides, and what chance decides.

Statement. Let S(z_1, …, z_K, ω) lie in [0, 1], with randomness ω of its own whose law does not depend on the input, and
g(z) = E_ω S. For every function W on [0, 1] that is absolutely continuous, every noise and every perturbation within ρ

    E_Q S  ≤  E_P W(g) − W(0) + ∫_0^1 H(W'(u)) du,        H(s) = sup_A Q[A] − s P[A],

the last at its largest within ρ; for Gaussian noise H(s) = E(L − s)₊ with L = exp(rt − r²/2), r = √K ρ, t ~ N(0, 1). For a
convex W the integral less W(0) is E max_v (L v − W(v)). With W(v) = λv it is T5.

Proof. E_Q g − E_P W(g) = −W(0) + ∫_0^1 (Q[g > u] − W'(u) P[g > u]) du, and each integrand is at most H(W'(u)). In full, with
what follows: docs/theory/t14-bounded-means.md.

What is seen. From j values of S for one draw of the copies, each with randomness of its own, a polynomial W of degree ≤ j has
an unbiased estimate: with Bernstein coefficients w_0, …, w_j it is w_C where C of j values are hits, and for values in [0, 1]
the mean of w_C over independent coins with these probabilities. Without randomness S is g, and W may be any function. Either
way the estimate is a mean of the coefficients with weights that add up to 1, so it lies between the least and the largest.

From draws. W is chosen on pilot draws; it needs no trust, as every W gives a bound (weak duality). Then one limit M ≥ E W(g)
from the bounding draws (`certify.confidence.betting`) serves every ρ at once, and several limits serve together: W = Σ a_k W_k
with any a ≥ 0 has the limit Σ a_k M_k.

Assumes: as T5. Safe direction: the bound may be too large; all rounding goes up.

What is proved here is computed in `weights` (W, and what it costs) and `mean_limits` (choice and limits); here are the results.

Reference: THEORY T14; for a score that is seen itself Kumar et al. (2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import ClassVar, Self, cast

import numpy as np
import scipy  # its parts load when they are first named
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify import _validate
from certify._text import shown
from certify.bounds.base import Evidence
from certify.bounds.copies import OfCopies
from certify.bounds.mean_limits import Limits
from certify.bounds.statement import constant
from certify.bounds.weights import Piecewise, Polynomials, Weights
from certify.confidence import last_that_holds
from certify.confidence.betting import evidence_against
from certify.montecarlo import Accumulator, AllDraws
from certify.noise import Noise

__all__ = ["MeanBound", "MeanEvidence"]

_Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MeanBound(OfCopies):
    """What `certify.mean_bound` returns, and `certify.event_bound` for several values of one draw of the copies.

    E S ≤ `value` at y + δ (side "upper"), over the deployment noise and the randomness of S, for every ‖δ‖_Σ ≤ ρ, with
    confidence 1 − α; E S ≥ `value` ("lower"); or `lower` ≤ E S ≤ `value` ("two-sided"). Abstained where that says no more than
    `floor` and `ceiling`.

    Attributes:
        repeats: j, values of S of one draw of the copies; 1 where it is not random, and seen itself.
        floor, ceiling: what S lies between; 0 and 1 for the probability of an event.
        won: "T14", or "T5" where its limit alone gives the value: W is linear.
        held: what the bounds at all radii follow from; the same as `evidence`, but in an abstention, too.
    """

    repeats: int
    floor: float
    ceiling: float
    won: str
    held: MeanEvidence = field(repr=False)

    theorem: str = constant("T14")
    quantity: str = constant("mean")

    def least(self, rho: float) -> float:
        """The lower bound at another radius; `floor` where it was not asked for."""
        return self.interval(rho)[0]

    def interval(self, rho: float) -> tuple[float, float]:
        """(lower, upper) bounds of E S at another radius; `floor` and `ceiling` where nothing was asked.

        All radii follow from the same limits, so they hold at once with probability 1 − α.
        """
        return self.held.interval(self.run.noise, _validate.not_negative("rho", rho))

    def at(self, rho: float) -> float:
        """The bound at another radius, of the side that was asked for (two-sided: the upper)."""
        return self.interval(rho)[0 if self.side == "lower" else 1]

    def radius(self, limit: float) -> float:
        """The largest radius, rounded down, up to which the bound keeps to a limit; 0 if there is none, 64 if it is farther."""
        limit = _validate.finite("limit", limit)

        sign = -1.0 if self.side == "lower" else 1.0

        @cache  # each takes an optimisation
        def excess(rho: float) -> float:
            return sign * (self.at(rho) - limit)

        if excess(0.0) > 0:
            return 0.0
        low, high = 0.0, 1.0
        while excess(high) <= 0:
            low, high = high, 2 * high
            if low >= 64:
                return low
        # One of 2⁴⁰ steps: sought near the root that interpolation finds, with a tenth of the evaluations of a bisection.
        steps, width = 2**40, high - low
        guess = (scipy.optimize.brentq(excess, low, high, xtol=width / steps, rtol=1e-12) - low) / width * steps
        return (
            low + last_that_holds(lambda k: excess(low + k / steps * width) <= 0, steps - 1, int(guess)) / steps * width
        )


@dataclass(frozen=True, eq=False)
class MeanEvidence(Evidence):
    """Limits of means of functions of g, from which the bound at every radius follows.

    Attributes:
        lower, upper: of E S at the claim's radius.
        side, replicas, repeats, floor, ceiling: as in `MeanBound`.
        above, below: limits for (S − floor)/(ceiling − floor), and for its complement; None for a side that was not asked for.
        mixtures: for either the mixture of its limits that gives the value.
    """

    lower: float
    upper: float
    side: str
    replicas: int
    repeats: int
    floor: float
    ceiling: float
    above: Limits | None
    below: Limits | None
    mixtures: tuple[_Array, _Array]

    kind: ClassVar[str] = "mean"
    scalars: ClassVar[Mapping[str, type]] = {
        "lower": float,
        "upper": float,
        "side": str,
        "replicas": int,
        "repeats": int,
        "floor": float,
        "ceiling": float,
    }

    @classmethod
    def of(
        cls,
        above: Limits | None,
        below: Limits | None,
        noise: Noise,
        rho: float,
        *,
        side: str,
        replicas: int,
        repeats: int,
        floor: float,
        ceiling: float,
    ) -> MeanEvidence:
        """At a radius."""
        at = [np.zeros(0) if held is None else held.bound(noise, rho, replicas)[1] for held in (above, below)]
        made = cls(floor, ceiling, side, replicas, repeats, floor, ceiling, above, below, (at[0], at[1]))
        low, high = made._ends(noise, rho, made.mixtures)
        return replace(made, lower=low, upper=high)

    def interval(self, noise: Noise, rho: float) -> tuple[float, float]:
        """(lower, upper) bounds of E S at a radius, in the unit of S; `floor` and `ceiling` where nothing was asked."""
        return self._ends(noise, rho, (None, None))

    def _ends(self, noise: Noise, rho: float, mixtures: tuple[_Array | None, _Array | None]) -> tuple[float, float]:
        """The same by given mixtures of the limits (None: the best), rounded outwards."""
        span, low, shares = self.ceiling - self.floor, self.floor, []
        for held, a in zip((self.above, self.below), mixtures, strict=True):
            share = 1.0
            if held is not None and a is None:
                share = held.bound(noise, rho, self.replicas)[0]
            elif held is not None and a is not None:
                share = max(0.0, min(held.value(a, noise, rho, self.replicas), held.of_t5(noise, rho, self.replicas)))
            shares.append(share)
        if shares[1] < 1:
            low = max(self.floor, (self.ceiling - span * shares[1]) - 4e-16 * (abs(self.ceiling) + span))
        return low, self._high(shares[0])

    def of_t5(self, noise: Noise, rho: float) -> float:
        """The upper bound that T5's limit alone gives at a radius, in the unit of S: its part of α, the first value of each
        draw; `ceiling` without such a limit."""
        share = 1.0 if self.above is None else self.above.of_t5(noise, rho, self.replicas)
        return self._high(share)

    def _high(self, share: float) -> float:
        """An upper bound in the unit of S, rounded up."""
        if share >= 1:
            return self.ceiling
        span = self.ceiling - self.floor
        return min(self.ceiling, (self.floor + span * share) + 4e-16 * (abs(self.floor) + span))

    def won(self, noise: Noise, rho: float) -> str:
        """Whose bound the value is: "T5", or "T14" where more than T5's limit was needed."""
        held = self.below if self.side == "lower" else self.above
        return "T14" if held is None else held.won(noise, rho, self.replicas)

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, held, a in zip(("above", "below"), (self.above, self.below), self.mixtures, strict=True):
            if held is not None:
                found |= {
                    f"{name}.coefficients": torch.from_numpy(held.coefficients.copy()),
                    f"{name}.limits": torch.tensor(held.limits, dtype=torch.float64),
                    f"{name}.t5": torch.tensor([theorem == "T5" for theorem in held.theorems]),
                    f"{name}.mixture": torch.from_numpy(a.copy()),
                }
                if isinstance(held.weights, Piecewise):
                    found[f"{name}.nodes"] = torch.from_numpy(held.weights.nodes.copy())
        return found

    @classmethod
    def restored(
        cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor | None
    ) -> Self:
        scale = cls._scalars(numbers)
        side, repeats = scale["side"], scale["repeats"]
        if side not in ("upper", "lower", "two-sided") or scale["replicas"] < 1 or not 1 <= repeats <= 10**4:
            raise ValueError(f"side = {side!r}, replicas = {scale['replicas']}, repeats = {repeats}: out of range")
        if not -math.inf < scale["floor"] < scale["ceiling"] < math.inf:
            raise ValueError(f"floor = {scale['floor']}, ceiling = {scale['ceiling']}: out of range")
        sides = [name for name in ("above", "below") if side == "two-sided" or (side == "upper") == (name == "above")]
        limits, mixtures = dict.fromkeys(("above", "below")), {"above": np.zeros(0), "below": np.zeros(0)}
        for name in sides:
            own = {key: _numbers(tensors[f"{name}.{key}"]) for key in ("coefficients", "limits", "t5", "mixture")}
            nodes = tensors.get(f"{name}.nodes")
            family: Weights = Polynomials(repeats) if nodes is None else Piecewise(_numbers(nodes))
            count = len(own["limits"])
            if own["coefficients"].shape != (count, family.size) or {len(own["t5"]), len(own["mixture"])} != {count}:
                raise ValueError(f"{name}: its limits and coefficients do not fit each other")
            if isinstance(family, Piecewise) and not (
                repeats == 1 and family.nodes[0] == 0 and family.nodes[-1] == 1 and (np.diff(family.nodes) > 0).all()
            ):
                raise ValueError(f"{name}: its nodes do not increase from 0 to 1")
            if (own["mixture"] < 0).any():
                raise ValueError(f"{name}: a mixture has weights below 0")
            for row in own["coefficients"][own["t5"] != 0]:
                if not np.array_equal(row, family.linear):
                    raise ValueError(f"{name}: a limit of the mean has another W than v")
            theorems = tuple("T5" if t5 else "T14" for t5 in own["t5"])
            limits[name] = Limits(family, own["coefficients"], tuple(own["limits"].tolist()), theorems)
            mixtures[name] = own["mixture"]
        return cls(**scale, **limits, mixtures=(mixtures["above"], mixtures["below"]))  # type: ignore[arg-type]

    def implied(self, noise: Noise, rho: float) -> float:
        low, high = self._ends(noise, rho, self.mixtures)
        if self.lower > low + 1e-9 * (self.ceiling - self.floor) or self.upper < high - 1e-9 * (
            self.ceiling - self.floor
        ):
            return -math.inf if self.side == "lower" else math.inf  # the limits say less than these ends
        return low if self.side == "lower" else high

    def witness(self) -> AllDraws:
        return AllDraws()

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        drawn = cast(AllDraws, seen).stacked().to("cpu", torch.float64).reshape(-1, self.repeats).numpy()
        outside = int(((drawn < self.floor) | (drawn > self.ceiling)).any(axis=1).sum())
        if outside:
            return 0.0, f"{outside:,} of {len(drawn):,} draws have values outside [{self.floor:g}, {self.ceiling:g}]"
        scaled = np.clip((drawn - self.floor) / (self.ceiling - self.floor), 0.0, 1.0)
        found = []
        for held, values in ((self.above, scaled), (self.below, 1 - scaled)):
            for w, limit in zip(*((held.coefficients, held.limits) if held is not None else ((), ())), strict=True):
                x = held.weights.estimates(w, values)  # type: ignore[union-attr]
                found.append(evidence_against(x, low=float(w.min()), high=float(w.max()), mean=limit))
        mean = shown(self.floor + float(scaled.mean()) * (self.ceiling - self.floor), "near", 4)
        return min(1.0, len(found) * min(found)), f"mean {mean} of {len(drawn):,} draws at δ = 0, {len(found)} limits"


def _numbers(tensor: Tensor) -> _Array:
    found: _Array = tensor.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(found).all():
        raise ValueError("its numbers are not finite")
    return found
