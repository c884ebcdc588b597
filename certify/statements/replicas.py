"""Replicas: certificates for what is deployed, a smoother that sees K noisy copies of its input (T5).

The probability of an event: `certify.statements.mean`.

>>> import torch
>>> from certify import GaussianNoise, statistic_bound
>>> s = statistic_bound(lambda z: z.mean(dim=(1, 2)), torch.zeros(4), GaussianNoise(1.0), rho=0.2, replicas=5, n=2000)
>>> 0.3 < s.value < 0.8  # P[mean of 20 normals > .368] is 5 %; under attack it is as much as .1 higher
True
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor

from certify import _validate
from certify._floats import length
from certify._text import shown
from certify.bounds.copies import (
    EventBound,
    EventEvidence,
    LimitEvidence,
    StatisticBound,
    event_interval,
    statistic_limits,
)
from certify.bounds.percentile import enough
from certify.montecarlo import SMOOTHERS, Counts, ExtremeRanks, Function, smoothed
from certify.noise import Noise
from certify.statements.drawing import Drawing, StatisticOptions

__all__ = ["SIDES", "counted_event", "deployed_distance", "statistic_bound"]

SIDES = ("upper", "lower", "two-sided")


@_validate.suggests(StatisticOptions)
def statistic_bound(
    statistic: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    q: float = 0.95,
    side: str = "upper",
    replicas: int = 13,
    alpha: float = 1e-3,
    **options: Unpack[StatisticOptions],
) -> StatisticBound:
    """A limit that a statistic of the deployed smoother keeps with probability q, whatever is done to the input (T5, T3).

    Equation
        for all ‖δ‖_Σ ≤ ρ:  P[ S(y + δ + G_1, …, y + δ + G_K) ≤ value ] ≥ q,  with confidence 1 − α over the n draws.

    Reference
        THEORY T5 (docs/theory/t05-deployed.md).

    Args:
        statistic: S, batch (b, K, *input) → (b,); may take a keyword `generator` and then be random.
        y: one input, shape (*input).
        noise: a `Noise`, or a number: isotropic Gaussian.
        rho: radius ≥ 0 in units of ‖·‖_Σ; 0: of the input as it is.
        q: probability over the deployment noise.
        side: "upper", "lower" (S ≥ value with probability ≥ q) or "two-sided".
        replicas: K, noisy copies that one value of S sees; 13 in the paper.
        alpha: failure probability over the n draws of S, each of K fresh copies.
        **options: of drawing: those of `certify.statements.drawing.Drawing`.

    Returns:
        `StatisticBound`.

    Raises:
        ValueError, TypeError: an argument out of range, or S not a finite function to shape (b,).
    """
    side, q = _validate.choice("side", side, SIDES), _validate.probability("q", q)
    rho, alpha = _validate.not_negative("rho", rho), _validate.failure("alpha", alpha)
    replicas = _validate.count("replicas", replicas)
    options.setdefault("function", "statistic")
    drawing = Drawing(statistic, y, noise, called="statistic", replicas=replicas, **options)
    n, run = drawing.n, drawing.run()
    lower, upper = statistic_limits(n, drawing.noise, q=q, side=side, rho=rho, replicas=replicas, alpha=alpha)
    ranks = ExtremeRanks(lower.rank if lower else 0, upper.rank if upper else 0)
    drawing.draw([ranks])
    low = float(ranks.smallest(lower.rank)) if lower and lower.rank else -math.inf
    high = float(ranks.largest(upper.rank)) if upper and upper.rank else math.inf
    missing = [part.needed for part in (lower, upper) if part and not part.rank]
    known = [needed for needed in missing if needed is not None]
    needed = max(known) if len(known) == len(missing) > 0 else None
    return StatisticBound(
        value=low if side == "lower" else high,
        lower=low if side == "two-sided" else -math.inf,
        q=q,
        side=side,
        rho=rho,
        replicas=replicas,
        alpha=alpha,
        n=n,
        evidence=None if missing else LimitEvidence(low, high, q, side, replicas),
        status="abstained" if missing else "certified",
        reason=f"n = {n} draws give no limit at q = {shown(q, 'exact')}, ρ = {shown(rho, 'exact')}, K = {replicas}: "
        f"{enough(needed)}"
        if missing
        else run.remark,
        run=run,
    )


def counted_event(drawing: Drawing, *, rho: float, two_sided: bool, replicas: int, alpha: float) -> EventBound:
    """T5 for an event, of which one value of each draw of the copies is counted: what `certify.event_bound` does with it."""
    counts, n = Counts(), drawing.n
    drawing.draw([counts])
    successes, run = int(counts.ones), drawing.run()
    lower, upper = event_interval(
        successes, n, drawing.noise, rho=rho, replicas=replicas, alpha=alpha, two_sided=two_sided
    )
    certified = upper < 1
    return EventBound(
        value=upper,
        lower=lower,
        successes=successes,
        side="two-sided" if two_sided else "upper",
        rho=rho,
        replicas=replicas,
        alpha=alpha,
        n=n,
        evidence=EventEvidence(lower, upper, replicas, successes) if certified else None,
        status="certified" if certified else "abstained",
        reason=run.remark
        if certified
        else f"seen in {successes} of {n} draws, at this ρ and K the event is bounded by nothing",
        run=run,
    )


def deployed_distance(f: Function, center: Tensor, smoother: str = "median") -> Callable[[Tensor], Tensor]:
    """The statistic ‖median_K f(z_k) − c‖: how far the deployed output is from a reference (T5's first row).

    Args:
        f: batch (b, *input) → (b, *output), not random.
        center: c, shape (*output), independent of the draws that will bound the statistic.
        smoother: "median" or "mean" over the K copies.

    Returns:
        A statistic for `statistic_bound`: (b, K, *input) → (b,), an ℓ2 distance (not squared).
    """
    center, f = _validate.own_tensor("center", center), _validate.function("f", f)
    smoother = _validate.choice("smoother", smoother, SMOOTHERS)

    def distance(z: Tensor) -> Tensor:
        b, k = z.shape[:2]
        outputs = f(z.flatten(0, 1)).unflatten(0, (b, k)).transpose(0, 1)
        return length((smoothed(outputs, smoother).double() - center.to(z.device, torch.float64)).reshape(b, -1), dim=1)

    return distance
