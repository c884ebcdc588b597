"""Decision: the answer to a question that was decided as soon as the draws allowed it, with what it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from certify._text import confidence, shown
from certify.bounds.base import Evidence
from certify.bounds.copies import LimitEvidence
from certify.bounds.statement import Result, constant
from certify.montecarlo.processes import Processes
from certify.statements.drawing import Drawing
from certify.statements.stopping import StoppedCount, StoppedMean, StoppedRanks

__all__ = ["Decision", "answer", "reason_why", "single_process", "until_decided"]


@dataclass(frozen=True, kw_only=True)
class Decision(Result):
    """What the `decide_…` functions return.

    Attributes:
        decided: "yes": the target is certified; "no": it cannot be, by this route, with any number of draws (not: it is
            false, or there is an attack); "undecided" at the maximum.
        value: the bound when drawing ended, and valid then: of P[event]; of P[S beyond the threshold]; of the squared
            distance (+∞ if no bound holds, and for "dimension-free" unless decided "yes").
        limit: what it was to keep: `value` ≤ `limit` is "yes".
        rho, alpha, replicas: as asked; replicas is 1 for a squared distance. With probability 1 − α all that is said here
            holds at once: the decision, `value`, `lower` and `upper`, wherever drawing ended.
        status: "certified" for "yes", else "abstained".
        n: draws after which it was decided (all, if undecided). Does not depend on the batch size.
        drawn: draws that were made: n, and the rest of its batch.
        maximum: the most that would have been made.
        repeats: j, values of each of these draws; more than 1: T14.
        pilot_values: values that pilot draws took besides; the choice between T5 and T14 is made on them.
        successes: how often the event was seen in n draws; None for "coordinatewise" and several values of each draw.
        allowed: p₀, the largest probability at y with which "yes" is possible; None for these.
        lower, upper: limits of the event's probability at y; None for these.
        reason: why it is not "yes", in words.
        evidence: for "yes", what a certificate keeps.
        quantity: "event", "statistic", "mse", or for several values of each draw "mean", as in a certificate's claims.
        center: c of a squared distance.
        q, side: of a statistic, as asked.
    """

    decided: str
    value: float
    limit: float
    replicas: int
    drawn: int
    maximum: int
    successes: int | None
    allowed: float | None
    lower: float | None
    upper: float | None
    method: str
    smoother: str = constant("none")
    reference: str = constant("none")
    repeats: int = 1
    pilot_values: int = 0
    center: Tensor | None = field(default=None, repr=False)
    q: float | None = None
    side: str = "upper"
    scope: str = constant("stopped early")

    @property
    def claimed(self) -> float:
        """What a certificate states: the bound of a probability or of a squared distance; of a statistic its threshold."""
        if isinstance(self.evidence, LimitEvidence):
            return self.evidence.lower if self.side == "lower" else self.evidence.upper
        if self.status == "certified":
            return self.value
        return {"event": 1.0, "mean": 1.0, "mse": math.inf}.get(
            self.quantity, -math.inf if self.side == "lower" else math.inf
        )

    @property
    def saved(self) -> int:
        """Draws that were not needed."""
        return self.maximum - self.drawn

    @property
    def measured_to(self) -> Tensor | None:
        return self.center

    def stated(self) -> dict[str, Any]:
        own = self.named("method", "smoother", "reference", "q", "side", "scope")
        if self.center is None:
            about: dict[str, Any] = {"replicas": self.replicas}
        else:
            about = {"p": 0.5, "outputs": self.center.numel()}
        return {**super().stated(), **own, **about, "value": self.claimed}


def until_decided(drawing: Drawing, stopped: StoppedCount | StoppedMean | StoppedRanks) -> int:
    """Draws until `stopped` has decided; how many draws were made."""
    single_process()
    return drawing.draw_until(stopped, stopped.next_draws)


def single_process() -> None:
    """Several processes would each come to a decision of their own from draws of their own."""
    count = Processes.current().count
    if count > 1:
        raise RuntimeError(f"{count} processes draw: stopping early needs a single one")


def answer(
    drawing: Drawing,
    stopped: StoppedCount | StoppedMean | StoppedRanks,
    drawn: int,
    *,
    rho: float,
    alpha: float,
    value: float,
    limit: float,
    reason: str,
    evidence: Callable[[float], Evidence | None],
    **about: Any,
) -> Decision:
    """What became of a question.

    Args:
        drawing, stopped, drawn: what was drawn, what decided, and the draws that were made.
        rho, alpha, value, limit, about: fields of `Decision`.
        reason: why it is not "yes".
        evidence: bound → what a certificate keeps, for "yes".
    """
    yes, run = stopped.decided == "yes", drawing.run()
    counts = stopped if isinstance(stopped, StoppedCount) else None
    lower, upper = counts.limits() if counts else (None, None)
    value = min(value, limit) if yes else value
    return Decision(
        decided=stopped.decided,
        value=value,
        limit=limit,
        rho=rho,
        alpha=alpha,
        replicas=drawing.replicas or 1,
        n=stopped.count,
        drawn=drawn,
        maximum=drawing.n,
        successes=int(counts.ones) if counts else None,
        allowed=counts.allowed if counts else None,
        lower=lower,
        upper=upper,
        status="certified" if yes else "abstained",
        reason=run.remark if yes else reason,
        evidence=evidence(value) if yes else None,
        run=replace(run, n=drawn),
        **about,
    )


def reason_why(counts: StoppedCount, alpha: float, what: str, wanted: str) -> str:
    """Why an event was not decided with "yes"; "" where it was."""
    if counts.decided == "yes":
        return ""
    ones = int(counts.ones)
    if counts.decided == "no":
        return (
            f"{what}, seen in {ones} of the first {counts.count} draws, has with confidence {confidence(alpha)} a probability "
            f"above {shown(counts.allowed, 'down', 4)} at the input itself, the most with which {wanted} can be certified by "
            "any number of draws"
        )
    return (
        f"{what}, seen in {ones} of {counts.count} draws: that its probability is at most {shown(counts.allowed, 'up', 4)} is "
        "neither shown nor excluded"
    )
