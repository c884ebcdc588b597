"""What a statement is: one record from the moment it is proven to the page it is read on.

`Statement` holds what every one of them says. A bound that was just computed is a `Result`: it also knows where its draws come
from and the evidence that its value follows from. A claim on record is a `certify.certificate.Claim`, made from what the result
says in `stated`. A new kind of result adds its own fields, and those of its claim there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from certify._records import Shown
from certify._text import failure
from certify.bounds.base import Evidence, Run

__all__ = ["Distance", "Points", "Result", "Statement", "constant"]


def constant(value: str) -> Any:
    """A field that is the same in all records of a class, and not worth a word in `repr`."""
    return field(default=value, repr=False)


@dataclass(frozen=True, kw_only=True)
class Statement(Shown):
    """What every statement says.

    Attributes:
        theorem: label in THEORY ("T1", "T2", …).
        quantity, unit: what is bounded, and in what unit.
        rho: the radius it holds for, in units of the noise.
        alpha, n: failure probability over the draws, and their number.
        status, reason: "certified" or "abstained", with a reason that says what n would do; of a certified statement what a
            reader must know of its set, mostly "".
    """

    theorem: str
    quantity: str
    unit: str
    rho: float
    alpha: float
    n: int
    status: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Result(Statement):
    """A statement that was just proven.

    Attributes:
        run: where its draws come from.
        evidence: what its value follows from; a certificate keeps it.
    """

    run: Run = field(repr=False)
    evidence: Evidence | None = field(default=None, repr=False)

    @property
    def measured_to(self) -> Tensor | None:
        """The reference of a claim about a distance, (*output); None of another one."""
        return None

    def stated(self) -> dict[str, Any]:
        """The fields of its claim, but for those that are what `Claim` has by default."""
        run = self.run
        return {**self.named(Statement), "function": run.function, "policy": run.policy, "copies": run.copies}

    def named(self, *what: Any) -> dict[str, Any]:
        """Attributes by name: those that are named, or the fields of a class."""
        names = [name for one in what for name in ([one] if isinstance(one, str) else [f.name for f in fields(one)])]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Distance(Result):
    """How far a smoothed output can be from a reference.

    Attributes:
        value: the bound; +∞ in an abstention.
        method, smoother: how it was obtained, and "median" or "mean".
        center: the reference, shape (*output): given, or the smoothed value of pilot draws; for reference "population" only an
            estimate of what the distance is measured to.
        reference: "center" or "population" (the ideal smoothed value at y itself).
        considered: with method "best", what pilot draws let expect of each method; the best was taken.
        scope: "single", or for a point of a curve "pointwise" or "simultaneous".
    """

    value: float
    method: str
    smoother: str
    reference: str
    center: Tensor = field(repr=False)
    considered: Mapping[str, float] = field(default_factory=dict, repr=False)
    scope: str = constant("single")

    @property
    def measured_to(self) -> Tensor:
        return self.center

    def stated(self) -> dict[str, Any]:
        own = self.named("value", "method", "smoother", "reference", "scope")
        return {**super().stated(), **own, "outputs": self.center.numel()}


class Points(Shown):
    """A bound at several radii from one set of draws, whatever the record at one of them is.

    Attributes:
        points: a statement a radius.
        simultaneous: True: all points hold at once with probability 1 − α. False: each does, one at a time.
        alpha: of the curve (simultaneous) or of each point (pointwise).
    """

    points: Sequence[Any]
    simultaneous: bool
    alpha: float

    def __repr__(self) -> str:
        how = f"simultaneous={self.simultaneous}, α = {failure(self.alpha)}, n={self.n}"
        return f"{type(self).__name__}({len(self.points)} radii, {how}, {self.method} ({self.theorem}))"

    @property
    def rhos(self) -> tuple[float, ...]:
        """The radii, increasing."""
        return tuple(point.rho for point in self.points)

    @property
    def values(self) -> tuple[float, ...]:
        """The bounds, +∞ where a point abstained."""
        return tuple(point.value for point in self.points)

    @property
    def n(self) -> int:
        """Bounding draws."""
        return int(self.points[0].n)

    @property
    def method(self) -> str:
        """The methods of its points, each once."""
        return ", ".join(dict.fromkeys(point.method for point in self.points))

    @property
    def theorem(self) -> str:
        """Their theorems."""
        return ", ".join(dict.fromkeys(point.theorem for point in self.points))
