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
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import torch
from scipy.special import ndtri
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from certify._floats import TOO_LARGE, half_way, in_units, length, square, unit_of
from certify._floats import up as upwards
from certify._text import shown
from certify.bounds.base import Evaluation, Evidence, Method, Setting
from certify.bounds.percentile import BoxEvidence, draws_needed, guessed_reach, percentile_box, ranks
from certify.bounds.spectral_mean import (
    Aimed,
    PilotSpectrum,
    bennett,
    bernstein_slack,
    chernoff_limit,
    in_balls,
    silent,
    swing,
)
from certify.montecarlo import Accumulator, ExtremeRanks
from certify.montecarlo.sketch import Spectrum
from certify.noise import Noise

__all__ = ["Indicators", "IndicatorsEvidence", "IndicatorsWitness", "SpectralMedianMSE", "layered", "most_beyond"]

_LEVELS = tuple(0.05 * 1.3**k for k in range(18))
"""Levels τ to choose from, in units of the outputs' spread."""

_ROWS, _MOST_LEVELS = 64, 3
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
        kept = {name: cast(Tensor, getattr(self, name)) for name in names}
        return kept if self.origin is self.center else {**kept, "origin": self.origin}

    @classmethod
    def restored(cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor) -> Self:
        shape, levels = tuple(center.shape), tensors["levels"]
        held = cls(
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
            if tuple(getattr(held, name).shape) != size:
                raise ValueError(f"{name} has shape {tuple(getattr(held, name).shape)}: must be {size}")
        if levels.ndim != 1 or not bool((torch.diff(levels, prepend=levels.new_zeros(1)) > 0).all()):
            raise ValueError(f"levels {levels.tolist()}: must be > 0 and increase")
        chances = torch.stack([held.expected, held.frequencies])
        if not bool(((chances >= 0) & (chances <= 1)).all()):
            raise ValueError("expected, frequencies: must be in 0 … 1")
        if not bool((held.second >= 0).all() and (held.slack >= 0).all() and (held.scales >= 0).all()):
            raise ValueError("second, slack and scales: must be >= 0")
        return held

    def implied(self, noise: Noise, rho: float) -> float:
        if not bool((self.lower <= self.upper).all()):
            return math.inf  # nothing lies in it
        value = self._at(noise, rho)
        away = math.sqrt(self._at(noise, 0.0)) if self.population else _distance(self.origin, self.center)
        return value if away == 0 else square(math.sqrt(value) + away, _SAFE)

    def _at(self, noise: Noise, rho: float) -> float:
        """The squared distance from the origin."""
        origin = _flat(self.origin)
        up, down = _flat(self.upper) - origin, origin - _flat(self.lower)
        reach, scales = torch.maximum(up.abs(), down.abs()), _flat(self.scales)
        unit = unit_of(reach, scales)
        up, down, reach, scales = up / unit, down / unit, reach / unit, scales / unit
        live = scales > _NEGLIGIBLE
        left = float(reach[~live].square().sum())
        limits = []
        for j, level in enumerate(self.levels):
            pushes = (swing(noise, rho, float(self.second[j]), self.radius(j)) + float(self.slack[j])) / unit
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
        return radius(self.scales, self.expected[j])

    def witness(self) -> IndicatorsWitness:
        return IndicatorsWitness(self)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        return cast(IndicatorsWitness, seen).verdict(noise, rho)

    @property
    def box(self) -> BoxEvidence:
        """The box, as evidence of its own."""
        return BoxEvidence(self.lower, self.upper, center=self.origin)


def radius(scales: Tensor, expected: Tensor) -> float:
    """R = sup ‖(s, s) ∘ (h − b)‖: h⁺ and h⁻ are not both 1. `expected` = b, (2, *output)."""
    p, q = expected
    most = torch.maximum(p**2 + q**2, torch.maximum((1 - p) ** 2 + q**2, p**2 + (1 - q) ** 2))
    return upwards(float(length(scales * most.sqrt())), _SAFE)


class Indicators:
    """The spectrum of x = (s, s) ∘ (h − b) at one level (`certify.montecarlo.sketch`).

    Args:
        origin, scales: c and s, (*output).
        level: τ.
        expected: b, (2, *output).
        radius: R.
        rows: of the sketch.
    """

    ordered = True

    def __init__(
        self, origin: Tensor, scales: Tensor, level: float, expected: Tensor, radius: float, rows: int = _ROWS
    ) -> None:
        self.origin, self.scales, self.level, self.expected, self.rows = origin, scales, level, expected, rows
        self.key = f"indicators {id(origin)} {id(expected)} {level!r} {rows}"
        self.spectrum = Spectrum(scales * expected, radius, rows)

    @property
    def count(self) -> int:
        return self.spectrum.count

    def widened(self, other: Indicators) -> Indicators:
        return Indicators(self.origin, self.scales, self.level, self.expected, self.spectrum.radius, self.rows)

    def update(self, outputs: Tensor) -> None:
        for part in outputs.split(64):  # (2m numbers a draw)
            self.spectrum.update(self.beyond(part))

    def beyond(self, outputs: Tensor) -> Tensor:
        """(s, s) ∘ h: (draws, 2, *output), float64."""
        return self.happens(outputs) * self.scales.to(outputs.device)

    def happens(self, outputs: Tensor) -> Tensor:
        """h: (draws, 2, *output), booleans."""
        away = outputs.to(torch.float64) - self.origin.to(outputs.device, torch.float64)
        threshold = self.level * self.scales.to(outputs.device)
        return torch.stack([away > threshold, away < -threshold], dim=1)

    def merge(self, other: Indicators) -> None:
        self.spectrum.merge(other.spectrum)

    def state(self) -> dict[str, Tensor]:
        return self.spectrum.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.spectrum.restore(state)

    def described(self) -> str:
        return f"indicators {self.level!r} {self.spectrum.described()}"

    def frequencies(self) -> Tensor:
        """p̂, (2, *output)."""
        found = self.expected + self.spectrum.mean / torch.where(self.scales > 0, self.scales, 1.0)
        return found.clamp(0, 1)


class IndicatorsWitness:
    """Fresh draws against the box, the λ's and the frequencies of an `IndicatorsEvidence`.

    λ is tested along directions chosen as in `certify.bounds.spectral_mean.SpectrumWitness`. The frequencies stand for
    E vᵀx ≤ vᵀx̄ + e with a v fixed beforehand, and are tested with three: all h⁺, all h⁻, and the set that W consists of.
    """

    ordered = True

    def __init__(self, held: IndicatorsEvidence) -> None:
        self.held = held
        self.key = f"indicators witness {id(held)}"
        self.box = held.box.witness()
        self.parts = [_LevelWitness(held, j) for j in range(len(held.levels))]

    @property
    def count(self) -> int:
        return self.box.count

    def widened(self, other: IndicatorsWitness) -> IndicatorsWitness:
        return IndicatorsWitness(self.held)

    def state(self) -> dict[str, Tensor]:
        state = {f"box.{name}": tensor for name, tensor in self.box.state().items()}
        for i, part in enumerate(self.parts):
            state |= {f"{i}.{name}": tensor for name, tensor in part.state().items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        def own(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

        self.box.restore(own("box."))
        for i, part in enumerate(self.parts):
            part.restore(own(f"{i}."))

    def described(self) -> str:
        return " ".join(part.level.described() for part in self.parts)

    def update(self, outputs: Tensor) -> None:
        self.box.update(outputs)
        for part in self.parts:
            part.update(outputs)

    def merge(self, other: IndicatorsWitness) -> None:
        self.box.merge(other.box)
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.merge(theirs)

    def verdict(self, noise: Noise, rho: float) -> tuple[float, str]:
        """The p-value of the limits, and a phrase of detail."""
        found = [self.held.box.verdict(self.box, noise, rho), *(test for part in self.parts for test in part.tests())]
        worst = min(found, key=lambda test: test[0])
        return min(1.0, len(found) * worst[0]), worst[1]


class _LevelWitness:
    """One level's part: mean squares along the direction that earlier draws choose, means along three fixed ones."""

    def __init__(self, held: IndicatorsEvidence, j: int) -> None:
        self.held, self.j, self.count = held, j, 0
        self.level = Indicators(held.origin, held.scales, float(held.levels[j]), held.expected[j], held.radius(j), 32)
        self.squares = Aimed(self.level.spectrum.center, self.level.spectrum.radius)
        shifts = held.scales * (held.frequencies[j] - held.expected[j])
        both = torch.stack([held.scales, torch.zeros_like(held.scales)])
        worst = torch.zeros_like(both)
        worst.scatter_(0, held.frequencies[j].argmax(dim=0, keepdim=True), held.scales[None])
        kept = held.frequencies[j].amax(dim=0)
        order = kept.reshape(-1).argsort(descending=True)
        weight = held.scales.reshape(-1)[order].square().cumsum(0)
        few = torch.zeros_like(weight, dtype=torch.bool)
        few[order] = weight <= 0.25 * weight[-1]
        directions = [both, both.flip(0), worst * few.reshape(held.scales.shape)]
        self.directions = [d / d.norm() for d in directions if float(d.norm()) > 0]
        self.allowed = [float((d * shifts).sum()) + float(held.slack[j]) for d in self.directions]
        self.sums = [0.0] * len(self.directions)

    def update(self, outputs: Tensor) -> None:
        for part in outputs.split(64):
            scaled = self.level.beyond(part)
            self.squares.update(scaled)
            x = scaled - (self.held.scales * self.held.expected[self.j]).to(scaled.device)
            self.count += x.shape[0]
            for i, direction in enumerate(self.directions):
                self.sums[i] += float((x * direction.to(x.device)).sum())

    def merge(self, other: _LevelWitness) -> None:
        self.squares.merge(other.squares)
        self.count += other.count
        self.sums = [mine + theirs for mine, theirs in zip(self.sums, other.sums, strict=True)]

    def state(self) -> dict[str, Tensor]:
        numbers = torch.tensor([self.count, *self.sums], dtype=torch.float64)
        return {"sums": numbers, **{f"squares.{name}": tensor for name, tensor in self.squares.state().items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count, self.sums = int(state["sums"][0]), [float(number) for number in state["sums"][1:]]
        self.squares.restore({k.removeprefix("squares."): v for k, v in state.items() if k.startswith("squares.")})

    def tests(self) -> list[tuple[float, str]]:
        """p-values and phrases."""
        second, limit = float(self.held.second[self.j]), self.held.radius(self.j)
        level = f"level {shown(float(self.held.levels[self.j]), 'down', 4)}"
        found = [
            (
                self.squares.p_value(second),
                f"{level}: largest mean square {shown(self.squares.mean, 'near', 4)} of {shown(second, 'up', 4)}",
            )
        ]
        for total, allowed in zip(self.sums, self.allowed, strict=True):
            excess = total / max(self.count, 1) - allowed - _SAFE * limit
            found.append(
                (
                    bennett(excess, self.count, second, limit),
                    f"{level}: mean along a direction +{shown(excess, 'near', 4)}",
                )
            )
        return found


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
        if setting.pilot is None or silent(setting.noise):
            return
        origins = [setting.center]
        if setting.middle is not None and setting.middle is not setting.center:
            origins.append(setting.middle)
        plans = [self._best(_PilotIndicators.of(setting.pilot, origin), aim) for origin in origins]
        self.plan = min(plans, key=lambda plan: plan.guess)

    @classmethod
    def promising(cls, setting: Setting) -> bool:
        """On outputs that move together T12 is T2, at several times the work; where all move by themselves T4 is better."""
        least, most = _WORTHWHILE
        return setting.pilot is not None and not silent(setting.noise) and least <= setting.stable_rank <= most

    def guess(self, rho: float) -> float:
        return math.inf if self.plan is None else self._guessed(self.plan.pilot, self.plan.levels, rho)

    def needs(self, rho: float) -> list[Accumulator]:
        if self.plan is None:
            return []
        low, high = self._ranks(rho)
        return [ExtremeRanks(max(low, 1), max(high, 1)), *self._indicators()]

    def at(self, rho: float, seen: Mapping[str, Accumulator]) -> Evaluation:
        setting, plan = self.setting, self.plan
        if why := silent(setting.noise):
            return Evaluation(math.inf, reason=why)
        if plan is None:
            return Evaluation(math.inf, reason="the levels of T12 are chosen on pilot draws: take some")
        box = percentile_box(
            cast(ExtremeRanks, seen[ExtremeRanks.key]),
            setting.noise,
            p=self.p,
            rho=rho,
            alpha=self._share,
            shape=setting.shape,
            support=setting.support,
        )
        found = [cast(Indicators, seen[wanted.key]) for wanted in self._indicators()]
        second, slack = [], []
        for one in found:
            limit, least = self._limits(one.spectrum.largest_in_balls, one.spectrum.radius, len(found))
            second.append(limit)
            slack.append(least)
        evidence = IndicatorsEvidence(
            setting.center,
            plan.pilot.origin,
            box.lower,
            box.upper,
            plan.pilot.scales,
            torch.tensor(plan.levels, dtype=torch.float64),
            torch.stack([one.expected for one in found]),
            torch.stack([one.frequencies() for one in found]),
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

    def _best(self, pilot: _PilotIndicators, aim: float) -> _Levels:
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

    def _guessed(self, pilot: _PilotIndicators, levels: tuple[float, ...], rho: float) -> float:
        setting = self.setting
        wide = pilot.box(setting, self._ranks(rho)) / max(math.sqrt(pilot.weight), 1e-150)
        limits = [self._guessed_beyond(pilot, level, rho) if level < wide else pilot.weight for level in levels]
        shape = torch.full((1,), wide, dtype=torch.float64), torch.full((1,), pilot.weight, dtype=torch.float64)
        value = layered(*shape, torch.tensor(levels, dtype=torch.float64), limits)
        away = _distance(pilot.origin, setting.center)
        if self._population:
            own = [self._guessed_beyond(pilot, level, 0.0) for level in levels]
            away = math.sqrt(layered(*shape, torch.tensor(levels, dtype=torch.float64), own)) * pilot.unit
        # Pilot draws make it look a little better than it is going to be; and the sketches take time that T2 does not.
        return square(math.sqrt(value) * pilot.unit + away, 0.1)

    def _guessed_beyond(self, pilot: _PilotIndicators, level: float, rho: float) -> float:
        key = level, rho, self.setting.n, self.alpha, self._population
        if key not in pilot.beyond:
            expected, limit = pilot.expected(level), pilot.radius(level)
            second, slack = self._limits(pilot.second(level), limit, _MOST_LEVELS)
            # Pilot frequencies fit the pilot median better than those of other draws are going to.
            gaps = 0.5 - expected.amax(dim=0).reshape(-1) - 0.4 / math.sqrt(pilot.count)
            live = pilot.scales.reshape(-1) > 0
            push = (swing(self.setting.noise, rho, second, limit) + slack) / pilot.unit
            weights = (pilot.scales.reshape(-1)[live] / pilot.unit).square()
            pilot.beyond[key] = most_beyond(weights, gaps[live], push)
        return pilot.beyond[key]


@dataclass(frozen=True, eq=False)
class _Levels:
    """What pilot draws chose: where levels start from, the levels, and what they let expect."""

    pilot: _PilotIndicators
    levels: tuple[float, ...]
    guess: float


class _PilotIndicators:
    """What pilot draws know about the levels around one origin. Kept for as long as the draws are."""

    _known: ClassVar[WeakIdKeyDictionary] = WeakIdKeyDictionary()

    def __init__(self, pilot: Tensor, origin: Tensor) -> None:
        self.origin, self.count = origin, pilot.shape[0]
        self._draws = weakref.ref(pilot)
        ordered = pilot.sort(dim=0).values.to("cpu", torch.float64)
        low, high = ordered[int(0.16 * (self.count - 1))], ordered[math.ceil(0.84 * (self.count - 1))]
        self.scales = half_way(high, -low)
        self.unit = unit_of(self.scales)
        self.weight = float((self.scales / self.unit).square().sum())  # in this unit
        self._levels: dict[float, Indicators] = {}
        self._boxes: dict[tuple[int, int, int], float] = {}
        self.beyond: dict[tuple[float, float, int, float, bool], float] = {}

    @classmethod
    def of(cls, pilot: Tensor, origin: Tensor) -> _PilotIndicators:
        kept = cls._known.setdefault(pilot, WeakIdKeyDictionary())
        if origin not in kept:
            kept[origin] = cls(pilot, origin)
        return cast(_PilotIndicators, kept[origin])

    def indicators(self, level: float) -> Indicators:
        """An empty accumulator for one level; those of one level share their b."""
        if level not in self._levels:
            draws = self._draws()
            if draws is None:
                raise ValueError("the pilot draws are gone: a method must not outlive its setting")
            one = Indicators(self.origin, self.scales, level, torch.zeros((2, *self.scales.shape)), 1.0)
            times = torch.stack([one.happens(part).sum(dim=0) for part in draws.split(64)]).sum(dim=0)
            expected = times.cpu() / float(self.count)
            self._levels[level] = Indicators(self.origin, self.scales, level, expected, radius(self.scales, expected))
        return self._levels[level].widened(self._levels[level])

    def expected(self, level: float) -> Tensor:
        """b, (2, *output): how often pilot draws are beyond the level."""
        return self.indicators(level).expected

    def radius(self, level: float) -> float:
        """R of a level."""
        return self.indicators(level).spectrum.radius

    def second(self, level: float) -> float:
        """Roughly λ/R²: λ of the outputs themselves, times what an indicator keeps of a Gaussian, for both sides."""
        draws = self._draws()
        if draws is None or self.weight == 0:
            return 1e-300
        p = float((self.expected(level) * (self.scales / self.unit).square()).sum()) / (2 * self.weight)
        density = math.exp(-0.5 * float(ndtri(min(max(p, 1e-12), 0.5))) ** 2) / math.sqrt(2 * math.pi)
        linear = PilotSpectrum.of(draws).leading * self.weight
        return in_balls(max(2 * density**2 * linear, 1e-12 * self.weight), self.radius(level) / self.unit)

    def box(self, setting: Setting, taken: tuple[int, int]) -> float:
        """The root of what T2's bound about the origin is roughly going to be, in this object's unit."""
        key = setting.n, *taken
        if key not in self._boxes:
            ordered = cast(Tensor, setting.ordered)
            self._boxes[key] = guessed_reach(replace(setting, center=self.origin), ordered, *taken) / self.unit
        return self._boxes[key]


def _distance(a: Tensor, b: Tensor) -> float:
    return 0.0 if a is b else upwards(float(length(_flat(a) - _flat(b))), _SAFE)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64).reshape(-1)
