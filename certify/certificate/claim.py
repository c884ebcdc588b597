"""Claims: statements on record, each one with probability 1 − α of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from certify._records import Shown
from certify.bounds.bounded_mean import MeanEvidence
from certify.bounds.copies import Counted
from certify.bounds.statement import Points, Result, Statement
from certify.certificate import words
from certify.certificate.words import NOT_COVERED
from certify.noise import Noise

__all__ = ["Claim", "ClaimedCurve", "ClaimedEvent", "ClaimedMean"]


@dataclass(frozen=True, kw_only=True)
class Claim(Statement):
    """One statement, as a certificate holds it: as `Statement`, and

    Attributes:
        quantity: "mse" (value bounds a squared ℓ2 distance), "radius" (value is a radius), "percentile" (a box), "deployed"
            (value bounds an ℓ2 distance, at probability q), "statistic" (value bounds a statistic, at probability q),
            "event" (value bounds a probability), "mean" (value bounds a mean, for the unit "probability" an event's), "class"
            (value is a radius, `numbers` has the class).
        function: what it is about: "embedding", "noise prediction", "image shows circle", ….
        value: the bound or the radius; ∞, 1 or 0 in an abstention; None for a box, which is in the tensors.
        lower: the other end of a two-sided statement; else None.
        p: percentile; q: probability over the deployment noise; None if the claim has none.
        side: "upper", "lower" or "two-sided".
        replicas: noisy copies K behind one deployed output; None for an ideal smoothed function.
        copies: noisy copies that one call of the function sees; None: it is a function of one input.
        tolerance: for a radius, the squared ℓ2 distance it keeps.
        outputs: how many outputs hold jointly.
        smoother, method, reference: as in `MSEBound`.
        policy: covariance policy; `not_covered` says what it leaves out.
        share: the part of its α in the certificate's Σα.
        scope: "single"; "pointwise" or "simultaneous" for a point of a curve; "stopped early" where drawing ended as
            soon as the claim was decided.
        evidence, numbers: kind and numbers of what the value follows from; its tensors have the prefix `tensors`.
        center: the name of its reference among the tensors, or "".
    """

    function: str
    value: float | None = None
    lower: float | None = None
    p: float | None = None
    q: float | None = None
    side: str = "upper"
    replicas: int | None = None
    copies: int | None = None
    tolerance: float | None = None
    outputs: int = 1
    smoother: str = "none"
    method: str
    reference: str = "none"
    policy: str
    share: float = 1.0
    scope: str = "single"
    evidence: str = ""
    numbers: Mapping[str, float | int | str] = field(default_factory=dict)
    tensors: str = ""
    center: str = ""

    @classmethod
    def of(cls, result: Result) -> Claim:
        """The claim that a result makes, without what a certificate keeps behind it; a point of a curve by itself."""
        return cls(**result.stated())

    @property
    def not_covered(self) -> str:
        """What the covariance policy of this claim leaves out."""
        return NOT_COVERED[self.policy]

    @property
    def sentence(self) -> str:
        """The claim in words."""
        return words.with_confidence(self)


@dataclass(frozen=True, repr=False)
class ClaimedCurve(Points):
    """The claims of one bound curve, with the attributes of a `BoundCurve`."""

    points: tuple[Claim, ...]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(math.inf if claim.value is None else claim.value for claim in self.points)

    @property
    def simultaneous(self) -> bool:  # type: ignore[override]
        """Whether the curve as a whole is the statement."""
        return self.points[0].scope == "simultaneous"

    @property
    def alpha(self) -> float:  # type: ignore[override]
        """α of the curve (simultaneous) or of each point (pointwise)."""
        return self.points[0].alpha * (len(self.points) if self.simultaneous else 1)


@dataclass(frozen=True)
class _OfProbability(Counted, Shown):
    """The claim about an event's probability, with what its bound knows of other radii."""

    claim: Claim
    noise: Noise

    @property
    def replicas(self) -> int:
        """Noisy copies."""
        return self.claim.replicas or 1

    @property
    def n(self) -> int:
        """Bounding draws."""
        return self.claim.n

    @property
    def alpha(self) -> float:
        """Failure probability, of all radii together."""
        return self.claim.alpha

    @property
    def two_sided(self) -> bool:
        """Whether the probability is bounded from below, too."""
        return self.claim.side == "two-sided"


@dataclass(frozen=True)
class ClaimedEvent(_OfProbability):
    """The claim about an event, with what an `EventBound` knows of other radii (T5)."""

    @property
    def successes(self) -> int:
        """How often the event was seen in `n` draws."""
        return int(self.claim.numbers["successes"])


@dataclass(frozen=True)
class ClaimedMean(_OfProbability):
    """The claim about an event of which several values of each draw were seen, with what a `MeanBound` knows (T14)."""

    evidence: MeanEvidence

    @property
    def repeats(self) -> int:
        """Values of one draw of the copies."""
        return self.evidence.repeats

    def _shifted(self, rho: float) -> tuple[float, float]:
        return self.evidence.interval(self.noise, rho)
