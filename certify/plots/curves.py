"""A bound against the radius: `plot_curve`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from certify import _validate
from certify._text import failure, shown
from certify.bounds import BoundCurve
from certify.certificate import ClaimedCurve
from certify.noise import GaussianNoise
from certify.plots import style
from certify.plots.colours import GREY, series
from certify.plots.style import RADIUS, TWO_COLUMNS, StyledFigure, panels, plain, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_curve"]


@styled
def plot_curve(
    *curves: BoundCurve | ClaimedCurve,
    removal: float | None = None,
    labels: Sequence[str] | None = None,
    removal_label: str = "squared concept-removal distance",
    attacks: Sequence[tuple[float, float]] = (),
    attacks_label: str = "strongest movement that attacks found",
    title: str | None = None,
    log: bool | None = None,
    width: float = TWO_COLUMNS,
) -> StyledFigure:
    """Bound against radius, a curve a method.

    A simultaneous curve has a solid line and full marks: it is one statement. Between two marks the value of the next one
    holds; the line only leads the eye. The points of a pointwise one are separate statements: open marks, joined by dots at
    most. A curve with the method "best" (at each radius the one that pilot draws favour) is a broad grey line below the
    others. A radius at which nothing is certified has its mark in the row "no bound" on top. What attacks have reached is a
    lower limit of the truth.

    Args:
        *curves: one or more `BoundCurve`s of one problem, or `Certificate.curve`s.
        removal: the squared concept-removal distance, or another to compare with, a level line: bounds above are vacuous.
        labels: a name a curve; None: its method and theorem.
        removal_label: what the level line is.
        attacks: (ρ, largest squared distance that an attack of size at most ρ has reached).
        attacks_label: what these are.
        title: above the figure.
        log: logarithmic vertical axis; None: where the values span more than a factor of 50.
        width: of the figure in inches; see `certify.plots.style.ONE_COLUMN` and `TWO_COLUMNS`.

    Raises:
        ValueError: no curves, labels of another number, or a number out of range.
    """
    if not curves:
        raise ValueError("curves = (): must be at least one BoundCurve")
    style.as_many("labels", labels, len(curves), "a curve")
    if removal is not None:
        _validate.not_negative("removal", removal)
    for rho, distance in attacks:
        if not (0 <= rho < math.inf and 0 <= distance < math.inf):
            raise ValueError(f"attacks hold {(rho, distance)!r}: must be finite numbers >= 0")
    points = [list(zip(c.rhos, c.values, strict=True)) for c in curves]
    known = [[(r, v) for r, v in of if math.isfinite(v)] for of in points]
    rows = [i for i, of in enumerate(points) if len(known[i]) < len(of)]  # curves with an abstention
    frame, below = 0.55 * width if width > 5 else 0.8 * width, style.below(len(curves), width)
    if rows:
        strip = 0.14 * len(rows) + 0.08
        figure, ((upper,), (axes,)) = panels(2, 1, width, frame + strip + below, heights=[strip, frame], sharex=True)
        _strip(upper, len(rows))
    else:
        figure, ((axes,),) = panels(1, 1, width, frame + below)
        upper = axes
    scopes = {_scope(curve) for curve in curves}
    many = len({curve.simultaneous for curve in curves}) > 1 or len(scopes) > 1
    for i, curve in enumerate(curves):
        look = _look(curve, i, sum(not _is_best(c) for c in curves[:i]))
        name = plain(labels[i]) if labels is not None else _method(curve)
        label = f"{name}, {_scope(curve)}" if many else name
        axes.plot([r for r, _ in known[i]], [v for _, v in known[i]], label=label, **look)
        if i in rows:
            unbounded = [r for r, v in points[i] if not math.isfinite(v)]
            upper.plot(unbounded, [-rows.index(i)] * len(unbounded), **look | {"linestyle": ""})
    if attacks:
        axes.plot(*zip(*attacks, strict=True), "x", color="black", markersize=5.5, label=plain(attacks_label), zorder=4)
    if removal is not None:
        label = f"{plain(removal_label)}: {shown(removal, 'near')}"
        axes.axhline(removal, color=GREY, linestyle="--", linewidth=1.1, label=label)
    values = [*(v for of in known for _, v in of), *(d for _, d in attacks), *([removal] if removal else [])]
    _limits(axes, [v for v in values if v > 0], log)
    axes.set_xlim(0, 1.04 * max([*(r for of in points for r, _ in of), *(r for r, _ in attacks)]) or 1.0)
    if not any(known):
        style.say(axes, "nothing is certified at any of these radii")
    runs = [run for run in (getattr(curve.points[0], "run", None) for curve in curves) if run]
    gaussian = all(isinstance(run.noise, GaussianNoise) for run in runs)
    radius = RADIUS if gaussian else "radius ρ of the perturbation, in the norm of its noise"
    axes.set_xlabel(radius if many else f"{radius}\n{scopes.pop()}")
    axes.set_ylabel("certified squared distance")
    style.head(upper, title, width - 0.8)
    style.key(figure)
    return figure


def _limits(axes: Axes, values: Sequence[float], log: bool | None) -> None:
    """The vertical axis, for values > 0."""
    low, top = min(values, default=0.0), max(values, default=0.0)
    if values and (top > 50 * low if log is None else log):
        room = (top / low) ** 0.07
        axes.set_ylim(low / room / 1.15, top * room * 1.15)
        style.log_scale(axes)
    else:
        top = 1.07 * top or 1.0
        axes.set_ylim(-0.02 * top, top)


def _scope(curve: BoundCurve | ClaimedCurve) -> str:
    scope = "all points at once" if curve.simultaneous else "each point by itself"
    return f"{scope} with α\u00a0=\u00a0{failure(curve.alpha)}, n\u00a0=\u00a0{curve.n:,}"


def _is_best(curve: BoundCurve | ClaimedCurve) -> bool:
    return any(getattr(point, "considered", None) for point in curve.points)


def _method(curve: BoundCurve | ClaimedCurve) -> str:
    return f"best by the pilot draws ({curve.theorem})" if _is_best(curve) else f"{curve.method} ({curve.theorem})"


def _look(curve: BoundCurve | ClaimedCurve, number: int, others: int) -> dict[str, Any]:
    if _is_best(curve) and number:
        line = {"linestyle": "-", "linewidth": 6} if curve.simultaneous else {"linestyle": ""}
        return {"color": "#BDBDBD", "marker": "o", "markersize": 8.5, "zorder": 1.5, **line}
    colour, marker, _ = series(others)
    look: dict[str, Any] = {"color": colour, "marker": marker, "zorder": 3}
    if curve.simultaneous:
        return look | {"linestyle": "-"}
    return look | {"linestyle": (0, (1, 3)), "linewidth": 0.9, "markerfacecolor": "white", "markeredgewidth": 1.2}


def _strip(axes: Axes, rows: int) -> None:
    """The rows of radii at which nothing is certified."""
    axes.set_facecolor("#F2F2F2")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-rows + 0.4, 0.6)
    axes.set_yticks([(1 - rows) / 2], ["no bound"])
