"""The questions that `certify.ask` takes: what each asks, what it must see of the draws, and how it is answered.

A question is one class, derived from `Question` (or from `Bounded`, where one of several methods answers): a frozen dataclass
that checks its own arguments, says which accumulators must see the draws, and makes its result of them. `ask` knows no more.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import torch

from certify import _validate
from certify._text import failure, shown
from certify.bounds import METHODS, ROUTES, DeployedBound, Evaluation, Method, Run, Setting
from certify.bounds.mse import BoundCurve, CoordinatewiseMSE, MSEBound
from certify.bounds.percentile import BoxEvidence, PercentileBounds, draws_needed, enough, percentile_box, ranks
from certify.bounds.radius import CertifiedRadius, largest_radius
from certify.montecarlo import SMOOTHERS, Accumulator, ExtremeRanks
from certify.montecarlo.accumulators import LARGEST_GROUP
from certify.statements.choose import Choice, Methods, floor_below, for_radius, for_tolerance

__all__ = ["MSE", "Bounded", "Curve", "Deployed", "Percentile", "Plan", "Question", "Radius"]

_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "rho": _validate.positive,
    "rhos": _validate.increasing,
    "tolerance": _validate.positive,
    "p": _validate.probability,
    "q": _validate.probability,
    "alpha": _validate.failure,
    "simultaneous": _validate.flag,
    "replicas": _validate.count,
}
"""What a field of a question must be, by its name."""


CHOOSING = ("best", "tightest")
"""Methods that leave the choice to pilot draws: among those that take no longer than about twice the cheapest, or among all."""


class Question(ABC):
    """Asks something of the draws; derived classes are frozen dataclasses."""

    alpha: float
    smoother: str = "median"
    """Whose value of pilot draws is the reference."""

    def __post_init__(self) -> None:
        for f in fields(cast(Any, self)):
            if f.name in _CHECKS:
                object.__setattr__(self, f.name, _CHECKS[f.name](f.name, getattr(self, f.name)))

    @property
    def chooses(self) -> bool:
        """Whether pilot draws have something to choose: a method, or the parameters of one."""
        return False

    def choices(self, setting: Setting) -> list[Choice]:
        """The methods that are going to answer, by pilot draws."""
        return []

    def floor(self, choices: list[Choice], setting: Setting, memory: int) -> float:
        """The least radius that what is kept of the draws must speak about, so that it fits in so many bytes."""
        return 0.0

    @abstractmethod
    def needs(self, plan: Plan) -> list[Accumulator]:
        """Empty accumulators that must see the bounding draws."""

    @abstractmethod
    def answer(self, plan: Plan, seen: Mapping[str, Accumulator]) -> Any:
        """The result; None where it takes more than was kept of the draws: they are made once more, with the floor at 0."""


class Plan:
    """A question on its way from the setting, through the draws, to its answer.

    Attributes:
        question, setting, run: what is asked, what is known, where the draws come from.
        choices: the methods that answer.
        floor: the least radius that what is kept of the draws can speak about; chosen on pilot draws.
    """

    def __init__(self, question: Question, setting: Setting, run: Run, memory: int) -> None:
        self.question, self.setting, self.run = question, setting, run
        self.choices = question.choices(setting)
        self.floor = question.floor(self.choices, setting, memory)

    def distance(self, choice: Choice, alpha: float, evaluation: Evaluation, rho: float) -> dict[str, Any]:
        """What a result about a distance says, whichever it is."""
        method, finite = choice.method, math.isfinite(evaluation.value)
        return {
            "value": evaluation.value,
            "method": method.method,
            "theorem": method.theorem,
            "smoother": method.smoother,
            "rho": rho,
            "alpha": alpha,
            "n": self.setting.n,
            "center": self.setting.center,
            "reference": self.setting.reference,
            "evidence": evaluation.evidence,
            "run": self.run,
            "considered": choice.considered,
            "status": "certified" if finite else "abstained",
            "reason": self.run.remark if finite else self.too_few(rho, alpha, evaluation),
        }

    def too_few(self, rho: float, alpha: float, evaluation: Evaluation, p: float = 0.5) -> str:
        """Why there is no finite bound, and what n would do."""
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


@dataclass(frozen=True)
class Percentile(Question):
    """Asks for the joint box of the p-th percentile (T1)."""

    rho: float
    p: float = 0.5
    alpha: float = 1e-3

    def each_side(self, setting: Setting) -> float:
        """α', of one side of one output."""
        return self.alpha / (2 * setting.outputs)

    def needs(self, plan: Plan) -> list[Accumulator]:
        setting = plan.setting
        low, high = ranks(setting.n, setting.noise.tails(self.p, self.rho), self.each_side(setting))
        return [ExtremeRanks(max(low, 1), max(high, 1))]

    def answer(self, plan: Plan, seen: Mapping[str, Accumulator]) -> PercentileBounds:
        setting, alpha = plan.setting, self.each_side(plan.setting)
        box = percentile_box(seen, setting, p=self.p, rho=self.rho, alpha=alpha)
        finite = bool(torch.isfinite(box.lower).all() and torch.isfinite(box.upper).all())
        reason = plan.run.remark
        if not finite:
            needed = draws_needed(setting.noise.tails(self.p, self.rho), alpha)
            reason = plan.too_few(self.rho, self.alpha, Evaluation(math.inf, None, needed), self.p)
        center = setting.center
        if self.p != 0.5 and (ordered := setting.ordered) is not None:
            center = ordered[min(len(ordered) - 1, int(self.p * len(ordered)))]
        return PercentileBounds(
            lower=box.lower,
            upper=box.upper,
            center=center,
            p=self.p,
            rho=self.rho,
            alpha=self.alpha,
            n=setting.n,
            lower_rank=box.lower_rank,
            upper_rank=box.upper_rank,
            status="certified" if finite else "abstained",
            reason=reason,
            evidence=BoxEvidence(box.lower, box.upper, self.p, self.p) if finite else None,
            run=plan.run,
            theorem=setting.noise.theorem,
        )


