"""Witnesses: what fresh draws say about the evidence of a spectral bound (T11, T12)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from certify._floats import flat, in_units, length
from certify._text import shown
from certify.bounds.percentile import beyond
from certify.confidence import bennett, divergence, in_balls
from certify.montecarlo.accumulators import part_of, state_of
from certify.montecarlo.sketch import Indicators, Spectrum
from certify.noise import Noise

if TYPE_CHECKING:
    from certify.bounds.spectral_mean import SpectrumEvidence
    from certify.bounds.spectral_median import IndicatorsEvidence

__all__ = ["Aimed", "IndicatorsWitness", "SpectrumWitness"]

_SAFE = 1e-9
_FIRST_DIRECTION = 128
"""Draws before a direction is chosen."""


class Aimed:
    """Mean squares and means of x along directions that earlier draws choose, in memory that does not grow with the draws.

    A direction must not be chosen by the draw that it is tested on. So it is chosen anew whenever the number of draws has
    doubled, from all draws so far, and tested on the following ones. Given the past these have a mean of (wᵀx)² of at most
    λ, and Chernoff's bound holds for such a sequence as it does for independent draws; Bennett's for the means.

    Args:
        origin: b, (*output).
        radius: R, as in `Spectrum`.
        ahead: b − c, (*output): then the mean of x + b − c is looked for, too.

    Attributes:
        count, tested: draws seen, and those that a direction was tested on.
        squares, pushes: sums of (wᵀx/R)² and of uᵀ(x + b − c)/R over these.
    """

    def __init__(self, origin: Tensor, radius: float, ahead: Tensor | None = None) -> None:
        self.past, self.ahead = Spectrum(origin, radius, rows=32), None if ahead is None else flat(ahead)
        self.tested, self.squares, self.pushes = 0, 0.0, 0.0
        self._next = _FIRST_DIRECTION
        self._top: Tensor | None = None
        self._push: Tensor | None = None

    @property
    def count(self) -> int:
        return self.past.count

    @property
    def mean(self) -> float:
        """Mean square along the directions, in units of R²."""
        return self.squares / max(self.tested, 1)

    def update(self, outputs: Tensor) -> None:
        while outputs.shape[0]:
            space = self._next - self.count
            part, outputs = outputs[:space], outputs[space:]
            self._test(part)
            self.past.update(part)
            if self.count == self._next:
                self._next *= 2
                self._aim()

    def merge(self, other: Aimed) -> None:
        self.past.merge(other.past)
        self.tested += other.tested
        self.squares += other.squares
        self.pushes += other.pushes
        while self._next <= self.count:
            self._next *= 2
        if self.count:
            self._aim()

    def state(self) -> dict[str, Tensor]:
        numbers = torch.tensor([self.tested, self.squares, self.pushes], dtype=torch.float64)
        # Chosen when the draws had last doubled: those that came since say nothing about them.
        chosen = {name: w for name, w in (("top", self._top), ("push", self._push)) if w is not None}
        return {"numbers": numbers, **chosen, **state_of({"past": self.past})}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.tested = int(state["numbers"][0])
        self.squares, self.pushes = float(state["numbers"][1]), float(state["numbers"][2])
        self.past.restore(part_of(state, "past"))
        self._top, self._push = state.get("top"), state.get("push")
        self._next = _FIRST_DIRECTION
        while self._next <= self.count:
            self._next *= 2

    def p_value(self, second: float) -> float:
        """Of "λ_max(E x xᵀ) is at most `second`"."""
        if self.past.radius == 0:  # x is 0 by definition
            return 1.0
        allowed = min(1.0, in_balls(second, self.past.radius) * (1 + _SAFE))
        return math.exp(-self.tested * divergence(self.mean, allowed)) if self.mean > allowed else 1.0

    def _test(self, outputs: Tensor) -> None:
        if self._top is None or self.past.radius == 0:
            return
        x = self.past.clipped(outputs)
        self.tested += x.shape[0]
        self.squares += float((x @ self._top.to(x.device)).square().sum())
        if self._push is not None and self.ahead is not None:
            self.pushes += (
                float((x @ self._push.to(x.device)).sum())
                + float(self._push @ (self.ahead / self.past.radius)) * x.shape[0]
            )

    def _aim(self) -> None:
        self._top = self.past.direction()
        if self.ahead is not None:
            push = flat(self.past.mean) + self.ahead
            size = float(length(push))
            self._push = push / size if size > 0 else self._top


class SpectrumWitness:
    """What fresh draws say about the limits of a `SpectrumEvidence`."""

    ordered = True

    def __init__(self, evidence: SpectrumEvidence) -> None:
        self.evidence = evidence
        self.key = f"spectrum witness {id(evidence)}"
        self.along = Aimed(
            evidence.origin,
            evidence.radius,
            None if evidence.center_offset is None else evidence.origin - evidence.center,
        )
        self.outside, self.beyond_reach = 0, 0

    @property
    def count(self) -> int:
        return self.along.count

    def widened(self, other: SpectrumWitness) -> SpectrumWitness:
        return SpectrumWitness(self.evidence)

    def state(self) -> dict[str, Tensor]:
        return {"counts": torch.tensor([self.outside, self.beyond_reach]), **self.along.state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.outside, self.beyond_reach = (int(number) for number in state["counts"])
        self.along.restore(state)

    def described(self) -> str:
        return f"spectrum witness {self.along.past.described()}"

    def update(self, outputs: Tensor) -> None:
        evidence = self.evidence
        away = outputs.to(torch.float64) - evidence.origin.to(outputs.device, torch.float64)
        distance = length(away.reshape(len(outputs), -1), dim=1)
        # The same input gives values a few ulp apart in batches of different sizes; these ulp are f's, not the distance's.
        eps = 1000 * torch.finfo(outputs.dtype).eps
        slack = eps * distance + eps * float(length(flat(evidence.origin)))
        self.outside += int((distance > evidence.radius + slack).sum())
        self.beyond_reach += int((distance > evidence.reach + slack).sum())
        self.along.update(outputs)

    def merge(self, other: SpectrumWitness) -> None:
        self.along.merge(other.along)
        self.outside += other.outside
        self.beyond_reach += other.beyond_reach

    def verdict(self) -> tuple[float, str]:
        """The p-value of the limits, and a phrase of detail."""
        evidence, along = self.evidence, self.along
        if self.beyond_reach:
            return 0.0, f"{self.beyond_reach} of {self.count} draws are farther from the origin than f can be"
        tests = [
            (
                along.p_value(evidence.second),
                f"largest mean square along a direction {shown(in_units(along.mean, evidence.radius), 'near', 4)} of "
                f"{shown(evidence.second, 'up', 4)}",
            )
        ]
        if evidence.radius < evidence.reach:
            expected = evidence.outside * self.count
            phrase = f"{self.outside} draws outside the ball, allowed mean {shown(expected, 'up', 4)}"
            tests.append((beyond(self.outside, self.count, evidence.outside), phrase))
        if evidence.center_offset is not None:
            moved = along.pushes / max(along.tested, 1) * evidence.radius
            p = bennett(moved - evidence.center_offset * (1 + _SAFE), along.tested, evidence.second, evidence.radius)
            tests.append(
                (p, f"mean along a direction {shown(moved, 'near', 4)} of {shown(evidence.center_offset, 'up', 4)}")
            )
        p, phrase = min(tests, key=lambda test: test[0])
        return min(1.0, len(tests) * p), phrase


class IndicatorsWitness:
    """Fresh draws against the box, the λ's and the frequencies of an `IndicatorsEvidence`.

    λ is tested along directions chosen as in `SpectrumWitness`. The frequencies stand for
    E vᵀx ≤ vᵀx̄ + e with a v fixed beforehand, and are tested with three: all h⁺, all h⁻, and the set that W consists of.
    """

    ordered = True

    def __init__(self, evidence: IndicatorsEvidence) -> None:
        self.evidence = evidence
        self.key = f"indicators witness {id(evidence)}"
        self.box = evidence.box.witness()
        self.parts = [_LevelWitness(evidence, j) for j in range(len(evidence.levels))]

    @property
    def count(self) -> int:
        return self.box.count

    def widened(self, other: IndicatorsWitness) -> IndicatorsWitness:
        return IndicatorsWitness(self.evidence)

    def state(self) -> dict[str, Tensor]:
        return state_of({"box": self.box}) | state_of({str(i): part for i, part in enumerate(self.parts)})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.box.restore(part_of(state, "box"))
        for i, part in enumerate(self.parts):
            part.restore(part_of(state, str(i)))

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
        tests = [
            self.evidence.box.verdict(self.box, noise, rho),
            *(test for part in self.parts for test in part.tests()),
        ]
        worst = min(tests, key=lambda test: test[0])
        return min(1.0, len(tests) * worst[0]), worst[1]


class _LevelWitness:
    """One level's part: mean squares along the direction that earlier draws choose, means along three fixed ones."""

    def __init__(self, evidence: IndicatorsEvidence, j: int) -> None:
        self.evidence, self.j, self.count = evidence, j, 0
        self.level = Indicators(
            evidence.origin, evidence.scales, float(evidence.levels[j]), evidence.expected[j], evidence.radius(j), 32
        )
        self.squares = Aimed(self.level.spectrum.center, self.level.spectrum.radius)
        shifts = evidence.scales * (evidence.frequencies[j] - evidence.expected[j])
        both = torch.stack([evidence.scales, torch.zeros_like(evidence.scales)])
        worst = torch.zeros_like(both)
        worst.scatter_(0, evidence.frequencies[j].argmax(dim=0, keepdim=True), evidence.scales[None])
        frequencies = evidence.frequencies[j].amax(dim=0)
        order = frequencies.reshape(-1).argsort(descending=True)
        weight = evidence.scales.reshape(-1)[order].square().cumsum(0)
        few = torch.zeros_like(weight, dtype=torch.bool)
        few[order] = weight <= 0.25 * weight[-1]
        directions = [both, both.flip(0), worst * few.reshape(evidence.scales.shape)]
        self.directions = [d / d.norm() for d in directions if float(d.norm()) > 0]
        self.allowed = [float((d * shifts).sum()) + float(evidence.slack[j]) for d in self.directions]
        self.sums = [0.0] * len(self.directions)

    def update(self, outputs: Tensor) -> None:
        for part in outputs.split(64):
            scaled = self.level.beyond(part)
            self.squares.update(scaled)
            x = scaled - (self.evidence.scales * self.evidence.expected[self.j]).to(scaled.device)
            self.count += x.shape[0]
            for i, direction in enumerate(self.directions):
                self.sums[i] += float((x * direction.to(x.device)).sum())

    def merge(self, other: _LevelWitness) -> None:
        self.squares.merge(other.squares)
        self.count += other.count
        self.sums = [mine + theirs for mine, theirs in zip(self.sums, other.sums, strict=True)]

    def state(self) -> dict[str, Tensor]:
        numbers = torch.tensor([self.count, *self.sums], dtype=torch.float64)
        return {"sums": numbers, **state_of({"squares": self.squares})}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count, self.sums = int(state["sums"][0]), [float(number) for number in state["sums"][1:]]
        self.squares.restore(part_of(state, "squares"))

    def tests(self) -> list[tuple[float, str]]:
        """p-values and phrases."""
        second, limit = float(self.evidence.second[self.j]), self.evidence.radius(self.j)
        level = f"level {shown(float(self.evidence.levels[self.j]), 'down', 4)}"
        tests = [
            (
                self.squares.p_value(second),
                f"{level}: largest mean square {shown(self.squares.mean, 'near', 4)} of {shown(second, 'up', 4)}",
            )
        ]
        for total, allowed in zip(self.sums, self.allowed, strict=True):
            excess = total / max(self.count, 1) - allowed - _SAFE * limit
            tests.append(
                (
                    bennett(excess, self.count, second, limit),
                    f"{level}: mean along a direction +{shown(excess, 'near', 4)}",
                )
            )
        return tests
