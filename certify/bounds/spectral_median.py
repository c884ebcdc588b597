"""T12: the spectral certificate of the median. Whether a median has moved beyond a threshold is a matter of expectations, too.

Let P be the law of f at y, Q that at y + δ, t_i = E_½(y+δ)_i − c_i. For scales s_i > 0 and a level τ > 0 let

    h⁺_i = 1[f_i − c_i > τ s_i],    h⁻_i = 1[f_i − c_i < −τ s_i],    x = (s, s) ∘ (h − b) ∈ R^{2m},    I = {i : |t_i| > τ s_i},

with any fixed b ∈ [0, 1]^{2m} (best near E_P h), R ≥ sup‖x‖ and λ ≥ λ_max(E_P x xᵀ); S_1 as in T11
(`certify.bounds.spectral_mean`).

Statement. Let v be the unit vector with entries s_i/‖s_I‖ at (i, sign t_i) for i ∈ I, p_i = E_P h_i at that sign. Then

    Σ_{i∈I} s_i² (½ − p_i)  ≤  ‖s_I‖ · S_1(ρ; λ, R).                                                                    (1)

*Proof.* For i ∈ I at least half of Q lies beyond the threshold, E_Q h_i ≥ ½. So the left side is at most
Σ s_i² (E_Q h_i − E_P h_i) = ‖s_I‖ vᵀ(E_Q x − E_P x), and T11 bounds vᵀ(E_Q x − E_P x) by S_1. ∎

*From draws.* For a given δ the set I and the vector v are fixed, though unknown. So one inequality for the mean of the scalars
vᵀx is enough, not one for each output: with probability 1 − α', E_P vᵀx ≤ vᵀx̄ + e, e = sqrt(2λt/n) + Rt/3n, t = ln 1/α'
(Bernstein), and (1) holds with the observed frequencies p̂ in place of p and K = S_1 + e in place of S_1:

    Σ_{i∈I} s_i² (½ − p̂_i)  ≤  K ‖s_I‖.                                                                                 (2)

The largest S = ‖s_I‖² that (2) allows any set I is W(τ): sort the outputs by ½ − p̂_i, the smaller one of both sides, and fill
up; with F(S) the least possible left side, a convex function, W is the largest S with F(S) ≤ K sqrt(S). One δ is enough for
all: if the bound is below the supremum over δ, it is below its value at δ's that come arbitrarily close, an increasing union
of events of probability at most α.

With T2's box, |t_i| ≤ β_i, and levels τ_1 < … < τ_J, the squared distance ‖E_½(y+δ) − c‖² is

    ∫ 2τ Σ_{|t_i| > τ s_i} s_i² dτ   ≤   ∫_0^∞ 2τ min{ Σ_{β_i > τ s_i} s_i²,  min_{τ_j ≤ τ} W(τ_j) } dτ   ≤   Σ_i β_i².      (3)

The median at y itself is the case ρ = 0, S_1 = 0; so the reference "population" costs one more Bernstein inequality a level,
and the two distances add. α: half for the box, half shared by the λ's (Chernoff, as in T11) and the e's.

On outputs of high stable rank this is 2 to 3 times below T2 at ρ ≤ 2, on those of a low one it is T2; see
docs/theory/t12-spectral-median.md. No a-priori support is needed. c, s, the τ_j and b are fixed on pilot draws.

Reference: THEORY T12; there with one limit for each output in place of (2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, cast

import torch
from torch import Tensor

from certify._floats import TOO_LARGE, distance, flat, in_units, square, unit_of
from certify.bounds.base import Evaluation, Evidence, Method, Setting
from certify.bounds.likelihood_ratio import max_mean_shift, unsupported
from certify.bounds.percentile import BoxEvidence, draws_needed, percentile_box, ranks
from certify.bounds.pilots import PilotIndicators
from certify.bounds.witnesses import IndicatorsWitness
from certify.confidence import bernstein_slack, chernoff_limit
from certify.montecarlo import Accumulator, ExtremeRanks
from certify.montecarlo.sketch import Indicators, indicators_radius
from certify.noise import Noise

__all__ = ["IndicatorsEvidence", "SpectralMedianMSE", "layered", "most_beyond"]

_LEVELS = tuple(0.05 * 1.3**k for k in range(18))
"""Levels τ to choose from, in units of the outputs' standard deviation, about."""

