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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from certify import _validate
from certify._floats import mean
from certify._text import failure, shown
from certify.bounds import METHODS, ROUTES, DeployedBound, Evaluation, Method, Run, Setting
from certify.bounds.mse import BoundCurve, MSEBound
from certify.bounds.percentile import PercentileBounds, draws_needed, enough, percentile_box, ranks
from certify.bounds.radius import CertifiedRadius, largest_radius
from certify.montecarlo import Accumulator, ExtremeRanks, Function, median, pool
from certify.montecarlo.accumulators import LARGEST_GROUP
from certify.noise import Noise
from certify.statements.drawing import AskOptions, Drawing

__all__ = [
    "MSE",
    "Curve",
    "Deployed",
    "Percentile",
    "Radius",
    "Statement",
    "ask",
    "bound_curve",
    "certified_radius",
    "deployed_bound",
    "mse_bound",
    "percentile_bounds",
]

SMOOTHERS = ("median", "mean")
_MARGIN, _LARGEST_FLOOR = 0.8, 2.0
"""How much of the expected radius a certified one must reach, or how large it must be where nothing is expected, lest the
draws be made a second time."""


@dataclass(frozen=True)
class Percentile:
    """Asks for the joint box of the p-th percentile (T1)."""

    rho: float
    p: float = 0.5
    alpha: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", _validate.positive("rho", self.rho))
        object.__setattr__(self, "p", _validate.probability("p", self.p))
        object.__setattr__(self, "alpha", _validate.failure("alpha", self.alpha))


@dataclass(frozen=True)
class MSE:
    """Asks for a bound on the squared distance at one radius."""

    rho: float
    alpha: float = 1e-3
    method: str = "best"
    smoother: str = "median"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", _validate.positive("rho", self.rho))
        object.__setattr__(self, "alpha", _validate.failure("alpha", self.alpha))
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
        object.__setattr__(self, "alpha", _validate.failure("alpha", self.alpha))
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
        object.__setattr__(self, "simultaneous", _validate.flag("simultaneous", self.simultaneous))
        object.__setattr__(self, "alpha", _validate.failure("alpha", self.alpha))
        _check_method(self.smoother, self.method)

    @property
    def share(self) -> float:
        """α of one point."""
        return self.alpha / len(self.rhos) if self.simultaneous else self.alpha


@dataclass(frozen=True)
class Deployed:
    """Asks how far the median (or mean) of K draws can be from the reference, with probability q (T5, T6)."""

    rho: float
    q: float = 0.95
    alpha: float = 1e-3
    replicas: int = 13
    method: str = "best"
    smoother: str = "median"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", _validate.positive("rho", self.rho))
        object.__setattr__(self, "q", _validate.probability("q", self.q))
        object.__setattr__(self, "alpha", _validate.failure("alpha", self.alpha))
        object.__setattr__(self, "replicas", _validate.count("replicas", self.replicas))
        _check_method(self.smoother, self.method, ROUTES)
        if self.replicas > LARGEST_GROUP and not any(self.feasible(*route) for route in ROUTES):
            raise ValueError(
                f"replicas = {self.replicas}: must be at most {LARGEST_GROUP} for a {self.smoother} by groups of draws"
            )

    def feasible(self, smoother: str, route: str) -> bool:
        """Whether a route is one that was asked for, and can stand for so many replicas: T5 takes groups out of a shard."""
        asked = smoother == self.smoother and self.method in (route, "best")
        return asked and not (route == "replicas" and self.replicas > LARGEST_GROUP)


Statement = Percentile | MSE | Radius | Curve | Deployed
Answer = PercentileBounds | MSEBound | CertifiedRadius | BoundCurve | DeployedBound