class Bounded(Question):
    """A question that one of several methods answers: the one of its name, the "best" or the "tightest"."""

    method: str
    rho: float
    registry: ClassVar[Mapping[tuple[str, str], type[Method]]] = METHODS
    """(smoother, method) → the class that implements it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.choice("smoother", self.smoother, SMOOTHERS)
        names = [name for kind, name in self.registry if kind == self.smoother]
        _validate.choice("method", self.method, [*names, *CHOOSING])

    @property
    def chooses(self) -> bool:
        return self.method != CoordinatewiseMSE.method

    @property
    def radii(self) -> Sequence[float]:
        """The radii that are asked about."""
        return [self.rho]

    @property
    def share(self) -> float:
        """α at each of them."""
        return self.alpha

    @property
    def options(self) -> dict[str, Any]:
        """What a method must know besides."""
        return {}

    def serves(self, smoother: str, name: str) -> bool:
        """Whether a method is one of those requested."""
        return smoother == self.smoother and self.method in (name, *CHOOSING)

    def methods(self, setting: Setting) -> Methods:
        """The methods that may answer."""
        kinds = {name: kind for (smoother, name), kind in self.registry.items() if self.serves(smoother, name)}
        promising = kinds
        if self.method in CHOOSING:
            promising = {name: kind for name, kind in kinds.items() if kind.promising(setting)}
        if self.method == "best":
            promising = {name: kind for name, kind in promising.items() if kind.affordable(setting)}
        # Where none promises anything, they are all asked: the first says why.
        return {name: functools.partial(kind, **self.options) for name, kind in (promising or kinds).items()}

    def choices(self, setting: Setting) -> list[Choice]:
        methods = self.methods(setting)
        return [for_radius(methods, setting, self.share, rho) for rho in self.radii]

    def needs(self, plan: Plan) -> list[Accumulator]:
        return [need for choice in plan.choices for need in choice.method.needs(choice.rho)]


@dataclass(frozen=True)
class MSE(Bounded):
    """Asks for a bound on the squared distance at one radius."""

    rho: float
    alpha: float = 1e-3
    method: str = "best"
    smoother: str = "median"

    def answer(self, plan: Plan, seen: Mapping[str, Accumulator]) -> MSEBound:
        (choice,) = plan.choices
        return MSEBound(**plan.distance(choice, self.alpha, choice.method.at(self.rho, seen), self.rho))


@dataclass(frozen=True)
class Radius(Bounded):
    """Asks for the largest radius whose squared distance stays within `tolerance`."""

    tolerance: float
    alpha: float = 1e-3
    method: str = "best"
    smoother: str = "median"

    def choices(self, setting: Setting) -> list[Choice]:
        return [for_tolerance(self.methods(setting), setting, self.alpha, self.tolerance)]

    def floor(self, choices: list[Choice], setting: Setting, memory: int) -> float:
        return floor_below(choices[0], setting, memory)

    def needs(self, plan: Plan) -> list[Accumulator]:
        return plan.choices[0].method.needs(plan.floor)

    def answer(self, plan: Plan, seen: Mapping[str, Accumulator]) -> CertifiedRadius | None:
        (choice,) = plan.choices
        method = choice.method
        least = method.at(plan.floor, seen) if plan.floor else None
        if least is not None and least.value > self.tolerance:
            return None

        def bound(rho: float) -> Evaluation:
            # Bounds do not decrease in ρ: below the floor they are within the tolerance, as the one at the floor is.
            return method.at(rho, seen) if least is None or rho >= plan.floor else least

        rho, evaluation = largest_radius(bound, self.tolerance)
        if 0 < rho < plan.floor:
            return None
        said = plan.distance(choice, self.alpha, evaluation, rho)
        if rho == 0:
            said |= {"status": "abstained", "evidence": None}
            if math.isfinite(evaluation.value):
                said["reason"] = (
                    f"already for the smallest perturbations the bound from n = {plan.setting.n} draws is "
                    f"{shown(evaluation.value, 'up')} > tolerance {shown(self.tolerance, 'exact')}: "
                    "take more draws or a larger tolerance"
                )
        region = plan.run.noise.region(plan.run.y.shape, rho)
        return CertifiedRadius(tolerance=self.tolerance, ellipsoid=region, **said)


@dataclass(frozen=True)
class Curve(Bounded):
    """Asks for the bound at several radii."""

    rhos: Sequence[float]
    alpha: float = 1e-3
    simultaneous: bool = True
    method: str = "best"
    smoother: str = "median"

    @property
    def share(self) -> float:
        """α of one point."""
        return self.alpha / len(self.rhos) if self.simultaneous else self.alpha

    @property
    def radii(self) -> Sequence[float]:
        return self.rhos

    def answer(self, plan: Plan, seen: Mapping[str, Accumulator]) -> BoundCurve:
        scope = "simultaneous" if self.simultaneous else "pointwise"

        def point(choice: Choice) -> MSEBound:
            evaluation = choice.method.at(choice.rho, seen)
            return MSEBound(scope=scope, **plan.distance(choice, self.share, evaluation, choice.rho))

        return BoundCurve(tuple(point(choice) for choice in plan.choices), self.simultaneous, self.alpha)


@dataclass(frozen=True)
class Deployed(Bounded):
    """Asks how far the median (or mean) of K draws can be from the reference, with probability q (T5, T6)."""

    rho: float
    q: float = 0.95
    alpha: float = 1e-3
    replicas: int = 13
    method: str = "best"
    smoother: str = "median"

    registry: ClassVar[Mapping[tuple[str, str], type[Method]]] = ROUTES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replicas > LARGEST_GROUP and not any(self.serves(*route) for route in ROUTES):
            raise ValueError(
                f"replicas = {self.replicas}: must be at most {LARGEST_GROUP} for a {self.smoother} by groups of draws"
            )

    @property
    def options(self) -> dict[str, Any]:
        return {"q": self.q, "replicas": self.replicas}

    def serves(self, smoother: str, name: str) -> bool:
        # T5 takes groups out of a shard.
        return super().serves(smoother, name) and not (name == "replicas" and self.replicas > LARGEST_GROUP)

    def answer(self, plan: Plan, seen: Mapping[str, Accumulator]) -> DeployedBound:
        (choice,) = plan.choices
        said = plan.distance(choice, self.alpha, choice.method.at(self.rho, seen), self.rho)
        return DeployedBound(**{**said, "reference": "center"}, **self.options)
