"""The mean of a bounded statistic of the deployed smoother, and the probability of an event: what noise decides (T14).

Behind one and the same draw of the K copies a statistic may still be random: the initial latent of an image, the points
(x_t, t) at which noise predictions are compared, which prompt of a set. Several values of one draw tell how much of it the
copies decide, and only that can an attack reach.

>>> import torch
>>> from certify import GaussianNoise, event_bound, mean_bound
>>> def fires(z, generator):  # with probability .03 or .19, as the copies lie
...     rate = torch.where(z.mean(dim=(1, 2)) > 0, 0.19, 0.03)
...     return torch.rand(len(z), generator=generator) < rate
>>> e = event_bound(fires, torch.zeros(1), GaussianNoise(1.0), rho=0.25, replicas=13, repeats=4, n=2500)
>>> e.theorem, 0.19 < e.value < 0.25  # T5: .39
('T14', True)
>>> score = mean_bound(lambda z: torch.sigmoid(z.mean(dim=(1, 2))), torch.zeros(1), GaussianNoise(1.0), rho=0.1, n=1000)
>>> score.method, 0.5 < score.value < 0.56  # the truth: .525
('score', True)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certify import _validate
from certify._random import keyed
from certify._text import shown
from certify.bounds.base import Run
from certify.bounds.bounded_mean import (
    Limits,
    MeanBound,
    Piecewise,
    Pilot,
    Polynomials,
    Weights,
    chosen_limits,
    interval,
)
from certify.bounds.copies import EventBound
from certify.montecarlo import AllDraws, Function, Progress, draw
from certify.montecarlo.checkpoint import Checkpoint, as_checkpoint
from certify.montecarlo.engine import accepts_generator
from certify.noise import Noise
from certify.progress import as_progress
from certify.statements import replicas as of_replicas
from certify.statements.replicas import SIDES, Asked

__all__ = ["Repeated", "event_bound", "mean_bound"]


@_validate.suggests()
def mean_bound(
    statistic: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    replicas: int = 13,
    repeats: int = 2,
    lower: float = 0.0,
    upper: float = 1.0,
    side: str = "upper",
    curve: bool = False,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    pilot: int | None = None,
    batch_size: int | None = None,
    policy: str = "frozen",
    function: str = "statistic",
    checkpoint: Checkpoint | str | Path | None = None,
    progress: Progress | bool | None = None,
) -> MeanBound:
    """The mean of a bounded statistic of the deployed smoother, whatever is done to the input (T14, T5).

    Equation
        for all ‖δ‖_Σ ≤ ρ:  E S(y + δ + G_1, …, y + δ + G_K, ω) ≤ M − W(0) + ∫_0^1 H(W'(u)) du,  M ≥ E W(E_ω S) at y with
        confidence 1 − α over the draws, W chosen on pilot draws; for W(v) = λv it is T5.

    Reference
        THEORY T14 (docs/theory/t14-bounded-means.md).

    Args:
        statistic: S, batch (b, K, *input) → (b,). With a keyword `generator` it may be random, and is called `repeats` times
            with the same copies, each time with a generator of its own; one that takes a keyword `repeats`, too, is called once
            and returns (b, repeats) independent values. Without, it is a score of the copies: seen itself, called once.
        y: one input, shape (*input).
        noise: a `Noise`, or a number: isotropic Gaussian.
        rho: radius ≥ 0 in units of ‖·‖_Σ; the bound at others is `MeanBound.at`.
        replicas: K, noisy copies that one value of S sees; 13 in the paper.
        repeats: j, values of S of one draw of the copies; 1: T5. Two to four are best where values are dear.
        lower, upper: what S lies between; a value outside is an error.
        side: "upper", "lower" or "two-sided" (then each side has α/2).
        curve: True: limits that serve all radii about alike; False: the best for `rho`. Either way all radii hold at once.
        n: draws of the copies: n · repeats values of S.
        alpha: failure probability over these draws.
        seed, batch_size, checkpoint, progress: as in `certify.statements.ask.ask`; `batch_size` counts draws of the copies.
        pilot: draws that choose W, besides n; None: a fifth of n, between 64 and 1 000.
        policy, function: covariance policy, and what S is called, for the record.

    Returns:
        `MeanBound`.

    Raises:
        ValueError, TypeError: an argument out of range, or S not a function to shape (b,) with values in [lower, upper].
    """
    low, high = _validate.finite("lower", lower), _validate.finite("upper", upper)
    if not low < high or not np.isfinite(high - low):
        raise ValueError(f"lower = {lower!r}, upper = {upper!r}: lower must be below upper, by a finite number")
    asked = Asked(statistic, y, noise, rho, replicas, n, alpha, seed, "statistic", policy, function)
    return _bounded(
        asked,
        repeats=_validate.count("repeats", repeats),
        floor=low,
        ceiling=high,
        side=_validate.choice("side", side, SIDES),
        curve=_validate.flag("curve", curve),
        pilot=pilot,
        batch_size=batch_size,
        checkpoint=checkpoint,
        progress=progress,
    )


@_validate.suggests()
def event_bound(
    event: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    two_sided: bool = False,
    replicas: int = 13,
    repeats: int = 1,
    curve: bool = False,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    pilot: int | None = None,
    batch_size: int | None = None,
    policy: str = "frozen",
    function: str = "event happens",
    checkpoint: Checkpoint | str | Path | None = None,
    progress: Progress | bool | None = None,
) -> EventBound | MeanBound:
    """The probability of an event at the deployed smoother, whatever is done to the input: an attack's success rate (T5, T14).

    Equation
        for all ‖δ‖_Σ ≤ ρ:  P[event at y + δ] ≤ Φ(Φ⁻¹(p̄) + √K ρ),  p̄ the Clopper–Pearson limit of P[event at y] (T5);
        with several values of one draw of the copies as in `mean_bound`, T5 included (T14).

    Reference
        THEORY T5, T14 (docs/theory/t05-deployed.md, docs/theory/t14-bounded-means.md).

    Args:
        event: batch (b, K, *input) → (b,) of 0/1 or booleans: does it happen? May take a `generator` and be random.
        y, noise, rho, replicas, n, alpha, seed, batch_size, policy, checkpoint, progress: as in `mean_bound`.
        repeats: j, values of one draw of the copies; 1: T5. An event without a `generator` has nothing to repeat: T5.
        curve, pilot: as in `mean_bound`, for `repeats` ≥ 2.
        function: what the event is called, for the record: "image shows a circle".
        two_sided: bound the probability from below, too; α is then shared.

    Returns:
        `EventBound`, for `repeats` ≥ 2 `MeanBound`; `value` is the bound.

    Raises:
        ValueError, TypeError: as `mean_bound`, or values other than 0 and 1.
    """
    two_sided, repeats = _validate.flag("two_sided", two_sided), _validate.count("repeats", repeats)
    curve = _validate.flag("curve", curve)
    _validate.function("event", event, "(b, replicas, *input)")
    if repeats == 1 or not accepts_generator(event):
        return of_replicas.event_bound(
            event,
            y,
            noise,
            rho=rho,
            two_sided=two_sided,
            replicas=replicas,
            n=n,
            alpha=alpha,
            seed=seed,
            batch_size=batch_size,
            policy=policy,
            function=function,
            checkpoint=checkpoint,
            progress=progress,
        )
    return _bounded(
        Asked(event, y, noise, rho, replicas, n, alpha, seed, "event", policy, function),
        repeats=repeats,
        floor=0.0,
        ceiling=1.0,
        side="two-sided" if two_sided else "upper",
        curve=curve,
        pilot=pilot,
        batch_size=batch_size,
        checkpoint=checkpoint,
        progress=progress,
    )


class Repeated:
    """Several values of a random statistic at the same copies, each with randomness of its own: (b, K, *input) → (b, j).

    Args:
        statistic: (b, K, *input) → (b,), or with a keyword `repeats` → (b, repeats).
        repeats: j.
        floor, ceiling: what values must lie between; for an event they are 0 or 1.
        name: what the caller calls the statistic.
    """

    def __init__(self, statistic: Function, repeats: int, floor: float, ceiling: float, name: str) -> None:
        self.statistic, self.repeats, self.name = statistic, repeats, name
        self.floor, self.ceiling = floor, ceiling
        self.together = _accepts(statistic, "repeats")

    def __call__(self, z: Tensor, generator: torch.Generator) -> Tensor:
        if self.together:
            made = self.statistic(z, generator=generator, repeats=self.repeats)
            return self._checked(made, (len(z), self.repeats))
        device = generator.device
        word = int(torch.randint(2**62, (1,), generator=generator, device=device))
        # Each value sees copies of its own: what one does to them is not for the next to see.
        parts = [
            self._checked(self.statistic(z.clone(), generator=keyed(f"repeat {i} of {word}", device)), (len(z),))
            for i in range(self.repeats)
        ]
        return torch.stack(parts, dim=1)

    def _checked(self, made: Any, shape: tuple[int, ...]) -> Tensor:
        if not isinstance(made, Tensor):
            raise TypeError(
                f"{self.name} returned a {type(made).__name__}: must return a torch tensor of shape {shape}"
            )
        if tuple(made.shape) != shape:
            raise ValueError(f"{self.name} returned shape {tuple(made.shape)}: must return {shape}")
        if made.is_complex():
            raise TypeError(f"{self.name} returned dtype {made.dtype}: must be real")
        return within(made, self.floor, self.ceiling, self.name)


def within(values: Tensor, floor: float, ceiling: float, name: str) -> Tensor:
    """`values`, of which each must lie between `floor` and `ceiling`; those of an event must be 0 or 1."""
    wrong = (values != 0) & (values != 1) if name == "event" else (values < floor) | (values > ceiling)
    if bool(wrong.any()):
        bad = values[wrong].flatten()[0].item()
        must = (
            "be 0 or 1, or a boolean"
            if name == "event"
            else f"lie between lower = {floor!r} and upper = {ceiling!r} (clamp it there, and the claim is about that)"
        )
        raise ValueError(f"{name} returned {bad!r}: must {must}")
    return values


def _bounded(
    asked: Asked,
    *,
    repeats: int,
    floor: float,
    ceiling: float,
    side: str,
    curve: bool,
    pilot: int | None,
    batch_size: int | None,
    checkpoint: Checkpoint | str | Path | None,
    progress: Progress | bool | None,
) -> MeanBound:
    count = min(1000, max(64, asked.n // 5)) if pilot is None else _validate.count("pilot", pilot, minimum=2)
    random = accepts_generator(asked.statistic)
    repeats = repeats if random else 1
    f = Repeated(asked.statistic, repeats, floor, ceiling, asked.name) if random else asked.statistic
    keep, report = as_checkpoint(checkpoint), as_progress(progress)

    def values(n: int, stream: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        kept = AllDraws()
        draw(
            f,
            asked.y.expand(asked.replicas, *asked.y.shape),
            asked.noise,
            n=n,
            seed=asked.seed,
            stream=stream,
            accumulators=[kept],
            batch_size=batch_size,
            output_shape=(repeats,) if random else (),
            called=asked.name,
            progress=report if stream == "bounding" else None,
            checkpoint=keep,
        )
        seen = within(kept.stacked().to("cpu", torch.float64), floor, ceiling, asked.name).reshape(n, repeats)
        return np.clip((seen.numpy() - floor) / (ceiling - floor), 0.0, 1.0)

    first = values(count, "pilot")
    drawn = values(asked.n, "bounding")
    hits, alpha = asked.name == "event", asked.alpha / (2 if side == "two-sided" else 1)

    def limits(mirrored: bool) -> Limits:
        early, late = (1 - first, 1 - drawn) if mirrored else (first, drawn)
        family: Weights = Polynomials(repeats) if random else Piecewise.at(early)
        return chosen_limits(
            Pilot(family, early),
            late,
            asked.noise,
            rho=asked.rho,
            replicas=asked.replicas,
            alpha=alpha,
            hits=hits,
            curve=curve,
        )

    above = limits(False) if side != "lower" else None
    below = limits(True) if side != "upper" else None
    least, most = interval(below, above, asked.noise, asked.rho, asked.replicas, floor, ceiling)
    decisive = below if side == "lower" else above
    won = "T14" if decisive is None else decisive.won(asked.noise, asked.rho, asked.replicas)
    run = Run.of(
        asked.y,
        asked.noise,
        n=asked.n,
        seed=asked.seed,
        pilot=count,
        policy=asked.policy,
        function=asked.function,
        copies=asked.replicas,
    )
    certified = least > floor if side == "lower" else most < ceiling
    trivial = shown(floor if side == "lower" else ceiling, "exact")
    return MeanBound(
        value=least if side == "lower" else most,
        lower=least if side == "two-sided" else floor,
        side=side,
        rho=asked.rho,
        replicas=asked.replicas,
        repeats=repeats,
        alpha=asked.alpha,
        n=asked.n,
        floor=floor,
        ceiling=ceiling,
        theorem=won,
        method="replicas" if won == "T5" else "repeats" if random else "score",
        status="certified" if certified else "abstained",
        reason=run.remark
        if certified
        else f"from n = {asked.n:,} draws nothing but the trivial {trivial} follows at this ρ and K",
        run=run,
        upper_limits=above,
        lower_limits=below,
        quantity="event" if hits else "mean",
        unit="probability" if hits else "the unit of the statistic",
    )


def _accepts(f: Callable[..., Any], name: str) -> bool:
    target = f.forward if isinstance(f, nn.Module) else f
    try:
        return name in inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False
