"""Statements: the questions that can be asked of one set of draws, and their answers.

>>> import torch
>>> from certify import GaussianNoise, mse_bound
>>> c = mse_bound(lambda z: 2 * z, torch.zeros(1), GaussianNoise(0.5), rho=1.0, n=10_000, alpha=1e-3, seed=0)
>>> 1.0 <= c.value <= 1.2  # the truth is (2 · 0.5 · 1)² = 1
True

Several questions about one prompt share their draws: `ask(f, y, noise, [MSE(rho=1.0), Curve([0.5, 1.0])], n=…)` makes one
pass. Each has its own α, and by the union bound all answers hold at once with probability 1 − Σα.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Unpack, cast

from torch import Tensor

from certify import _validate
from certify._floats import mean
from certify.bounds import DeployedBound, Setting
from certify.bounds.mse import BoundCurve, MSEBound
from certify.bounds.percentile import PercentileBounds
from certify.bounds.radius import CertifiedRadius
from certify.montecarlo import ExtremeRanks, Function, median, pool
from certify.noise import Noise
from certify.statements.drawing import AskOptions, Drawing
from certify.statements.questions import MSE, Curve, Deployed, Percentile, Plan, Question, Radius

__all__ = [
    "MSE",
    "Curve",
    "Deployed",
    "Percentile",
    "Question",
    "Radius",
    "ask",
    "bound_curve",
    "certified_radius",
    "deployed_bound",
    "mse_bound",
    "percentile_bounds",
]


@_validate.suggests(AskOptions)
def ask(
    f: Function,
    y: Tensor,
    noise: Noise | float,
    statements: Sequence[Question],
    **options: Unpack[AskOptions],
) -> list[Any]:
    """Answers several statements from one pass of n draws.

    Args:
        f: batch (b, *input) → batch (b, *output); may take a keyword `generator`.
        y: one input, shape (*input), without a batch axis.
        noise: a `Noise`, or a number: isotropic Gaussian. Radii are in its own units, what `noise.norm` measures.
        statements: the questions: `MSE`, `Radius`, `Curve`, `Percentile`, `Deployed`.
        **options: of drawing: those of `certify.statements.drawing.Drawing`.

    Returns:
        An answer a statement, in their order.

    Raises:
        ValueError, TypeError: an argument out of range, or f not a finite function on batches.
    """
    questions = _questions(statements)
    drawing = Drawing(f, y, noise, **options)
    trial = drawing.pilot_draws(any(question.chooses for question in questions))
    run, center = drawing.run(), drawing.center
    work = functools.cache(drawing.work)
    settings: dict[str, Setting] = {}
    for smoother in {question.smoother for question in questions}:
        c = center if center is not None else _smoothed(cast(Tensor, trial), smoother)
        kind = drawing.reference or ("center" if smoother == "median" else "population")
        settings[smoother] = Setting(drawing.noise, drawing.n, drawing.shape, c, kind, drawing.support, trial, work)

    plans = [Plan(question, settings[question.smoother], run, drawing.memory) for question in questions]

    def take(asking: Sequence[Plan]) -> list[Any]:
        seen = pool(accumulator for plan in asking for accumulator in plan.question.needs(plan))
        ranks_seen = seen.get(ExtremeRanks.key)
        if isinstance(ranks_seen, ExtremeRanks):
            ranks_seen.memory = drawing.memory
        drawing.draw(seen.values())
        return [plan.question.answer(plan, seen) for plan in asking]

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
        method: for the median "coordinatewise" (T2), "dimension-free" (T4) or "spectral" (T12), for the mean "spectral" (T11);
            "tightest": the one that pilot draws let expect the least of; or "best": that among those that take no longer than
            about twice the cheapest. The result says which.
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
    question = Curve(rhos, alpha, simultaneous, method, smoother)
    return cast(BoundCurve, ask(f, y, noise, [question], **options)[0])


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
        method: "replicas" (T5), "order statistics" or "dimension-free" (T6, for the median), or "best" or "tightest".
        smoother: "median" or "mean" of the K draws.
        **options: of drawing, as in `ask`.

    Returns:
        `DeployedBound`; `value` is an ℓ2 distance, not squared.

    Raises:
        ValueError, TypeError: as `ask`.
    """
    if options.get("reference") not in (None, "center"):
        raise ValueError(f"reference = {options['reference']!r}: a deployed output's distance is one from the center")
    question = Deployed(rho, q, alpha, replicas, method, smoother)
    return cast(DeployedBound, ask(f, y, noise, [question], **options)[0])


def _questions(given: Any) -> list[Question]:
    if isinstance(given, Question) or not isinstance(given, Iterable):
        raise TypeError(f"statements = {given!r}: must be a list of statements, like [MSE(rho=1.0)]")
    listed = list(given)
    for i, question in enumerate(listed):
        if not isinstance(question, Question):
            raise TypeError(f"statements[{i}] = {question!r}: must be a statement, like MSE(rho=1.0)")
    if not listed:
        raise ValueError("statements is empty: must hold at least one statement, like MSE(rho=1.0)")
    return listed


def _smoothed(trial: Tensor, smoother: str) -> Tensor:
    return median(trial) if smoother == "median" else mean(trial.double()).to(trial.dtype)
