"""Replicas: certificates for what is deployed, a smoother that sees K noisy copies of its input (T5).

>>> import torch
>>> from certify import GaussianNoise, event_bound
>>> e = event_bound(lambda z: z.mean(dim=(1, 2)) > 3, torch.zeros(4), GaussianNoise(1.0), rho=0.2, replicas=5, n=2000)
>>> 0.01 < e.value < 0.05  # never seen in 2 000 draws; (‖δ‖ ≤ 0.2 cannot do much about it)
True
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from certify import _validate
from certify._floats import length, mean
from certify._text import shown
from certify.bounds.base import Run, recorded
from certify.bounds.copies import EventBound, StatisticBound, event_interval, statistic_limits
from certify.bounds.percentile import enough
from certify.montecarlo import Accumulator, Counts, ExtremeRanks, Function, Progress, draw, median
from certify.montecarlo.checkpoint import Checkpoint, as_checkpoint
from certify.noise import Noise, as_noise
from certify.progress import as_progress

__all__ = ["SIDES", "Asked", "deployed_distance", "event_bound", "statistic_bound"]

SIDES = ("upper", "lower", "two-sided")


@_validate.suggests()
def statistic_bound(
    statistic: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    q: float = 0.95,
    side: str = "upper",
    replicas: int = 13,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    batch_size: int | None = None,
    policy: str = "frozen",
    function: str = "statistic",
    checkpoint: Checkpoint | str | Path | None = None,
    progress: Progress | bool | None = None,
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
        n: draws of S; each takes K fresh copies.
        alpha: failure probability over these draws.
        seed, batch_size, checkpoint, progress: as in `certify.statements.ask.ask`; `batch_size` counts values of S.
        policy, function: covariance policy, and what S is called, for the record.

    Returns:
        `StatisticBound`.

    Raises:
        ValueError, TypeError: an argument out of range, or S not a finite function to shape (b,).
    """
    side, q = _validate.choice("side", side, SIDES), _validate.probability("q", q)
    asked = Asked(statistic, y, noise, rho, replicas, n, alpha, seed, "statistic", policy, function)
    lower, upper = statistic_limits(
        asked.n, asked.noise, q=q, side=side, rho=asked.rho, replicas=asked.replicas, alpha=asked.alpha
    )
    seen = ExtremeRanks(lower.rank if lower else 0, upper.rank if upper else 0)
    asked.draw(seen, batch_size, as_progress(progress), checkpoint)
    low = float(seen.smallest(lower.rank)) if lower and lower.rank else -math.inf
    high = float(seen.largest(upper.rank)) if upper and upper.rank else math.inf
    missing = [part.needed for part in (lower, upper) if part and not part.rank]
    known = [needed for needed in missing if needed is not None]
    needed = max(known) if len(known) == len(missing) > 0 else None
    return StatisticBound(
        value=low if side == "lower" else high,
        lower=low if side == "two-sided" else -math.inf,
        q=q,
        side=side,
        rho=asked.rho,
        replicas=asked.replicas,
        alpha=asked.alpha,
        n=asked.n,
        status="abstained" if missing else "certified",
        reason=f"n = {n} draws give no limit at q = {shown(q, 'exact')}, ρ = {shown(rho, 'exact')}, K = {replicas}: "
        f"{enough(needed)}"
        if missing
        else asked.run.remark,
        run=asked.run,
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
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    batch_size: int | None = None,
    policy: str = "frozen",
    function: str = "event happens",
    checkpoint: Checkpoint | str | Path | None = None,
    progress: Progress | bool | None = None,
) -> EventBound:
    """The probability of an event at the deployed smoother, whatever is done to the input: an attack's success rate (T5).

    Equation
        for all ‖δ‖_Σ ≤ ρ:  P[event at y + δ] ≤ Φ(Φ⁻¹(p̄) + √K ρ),  p̄ the Clopper–Pearson limit of P[event at y].

    Reference
        THEORY T5 (docs/theory/t05-deployed.md).

    Args:
        event: batch (b, K, *input) → (b,) of 0/1 or booleans: does it happen? May take a `generator` and be random.
        y, noise, rho, replicas, n, alpha, seed, batch_size, policy, checkpoint, progress: as in `statistic_bound`.
        function: what the event is called, for the record: "image shows a circle".
        two_sided: bound the probability from below, too; α is then shared.

    Returns:
        `EventBound`; `value` is the bound.

    Raises:
        ValueError, TypeError: as `statistic_bound`, or values other than 0 and 1.
    """
    two_sided = _validate.flag("two_sided", two_sided)
    asked = Asked(event, y, noise, rho, replicas, n, alpha, seed, "event", policy, function)
    seen = Counts()
    asked.draw(seen, batch_size, as_progress(progress), checkpoint)
    successes = int(seen.ones)
    lower, upper = event_interval(
        successes,
        asked.n,
        asked.noise,
        rho=asked.rho,
        replicas=asked.replicas,
        alpha=asked.alpha,
        two_sided=two_sided,
    )
    certified = upper < 1
    return EventBound(
        value=upper,
        lower=lower,
        successes=successes,
        two_sided=two_sided,
        rho=asked.rho,
        replicas=asked.replicas,
        alpha=asked.alpha,
        n=asked.n,
        status="certified" if certified else "abstained",
        reason=asked.run.remark
        if certified
        else f"seen in {successes} of {n} draws, at this ρ and K the event is bounded by nothing",
        run=asked.run,
    )


