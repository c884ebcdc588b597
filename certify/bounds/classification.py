"""T1 for classifiers: the class that a smoothed classifier gives, and the radius up to which it keeps to it.

Statement. A classifier gives the noisy input y + G the class c over the noise. If P[another class at y] is at
most q < ½, then for every ‖δ‖_Σ ≤ ρ

    P[another class at y + δ]  ≤  Φ(Φ⁻¹(q) + ρ)  <  ½      as long as      ρ < Φ⁻¹(1 − q),

so that c stays what more than half of all noisy copies are given. The largest such ρ is the certified radius; σρ in ℓ2 for
isotropic noise, the inscribed ball of the ellipsoid otherwise. For any noise: as long as 1 − p⁺ > ½ (`Noise.tails`).

From draws. The class is chosen on draws of its own; q is the Clopper–Pearson limit of how often the bounding draws give another
one. It counts what is rare, where a float64 has its digits. Chosen on the bounding draws themselves the class would be the one
that chance favours, and the limit would not hold.

Assumes: each δ is chosen independently of the draws. Safe direction: the radius may be too small.

Proof: docs/theory/t01-percentile.md, "A classifier". Reference: Cohen et al. (2019); anisotropic noise: Eiras et al.
(2022); Clopper and Pearson (1934).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from certify._text import shown
from certify.bounds.base import Evidence
from certify.bounds.percentile import beyond
from certify.bounds.statement import Result, constant
from certify.confidence import anytime_limit, clopper_pearson
from certify.montecarlo import Accumulator, AllDraws, Counts
from certify.noise import Noise, Region

__all__ = [
    "ClassEvidence",
    "Classification",
    "Labels",
    "OtherClasses",
    "class_radius",
    "enough_for_class",
    "labels_of",
    "other_limit",
]


@dataclass(frozen=True, kw_only=True)
class Classification(Result):
    """What `certify.classify` returns.

    Attributes:
        label: the class, the one that more than half of all noisy copies of x + δ are given, for every ‖δ‖_Σ ≤ `rho`, with
            confidence 1 − α over the draws; None: abstained.
        rho: the certified radius, rounded down; 0 in an abstention.
        ellipsoid: the certified set {δ : noise.norm(δ) ≤ rho} (T8); for uniform noise a `CrossPolytope`.
        candidate: the class that most of the `n0` pilot draws were given; the `label`, unless abstained.
        successes, n: how many of the n bounding draws were given it.
        other: the upper limit of the probability of any other class at x, with confidence 1 − α.
        stop_at: the radius that was asked about, where drawing ended as soon as that was decided; None: all n were drawn.
        decided: then whether `rho` reaches `stop_at`: "yes", "no" (no number of draws would show it, this way), or "undecided".
            α covers all that is said. `rho` holds whatever was decided, and wherever drawing ended.
    """

    label: int | None
    candidate: int
    successes: int
    other: float
    ellipsoid: Region
    n0: int
    stop_at: float | None = None
    decided: str | None = None
    scope: str = constant("single")

    quantity: str = constant("class")
    unit: str = constant("radius in units of the noise, ‖δ‖_Σ")
    smoother: str = constant("majority")
    method: str = constant("counts")

    @property
    def value(self) -> float:
        """The certified radius, as `rho`."""
        return self.rho

    @property
    def radius(self) -> float:
        """The radius of the largest ℓ2 ball in the certified set, over the coordinates with noise: σρ for one σ."""
        return self.ellipsoid.l2_ball

    @property
    def least(self) -> float:
        """The lower limit of the probability of `candidate` at x: 1 − `other`."""
        return 1.0 - self.other

    def stated(self) -> dict[str, Any]:
        own = self.named("value", "smoother", "method", "scope")
        return {**super().stated(), **own, "numbers": {} if self.evidence is None else self.evidence.numbers()}


@dataclass(frozen=True, eq=False)
class ClassEvidence(Evidence):
    """A class, the limit of the probability of another one at y, and how many draws were given it."""

    label: int
    other: float
    successes: int

    kind: ClassVar[str] = "class"
    scalars: ClassVar[Mapping[str, type]] = {"label": int, "other": float, "successes": int}

    @classmethod
    def restored(
        cls, numbers: Mapping[str, float | int | str], tensors: Mapping[str, Tensor], center: Tensor | None
    ) -> Self:
        made = cls(**cls._scalars(numbers))
        if made.label < 0 or made.label != numbers["label"] or not 0 < made.other <= 1 or made.successes < 0:
            raise ValueError(f"{', '.join(f'{k} = {v}' for k, v in numbers.items())}: out of range")
        return made

    def implied(self, noise: Noise, rho: float) -> float:
        """The probability of another class within `rho`, at most."""
        return 1.0 - noise.tails(self.other, rho).upper

    def witness(self) -> OtherClasses:
        return OtherClasses(self.label)

    def verdict(self, seen: Accumulator, noise: Noise, rho: float) -> tuple[float, str]:
        counts = cast(OtherClasses, seen)
        ones, n = int(counts.ones), counts.count
        allowed = shown(self.other * n, "up", 4)
        return beyond(ones, n, self.other), f"another class in {ones} of {n:,} draws, allowed mean {allowed}"


class Labels(AllDraws):
    """The class of every draw: of the few that choose one.

    Args:
        classes: how many there are; None: as many as there are logits, or any number of labels.
    """

    key = "labels"

    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        self.classes = classes

    def update(self, outputs: Tensor) -> None:
        super().update(labels_of(outputs, self.classes))

    def described(self) -> str:
        return "labels"

    def most(self) -> int:
        """The most frequent class; of several the smallest."""
        counts = Counter(self.stacked().tolist())
        return min(counts, key=lambda label: (-counts[label], label))


class OtherClasses(Counts):
    """How many draws were given another class than `label`."""

    def __init__(self, label: int, classes: int | None = None) -> None:
        super().__init__()
        self.label, self.classes = label, classes

    def widened(self, other: Counts) -> OtherClasses:
        return OtherClasses(self.label, self.classes)

    def update(self, outputs: Tensor) -> None:
        super().update(labels_of(outputs, self.classes) != self.label)

    def described(self) -> str:
        return f"counts of other classes than {self.label}"


def labels_of(outputs: Tensor, classes: int | None = None) -> Tensor:
    """The classes (b,) that a classifier gives: the largest of logits (b, classes), the first of equal ones; or labels (b,).

    Args:
        outputs: of the classifier, as `certify.montecarlo.draw` hands them on: float32 or float64.
        classes: how many there are; None: not known.

    Raises:
        ValueError: they are neither.
    """
    shape = tuple(outputs.shape)
    if outputs.ndim == 2:
        if shape[1] < 2 or (classes is not None and shape[1] != classes):
            wanted = "at least two classes" if classes is None else f"{classes} classes"
            raise ValueError(f"f returned logits of shape (b, {shape[1]}): must be (b, classes), {wanted}")
        return outputs.argmax(dim=1)
    if outputs.ndim != 1:
        raise ValueError(
            f"f returned shape (b, {', '.join(map(str, shape[1:]))}): must be logits (b, classes) or labels (b,)"
        )
    end = math.inf if classes is None else classes
    wrong = outputs[(outputs != outputs.floor()) | (outputs < 0) | (outputs >= end)]
    if wrong.numel():
        most = "whole numbers >= 0" if classes is None else f"whole numbers from 0 to {classes - 1}"
        raise ValueError(f"f returned the label {wrong[0].item()!r}: must be {most}, or logits of shape (b, classes)")
    return outputs.to(torch.int64)


def other_limit(others: int, n: int, alpha: float, *, early: bool) -> float:
    """The upper limit of the probability of another class, from how many of n draws were given one.

    Args:
        others, n: the count.
        alpha: failure probability of the answer.
        early: whether drawing may have been stopped at any time. Then half of α is spent here, and half on a "no".
    """
    return anytime_limit(others, n, alpha / 2) if early else clopper_pearson(others, n, alpha)


def class_radius(other: float, noise: Noise) -> float | None:
    """The largest ρ at which another class is still less probable than ½, rounded down; None: not even at ρ = 0.

    Args:
        other: the limit of its probability at y.
        noise: the noise.
    """

    def keeps(rho: float) -> bool:
        return noise.tails(other, rho).upper > 0.5

    if not keeps(0.0):
        return None
    low, high = 0.0, 1.0
    while keeps(high) and high < 64:
        low, high = high, 2 * high
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return low
        low, high = (middle, high) if keeps(middle) else (low, middle)


def enough_for_class(successes: int, n: int, alpha: float) -> str:
    """In words, how many draws would do for a class with this share, by Chernoff's bound."""
    share = successes / n
    if share <= 0.5:
        return "no number of draws is enough for a class with no more than half of them"
    # KL(share ‖ ½): P[Bin(n, ½) ≥ share n] ≤ exp(−n KL).
    rest = 1 - share
    speed = math.log(2) + share * math.log(share) + (rest * math.log(rest) if rest else 0.0)
    if speed <= 0:  # too near to ½ for a float64
        return "many more draws are needed"
    return f"with this share about n = {math.ceil(math.log(1 / alpha) / speed) + 1:,} would be enough"