@_validate.suggests(AskOptions)
def ask(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    statements: Sequence[Statement],
    **options: Unpack[AskOptions],
) -> list[Any]:
    """Answers several statements from one pass of n draws.

    Args:
        f: batch (b, *input) → batch (b, *output); may take a keyword `generator`.
        y: one input, shape (*input), without a batch axis.
        noise: a `Noise`, or a number: isotropic Gaussian. Radii are in its own units, what `noise.norm` measures.
        statements: what to ask.
        **options: of drawing: those of `certify.statements.drawing.Drawing`.

    Returns:
        An answer a statement, in their order.

    Raises:
        ValueError, TypeError: an argument out of range, or f not a finite function on batches.
    """
    statements = _statements(statements)
    drawing = Drawing(f, y, noise, **options)
    choosing = any(not isinstance(s, Percentile) and s.method != "coordinatewise" for s in statements)
    trial = drawing.pilot_draws(choosing)
    run, center = drawing.run(), drawing.center
    settings: dict[str, Setting] = {}
    for smoother in {getattr(s, "smoother", "median") for s in statements}:
        c = center if center is not None else median(cast(Tensor, trial)) if smoother == "median" else _mean(trial)
        kind = drawing.reference or ("center" if smoother == "median" else "population")
        settings[smoother] = Setting(drawing.noise, drawing.n, drawing.shape, c, kind, drawing.support, trial)

    plans = [_Plan(s, settings[getattr(s, "smoother", "median")], run, drawing.memory) for s in statements]

    def take(asking: Sequence[_Plan]) -> list[Answer | None]:
        seen = pool(accumulator for plan in asking for accumulator in plan.needs())
        ranks_seen = seen.get(ExtremeRanks.key)
        if isinstance(ranks_seen, ExtremeRanks):
            ranks_seen.memory = drawing.memory
        drawing.draw(seen.values())
        return [plan.answer(seen) for plan in asking]

    answers = take(plans)
    again = [plan for plan, answer in zip(plans, answers, strict=True) if answer is None]
    if again:
        for plan in again:
            plan.floor = 0.0
        wider = iter(take(again))
        answers = [next(wider) if answer is None else answer for answer in answers]
    return answers


@_validate.suggests(AskOptions)
def percentile_bounds(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    p: float = 0.5,
    alpha: float = 1e-3,
    **options: Unpack[AskOptions],
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
        **options: of drawing, as in `ask`.

    Returns:
        `PercentileBounds` with `lower`, `upper`, `center` of shape (*output).

    Raises:
        ValueError, TypeError: as `ask`.
    """
    return cast(PercentileBounds, ask(f, y, noise, [Percentile(rho, p, alpha)], **options)[0])


@_validate.suggests(AskOptions)
def mse_bound(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    alpha: float = 1e-3,
    method: str = "best",
    smoother: str = "median",
    **options: Unpack[AskOptions],
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
        method: for the median "coordinatewise" (T2) or "dimension-free" (T4), for the mean "spectral" (T11), or "best": the
            one that pilot draws let expect the least of; the result says which.
        smoother: "median" or "mean".
        **options: of drawing, as in `ask`.

    Returns:
        `MSEBound`.

    Raises:
        ValueError, TypeError: as `ask`.
    """
    return cast(MSEBound, ask(f, y, noise, [MSE(rho, alpha, method, smoother)], **options)[0])


@_validate.suggests(AskOptions)
def certified_radius(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    tolerance: float,
    alpha: float = 1e-3,
    method: str = "best",
    smoother: str = "median",
    **options: Unpack[AskOptions],
) -> CertifiedRadius:
    """The largest radius at which the smoothed output provably stays within a tolerance (T3, T8).

    Equation
        ρ̂ = sup{ρ : bound(ρ) ≤ tolerance};  for all ‖δ‖_Σ ≤ ρ̂:  ‖E_½(y + δ) − c‖² ≤ tolerance, with probability ≥ 1 − α.

    Args:
        f, y, noise: as in `ask`.
        tolerance: squared ℓ2 distance > 0, a sum over outputs, fixed before the draws.
        alpha, method, smoother: as in `mse_bound`.
        **options: of drawing, as in `ask`.

    Returns:
        `CertifiedRadius` with `rho` and `ellipsoid`.

    Raises:
        ValueError, TypeError: as `ask`.
    """
    return cast(CertifiedRadius, ask(f, y, noise, [Radius(tolerance, alpha, method, smoother)], **options)[0])


@_validate.suggests(AskOptions)
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
    **options: Unpack[AskOptions],
) -> BoundCurve:
    """The bound of `mse_bound` at several radii, from one set of draws (T2, T3).

    Args:
        f, y, noise: as in `ask`.
        rhos: strictly increasing radii > 0.
        alpha: failure probability of the whole curve if `simultaneous` (α split over the radii), else of each point.
        simultaneous: whether the curve as a whole is the statement.
        method, smoother: as in `mse_bound`.
        **options: of drawing, as in `ask`.

    Returns:
        `BoundCurve` with `rhos` and `values`.

    Raises:
        ValueError, TypeError: as `ask`.
    """
    statement = Curve(rhos, alpha, simultaneous, method, smoother)
    return cast(BoundCurve, ask(f, y, noise, [statement], **options)[0])


