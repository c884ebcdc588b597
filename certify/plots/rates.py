"""Shares against the radius: `plot_event_rates`, `plot_certified_fraction`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from certify import _validate
from certify._text import failure
from certify.bounds.copies import EventBound
from certify.bounds.rates import RateOver
from certify.certificate import ClaimedEvent, words
from certify.plots import style
from certify.plots.colours import GREY, series
from certify.plots.style import RADIUS, TWO_COLUMNS, StyledFigure, panels, plain, styled, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EventRates", "plot_certified_fraction", "plot_event_rates"]


EventRates: TypeAlias = EventBound | ClaimedEvent | RateOver
"""A bound of an event's probability at every radius; with `prompts`, of the mean over so many."""


@styled
def plot_event_rates(
    *bounds: EventRates,
    largest: float = 1.0,
    labels: Sequence[str] | None = None,
    attacks: Sequence[Sequence[tuple[float, float, float, float]]] = (),
    undefended: float | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> StyledFigure:
    """Certified probability of an event (an attack's success rate) against the radius, a line a bound.

    Args:
        *bounds: what `event_bound`, `event_rate_over` or `attack_rate_over` returned, or `Certificate.event`; each gives a
            whole line, which holds at once with probability 1 − α. A two-sided one has a second line, below which it is not.
        largest: where the horizontal axis ends, > 0.
        labels: a name a bound; None: how many noisy copies, and of how many prompts it is the mean.
        attacks: for each of the bounds, what was measured under attack: (ρ, rate, lower, upper) with its confidence limits.
        undefended: the measured rate without the defence, a level line.
        title: above the figure.
        width: of the figure in inches.

    Raises:
        ValueError: no bounds, attacks or labels for another number of them, or a number out of range.
    """
    if not bounds:
        raise ValueError("bounds = (): must be at least one EventBound")
    if attacks and len(attacks) != len(bounds):
        raise ValueError(f"attacks has {len(attacks)} entries: must be {len(bounds)}, one a bound")
    style.as_many("labels", labels, len(bounds), "a bound")
    _validate.positive("largest", largest)
    if undefended is not None and not 0 <= undefended <= 1:
        raise ValueError(f"undefended = {undefended!r}: must be a probability")
    figure, axes = _frame(width, 0.52, 2 * len(bounds))
    rhos = [largest * i / 200 for i in range(201)]
    for i, bound in enumerate(bounds):
        colour, marker, dashes = series(i)
        named = plain(labels[i]) if labels is not None else _copies(bound)
        seen = f"{bound.successes:,} of {bound.n:,} at ρ\u00a0=\u00a00, α\u00a0=\u00a0{failure(bound.alpha)}"
        look: dict[str, Any] = {"color": colour, "linestyle": dashes}
        axes.plot(rhos, [bound.at(r) for r in rhos], label=f"certified, {named} ({seen})", **look)
        if (least := _least(bound)) is not None:
            axes.plot(rhos, [least(r) for r in rhos], linewidth=0.8, label=f"at least, {named}", **look)
        if attacks and attacks[i]:
            # Beside one another where several were attacked at the same radius.
            shift = 0.007 * largest * (i - (len(bounds) - 1) / 2)
            axes.errorbar(
                [rho + shift for rho, *_ in attacks[i]],
                [rate for _, rate, *_ in attacks[i]],
                yerr=[[max(r - a, 0) for _, r, a, _ in attacks[i]], [max(b - r, 0) for _, r, _, b in attacks[i]]],
                color=colour,
                marker=marker,
                elinewidth=0.9,
                linestyle="",
                label=f"strongest attack found, {named}",
            )
    if undefended is not None:
        dots: Any = (0, (1, 1.5))
        axes.axhline(undefended, color=GREY, linestyle=dots, linewidth=1.2, label="measured without the defence")
    axes.set_xlim(-0.01 * largest if attacks else 0, largest * (1.02 if attacks else 1))
    axes.set_ylabel("probability of the event")
    style.head(axes, title, width - 0.8)
    style.key(figure)
    return figure


def _copies(bound: EventRates) -> str:
    copies = words.copies(bound.replicas)
    prompts = getattr(bound, "prompts", None)
    if prompts is None:
        return copies
    unperturbed = getattr(bound, "unperturbed", 0)
    return f"mean of {prompts:,} prompts{f', {unperturbed:,} without noise' if unperturbed else ''}, {copies}"


def _least(bound: Any) -> Callable[[float], float] | None:
    """The lower limit at every radius, where there is one."""
    return cast("Callable[[float], float]", bound.least) if getattr(bound, "two_sided", False) else None


@styled
def plot_certified_fraction(
    *radii: Sequence[float],
    labels: Sequence[str] | None = None,
    tolerance: str = "the tolerance",
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> StyledFigure:
    """Certified fraction against radius, a step line a data set: the share of prompts whose certified radius is at least ρ.

    A prompt without a radius has radius 0: it lowers the line everywhere. An infinite radius keeps it up to the right edge,
    where an arrow marks it.

    Args:
        *radii: a certified radius a prompt, for one or more data sets (or smoothers).
        labels: a name a line; None: how many prompts there are, and how many have a radius.
        tolerance: within what the smoothed output stays, in words.
        title: above the figure.
        width: of the figure in inches.

    Raises:
        ValueError: no radii, a negative one or NaN, or labels of another number.
    """
    if not radii or not all(len(line) and all(r >= 0 for r in line) for line in radii):
        raise ValueError(f"radii = {radii!r}: must be one or more lists of numbers >= 0")
    style.as_many("labels", labels, len(radii), "a line")
    figure, axes = _frame(width, 0.5, len(radii))
    edge = 1.05 * max((r for line in radii for r in line if math.isfinite(r)), default=0.0) or 1.0
    for i, line in enumerate(radii):
        steps = sorted({min(r, edge) for r in line if r > 0})
        fractions = [sum(r >= step for r in line) / len(line) for step in steps]
        some = sum(r > 0 for r in line)
        # A value holds up to and including its radius; behind the last the line falls to 0, unless a radius is infinite.
        endless = bool(steps) and steps[-1] == edge
        behind = [] if endless else [*steps[-1:], edge]
        colour, _, dashes = series(i)
        axes.step(
            [0.0, *steps, *behind],
            [some / len(line), *fractions, *(0.0 for _ in behind)],
            where="pre",
            color=colour,
            linestyle=dashes,
            label=plain(labels[i]) if labels is not None else f"{len(line):,} prompts, {some:,} with a radius",
        )
        if endless:
            axes.plot(edge, fractions[-1], ">", color=colour, clip_on=False, zorder=4)
    if not any(r > 0 for line in radii for r in line):
        style.say(axes, "no prompt has a certified radius")
    axes.set_xlim(0, edge)
    axes.set_xlabel(f"{RADIUS}\n{wrapped(f'within {tolerance}', width - 0.9)}")
    axes.set_ylabel("certified fraction of prompts")
    style.head(axes, title, width - 0.8)
    style.key(figure)
    return figure


def _frame(width: float, share: float, entries: int) -> tuple[StyledFigure, Axes]:
    """One frame, from 0 to 1."""
    figure, ((axes,),) = panels(1, 1, width, (share if width > 5 else 0.8) * width + style.below(entries, width))
    axes.set_ylim(-0.02, 1.03)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"])
    axes.set_xlabel(RADIUS)
    return figure, axes
