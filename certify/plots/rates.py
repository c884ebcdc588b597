"""Shares against the radius: `plot_event_rates`, `plot_certified_fraction`, `plot_certified_accuracy`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from certify import _validate
from certify._text import failure
from certify.bounds.bounded_mean import MeanBound, MeanEvidence
from certify.bounds.copies import EventBound
from certify.bounds.indistinguishability import Indistinguishability
from certify.bounds.rates import RateOver
from certify.certificate import ClaimedEvent, ClaimedMean, words
from certify.noise import GaussianNoise, Noise
from certify.plots import style
from certify.plots.colours import GREY, series
from certify.plots.style import RADIUS, TWO_COLUMNS, StyledFigure, panels, plain, styled, wrapped
from certify.statements.classify import Classified, right_radii

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

__all__ = ["EventRates", "plot_certified_accuracy", "plot_certified_fraction", "plot_event_rates"]


_IN_L2 = "radius of the perturbation, ‖δ‖$_2$"

EventRates: TypeAlias = EventBound | MeanBound | ClaimedEvent | ClaimedMean | RateOver
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
            whole line, which holds at once with probability 1 − α. A two-sided one has a second line, below which it is not;
            one by T14 another, for comparison: what T5's limit alone gives, from the same draws. Below, for each number of
            copies, the most that any test could tell of a perturbation (T15, Gaussian noise): no event's probability moves
            by more.
        largest: where the horizontal axis ends, > 0.
        labels: a name a bound; None: how many noisy copies, and of how many prompts it is the mean.
        attacks: for each of the bounds, what was measured under attack: (ρ, rate, lower, upper) with its confidence limits.
        undefended: the measured rate without the defence, a level line.
        title: above the figure.
        width: of the figure in inches.

    Raises:
        ValueError: no bounds, one of no probability or of a lower limit alone, attacks or labels for another number of them, or
            a number out of range.
    """
    if not bounds:
        raise ValueError("bounds = (): must be at least one EventBound")
    for bound in bounds:
        if isinstance(bound, MeanBound) and (bound.unit != "probability" or bound.side == "lower"):
            raise ValueError(f"bounds hold {bound!r}: must bound a probability from above")
    if attacks and len(attacks) != len(bounds):
        raise ValueError(f"attacks has {len(attacks)} entries: must be {len(bounds)}, one a bound")
    style.as_many("labels", labels, len(bounds), "a bound")
    _validate.positive("largest", largest)
    if undefended is not None and not 0 <= undefended <= 1:
        raise ValueError(f"undefended = {undefended!r}: must be a probability")
    tests = sorted({bound.replicas for bound in bounds if _gaussian(bound)})
    figure, axes = _frame(width, 0.52, 2 * len(bounds) + sum(_held(bound) is not None for bound in bounds) + len(tests))
    # Every value of a mean's bound (T14) takes an optimisation, two-sided three of them; its curve is smooth.
    parts = 50 if any(_held(bound) is not None for bound in bounds) else 200
    rhos = [largest * i / parts for i in range(parts + 1)]
    for i, bound in enumerate(bounds):
        colour, marker, dashes = series(i)
        named = plain(labels[i]) if labels is not None else _copies(bound)
        seen = f"{_behind(bound)}, α\u00a0=\u00a0{failure(bound.alpha)}"
        look: dict[str, Any] = {"color": colour, "linestyle": dashes}
        held = _held(bound)
        theorem = "T5" if held is None else "T14"
        axes.plot(rhos, [bound.at(r) for r in rhos], label=f"certified ({theorem}), {named} ({seen})", **look)
        if held is not None and held.above is not None and "T5" in held.above.theorems:
            still = [held.of_t5(_noise(bound), r) for r in rhos]
            axes.plot(rhos, still, color=colour, linestyle=(0, (1, 1.5)), linewidth=0.9, label=f"by T5 alone, {named}")
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
    for number, copies in enumerate(tests):
        told = [Indistinguishability(rho, copies).total_variation for rho in rhos]
        dashed: Any = (0, (4 + 3 * number, 1.5, 1, 1.5))
        label = f"what any test can tell (T15), {words.copies(copies)}"
        axes.plot(rhos, told, color=GREY, linestyle=dashed, linewidth=0.9, label=label, zorder=1.5)
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


def _noise(bound: EventRates) -> Noise:
    return bound.run.noise if isinstance(bound, MeanBound) else bound.noise