@_validate.suggests(AskOptions)
def deployed_bound(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    *,
    rho: float,
    q: float = 0.95,
    replicas: int = 13,
    alpha: float = 1e-3,
    method: str = "best",
    smoother: str = "median",
    **options: Unpack[AskOptions],
) -> DeployedBound:
    """How far the deployed smoother, the median (or mean) of K draws, can be from a reference (T5, T6, T3).

    Equation
        for all ‖δ‖_Σ ≤ ρ:  P[ ‖median(f(y + δ + G_1), …, f(y + δ + G_K)) − c‖ ≤ value ] ≥ q,  with confidence 1 − α.

    Args:
        f, y, noise: as in `ask`; the n draws are single ones of f.
        rho: radius > 0 in units of ‖·‖_Σ.
        q: probability over the deployment noise.
        replicas: K; 13 in the paper.
        alpha: failure probability over the n draws.
        method: "replicas" (T5), "order statistics" or "dimension-free" (T6, for the median), or "best".
        smoother: "median" or "mean" of the K draws.
        **options: of drawing, as in `ask`.

    Returns:
        `DeployedBound`; `value` is an ℓ2 distance, not squared.

    Raises:
        ValueError, TypeError: as `ask`.
    """
    if options.get("reference") not in (None, "center"):
        raise ValueError(f"reference = {options['reference']!r}: a deployed output's distance is one from the center")
    statement = Deployed(rho, q, alpha, replicas, method, smoother)
    return cast(DeployedBound, ask(f, y, noise, [statement], **options)[0])


def _statements(given: Any) -> list[Statement]:
    kinds = "Percentile, MSE, Radius, Curve or Deployed"
    if isinstance(given, Statement) or not isinstance(given, Iterable):
        raise TypeError(f"statements = {given!r}: must be a list of statements ({kinds})")
    listed = list(given)
    for i, statement in enumerate(listed):
        if not isinstance(statement, Statement):
            raise TypeError(f"statements[{i}] = {statement!r}: must be a statement ({kinds})")
    if not listed:
        raise ValueError(f"statements is empty: must hold at least one statement ({kinds})")
    return listed


