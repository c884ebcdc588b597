"""Verification: does an attack break a certified bound, or is it only noise?

A bound on a smoothed output is contradicted by a perturbation δ with ‖δ‖_Σ ≤ ρ only if a *lower* confidence limit of what is
bounded, from fresh draws at y + δ, exceeds the bound. Many attempts are made, so each limit has level α/family.

| bound | lower limit |
|---|---|
| a percentile's box (T1) | order statistics of every output, level α'/(2m) each |
| squared distance of medians (T2, T4, T12) | Σ of squared distances between c and the outputs' joint intervals for the median |
| squared distance of means (T11) | ⟨w, E f − c⟩², the direction w from a part of the draws, E f from the rest: below |
| distance of K draws' median (T5, T6) | order statistic of n/K distances |
| a statistic (T5), an event (T5, T14) | order statistic; Clopper–Pearson limit |
| a bounded mean (T14) | the largest m that betting against "the mean is at most m" rejects |

*Means.* x = ⟨w, f − c⟩ is at least some a (the output's support). For a fixed λ > 0 and any m < a + 1/λ with E x ≤ m the
factors 1 + λ(x_i − m) are positive and have mean at most 1, so by Markov's inequality P[Π_i (1 + λ(x_i − m)) ≥ 1/α'] ≤ α'.
The largest m that this rejects is a lower limit of E x; λ is set by the draws that chose w.

`estimate` is what the attack reaches, as well as n draws can tell, with the part that is noise left out; bound ÷ estimate says
how much of the bound the attack uses up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify import _validate
from certify.bounds.bounded_mean import MeanBound
from certify.bounds.copies import EventBound, OfCopies, StatisticBound
from certify.bounds.mse import MSEBound
from certify.bounds.percentile import PercentileBounds
from certify.confidence import clopper_pearson, extreme_rank
from certify.confidence.betting import evidence_against
from certify.montecarlo import AllDraws, draw
from certify.montecarlo.batches import accepts_generator
from certify.noise import Noise
from certify.support import Support

__all__ = ["Fresh", "Verdict", "deployed_distances", "examine", "inside", "mean_lower_limit", "violates"]


@dataclass(frozen=True)
class Verdict:
    """A bound held against one perturbation.

    Attributes:
        theorem, quantity, rho: of the bound.
        bound: what must not be exceeded.
        estimate: what the perturbation reaches.
        limit: a lower confidence limit of that, at `level`.
        origin: what all three are measured from: 0, but for a percentile the estimated percentile without a perturbation.
        violated: limit > bound.
        level: the failure probability of `limit`.
        n: draws (of the statistic, for one).
    """

    theorem: str
    quantity: str
    rho: float
    bound: float
    estimate: float
    limit: float
    origin: float
    violated: bool
    level: float
    n: int

    @property
    def ratio(self) -> float:
        """bound ÷ estimate, from the origin; ∞ where the perturbation reaches nothing."""
        reached = self.estimate - self.origin
        return (self.bound - self.origin) / reached if reached > 0 else math.inf

    @property
    def power(self) -> float:
        """bound ÷ limit: a bound smaller by more than this factor would have been declared violated."""
        reached = self.limit - self.origin
        return (self.bound - self.origin) / reached if reached > 0 else math.inf


class Fresh:
    """Draws of f around y + δ in the stream that no bound and no attack has seen, with the same noise for every δ.

    Args:
        f: batch (b, *input) → (b, *output), or a statistic (b, K, *input) → (b,) with `copies`.
        y, noise: as in the bound.
        n: draws.
        seed: of the noise.
        copies: K.
        batch_size: inputs in one call.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        y: Tensor,
        noise: Noise,
        *,
        n: int,
        seed: int,
        copies: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.y, self.noise, self.copies = y.detach(), noise, copies
        self.n, self.seed = _validate.count("n", n), _validate.seed_value(seed)
        self.batch_size = batch_size
        dtype = y.dtype  # y + δ is kept in float64, so that δ keeps its size; f sees y's own dtype
        if accepts_generator(f):
            self._f: Callable[..., Any] = lambda z, generator: f(z.to(dtype), generator=generator)
        else:
            self._f = lambda z: f(z.to(dtype))

    def at(self, delta: Tensor | None = None) -> Tensor:
        """The outputs at y + δ, (n, *output)."""
        y = self.y.double() if delta is None else self.y.double() + delta
        kept = AllDraws()
        draw(
            self._f,
            y if self.copies is None else y.expand(self.copies, *y.shape),
            self.noise,
            n=self.n,
            seed=self.seed,
            stream="checking",
            accumulators=[kept],
            batch_size=self.batch_size,
        )
        return kept.stacked().cpu()

    @functools.cached_property
    def base(self) -> Tensor:
        """The outputs without a perturbation."""
        return self.at()