def deployed_distance(f: Function, center: Tensor, reduce: str = "median") -> Callable[[Tensor], Tensor]:
    """The statistic ‖median_K f(z_k) − c‖: how far the deployed output is from a reference (T5's first row).

    Args:
        f: batch (b, *input) → (b, *output), not random.
        center: c, shape (*output), independent of the draws that will bound the statistic.
        reduce: "median" or "mean" over the K copies.

    Returns:
        A statistic for `statistic_bound`: (b, K, *input) → (b,), an ℓ2 distance (not squared).
    """
    center, f = _validate.own_tensor("center", center), _validate.function("f", f)
    reduce = _validate.choice("reduce", reduce, ("median", "mean"))

    def distance(z: Tensor) -> Tensor:
        b, k = z.shape[:2]
        outputs = f(z.flatten(0, 1)).unflatten(0, (b, k)).transpose(0, 1)
        smoothed = median(outputs) if reduce == "median" else mean(outputs)
        return length((smoothed.double() - center.to(z.device, torch.float64)).reshape(b, -1), dim=1)

    return distance


class Asked:
    """The checked arguments of a statement about K copies, and the pass that draws them.

    Args:
        statistic, y, noise, rho, replicas, n, alpha, seed, policy, function: as in `statistic_bound`.
        name: what the caller calls the first of them, for messages.
    """

    def __init__(
        self,
        statistic: Function,
        y: Tensor,
        noise: Noise | float,
        rho: float,
        replicas: int,
        n: int,
        alpha: float,
        seed: int,
        name: str,
        policy: str,
        function: str,
    ) -> None:
        self.name = name
        self.statistic = _validate.function(name, statistic, "(b, replicas, *input)")
        self.y = _validate.own_tensor("y", y)
        self.noise = as_noise(noise, self.y)
        self.rho, self.alpha = _validate.not_negative("rho", rho), _validate.failure("alpha", alpha)
        self.n, self.replicas = _validate.count("n", n), _validate.count("replicas", replicas)
        recorded(policy, function)
        self.seed, self.policy, self.function = _validate.seed_value(seed), policy, function

    @property
    def run(self) -> Run:
        """Where the result comes from."""
        return Run.of(
            self.y,
            self.noise,
            n=self.n,
            seed=self.seed,
            policy=self.policy,
            function=self.function,
            copies=self.replicas,
        )

    def draw(
        self,
        seen: Accumulator,
        batch_size: int | None,
        progress: Progress | None,
        checkpoint: Checkpoint | str | Path | None,
    ) -> None:
        """n values of the statistic, each of K fresh copies."""
        draw(
            self.statistic,
            self.y.expand(self.replicas, *self.y.shape),
            self.noise,
            n=self.n,
            seed=self.seed,
            stream="bounding",
            accumulators=[seen],
            batch_size=batch_size,
            output_shape=(),
            called=self.name,
            progress=progress,
            checkpoint=as_checkpoint(checkpoint),
        )