_MOST_LEVELS = 3
_NEGLIGIBLE = 2.0**-300
"""Scales smaller than this, in units of the largest, are left to the box: their squares would be lost."""
_SAFE = 1e-9


def most_beyond(weights: Tensor, gaps: Tensor, push: float) -> float:
    """W: the largest Σ_I w_i over (fractional) sets I with Σ_I w_i g_i ≤ K sqrt(Σ_I w_i), rounded up.

    Args:
        weights: w = s², (k,), > 0.
        gaps: g = ½ − p̂, (k,).
        push: K ≥ 0.
    """
    if not weights.numel():
        return 0.0
    order = gaps.argsort()
    w, g = weights[order], gaps[order]
    sizes, spent = w.cumsum(0), (w * g).cumsum(0)
    push = push * (1 + _SAFE) + 1e-12 * math.sqrt(float(sizes[-1]))
    within = spent <= push * sizes.sqrt()
    # F(S) − K sqrt(S) is convex and 0 at 0: it stays below 0 up to one point and never after.
    k = int(within.sum())
    if k == len(w):
        return float(sizes[-1]) * (1 + _SAFE)
    if not bool(within[:k].all()):  # by rounding alone
        k = int(within.nonzero().max()) + 1
    start, least = (float(sizes[k - 1]), float(spent[k - 1])) if k else (0.0, 0.0)
    gap = float(g[k])
    rest = least - gap * start
    root = (push + math.sqrt(max(push * push - 4 * gap * rest, 0.0))) / (2 * gap) if gap > 0 else math.inf
    return min(max(root * root, start), float(sizes[k])) * (1 + _SAFE)


def layered(reach: Tensor, weights: Tensor, levels: Tensor, beyond: list[float]) -> float:
    """∫ 2τ min{Σ_{β_i > τ s_i} s_i², min_{τ_j ≤ τ} W_j} dτ, rounded up; ∞ where some β is.

    Args:
        reach: β_i/s_i, (k,).
        weights: s_i², (k,).
        levels: τ, (J,), increasing.
        beyond: W, one a level.
    """
    if bool(torch.isinf(reach).any()):
        return math.inf
    order = reach.argsort(descending=True)
    x, w = reach[order], weights[order]
    total = w.cumsum(0)
    edges = [0.0, *(float(level) for level in levels), math.inf]
    limit, area = math.inf, 0.0
    for (start, stop), here in zip(itertools.pairwise(edges), [math.inf, *beyond], strict=True):
        limit = min(limit, here)
        # Up to `turn` the outputs that the box allows weigh more than the limit, from there on less.
        k = int((total <= limit).sum())
        turn = min(max(float(x[k]) if k < len(x) else 0.0, start), stop)
        if limit > 0 and turn > start:
            area += limit * (turn * turn - start * start)
        area += float((w * (x.clamp(max=stop).square() - turn * turn).clamp_min(0)).sum())
    return area * (1 + _SAFE)


_WORTHWHILE = (15.0, 100.0)
"""Stable ranks of the pilot draws between which method "best" considers T12. Above, about 1 000 pilot draws make it look better
than it turns out to be (on the identity in 1 024 dimensions at ρ = 2, n = 10 000, it is 3.3 × trace where T4 is 2.6).
"""


_WORK = (5e6, 1.4e4)
"""Operations of one draw of f from which on method "best" considers T12: so many, and so many more for each output.
The sketches take about half as long as that many of f's, which are mostly in half the precision and in larger products."""