def violates(
    bound: Any,
    f: Callable[..., Any],
    delta: Tensor,
    *,
    n: int = 2600,
    alpha: float = 1e-3,
    family: int = 1,
    seed: int = 0,
    focus: tuple[int, int] | None = None,
    batch_size: int | None = None,
) -> Verdict:
    """Draws afresh at y + δ and holds the bound against it.

    Args:
        bound: a `PercentileBounds`, `MSEBound`, `DeployedBound`, `StatisticBound`, `EventBound` or `MeanBound`.
        f: the function that it is about (for the last three the statistic).
        delta: δ, (*input), float64, with ‖δ‖_Σ ≤ ρ.
        n: draws.
        alpha: probability that any of `family` true bounds is declared violated.
        family: how many verdicts are going to be given.
        seed: of the draws; must differ from the bound's only if that was checked with it before.
        focus: for percentiles, (output, side ±1) that the attack was about; None: the one that comes closest.
        batch_size: inputs in one call of f.

    Raises:
        ValueError: δ is outside the ellipsoid; or the bound is of a mean whose f has no a-priori support.
        TypeError: `bound` is none of these.
    """
    copies = bound.replicas if isinstance(bound, OfCopies) else None
    fresh = Fresh(f, bound.run.y, bound.run.noise, n=n, seed=seed, copies=copies, batch_size=batch_size)
    inside(bound, delta)
    base = (lambda: fresh.base) if _needs_base(bound) else None
    return examine(bound, fresh.at(delta), base, alpha=alpha, family=family, focus=focus)


def inside(bound: Any, delta: Tensor) -> None:
    """Refuses a perturbation that the bound does not speak about."""
    size = bound.run.noise.norm(delta)
    if not size <= bound.rho * (1 + 1e-12):  # the norm's own rounding
        raise ValueError(f"delta has ‖δ‖_Σ = {size!r}: must be at most ρ = {bound.rho!r}, the bound's radius")


def examine(
    bound: Any,
    outputs: Tensor,
    base: Callable[[], Tensor] | None = None,
    *,
    alpha: float,
    family: int = 1,
    focus: tuple[int, int] | None = None,
) -> Verdict:
    """The same from draws that are there already.

    Args:
        bound, alpha, family, focus: as in `violates`.
        outputs: (n, *output) at y + δ.
        base: gives (n, *output) at y under the same noise; called for percentiles and for population references.
    """
    level = _validate.probability("alpha", alpha) / _validate.count("family", family)
    if isinstance(bound, PercentileBounds):
        estimate, limit, origin, stated = _percentile(bound, outputs, _given(base), level, focus)
    elif isinstance(bound, MSEBound):
        reference = bound.center if bound.reference == "center" else None
        rows = outputs[:0] if reference is not None else _given(base)
        if bound.smoother == "median":
            estimate, limit = _median(outputs, reference, rows, level)
        else:
            estimate, limit = _mean(outputs, reference, rows, bound.run.support, level)
        origin, stated = 0.0, bound.value
    elif isinstance(bound, (StatisticBound, MeanBound)) and bound.side != "upper":
        raise ValueError(f"bound has side = {bound.side!r}: must be 'upper' to be attacked from below")
    elif isinstance(bound, EventBound) or (isinstance(bound, MeanBound) and bound.unit == "probability"):
        estimate = float(outputs.double().mean())
        limit = clopper_pearson(int(outputs.sum()), len(outputs), level, "lower")
        origin, stated = 0.0, bound.value
    elif isinstance(bound, MeanBound):
        estimate, limit = _bounded_mean(bound, outputs.double().numpy(), level)
        origin, stated = bound.floor, bound.value
    elif isinstance(bound, StatisticBound):
        estimate, limit = _upper_percentile(outputs.double(), bound.q, level)
        origin, stated = 0.0, bound.value
    elif getattr(bound, "quantity", None) == "deployed":
        estimate, limit = _upper_percentile(
            deployed_distances(outputs, bound.center, bound.replicas, bound.smoother), bound.q, level
        )
        origin, stated = 0.0, bound.value
    else:
        raise TypeError(f"bound is a {type(bound).__name__}: must be a bound on a percentile, a distance, or an event")
    return Verdict(
        theorem=bound.theorem,
        quantity=getattr(bound, "quantity", "percentile"),
        rho=bound.rho,
        bound=stated,
        estimate=estimate,
        limit=limit,
        origin=origin,
        violated=limit > stated,
        level=level,
        n=len(outputs),
    )


