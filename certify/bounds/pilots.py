"""What pilot draws let the spectral bounds expect (T11, T12). Nothing here is claimed: it chooses, and guesses."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from typing import ClassVar, cast

import torch
from scipy.special import ndtri
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from certify._floats import flat, half_way, length, mean, unit_of
from certify.bounds.base import Setting
from certify.bounds.percentile import guessed_reach
from certify.confidence import in_balls
from certify.montecarlo.accumulators import in_order
from certify.montecarlo.sketch import Indicators, indicators_radius

__all__ = ["PilotIndicators", "PilotSpectrum"]


class PilotSpectrum:
    """What pilot draws let expect: of the lengths of x, and of λ for every R. Kept for as long as the draws are."""

    _known: ClassVar[WeakIdKeyDictionary] = WeakIdKeyDictionary()

    def __init__(self, pilot: Tensor) -> None:
        self.mean = mean(pilot.to(torch.float64)).cpu()
        x, unit = pilot.reshape(pilot.shape[0], -1).to(torch.float64), unit_of(pilot)
        x = x / unit - (x / unit).mean(dim=0)
        unit, x = unit * unit_of(x), x / unit_of(x)
        gram = (x @ x.T).cpu()
        self.count, self.lengths = pilot.shape[0], gram.diagonal().clamp_min(0).sqrt() * unit
        self._gram, self._unit = gram, unit
        self._energy = float(gram.diagonal().clamp_min(0).mean())
        self.rms = math.sqrt(self._energy) * unit
        # Above its upper decile a length is taken to have an exponential tail.
        self._decile = float(self.lengths.quantile(0.9))
        over = self.lengths[self.lengths > self._decile] - self._decile
        self._scale = float(over.mean()) if over.numel() else 0.0
        self._tops: dict[float, float] = {}

    @classmethod
    def of(cls, pilot: Tensor) -> PilotSpectrum:
        if pilot not in cls._known:
            cls._known[pilot] = cls(pilot)
        return cast(PilotSpectrum, cls._known[pilot])

    def away(self, center: Tensor) -> bool:
        """Whether the pilot mean is a better origin than `center`: one that is not itself it, but for rounding."""
        distance = float(length(flat(self.mean) - flat(center)))
        return distance > 0.01 * self.rms / math.sqrt(self.count) + 1e-6 * float(length(flat(center)))

    def outside(self, radius: float) -> float:
        """The expected share of draws beyond `radius`."""
        share = float((self.lengths > radius).double().mean())
        if share > 0 or self._scale == 0:
            return share
        return min(0.1 * math.exp(-(radius - self._decile) / self._scale), 1 / self.count)

    def radii(self, reach: float, n: int) -> list[float]:
        """Radii to choose from: beyond which about so many of n draws are expected, and no cut at all."""
        least = 1e-3 * reach
        expected = 0.03 * n, 0.003 * n, 10.0, 1.0, 0.1
        radii = [self._decile + self._scale * math.log(0.1 * n / count) for count in expected if count < 0.1 * n]
        radii += [1.001 * float(self.lengths.max())]
        return sorted({min(max(radius, least), reach) for radius in radii} | {reach})

    def top(self, radius: float) -> float:
        """λ_max(E x xᵀ)/R² for R = `radius`: midway between what pilot draws have along their own best direction, which is
        too much, and what half of them have along the best of the other half, which is too little.
        """
        return in_balls(self._top(radius), radius / self._unit)

    @property
    def leading(self) -> float:
        """λ_max(Cov f) / tr Cov f, likewise; 0 where nothing moves."""
        return self._top(math.inf) / self._energy if self._energy > 0 else 0.0

    def _top(self, radius: float) -> float:
        """λ_max(E x xᵀ), in this object's unit."""
        if radius not in self._tops:
            scale = (radius / self._unit / self._gram.diagonal().clamp_min(1e-300).sqrt()).clamp_max(1.0)
            gram = self._gram * scale[:, None] * scale
            half = self.count // 2
            own, _ = _power(gram)
            if half < 2:
                return own / self.count
            value, vector = _power(gram[:half, :half])
            other = float((gram[half:, :half] @ vector).square().mean()) / value if value > 0 else 0.0
            self._tops[radius] = (own / self.count + other) / 2
        return self._tops[radius]


def _power(gram: Tensor) -> tuple[float, Tensor]:
    """The largest eigenvalue and vector, roughly: enough to choose by."""
    vector = gram.diagonal().clone()
    value = 0.0
    for _ in range(40):
        vector = gram @ vector
        value = float(vector.norm())
        if value == 0:
            break
        vector = vector / value
    return value, vector


class PilotIndicators:
    """What pilot draws know about the levels around one origin. Kept for as long as the draws are."""

    _known: ClassVar[WeakIdKeyDictionary] = WeakIdKeyDictionary()

    def __init__(self, pilot: Tensor, origin: Tensor) -> None:
        self.origin, self.count = origin, pilot.shape[0]
        self._draws = weakref.ref(pilot)
        ordered = in_order(pilot).to("cpu", torch.float64)
        # Every output's distances from the origin in order: how many are beyond a level is a search.
        self._away = (ordered - origin.to("cpu", torch.float64)).reshape(self.count, -1).t().contiguous()
        low, high = ordered[int(0.16 * (self.count - 1))], ordered[math.ceil(0.84 * (self.count - 1))]
        self.scales = half_way(high, -low)
        self.unit = unit_of(self.scales)
        self.weight = float((self.scales / self.unit).square().sum())  # in this unit
        self._levels: dict[float, Indicators] = {}
        self._boxes: dict[tuple[int, int, int], float] = {}
        self.beyond: dict[tuple[float, float, int, float, bool], float] = {}

    @classmethod
    def of(cls, pilot: Tensor, origin: Tensor) -> PilotIndicators:
        by_origin = cls._known.setdefault(pilot, WeakIdKeyDictionary())
        if origin not in by_origin:
            by_origin[origin] = cls(pilot, origin)
        return cast(PilotIndicators, by_origin[origin])

    def indicators(self, level: float) -> Indicators:
        """An empty accumulator for one level; those of one level share their b."""
        if level not in self._levels:
            threshold = level * self.scales.reshape(-1, 1)
            above = self.count - torch.searchsorted(self._away, threshold, right=True)
            below = torch.searchsorted(self._away, -threshold)
            expected = torch.stack([above, below]).reshape(2, *self.scales.shape) / float(self.count)
            limit = indicators_radius(self.scales, expected)
            self._levels[level] = Indicators(self.origin, self.scales, level, expected, limit)
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