def _gaussian(bound: EventRates) -> bool:
    return isinstance(_noise(bound), GaussianNoise)


def _held(bound: EventRates) -> MeanEvidence | None:
    """T14's limits, where it has some."""
    return bound.evidence if isinstance(bound, ClaimedMean) else getattr(bound, "held", None)


def _behind(bound: EventRates) -> str:
    """What was drawn, in a few words."""
    if (repeats := getattr(bound, "repeats", None)) is not None:
        return f"{bound.n:,}\u00a0×\u00a0{repeats} values"
    return f"{bound.successes:,} of {bound.n:,} at ρ\u00a0=\u00a00"  # type: ignore[union-attr]


def _two_sided(bound: Any) -> bool:
    return bound.side == "two-sided" if isinstance(bound, MeanBound) else bool(getattr(bound, "two_sided", False))


def _least(bound: Any) -> Callable[[float], float] | None:
    """The lower limit at every radius, where there is one."""
    return cast("Callable[[float], float]", bound.least) if _two_sided(bound) else None


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
    return _fractions(
        radii,
        [
            plain(labels[i]) if labels is not None else f"{len(line):,} prompts, {_some(line):,} with a radius"
            for i, line in enumerate(radii)
        ],
        said=(
            "certified fraction of prompts",
            f"{RADIUS}\n{wrapped(f'within {tolerance}', width - 0.9)}",
            "no prompt has a certified radius",
        ),
        title=title,
        width=width,
    )


@styled
def plot_certified_accuracy(
    *results: tuple[Sequence[Classified], Sequence[int] | Tensor],
    labels: Sequence[str] | None = None,
    by: str = "rho",
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> StyledFigure:
    """Certified accuracy against radius, a step line a data set: the share of inputs that are rightly classified up to ρ.

    Args:
        *results: (decisions, true labels) of one or more data sets (or noises), as `certify.certified_accuracy` takes them.
        labels: a name a line; None: how many inputs there are, and how many are certified rightly.
        by: "rho": radii in units of the noise; "radius": in ℓ2.
        title: above the figure.
        width: of the figure in inches.

    Raises:
        ValueError: no results, or labels of another number.
    """
    by = _validate.choice("by", by, ("rho", "radius"))
    radii = [[radius or 0.0 for radius in right_radii(*pair, by)] for pair in results]
    if not radii:
        raise ValueError("results = (): must be at least one pair of decisions and labels")
    style.as_many("labels", labels, len(radii), "a line")
    return _fractions(
        radii,
        [
            plain(labels[i]) if labels is not None else f"{len(line):,} inputs, {_some(line):,} certified rightly"
            for i, line in enumerate(radii)
        ],
        said=("certified accuracy", _IN_L2 if by == "radius" else RADIUS, "no input is certified rightly"),
        title=title,
        width=width,
    )


def _some(radii: Sequence[float]) -> int:
    return sum(radius > 0 for radius in radii)


def _fractions(
    radii: Sequence[Sequence[float]],
    names: Sequence[str],
    *,
    said: tuple[str, str, str],
    title: str | None,
    width: float,
) -> StyledFigure:
    """Shares with at least a radius; `said`: what the shares are, what the radii, and what stands where there are none."""
    share, radius, none = said
    figure, axes = _frame(width, 0.5, len(radii))
    edge = 1.05 * max((r for line in radii for r in line if math.isfinite(r)), default=0.0) or 1.0
    for i, line in enumerate(radii):
        steps = sorted({min(r, edge) for r in line if r > 0})
        fractions = [sum(r >= step for r in line) / len(line) for step in steps]
        # A value holds up to and including its radius; behind the last the line falls to 0, unless a radius is infinite.
        endless = bool(steps) and steps[-1] == edge
        behind = [] if endless else [*steps[-1:], edge]
        colour, _, dashes = series(i)
        axes.step(
            [0.0, *steps, *behind],
            [_some(line) / len(line), *fractions, *(0.0 for _ in behind)],
            where="pre",
            color=colour,
            linestyle=dashes,
            label=names[i],
        )
        if endless:
            axes.plot(edge, fractions[-1], ">", color=colour, clip_on=False, zorder=4)
    if not any(_some(line) for line in radii):
        style.say(axes, none)
    axes.set_xlim(0, edge)
    axes.set_xlabel(radius)
    axes.set_ylabel(share)
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
