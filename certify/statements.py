"""Statements: the questions that can be asked of one set of draws, and their answers.

>>> from certify import GaussianNoise, mse_bound
>>> c = mse_bound(lambda z: 2 * z, torch.zeros(1), GaussianNoise(0.5), rho=1.0, n=10_000, alpha=1e-3, seed=0)
>>> 1.0 <= c.value <= 1.2  # the truth is (2 · 0.5 · 1)² = 1
True

Several questions about one prompt share their draws: `ask(f, y, noise, [MSE(rho=1.0), Curve([0.5, 1.0])], n=…)` makes one
pass. Each has its own α, and by the union bound all answers hold at once with probability 1 − Σα.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from certify import _validate
from certify.bounds import METHODS, Evaluation, Method, Run, Setting
from certify.bounds.mse import BoundCurve, MSEBound
from certify.bounds.percentile import PercentileBounds, draws_needed, enough, percentile_box, ranks
from certify.bounds.radius import CertifiedRadius, largest_radius
from certify.ellipsoid import Ellipsoid
from certify.montecarlo import Accumulator, AllDraws, ExtremeRanks, Function, draw, median, pool
from certify.noise import GaussianNoise, Noise
from certify.support import as_support

__all__ = [
    "MSE",
    "Curve",
    "Percentile",
    "Radius",
    "Statement",
    "ask",
    "bound_curve",
    "certified_radius",
    "mse_bound",
    "percentile_bounds",
]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Percentile:
    """Asks for the joint box of the p-th percentile (T1)."""

    rho: float
    p: float = 0.5
    alpha: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", _validate.positive("rho", self.rho))
        object.__setattr__(self, "p", _validate.probability("p", self.p))
        object.__setattr__(self, "alpha", _validate.probability("alpha", self.alpha))


@dataclass(frozen=True)
class MSE:
    """Asks for a bound on the squared distance at one radius."""

    rho: float
    alpha: float = 1e-3
    method: str = "best"
    smoother: str = "median"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", _validate.positive("rho", self.rho))
        object.__setattr__(self, "alpha", _validate.probability("alpha", self.alpha))
        _check_method(self.smoother, self.method)


@dataclass(frozen=True)
class Radius:
    """Asks for the largest radius whose squared distance stays within `tolerance`."""

    tolerance: float
    alpha: float = 1e-3
    method: str = "best"
    smoother: str = "median"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tolerance", _validate.positive("tolerance", self.tolerance))
        object.__setattr__(self, "alpha", _validate.probability("alpha", self.alpha))
        _check_method(self.smoother, self.method)


@dataclass(frozen=True)
class Curve:
    """Asks for the bound at several radii."""

    rhos: Sequence[float]
    alpha: float = 1e-3
    simultaneous: bool = True
    method: str = "best"
    smoother: str = "median"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rhos", _validate.increasing("rhos", self.rhos))
        object.__setattr__(self, "alpha", _validate.probability("alpha", self.alpha))
        _check_method(self.smoother, self.method)

    @property
    def share(self) -> float:
        """α of one point."""
        return self.alpha / len(self.rhos) if self.simultaneous else self.alpha


Statement = Percentile | MSE | Radius | Curve
Answer = PercentileBounds | MSEBound | CertifiedRadius | BoundCurve


def ask(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    statements: Sequence[Statement],
    *,
    n: int = 10_000,
    seed: int = 0,
    center: Tensor | None = None,
    reference: str = "center",
    support: Any = None,
    pilot: int | None = None,
    batch_size: int | None = None,
    policy: str = "frozen",
    progress: Progress | None = None,
) -> list[Any]:
    """Answers several statements from one pass of n draws.

    Args:
        f: batch (b, *input) → batch (b, *output); may take a keyword `generator`.
        y: one input, shape (*input), without a batch axis.
        noise: a `Noise`, or a number: isotropic Gaussian.
        statements: what to ask.
        n: bounding draws.
        seed: whole number ≥ 0. The same seed gives the same answers.
        center: what distances are measured to, shape (*output); must not depend on the bounding draws. None: the smoothed
            value of separate pilot draws.
        reference: "center", or "population": the distance between the two ideal smoothed values, the paper's statement.
        support: a-priori support of f: a `Support` or a pair (lower, upper).
        pilot: pilot draws; None: a tenth of n, at least 64 and at most 1 000.
        batch_size: inputs in one call of f.
        policy: how Σ came about, for the record.
        progress: called with (draws done, draws in all), pilot included.

    Returns:
        An answer a statement, in their order.

    Raises:
        ValueError, TypeError: an argument out of range, or f not a finite function on batches.
    """
    noise = noise if isinstance(noise, Noise) else GaussianNoise(noise)
    y = _validate.finite_tensor("y", y).detach()
    if isinstance(noise, GaussianNoise):
        noise.sigma_for(y.shape)
    if not callable(f):
        raise TypeError(f"f = {f!r}: must be callable on a batch (b, *input)")
    n, seed = _validate.count("n", n), _validate.seed_value(seed)
    reference = _validate.choice("reference", reference, ("center", "population"))
    known = as_support(support)
    if center is not None:
        center = _validate.finite_tensor("center", center).detach()
    pilot_draws = _pilot_draws(pilot, n) if center is None else 0
    total, done = n + pilot_draws, 0

    def tick(now: int, _: int) -> None:
        if progress is not None:
            progress(done + now, total)

    if center is None:
        center, percentiles = _pilot(f, y, noise, pilot_draws, seed, statements, batch_size, tick)
        done = pilot_draws
    else:
        percentiles = {}
    shape = tuple(center.shape)
    if known is not None:
        known.box(shape)
    run = Run(n, seed, pilot_draws, str(y.dtype).removeprefix("torch."), str(y.device), y, noise, policy, known)
    setting = Setting(noise, n, shape, None if reference == "population" else center, known)

    plans = [_Plan(statement, setting, center, percentiles, run) for statement in statements]
    seen = pool(accumulator for plan in plans for accumulator in plan.needs())
    draw(
        f,
        y,
        noise,
        n=n,
        seed=seed,
        stream="bounding",
        accumulators=seen.values(),
        batch_size=batch_size,
        output_shape=shape,
        progress=tick,
    )
    return [plan.answer(seen) for plan in plans]


def percentile_bounds(
    f: Function, y: Tensor, noise: Noise | float, *, rho: float, p: float = 0.5, alpha: float = 1e-3, **options: Any
) -> PercentileBounds:
    """A box that holds the p-th percentile of every smoothed output, for every perturbation in the ellipsoid (T1, T3).

    Equation
        for all ‖δ‖_Σ ≤ ρ and all i:  lower_i ≤ E_p(y + δ)_i ≤ upper_i,  with probability ≥ 1 − α over the draws.

    Reference
        Han et al. (2025), Theorem 3.2, for every percentile; jointly over outputs.

    Args:
        f, y, noise: as in `ask`.
        rho: radius > 0 in units of ‖·‖_Σ.
        p: percentile in (0, 1); .5 is the median.
        alpha: failure probability of the whole box.
        **options: n, seed, support, pilot, batch_size, progress: as in `ask`.

    Returns:
        `PercentileBounds` with `lower`, `upper`, `center` of shape (*output).

    Raises:
        ValueError, TypeError: as `ask`.
    """
    return cast(PercentileBounds, ask(f, y, noise, [Percentile(rho, p, alpha)], **options)[0])


def mse_bound(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    alpha: float = 1e-3,
    method: str = "best",
    smoother: str = "median",
    **options: Any,
) -> MSEBound:
    """How far the smoothed output can move, as a squared ℓ2 distance, under every perturbation in the ellipsoid (T2, T3).

    Equation
        for all ‖δ‖_Σ ≤ ρ:  ‖E_½(y + δ) − c‖² ≤ value,  with probability ≥ 1 − α over the draws; a sum over outputs.

    Reference
        Han et al. (2025), inequality (6), corrected (THEORY T2).

    Args:
        f, y, noise: as in `ask`.
        rho: radius > 0 in units of ‖·‖_Σ.
        alpha: failure probability.
        method: "coordinatewise" (T2), or "best": the best of the methods there are.
        smoother: "median".
        **options: n, seed, center, reference, support, pilot, batch_size, progress: as in `ask`.

    Returns:
        `MSEBound`.

    Raises:
        ValueError, TypeError: as `ask`.
    """
    return cast(MSEBound, ask(f, y, noise, [MSE(rho, alpha, method, smoother)], **options)[0])


def certified_radius(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    tolerance: float,
    alpha: float = 1e-3,
    method: str = "best",
    smoother: str = "median",
    **options: Any,
) -> CertifiedRadius:
    """The largest radius at which the smoothed output provably stays within a tolerance (T3, T8).

    Equation
        ρ̂ = sup{ρ : bound(ρ) ≤ tolerance};  for all ‖δ‖_Σ ≤ ρ̂:  ‖E_½(y + δ) − c‖² ≤ tolerance, with probability ≥ 1 − α.

    Args:
        f, y, noise: as in `ask`.
        tolerance: squared ℓ2 distance > 0, a sum over outputs, fixed before the draws.
        alpha, method, smoother: as in `mse_bound`.
        **options: n, seed, center, reference, support, pilot, batch_size, progress: as in `ask`.

    Returns:
        `CertifiedRadius` with `rho` and `ellipsoid`.

    Raises:
        ValueError, TypeError: as `ask`.
    """
    return cast(CertifiedRadius, ask(f, y, noise, [Radius(tolerance, alpha, method, smoother)], **options)[0])


def bound_curve(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rhos: Sequence[float],
    alpha: float = 1e-3,
    simultaneous: bool = True,
    method: str = "best",
    smoother: str = "median",
    **options: Any,
) -> BoundCurve:
    """The bound of `mse_bound` at several radii, from one set of draws (T2, T3).

    Args:
        f, y, noise: as in `ask`.
        rhos: strictly increasing radii > 0.
        alpha: failure probability of the whole curve if `simultaneous` (α split over the radii), else of each point.
        simultaneous: whether the curve as a whole is the statement.
        method, smoother: as in `mse_bound`.
        **options: n, seed, center, reference, support, pilot, batch_size, progress: as in `ask`.

    Returns:
        `BoundCurve` with `rhos` and `values`.

    Raises:
        ValueError, TypeError: as `ask`.
    """
    statement = Curve(rhos, alpha, simultaneous, method, smoother)
    return cast(BoundCurve, ask(f, y, noise, [statement], **options)[0])


class _Plan:
    """One statement on its way from the setting, through the draws, to an answer."""

    def __init__(
        self, statement: Statement, setting: Setting, center: Tensor, percentiles: Mapping[float, Tensor], run: Run
    ) -> None:
        self.statement, self.setting, self.center, self.run = statement, setting, center, run
        self.percentiles = percentiles
        self.method: Method | None = None
        if not isinstance(statement, Percentile):
            kind = METHODS[statement.smoother, _best(statement.smoother, statement.method)]
            self.method = kind(setting, statement.share if isinstance(statement, Curve) else statement.alpha)

    def needs(self) -> list[Accumulator]:
        if isinstance(self.statement, Percentile):
            low, high = ranks(self.setting.n, self._tails(), self._side())
            return [ExtremeRanks(max(low, 1), max(high, 1))]
        match self.statement:
            case MSE(rho=rho):
                least = rho
            case Curve(rhos=rhos):
                least = rhos[0]
            case _:
                least = 0.0
        return cast(Method, self.method).needs(least)

    def answer(self, seen: Mapping[str, Accumulator]) -> Answer:
        statement = self.statement
        if isinstance(statement, Percentile):
            return self._percentile(statement, cast(ExtremeRanks, seen[ExtremeRanks.key]))
        method = cast(Method, self.method)
        if isinstance(statement, MSE):
            return self._mse(statement.rho, statement.alpha, method.at(statement.rho, seen), "single")
        if isinstance(statement, Curve):
            scope = "simultaneous" if statement.simultaneous else "pointwise"
            points = tuple(self._mse(rho, statement.share, method.at(rho, seen), scope) for rho in statement.rhos)
            return BoundCurve(
                points, statement.simultaneous, statement.alpha, self.setting.n, method.method, method.theorem
            )
        return self._radius(statement, method, seen)

    def _mse(self, rho: float, alpha: float, evaluation: Evaluation, scope: str) -> MSEBound:
        method = cast(Method, self.method)
        finite = math.isfinite(evaluation.value)
        return MSEBound(
            value=evaluation.value,
            method=method.method,
            theorem=method.theorem,
            rho=rho,
            alpha=alpha,
            n=self.setting.n,
            center=self.center,
            status="certified" if finite else "abstained",
            reason="" if finite else self._too_few(rho, alpha, evaluation.draws_needed),
            smoother=method.smoother,
            reference="population" if self.setting.center is None else "center",
            lower=evaluation.lower,
            upper=evaluation.upper,
            run=self.run,
            scope=scope,
        )

    def _radius(self, statement: Radius, method: Method, seen: Mapping[str, Accumulator]) -> CertifiedRadius:
        rho, evaluation = largest_radius(lambda r: method.at(r, seen), statement.tolerance)
        reason = ""
        if rho == 0 and math.isfinite(evaluation.value):
            reason = (
                f"already for the smallest perturbations the bound from n = {self.setting.n} draws is "
                f"{evaluation.value:.6g} > tolerance {statement.tolerance:.6g}: take more draws or a larger tolerance"
            )
        elif rho == 0:
            reason = self._too_few(0.0, statement.alpha, evaluation.draws_needed)
        return CertifiedRadius(
            rho=rho,
            tolerance=statement.tolerance,
            value=evaluation.value,
            ellipsoid=Ellipsoid(_sigma(self.run), rho),
            method=method.method,
            theorem=method.theorem,
            alpha=statement.alpha,
            n=self.setting.n,
            center=self.center,
            status="certified" if rho > 0 else "abstained",
            reason=reason,
            smoother=method.smoother,
            reference="population" if self.setting.center is None else "center",
            lower=evaluation.lower if rho > 0 else None,
            upper=evaluation.upper if rho > 0 else None,
            run=self.run,
        )

    def _percentile(self, statement: Percentile, seen: ExtremeRanks) -> PercentileBounds:
        box = percentile_box(
            seen,
            self.setting.noise,
            p=statement.p,
            rho=statement.rho,
            alpha=self._side(),
            shape=self.setting.shape,
            support=self.setting.support,
        )
        finite = bool(torch.isfinite(box.lower).all() and torch.isfinite(box.upper).all())
        needed = None if finite else draws_needed(self._tails(), self._side())
        return PercentileBounds(
            lower=box.lower,
            upper=box.upper,
            center=self.percentiles.get(statement.p, self.center),
            p=statement.p,
            rho=statement.rho,
            alpha=statement.alpha,
            n=self.setting.n,
            lower_rank=box.lower_rank,
            upper_rank=box.upper_rank,
            status="certified" if finite else "abstained",
            reason="" if finite else self._too_few(statement.rho, statement.alpha, needed),
            run=self.run,
        )

    def _tails(self) -> Any:
        statement = cast(Percentile, self.statement)
        return self.setting.noise.tails(statement.p, statement.rho)

    def _side(self) -> float:
        return self.statement.alpha / (2 * self.setting.outputs)

    def _too_few(self, rho: float, alpha: float, needed: int | None) -> str:
        return (
            f"n = {self.setting.n} draws give no finite joint bound over {self.setting.outputs} outputs at "
            f"ρ = {rho:.6g}, α = {alpha:.3g}: {enough(needed)}, or an a-priori support"
        )


def _pilot(
    f: Function,
    y: Tensor,
    noise: Noise,
    draws: int,
    seed: int,
    statements: Sequence[Statement],
    batch_size: int | None,
    progress: Progress,
) -> tuple[Tensor, dict[float, Tensor]]:
    kept = AllDraws()
    draw(f, y, noise, n=draws, seed=seed, stream="pilot", accumulators=[kept], batch_size=batch_size, progress=progress)
    stacked = kept.stacked()
    wanted = {s.p for s in statements if isinstance(s, Percentile) and s.p != 0.5}
    ordered = stacked.sort(dim=0).values if wanted else stacked
    return median(stacked), {p: ordered[min(draws - 1, int(p * draws))] for p in wanted}


def _pilot_draws(pilot: int | None, n: int) -> int:
    return max(64, min(1000, n // 10)) if pilot is None else _validate.count("pilot", pilot)


def _best(smoother: str, method: str) -> str:
    if method != "best":
        return method
    return next(name for kind, name in METHODS if kind == smoother)


def _check_method(smoother: str, method: str) -> None:
    _validate.choice("smoother", smoother, dict.fromkeys(kind for kind, _ in METHODS))
    _validate.choice("method", method, [*(name for kind, name in METHODS if kind == smoother), "best"])


def _sigma(run: Run) -> Tensor:
    if not isinstance(run.noise, GaussianNoise):
        raise TypeError(f"noise is a {type(run.noise).__name__}: the certified ellipsoid is that of Gaussian noise")
    return run.noise.sigma_for(run.y.shape)
