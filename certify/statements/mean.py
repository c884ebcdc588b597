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

import math
from typing import Any, Literal, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from certify import _validate
from certify._random import keyed
from certify._text import shown
from certify.bounds.bounded_mean import MeanBound, MeanEvidence
from certify.bounds.copies import EventBound
from certify.bounds.mean_limits import LEAST, TRIED, Limits, Pilot, chosen_limits, repeats_of, split
from certify.bounds.weights import Piecewise, Polynomials, Weights
from certify.montecarlo import AllDraws, Function
from certify.montecarlo.batches import accepts
from certify.noise import Noise
from certify.statements.drawing import Drawing, MeanOptions
from certify.statements.replicas import SIDES, counted_event

__all__ = ["Repeated", "event_bound", "mean_bound"]


@_validate.suggests(MeanOptions)
def mean_bound(
    statistic: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    replicas: int = 13,
    repeats: int | None = 2,
    lower: float = 0.0,
    upper: float = 1.0,
    side: str = "upper",
    curve: bool = False,
    alpha: float = 1e-3,
    **options: Unpack[MeanOptions],
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
        repeats: j, values of S of one draw of the copies; 1: T5. Two to four are best where values are dear. None: n counts
            values in all, and how many go to each draw is chosen on pilot draws for `rho`, T5 among the choices; the pilot
            takes a fifth as many values besides. Below n = 300 it would see too little: T5 without one.
        lower, upper: what S lies between; a value outside is an error.
        side: "upper", "lower" or "two-sided" (then each side has α/2).
        curve: True: limits that serve all radii about alike; False: the best for `rho`. Either way all radii hold at once.
        alpha: failure probability over the n draws of the copies, n · repeats values of S.
        **options: of drawing: those of `certify.statements.drawing.Drawing`. `batch_size` counts draws of the copies; `pilot`
            draws besides n choose W; None: a fifth of n, between 64 and 1 000.

    Returns:
        `MeanBound`.

    Raises:
        ValueError, TypeError: an argument out of range, or S not a function to shape (b,) with values in [lower, upper].
    """
    low, high = _validate.finite("lower", lower), _validate.finite("upper", upper)
    if not low < high or not math.isfinite(high - low):
        raise ValueError(f"lower = {lower!r}, upper = {upper!r}: lower must be below upper, by a finite number")
    options.setdefault("function", "statistic")
    return _bounded(
        statistic,
        y,
        noise,
        "statistic",
        options,
        rho=_validate.not_negative("rho", rho),
        replicas=_validate.count("replicas", replicas),
        repeats=repeats_of(repeats),
        floor=low,
        ceiling=high,
        side=_validate.choice("side", side, SIDES),
        curve=_validate.flag("curve", curve),
        alpha=_validate.failure("alpha", alpha),
    )


@overload
def event_bound(
    event: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    two_sided: bool = False,
    replicas: int = 13,
    repeats: Literal[1] = 1,
    curve: bool = False,
    alpha: float = 1e-3,
    **options: Unpack[MeanOptions],
) -> EventBound: ...


@overload
def event_bound(
    event: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    two_sided: bool = False,
    replicas: int = 13,
    repeats: int | None,
    curve: bool = False,
    alpha: float = 1e-3,
    **options: Unpack[MeanOptions],
) -> EventBound | MeanBound: ...


@_validate.suggests(MeanOptions)
def event_bound(
    event: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    two_sided: bool = False,
    replicas: int = 13,
    repeats: int | None = 1,
    curve: bool = False,
    alpha: float = 1e-3,
    **options: Unpack[MeanOptions],
) -> EventBound | MeanBound:
    """The probability of an event at the deployed smoother, whatever is done to the input: an attack's success rate (T5, T14).

    Equation
        for all ‖δ‖_Σ ≤ ρ:  P[event at y + δ] ≤ Φ(Φ⁻¹(p̄) + √K ρ),  p̄ the Clopper–Pearson limit of P[event at y] (T5);
        with several values of one draw of the copies as in `mean_bound`, T5 included (T14).

    Reference
        THEORY T5, T14 (docs/theory/t05-deployed.md, docs/theory/t14-bounded-means.md).

    Args:
        event: batch (b, K, *input) → (b,) of 0/1 or booleans: does it happen? May take a `generator` and be random.
        y, noise, rho, replicas, alpha, **options: as in `mean_bound`; `function` names the event: "image shows a circle".
        repeats: j, values of one draw of the copies; 1: T5. None: as in `mean_bound`. An event without a `generator` has
            nothing to repeat: T5.
        curve: as in `mean_bound`, for `repeats` ≥ 2.
        two_sided: bound the probability from below, too; α is then shared.

    Returns:
        `EventBound`, for several values of one draw `MeanBound`; `value` is the bound.

    Raises:
        ValueError, TypeError: as `mean_bound`, or values other than 0 and 1.
    """
    two_sided, repeats = _validate.flag("two_sided", two_sided), repeats_of(repeats)
    curve = _validate.flag("curve", curve)
    options.setdefault("function", "event happens")
    asked: dict[str, Any] = {
        "rho": _validate.not_negative("rho", rho),
        "replicas": _validate.count("replicas", replicas),
        "alpha": _validate.failure("alpha", alpha),
    }
    if repeats == 1 or not callable(event) or not accepts(event, "generator"):
        if options.get("pilot") is not None:
            _validate.count("pilot", options["pilot"])
        plain: Any = {name: value for name, value in options.items() if name != "pilot"}  # nothing is chosen
        drawing = Drawing(event, y, noise, called="event", replicas=asked["replicas"], **plain)
        return counted_event(drawing, two_sided=two_sided, **asked)
    return _bounded(
        event,
        y,
        noise,
        "event",
        options,
        repeats=repeats,
        floor=0.0,
        ceiling=1.0,
        side="two-sided" if two_sided else "upper",
        curve=curve,
        **asked,
    )


class Repeated:
    """Several values of a random statistic at the same copies, each with randomness of its own: (b, K, *input) → (b, j).

    Args:
        statistic: (b, K, *input) → (b,), or with a keyword `repeats` → (b, repeats).
        repeats: j.
        name: what the caller calls the statistic.

    Raises:
        ValueError: the statistic has no randomness to repeat.
    """

    def __init__(self, statistic: Function, repeats: int, name: str) -> None:
        if not accepts(statistic, "generator"):
            raise ValueError(f"{name} takes no generator: must be random, {repeats} values of each draw are asked for")
        self.statistic, self.repeats, self.name = statistic, repeats, name
        self.together = accepts(statistic, "repeats")

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
        return made


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
    f: Function,
    y: Tensor,
    noise: Noise | float,
    called: str,
    options: MeanOptions,
    *,
    rho: float,
    replicas: int,
    repeats: int | None,
    floor: float,
    ceiling: float,
    side: str,
    curve: bool,
    alpha: float,
) -> Any:
    random, hits = callable(f) and accepts(f, "generator"), called == "event"
    share = alpha / 2 if side == "two-sided" else alpha
    _validate.evaluating(called, f)
    drawing = Drawing(f, y, noise, called=called, replicas=replicas, **options)
    values, ticked, choosing = drawing.n, drawing.progress, random and repeats is None
    if choosing and values < LEAST:
        choosing, repeats = False, 1
    tried = TRIED if choosing else (repeats or 1) if random else 1

    def seen(j: int) -> None:
        """From now on j values of each draw are seen."""
        drawing.f = Repeated(f, j, called) if random else f
        drawing.shape = (j,) if random else ()

    def scaled(draws: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
        width = draws.shape[1] if draws.ndim == 2 else 1
        within_ends = within(draws.to("cpu", torch.float64), floor, ceiling, called).reshape(-1, width)
        return np.clip((within_ends.numpy() - floor) / (ceiling - floor), 0.0, 1.0)

    first = np.empty((0, tried))
    if not (hits and tried == 1):  # T5 by a count chooses nothing
        if options.get("pilot") is None:
            drawing.pilot = max(1, values // (5 * TRIED)) if choosing else min(1000, max(64, values // 5))
        early, total = drawing.pilot * tried, drawing.pilot * tried + values
        if choosing and ticked is not None:
            drawing.progress = lambda done, _: ticked(min(done * tried, early), total)
        seen(tried)
        found = drawing.pilot_draws(True)
        first = scaled(found if found is not None else torch.empty(0, tried))
        if choosing:
            lines = [first] if side == "upper" else [1 - first] if side == "lower" else [first, 1 - first]
            how: dict[str, Any] = {"rho": rho, "replicas": replicas, "alpha": share, "hits": hits}
            picked = [split(line, values, drawing.noise, **how) for line in lines]
            repeats = each = max(picked)
            drawing.n = values // each
            if ticked is not None:
                total = early + drawing.n * each
                drawing.progress = lambda done, _: ticked(early + (done - drawing.pilot) * each, total)
    if hits and (repeats or 1) == 1:
        drawing.f, drawing.shape = f, ()
        return counted_event(drawing, rho=rho, two_sided=side == "two-sided", replicas=replicas, alpha=alpha)
    repeats = (repeats or 1) if random else 1
    seen(repeats)
    first, kept = first[:, : first.shape[1] // repeats * repeats].reshape(-1, repeats), AllDraws()
    drawing.draw([kept])
    drawn = scaled(kept.stacked())

    def limits(mirrored: bool) -> Limits:
        pilot, late = (1 - first, 1 - drawn) if mirrored else (first, drawn)
        family: Weights = Polynomials(repeats) if random else Piecewise.at(pilot)
        how: dict[str, Any] = {"rho": rho, "replicas": replicas, "alpha": share, "hits": hits, "curve": curve}
        return chosen_limits(Pilot(family, pilot), late, drawing.noise, **how)

    above = limits(False) if side != "lower" else None
    below = limits(True) if side != "upper" else None
    scale: dict[str, Any] = {"replicas": replicas, "repeats": repeats, "floor": floor, "ceiling": ceiling}
    evidence = MeanEvidence.of(above, below, drawing.noise, rho, side=side, **scale)
    certified = evidence.lower > floor if side == "lower" else evidence.upper < ceiling
    trivial, run = shown(floor if side == "lower" else ceiling, "exact"), drawing.run()
    return MeanBound(
        value=evidence.lower if side == "lower" else evidence.upper,
        lower=evidence.lower if side == "two-sided" else floor,
        side=side,
        rho=rho,
        alpha=alpha,
        n=drawing.n,
        method="repeats" if random else "score",
        won=evidence.won(drawing.noise, rho),
        status="certified" if certified else "abstained",
        reason=run.remark
        if certified
        else f"from n = {drawing.n:,} draws nothing but the trivial {trivial} follows at this ρ and K",
        run=run,
        held=evidence,
        evidence=evidence if certified else None,
        unit="probability" if hits else "the unit of the statistic",
        **scale,
    )
