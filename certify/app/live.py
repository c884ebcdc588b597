"""Live numbers: what may be shown of a certificate while its draws come in.

Half of α is for the bound, half for the rate, and each is spent so that all that is ever shown holds at once:

    the bound        looks at n₁ < n₂ < … draws with α/2J each (T3, sequential, "Many order statistics"), for all radii at once
    the rate         one confidence sequence for P[event] without an attack (Ville's inequality), moved to every radius by T5

They are statements of their own beside the certificate, whose α they do not touch: that is read once, at its end. Looks see the
first of the draws that the certificate is computed from, on their way to it, and distances have its reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from certify.confidence.anytime import anytime_limit, looks, stopped_event
from certify.montecarlo import Accumulator, ExtremeRanks
from certify.montecarlo.accumulators import pool
from certify.statements.questions import Curve, Plan, Question

if TYPE_CHECKING:
    from certify.app.asked import Asked
    from certify.app.subject import Subject

__all__ = ["Count", "Live", "Look", "Looks"]

FIRST = 250


@dataclass(frozen=True)
class Look:
    """The bound after `n` draws: at every radius, all of them and all other looks at once, but with probability α/2."""

    n: int
    rhos: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Count:
    """How often an event was seen in `n` independent images, and what may be said of it at any time.

    Attributes:
        successes, n: the count.
        limit: of the probability without an attack.
        rhos, values: of the probability under every perturbation of that size.
    """

    successes: int
    n: int
    limit: float
    rhos: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Looks(Question):
    """Asks for the curve of the bound after so many draws, and so many, while others are still to come (T3, sequential).

    It is answered on the way: `looked` is given every look as soon as its draws are there. One process, and no checkpoint.

    Attributes:
        rhos: radii.
        counts: (draws, failure probability) of every look.
        looked: is given every look.
        smoother: "median" or "mean".
        memory: as in `certify.ask`.
    """

    rhos: Sequence[float]
    counts: Sequence[tuple[int, float]]
    looked: Callable[[Look], None]
    smoother: str = "median"
    memory: int | None = None

    @property
    def chooses(self) -> bool:
        return True

    def needs(self, plan: Plan) -> list[Accumulator]:
        return [_First(n, alpha, self, plan) for n, alpha in self.counts]

    def answer(self, plan: Plan, seen: Mapping[str, Accumulator]) -> tuple[int, ...]:
        return tuple(n for n, _ in self.counts)


class _First:
    """The first n draws: as soon as it has them, the look is taken, and what was kept of them is let go."""

    ordered = False  # one for all draws, in the order in which they come

    def __init__(self, n: int, alpha: float, looks: Looks, plan: Plan) -> None:
        self.n, self.looks, self.count = n, looks, 0
        curve = Curve(looks.rhos, alpha, smoother=looks.smoother)
        self.plan = Plan(curve, replace(plan.setting, n=n), replace(plan.run, n=n), 0)
        self.seen = pool(curve.needs(self.plan))
        ranks = self.seen.get(ExtremeRanks.key)
        if isinstance(ranks, ExtremeRanks) and looks.memory is not None:
            ranks.memory = looks.memory

    @property
    def key(self) -> str:
        return f"look at {self.n}"

    def update(self, outputs: Tensor) -> None:
        left = self.n - self.count
        if left <= 0:
            return
        for accumulator in self.seen.values():
            accumulator.update(outputs[:left])
        self.count += min(left, len(outputs))
        if self.count == self.n:
            curve = self.plan.question.answer(self.plan, self.seen)
            self.seen = {}
            self.looks.looked(Look(self.n, tuple(curve.rhos), tuple(map(float, curve.values))))

    def described(self) -> str:
        return self.key

    def merge(self, other: Any) -> None:
        raise ValueError("looks: must be in one process, whose draws come in order")

    def widened(self, other: Any) -> Any:
        raise ValueError(f"{self.key}: must be asked for once")

    def state(self) -> dict[str, Tensor]:
        raise ValueError("looks: must be without a checkpoint, since they are not looked at again")

    def restore(self, state: Mapping[str, Tensor]) -> None:
        raise ValueError("looks: must be without a checkpoint, since they are not looked at again")


class Live:
    """Live numbers of one certificate.

    Args:
        subject: what is certified.
        asked: the settings.
        event: the name of the event; None: there is none.
        looked: is given every new look at the bound.
        counted: is given every new count of the event.
        memory: as in `certify.ask`.
    """

    def __init__(
        self,
        subject: Subject,
        asked: Asked,
        event: str | None,
        looked: Callable[[Look], None],
        counted: Callable[[Count], None],
        memory: int | None = None,
    ) -> None:
        self.subject, self.asked, self.event, self.counted = subject, asked, event, counted
        rhos = tuple(sorted({*subject.radii, asked.rho}))
        shares = looks(min(FIRST, asked.n), asked.n, asked.alpha / 2)
        counts = tuple((n, alpha) for n, alpha in shares if n < asked.n)  # the last is the certificate's own
        self.questions = [Looks(rhos, counts, looked, subject.smoother, memory)] if counts else []
        self._seen: set[int] = set()
        self._successes, self._n = 0, 0

    def watch(self, name: str, f: Callable[..., Any]) -> Callable[..., Any]:
        """The event's function with its images counted: of every draw of the copies the first, so that they are independent."""
        if name != self.event:
            return f

        @functools.wraps(f)
        def counting(z: Tensor, generator: torch.Generator, repeats: int | None = None) -> Any:
            block = generator.initial_seed()  # names the draws: those that are evaluated again are not counted again
            fired = f(z, generator=generator, repeats=repeats)
            if block not in self._seen:
                self._seen.add(block)
                first = fired if fired.ndim == 1 else fired[:, 0]
                self._successes += int(first.sum())
                self._n += len(first)
                self.counted(self.count())
            return fired

        return counting

    def count(self) -> Count:
        """The count until now."""
        subject, alpha = self.subject, self.asked.alpha / 2
        rhos = tuple(i / 50 for i in range(51))
        values = [
            stopped_event(self._successes, self._n, subject.noise, rho=rho, replicas=subject.copies, alpha=alpha)
            for rho in rhos
        ]
        return Count(self._successes, self._n, anytime_limit(self._successes, self._n, alpha), rhos, tuple(values))