@dataclass(frozen=True, eq=False)
class IndicatorsEvidence(Evidence):
    """A box, and how often, and how much together, outputs are beyond some levels at y; T12 follows by arithmetic.

    Attributes:
        center: c, (*output).
        origin: what the box and the levels are taken from, (*output); c itself, unless c is far from where the draws are.
        lower, upper: T2's box at ρ, (*output).
        scales: s, (*output), ≥ 0; outputs of scale 0 are left to the box.
        levels: τ, (J,), increasing.
        expected: b, (J, 2, *output): of h⁺ and h⁻.
        frequencies: p̂, (J, 2, *output).
        second: λ, (J,), upper limits.
        slack: e, (J,).
        population: whether the distance is that to the median at y itself.
    """

    center: Tensor
    origin: Tensor
    lower: Tensor
    upper: Tensor
    scales: Tensor
    levels: Tensor
    expected: Tensor
    frequencies: Tensor
    second: Tensor
    slack: Tensor
    population: bool

    kind: ClassVar[str] = "indicators"

    @property
    def reference(self) -> str:
        return "population" if self.population else "center"

    def numbers(self) -> dict[str, float | int | str]:
        return {"population": int(self.population)}

    def tensors(self) -> dict[str, Tensor]:
        names = ("lower", "upper", "scales", "levels", "expected", "frequencies", "second", "slack")
        tensors = {name: cast(Tensor, getattr(self, name)) for name in names}
        return tensors if self.origin is self.center else {**tensors, "origin": self.origin}

    @classmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        shape, levels = tuple(center.shape), tensors["levels"]
        evidence = cls(
            center,
            tensors.get("origin", center),
            lower=tensors["lower"],
            upper=tensors["upper"],
            scales=tensors["scales"],
            levels=levels,
            expected=tensors["expected"],
            frequencies=tensors["frequencies"],
            second=tensors["second"],
            slack=tensors["slack"],
            population=bool(numbers["population"]),
        )
        wanted = dict.fromkeys(("origin", "lower", "upper", "scales"), shape) | dict.fromkeys(
            ("second", "slack"), tuple(levels.shape)
        )
        wanted |= dict.fromkeys(("expected", "frequencies"), (levels.numel(), 2, *shape))
        for name, size in wanted.items():
            if tuple(getattr(evidence, name).shape) != size:
                raise ValueError(f"{name} has shape {tuple(getattr(evidence, name).shape)}: must be {size}")
        if levels.ndim != 1 or not bool((torch.diff(levels, prepend=levels.new_zeros(1)) > 0).all()):
            raise ValueError(f"levels {levels.tolist()}: must be > 0 and increase")
        chances = torch.stack([evidence.expected, evidence.frequencies])
        if not bool(((chances >= 0) & (chances <= 1)).all()):
            raise ValueError("expected, frequencies: must be in 0 … 1")
        if not bool((evidence.second >= 0).all() and (evidence.slack >= 0).all() and (evidence.scales >= 0).all()):
            raise ValueError("second, slack and scales: must be >= 0")
        return evidence

    def implied(self, noise: Noise, rho: float) -> float:
        if not bool((self.lower <= self.upper).all()):
            return math.inf  # nothing lies in it
        value = self._at(noise, rho)
        away = math.sqrt(self._at(noise, 0.0)) if self.population else distance(self.origin, self.center, _SAFE)
        return value if away == 0 else square(math.sqrt(value) + away, _SAFE)

    def _at(self, noise: Noise, rho: float) -> float:
        """The squared distance from the origin."""
        origin = flat(self.origin)
        up, down = flat(self.upper) - origin, origin - flat(self.lower)
        reach, scales = torch.maximum(up.abs(), down.abs()), flat(self.scales)
        unit = unit_of(reach, scales)
        up, down, reach, scales = up / unit, down / unit, reach / unit, scales / unit
        live = scales > _NEGLIGIBLE
        left = float(reach[~live].square().sum())
        limits = []
        for j, level in enumerate(self.levels):
            pushes = (max_mean_shift(noise, rho, float(self.second[j]), self.radius(j)) + float(self.slack[j])) / unit
            above, below = 0.5 - self.frequencies[j, 0].reshape(-1), 0.5 - self.frequencies[j, 1].reshape(-1)
            # A side that the box keeps within the level is out of the question.
            gap = torch.minimum(
                torch.where(up > level * scales, above, math.inf), torch.where(down > level * scales, below, math.inf)
            )
            open_ = live & torch.isfinite(gap)
            limits.append(most_beyond(scales[open_].square(), gap[open_], pushes))
        inside = layered(reach[live] / scales[live], scales[live].square(), self.levels, limits)
        return in_units(inside + left, unit, _SAFE)

    def radius(self, j: int) -> float:
        """R of level j."""
        return indicators_radius(self.scales, self.expected[j])

    def witness(self) -> IndicatorsWitness:
        return IndicatorsWitness(self)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        return cast(IndicatorsWitness, seen).verdict(noise, rho)

    @property
    def box(self) -> BoxEvidence:
        """The box, as evidence of its own."""
        return BoxEvidence(self.lower, self.upper, center=self.origin)


