"""Live numbers: what may be shown of a certificate while its draws come in.

Half of α is for the bound, half for the rate, and each is spent so that all that is ever shown holds at once:

    the bound        looks at n₁ < n₂ < … draws with α/2J each (T3, sequential, "Many order statistics"), for all radii at once
    the rate         one confidence sequence for P[event] without an attack (Ville's inequality), moved to every radius by T5

They are statements of their own beside the certificate, whose α they do not touch: that is read once, at its end. Looks see the
first of the very draws that the certificate is computed from, and distances have its reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from certify.adaptive.plan import EMBEDDING
from certify.bounds.base import default_pilot
from certify.confidence.anytime import anytime_limit, looks, stopped_event
from certify.statements.ask import bound_curve

if TYPE_CHECKING:
    from certify.adaptive.prompt import PreparedPrompt
    from certify.app.asked import Asked
    from certify.montecarlo import Progress

__all__ = ["RADII", "Count", "Live", "Look"]

RADII = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Of the curves; the requested radius is added."""

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


class Live:
    """Live numbers of one certificate.

    Args:
        prompt: what is certified.
        asked: the settings.
        event: the name of the event; None: there is none.
        counted: is given every new count.
    """

    def __init__(
        self, prompt: PreparedPrompt, asked: Asked, event: str | None, counted: Callable[[Count], None]
    ) -> None:
        self.prompt, self.asked, self.event, self.counted = prompt, asked, event, counted
        self.rhos = tuple(sorted({*RADII, asked.rho}))
        self.looks = [(n, alpha) for n, alpha in looks(min(FIRST, asked.n), asked.n, asked.alpha / 2) if n < asked.n]
        self._seen: set[int] = set()
        self._successes, self._n = 0, 0

    def bounds(self, progress: Progress, batch_size: int | None = None) -> Iterator[Look]:
        """The bound at every look but the last, which is the certificate's own."""
        problem, asked = self.prompt.problem(), self.asked
        how: dict[str, Any] = {
            "pilot": default_pilot(asked.n),  # the certificate's: the same reference
            "support": problem.support,
            "smoother": self.prompt.adaptive.smoother,
            "policy": self.prompt.adaptive.policy,
            "function": EMBEDDING,
        }
        total = sum(n for n, _ in self.looks) + asked.n
        before = 0
        for n, alpha in self.looks:

            def ticked(done: int, _: int, before: int = before) -> None:
                progress(before + done, total)

            drawn: dict[str, Any] = {"n": n, "seed": asked.seed, "batch_size": batch_size, "progress": ticked}
            curve = bound_curve(problem.f, problem.y, problem.noise, rhos=self.rhos, alpha=alpha, **how, **drawn)
            before += n
            yield Look(n, tuple(curve.rhos), tuple(map(float, curve.values)))

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
        d, alpha = self.prompt.deployment, self.asked.alpha / 2
        rhos = tuple(i / 50 for i in range(51))
        values = [
            stopped_event(self._successes, self._n, d.noise, rho=rho, replicas=d.copies, alpha=alpha) for rho in rhos
        ]
        return Count(self._successes, self._n, anytime_limit(self._successes, self._n, alpha), rhos, tuple(values))