def deployed_distances(outputs: Tensor, center: Tensor, replicas: int, smoother: str = "median") -> Tensor:
    """‖median (or mean) − c‖ of consecutive groups of K draws, (n // K,); draws that fill no group are left out."""
    _validate.choice("smoother", smoother, ("median", "mean"))
    groups = outputs[: len(outputs) // replicas * replicas].unflatten(0, (-1, replicas))
    if smoother == "mean":
        smoothed = groups.mean(dim=1)
    else:
        ordered = torch.from_numpy(np.sort(groups.numpy(), axis=1))  # on this axis several times faster than torch
        smoothed = (ordered[:, (replicas - 1) // 2] + ordered[:, replicas // 2]) / 2
    return (smoothed.double() - center.to("cpu", torch.float64)).flatten(1).norm(dim=1)


def mean_lower_limit(x: Tensor, least: float, bet: float, alpha: float) -> float:
    """A lower confidence limit of E x: the largest m with Π_i (1 + λ(x_i − m)) ≥ 1/α; −∞ if there is none.

    Args:
        x: independent draws, (n,), all ≥ least.
        least: a, what x cannot fall below.
        bet: λ > 0, chosen without x.
        alpha: failure probability.

    Raises:
        ValueError: a draw is below `least`.
    """
    values = x.double().numpy()
    if not len(values) or values.min() < least:
        reached = float(values.min()) if len(values) else None
        raise ValueError(f"x reaches {reached!r}: must have draws, none below {least!r}")
    high = min(float(values.mean()), least + (1 - 1e-9) / bet)  # at the mean the product is at most 1
    low, needed = least, math.log(1 / alpha)

    def wealth(m: float) -> float:
        return float(np.log1p(bet * (values - m)).sum())

    if wealth(low) < needed:
        return -math.inf
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if wealth(middle) >= needed else (low, middle)
    return low


# One kind of bound each


def _percentile(
    bound: PercentileBounds, outputs: Tensor, base: Tensor, level: float, focus: tuple[int, int] | None
) -> tuple[float, float, float, float]:
    """(estimate, limit, origin, bound) of the output and side in focus, as if that side were the upper one.

    All outputs are tested jointly; where one violates, it is the one that is reported.
    """
    ordered, n = _sorted(outputs), len(outputs)
    share = level / (2 * ordered.shape[0])
    below, above = extreme_rank(n, bound.p, share), extreme_rank(n, 1 - bound.p, share)
    upper, lower = bound.upper.flatten().numpy(), bound.lower.flatten().numpy()
    nothing = np.full(len(ordered), -np.inf)
    limits = np.stack(
        [ordered[:, below - 1] if below else nothing, -ordered[:, n - above] if above else nothing]
    ).astype(np.float64)
    stated = np.stack([upper, -lower])
    estimates = _at(ordered, bound.p) * np.array([[1.0], [-1.0]])
    origins = _at(_sorted(base), bound.p) * np.array([[1.0], [-1.0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        nearness = np.where(np.isfinite(stated), (limits - origins) / (stated - origins), -np.inf)
    broken = limits > stated
    if broken.any():
        place = int(np.where(broken, limits - stated, -np.inf).argmax())
    elif focus is not None:
        place = focus[0] + (0 if focus[1] > 0 else len(ordered))
    else:
        place = int(np.nan_to_num(nearness, nan=-np.inf).argmax())
    side, i = divmod(place, len(ordered))
    return tuple(float(part[side, i]) for part in (estimates, limits, origins, stated))  # type: ignore[return-value]


def _median(outputs: Tensor, center: Tensor | None, base: Tensor, level: float) -> tuple[float, float]:
    """(estimate, lower limit) of ‖median − reference‖²; `base` gives the reference where there is no center."""
    n, m = len(outputs), outputs[0].numel()
    share = level / (2 * m * (1 if center is not None else 2))
    rank = extreme_rank(n, 0.5, share)

    def interval(rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        ordered = _sorted(rows)
        if not rank:
            return np.full(m, -np.inf), np.full(m, np.inf)
        return ordered[:, rank - 1].astype(np.float64), ordered[:, n - rank].astype(np.float64)

    low, high = interval(outputs)
    known = None if center is None else center.detach().flatten().to("cpu", torch.float64).numpy()
    own_low, own_high = interval(base) if known is None else (known, known)
    gap = np.maximum(np.maximum(low - own_high, own_low - high), 0.0)
    # Two halves: the product of independent deviations has no bias from their noise.
    moved = [
        _at(_sorted(outputs[half]), 0.5) - (_at(_sorted(base[half]), 0.5) if known is None else known)
        for half in (slice(0, n // 2), slice(n // 2, n))
    ]
    return float(moved[0] @ moved[1]), float((gap**2).sum() * (1 - 1e-12))


def _mean(
    outputs: Tensor, center: Tensor | None, base: Tensor, support: Support | None, level: float
) -> tuple[float, float]:
    """(estimate, lower limit) of ‖mean − reference‖²; `base` is the reference where there is no center."""
    if support is None:
        raise ValueError("support is None: a mean has no confidence limit without an a-priori support of f")
    reference = base if center is None else center.to("cpu")[None]
    moved = (outputs - reference).flatten(1).double()
    n = len(moved)
    average = moved.mean(dim=0)
    estimate = float(average.square().sum() - moved.var(dim=0).sum() / n)
    first = max(1, n // 4)
    w = moved[:first].mean(dim=0)
    size = float(w.norm())
    if size == 0:
        return max(estimate, 0.0), 0.0
    w = w / size
    low, high = _reach(w.reshape(outputs.shape[1:]), support)
    least = low - (high if center is None else float(w @ center.flatten().to("cpu", torch.float64)))
    if not math.isfinite(least):
        raise ValueError("support is infinite: a mean has no confidence limit without an a-priori support of f")
    least -= 1e-9 * (1 + abs(least))  # the rounding of the sums above
    x = moved @ w
    guess, variance = float(x[:first].mean()), float(x[:first].var(correction=0))
    rest = x[first:]
    bet = math.sqrt(2 * math.log(1 / level) / (len(rest) * variance)) if variance > 0 else math.inf
    limit = mean_lower_limit(rest, least, min(bet, 0.8 / (guess - least)), level)
    return estimate, max(limit, 0.0) ** 2


def _bounded_mean(bound: MeanBound, x: np.ndarray, level: float) -> tuple[float, float]:
    """The mean of values in [floor, ceiling], and the largest m ≤ it of which it is rejected that it is at most m."""
    low, high = bound.floor, float(x.mean())
    for _ in range(50):
        middle = (low + high) / 2
        against = evidence_against(x, low=bound.floor, high=bound.ceiling, mean=middle)
        low, high = (middle, high) if against <= level else (low, middle)
    return float(x.mean()), low


def _reach(w: Tensor, support: Support) -> tuple[float, float]:
    """The least and largest value of ⟨w, f⟩ that the support allows: by the rows' ellipsoids where it has them."""
    low, high = support.over(tuple(w.shape))
    sides = (
        float((torch.minimum(w * low, w * high)).nan_to_num(nan=0.0).sum()),
        float((torch.maximum(w * low, w * high)).nan_to_num(nan=0.0).sum()),
    )
    if support.gain is None or support.offset is None:
        return sides
    gain, offset = support.gain.double(), support.offset.double()
    rows = w.reshape(-1, gain.numel())
    middle = float((rows @ offset).sum())
    half = float((rows * gain).norm(dim=1).sum()) * math.sqrt(gain.numel()) * (1 + 1e-9)
    return max(sides[0], middle - half), min(sides[1], middle + half)


def _upper_percentile(values: Tensor, q: float, level: float) -> tuple[float, float]:
    """(estimate, lower limit) of the q-th percentile of a statistic."""
    ordered = np.sort(values.double().numpy())
    rank = extreme_rank(len(ordered), q, level)
    return float(_at(ordered[None], q)[0]), float(ordered[rank - 1]) if rank else -math.inf


def _needs_base(bound: Any) -> bool:
    return isinstance(bound, PercentileBounds) or (isinstance(bound, MSEBound) and bound.reference != "center")


def _given(base: Callable[[], Tensor] | None) -> Tensor:
    if base is None:
        raise ValueError("base is None: this bound is held against the draws without a perturbation, too")
    return base()


def _sorted(outputs: Tensor) -> np.ndarray:
    """(outputs, n), every row increasing."""
    return np.sort(outputs.flatten(1).T.contiguous().numpy(), axis=1)


def _at(ordered: np.ndarray, p: float) -> np.ndarray:
    """An estimate of the p-th percentile of every row; for ½ the median."""
    n = ordered.shape[1]
    position = p * n
    low, high = max(0, math.ceil(position) - 1), min(n - 1, math.floor(position))
    return (ordered[:, low].astype(np.float64) + ordered[:, high]) / 2