class _Plan:
    """One statement on its way from the setting, through the draws, to an answer.

    Attributes:
        floor: the least radius that what is kept of the draws can speak about; chosen on pilot draws.
    """

    def __init__(self, statement: Statement, setting: Setting, run: Run, memory: int) -> None:
        self.statement, self.setting, self.run, self.floor = statement, setting, run, 0.0
        match statement:
            case Percentile():
                self.parts: list[_Choice] = []
            case Curve(rhos=rhos):
                self.parts = [_Choice(setting, statement, statement.share, rho) for rho in rhos]
            case Radius(tolerance=tolerance):
                self.parts = [_radius_choice(setting, statement, tolerance)]
                self.floor = _floor(setting, self.parts[0], memory)
            case _:
                self.parts = [_Choice(setting, statement, statement.alpha, statement.rho)]

    def needs(self) -> list[Accumulator]:
        if isinstance(self.statement, Percentile):
            low, high = ranks(self.setting.n, self._tails(), self._side())
            return [ExtremeRanks(max(low, 1), max(high, 1))]
        least = self.floor if isinstance(self.statement, Radius) else None
        return [part for choice in self.parts for part in choice.method.needs(choice.rho if least is None else least)]

    def answer(self, seen: Mapping[str, Accumulator]) -> Answer | None:
        """The answer; None where it takes more than was kept of the draws."""
        statement = self.statement
        if isinstance(statement, Percentile):
            return self._percentile(statement, cast(ExtremeRanks, seen[ExtremeRanks.key]))
        if isinstance(statement, Radius):
            return self._radius(statement, self.parts[0], seen)
        if isinstance(statement, Curve):
            scope = "simultaneous" if statement.simultaneous else "pointwise"
            points = tuple(self._mse(choice, statement.share, seen, scope) for choice in self.parts)
            return BoundCurve(
                points,
                statement.simultaneous,
                statement.alpha,
                self.setting.n,
                ", ".join(dict.fromkeys(point.method for point in points)),
                ", ".join(dict.fromkeys(point.theorem for point in points)),
            )
        if isinstance(statement, Deployed):
            return self._deployed(statement, self.parts[0], seen)
        return self._mse(self.parts[0], statement.alpha, seen, "single")

    def _mse(self, choice: _Choice, alpha: float, seen: Mapping[str, Accumulator], scope: str) -> MSEBound:
        method, evaluation = choice.method, choice.method.at(choice.rho, seen)
        finite = math.isfinite(evaluation.value)
        return MSEBound(
            value=evaluation.value,
            method=method.method,
            theorem=method.theorem,
            rho=choice.rho,
            alpha=alpha,
            n=self.setting.n,
            center=self.setting.center,
            status="certified" if finite else "abstained",
            reason=self.run.remark if finite else self._too_few(choice.rho, alpha, evaluation),
            smoother=method.smoother,
            reference=self.setting.reference,
            evidence=evaluation.evidence,
            run=self.run,
            considered=choice.considered,
            scope=scope,
        )

    def _deployed(self, statement: Deployed, choice: _Choice, seen: Mapping[str, Accumulator]) -> DeployedBound:
        method, evaluation = choice.method, choice.method.at(choice.rho, seen)
        finite = math.isfinite(evaluation.value)
        return DeployedBound(
            value=evaluation.value,
            q=statement.q,
            replicas=statement.replicas,
            smoother=method.smoother,
            method=method.method,
            theorem=method.theorem,
            rho=choice.rho,
            alpha=statement.alpha,
            n=self.setting.n,
            center=self.setting.center,
            status="certified" if finite else "abstained",
            reason=self.run.remark if finite else self._too_few(choice.rho, statement.alpha, evaluation),
            evidence=evaluation.evidence,
            run=self.run,
            considered=choice.considered,
        )

    def _radius(self, statement: Radius, choice: _Choice, seen: Mapping[str, Accumulator]) -> CertifiedRadius | None:
        method = choice.method
        least = method.at(self.floor, seen) if self.floor else None
        if least is not None and least.value > statement.tolerance:
            return None

        def bound(rho: float) -> Evaluation:
            # Bounds do not decrease in ρ: below the floor they are within the tolerance, as the one at the floor is.
            return method.at(rho, seen) if least is None or rho >= self.floor else least

        rho, evaluation = largest_radius(bound, statement.tolerance)
        if 0 < rho < self.floor:
            return None
        reason = self.run.remark
        if rho == 0 and math.isfinite(evaluation.value):
            reason = (
                f"already for the smallest perturbations the bound from n = {self.setting.n} draws is "
                f"{shown(evaluation.value, 'up')} > tolerance {shown(statement.tolerance, 'exact')}: "
                "take more draws or a larger tolerance"
            )
        elif rho == 0:
            reason = self._too_few(0.0, statement.alpha, evaluation)
        return CertifiedRadius(
            rho=rho,
            tolerance=statement.tolerance,
            value=evaluation.value,
            ellipsoid=self.run.noise.region(self.run.y.shape, rho),
            method=method.method,
            theorem=method.theorem,
            alpha=statement.alpha,
            n=self.setting.n,
            center=self.setting.center,
            status="certified" if rho > 0 else "abstained",
            reason=reason,
            smoother=method.smoother,
            reference=self.setting.reference,
            evidence=evaluation.evidence if rho > 0 else None,
            run=self.run,
            considered=choice.considered,
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
        center = self.setting.center
        if statement.p != 0.5 and (ordered := self.setting.ordered) is not None:
            center = ordered[min(len(ordered) - 1, int(statement.p * len(ordered)))]
        return PercentileBounds(
            lower=box.lower,
            upper=box.upper,
            center=center,
            p=statement.p,
            rho=statement.rho,
            alpha=statement.alpha,
            n=self.setting.n,
            lower_rank=box.lower_rank,
            upper_rank=box.upper_rank,
            status="certified" if finite else "abstained",
            reason=self.run.remark
            if finite
            else self._too_few(statement.rho, statement.alpha, Evaluation(math.inf, None, needed), statement.p),
            run=self.run,
            theorem=self.setting.noise.theorem,
        )

    def _tails(self) -> Any:
        statement = cast(Percentile, self.statement)
        return self.setting.noise.tails(statement.p, statement.rho)

    def _side(self) -> float:
        return self.statement.alpha / (2 * self.setting.outputs)

    def _too_few(self, rho: float, alpha: float, evaluation: Evaluation, p: float = 0.5) -> str:
        if evaluation.reason:
            return evaluation.reason
        if min(self.setting.noise.tails(p, rho)) <= 0:
            return (
                f"at ρ = {shown(rho, 'exact')} the noise leaves no probability beyond the shifted percentile at "
                f"{shown(p, 'exact')} ({self.setting.noise.theorem}): no number of draws is enough without an a-priori support"
            )
        otherwise = " without" if evaluation.draws_needed is None else ", or"
        return (
            f"n = {self.setting.n} draws give no finite joint bound over {self.setting.outputs} outputs at "
            f"ρ = {shown(rho, 'exact')}, α = {failure(alpha)}: {enough(evaluation.draws_needed)}{otherwise} an a-priori support"
        )


class _Choice:
    """The method for one radius: the one asked for, or the one of which pilot draws let expect the least value."""

    def __init__(self, setting: Setting, statement: MSE | Curve | Radius | Deployed, alpha: float, rho: float) -> None:
        self.rho = rho
        built = {name: _built(statement, setting, alpha, rho, name) for name in _names(statement, setting)}
        self.considered = {name: method.guess(rho) for name, method in built.items()} if len(built) > 1 else {}
        self.expected = 0.0  # the radius, where one is asked for
        # Where nothing is expected of any of them, the first speaks: it says what n would do.
        self.method = built[min(built, key=lambda name: self.considered.get(name, 0.0))]


def _radius_choice(setting: Setting, statement: Radius, tolerance: float) -> _Choice:
    """The method whose guessed radius is largest, with its parameters chosen for that radius."""
    guessed: dict[str, float] = {}
    for name in _names(statement, setting):

        def guess(rho: float, name: str = name) -> Evaluation:
            return Evaluation(_built(statement, setting, statement.alpha, rho, name).guess(rho))

        guessed[name] = largest_radius(guess, tolerance, precision=1e-2)[0] if setting.pilot is not None else 0.0
    name = max(guessed, key=lambda name: guessed[name])
    aim = guessed[name] if 0 < guessed[name] < math.inf else 1.0
    one = Radius(statement.tolerance, statement.alpha, name, statement.smoother)
    choice = _Choice(setting, one, statement.alpha, aim)
    choice.considered, choice.expected = guessed if len(guessed) > 1 else {}, guessed[name]
    return choice


def _floor(setting: Setting, choice: _Choice, memory: int) -> float:
    """The radius from which on a search for the certified one keeps the draws it needs.

    0 where all of them fit in memory. Else the least radius whose order statistics fit, which leaves most room below the radius
    that is expected; or, where that is hardly below it, as much room as `_MARGIN` says, and draws go to disk.
    """
    bytes_a_draw = setting.outputs * (4 if setting.pilot is None else setting.pilot.element_size())

    def fits(rho: float) -> bool:
        ends = [need.low + need.high for need in choice.method.needs(rho) if isinstance(need, ExtremeRanks)]
        return min(max(ends, default=0), setting.n) * bytes_a_draw <= memory

    expected = math.inf if setting.pilot is None else choice.expected
    if fits(0.0) or expected <= 0:
        return 0.0
    most = _MARGIN * expected if math.isfinite(expected) else _LARGEST_FLOOR
    if not fits(most):
        return most if math.isfinite(expected) else 0.0
    low, high = 0.0, most
    while high - low > 1e-3 * most:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _names(statement: MSE | Curve | Radius | Deployed, setting: Setting) -> list[str]:
    if statement.method != "best":
        return [statement.method]
    kinds: dict[str, type[Method]]
    if isinstance(statement, Deployed):
        kinds = {name: kind for (smoother, name), kind in ROUTES.items() if statement.feasible(smoother, name)}
    else:
        kinds = {name: kind for (smoother, name), kind in METHODS.items() if smoother == statement.smoother}
    # Where none promises anything, they are all asked: the first says why.
    return [name for name, kind in kinds.items() if kind.promising(setting)] or list(kinds)


def _built(statement: MSE | Curve | Radius | Deployed, setting: Setting, alpha: float, rho: float, name: str) -> Method:
    if isinstance(statement, Deployed):
        route = ROUTES[statement.smoother, name]
        return route(setting, alpha, rho, q=statement.q, replicas=statement.replicas)
    return METHODS[statement.smoother, name](setting, alpha, rho)


def _mean(trial: Tensor | None) -> Tensor:
    draws = cast(Tensor, trial)
    return mean(draws.double()).to(draws.dtype)


def _check_method(smoother: str, method: str, registry: Mapping[tuple[str, str], Any] = METHODS) -> None:
    _validate.choice("smoother", smoother, SMOOTHERS)
    _validate.choice("method", method, [*(name for kind, name in registry if kind == smoother), "best"])