class SpectralMedianMSE(Method):
    """T12. Half of α for the box of T2, the other half shared by the λ and the slacks e of up to three levels.

    c where the levels start from is the center, or the pilot median with its distance from the center added; the levels are
    chosen for the radius aimed at. All of it on pilot draws.
    """

    method, theorem, smoother, evidence = "spectral", "T12", "median", IndicatorsEvidence
    p = 0.5

    def __init__(self, setting: Setting, alpha: float, aim: float) -> None:
        super().__init__(setting, alpha, aim)
        self._population = setting.reference == "population"
        self._share = alpha / (4 * setting.outputs)  # of one side of one output
        self._known_ranks: dict[float, tuple[int, int]] = {}
        self.plan: _Levels | None = None
        if setting.pilot is None or unsupported(setting.noise):
            return
        origins = [setting.center]
        if setting.middle is not None and setting.middle is not setting.center:
            origins.append(setting.middle)
        plans = [self._best(PilotIndicators.of(setting.pilot, origin), aim) for origin in origins]
        self.plan = min(plans, key=lambda plan: plan.guess)

    @classmethod
    def promising(cls, setting: Setting) -> bool:
        """On outputs that move together T12 is T2, at several times the work; where all move by themselves T4 is better."""
        least, most = _WORTHWHILE
        return setting.pilot is not None and not unsupported(setting.noise) and least <= setting.stable_rank <= most

    @classmethod
    def affordable(cls, setting: Setting) -> bool:
        """Whether f itself takes twice as long as the sketches; where nothing is known of f, it is taken to be dear."""
        work = None if setting.work is None else setting.work()
        return work is None or work >= _WORK[0] + _WORK[1] * setting.outputs

    def guess(self, rho: float) -> float:
        return math.inf if self.plan is None else self._guessed(self.plan.pilot, self.plan.levels, rho)

    def needs(self, rho: float) -> list[Accumulator]:
        if self.plan is None:
            return []
        low, high = self._ranks(rho)
        return [ExtremeRanks(max(low, 1), max(high, 1)), *self._indicators()]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        setting, plan = self.setting, self.plan
        if why := unsupported(setting.noise):
            return Evaluation(math.inf, reason=why)
        if plan is None:
            return Evaluation(math.inf, reason="the levels of T12 are chosen on pilot draws: take some")
        box = percentile_box(seen, setting, p=self.p, rho=rho, alpha=self._share)
        indicators = [cast(Indicators, seen[wanted.key]) for wanted in self._indicators()]
        second, slack = [], []
        for indicator in indicators:
            limit, least = self._limits(indicator.spectrum.largest_in_balls, indicator.spectrum.radius, len(indicators))
            second.append(limit)
            slack.append(least)
        evidence = IndicatorsEvidence(
            setting.center,
            plan.pilot.origin,
            box.lower,
            box.upper,
            plan.pilot.scales,
            torch.tensor(plan.levels, dtype=torch.float64),
            torch.stack([one.expected for one in indicators]),
            torch.stack([one.frequencies() for one in indicators]),
            torch.tensor(second, dtype=torch.float64),
            torch.tensor(slack, dtype=torch.float64),
            self._population,
        )
        value = evidence.implied(setting.noise, rho)
        if math.isfinite(value):
            return Evaluation(value, evidence)
        if bool(torch.isfinite(box.lower).all() and torch.isfinite(box.upper).all()):
            return Evaluation(math.inf, reason=TOO_LARGE)
        return Evaluation(math.inf, None, draws_needed(setting.noise.tails(self.p, rho), self._share))

    def _ranks(self, rho: float) -> tuple[int, int]:
        if rho not in self._known_ranks:
            self._known_ranks[rho] = ranks(self.setting.n, self.setting.noise.tails(self.p, rho), self._share)
        return self._known_ranks[rho]

    def _indicators(self) -> list[Indicators]:
        plan = cast(_Levels, self.plan)
        return [plan.pilot.indicators(level) for level in plan.levels]

    def _limits(self, largest: float, radius: float, levels: int) -> tuple[float, float]:
        """λ and e of one of so many levels; `largest` is λ̂/R²."""
        n, share = self.setting.n, self.alpha / (2 * levels * (3 if self._population else 2))
        if radius == 0:  # no output is left to this level
            return 0.0, 0.0
        second = in_units(chernoff_limit(largest, n, share), radius)
        return second, bernstein_slack(second, radius, n, share)

    def _best(self, pilot: PilotIndicators, aim: float) -> _Levels:
        """The best level, and as long as it pays, one more, up to three."""
        radius = aim if aim > 0 else 1.0
        chosen: tuple[float, ...] = ()
        best = math.inf
        while len(chosen) < min(_MOST_LEVELS, len(_LEVELS)):
            options = [tuple(sorted((*chosen, level))) for level in _LEVELS if level not in chosen]
            values = [self._guessed(pilot, option, radius) for option in options]
            least = min(values)
            if chosen and least > 0.98 * best:
                break
            chosen, best = options[values.index(least)], least
        return _Levels(pilot, chosen, best)

    def _guessed(self, pilot: PilotIndicators, levels: tuple[float, ...], rho: float) -> float:
        setting = self.setting
        wide = pilot.box(setting, self._ranks(rho)) / max(math.sqrt(pilot.weight), 1e-150)
        limits = [self._guessed_beyond(pilot, level, rho) if level < wide else pilot.weight for level in levels]
        shape = torch.full((1,), wide, dtype=torch.float64), torch.full((1,), pilot.weight, dtype=torch.float64)
        value = layered(*shape, torch.tensor(levels, dtype=torch.float64), limits)
        away = distance(pilot.origin, setting.center, _SAFE)
        if self._population:
            own = [self._guessed_beyond(pilot, level, 0.0) for level in levels]
            away = math.sqrt(layered(*shape, torch.tensor(levels, dtype=torch.float64), own)) * pilot.unit
        # Pilot draws make it look a little better than it is going to be; and the sketches take time that T2 does not.
        return square(math.sqrt(value) * pilot.unit + away, 0.1)

    def _guessed_beyond(self, pilot: PilotIndicators, level: float, rho: float) -> float:
        key = level, rho, self.setting.n, self.alpha, self._population
        if key not in pilot.beyond:
            expected, limit = pilot.expected(level), pilot.radius(level)
            second, slack = self._limits(pilot.second(level), limit, _MOST_LEVELS)
            # Pilot frequencies fit the pilot median better than those of other draws are going to.
            gaps = 0.5 - expected.amax(dim=0).reshape(-1) - 0.4 / math.sqrt(pilot.count)
            live = pilot.scales.reshape(-1) > 0
            push = (max_mean_shift(self.setting.noise, rho, second, limit) + slack) / pilot.unit
            weights = (pilot.scales.reshape(-1)[live] / pilot.unit).square()
            pilot.beyond[key] = most_beyond(weights, gaps[live], push)
        return pilot.beyond[key]


@dataclass(frozen=True, eq=False)
class _Levels:
    """What pilot draws chose: where levels start from, the levels, and what they let expect."""

    pilot: PilotIndicators
    levels: tuple[float, ...]
    guess: float
