"""Pictures of certificates: bound curves and the noise a prompt's tokens get.

Every function returns a `matplotlib.figure.Figure` that no global state knows of; `figure.savefig("x.png")` or `"x.svg"`
writes it. Colours are from the Okabe–Ito palette, which stays apart in print and for the colour-blind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from certify.bounds import BoundCurve
from certify.certificate import ClaimedCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_certified_fraction", "plot_curve", "plot_event_rates", "plot_token_noise"]

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#5F5F5F"
_STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), ("#CC79A7", "D"))


def plot_curve(
    *curves: BoundCurve | ClaimedCurve,
    yardstick: float | None = None,
    labels: Sequence[str] | None = None,
    yardstick_label: str = "yardstick",
    title: str | None = None,
    log: bool | None = None,
) -> Figure:
    """Bound against radius.

    A simultaneous curve is drawn with a solid line (it is one statement); points of a pointwise one are joined by dots
    only. A radius at which nothing is certified gets a cross at the top edge instead of a point.

    Args:
        *curves: one or more `BoundCurve`s, or `Certificate.curve`s.
        yardstick: a squared distance to compare with, drawn as a level line; bounds above it are vacuous.
        yardstick_label: what the level line is.
        labels: a name a curve; None: its method and theorem.
        title: above the picture.
        log: logarithmic vertical axis; None: where the values span more than a factor of 50.

    Raises:
        ValueError: no curves, or labels of another number.
    """
    if not curves:
        raise ValueError("curves = (): must be at least one BoundCurve")
    if labels is not None and len(labels) != len(curves):
        raise ValueError(f"labels = {list(labels)!r}: must be {len(curves)} names, one a curve")
    figure, axes = _axes(6.4, 4.0 + 0.25 * len(curves))
    finite = [v for curve in curves for v in curve.values if math.isfinite(v)]
    positive = [v for v in [*finite, *([yardstick] if yardstick else [])] if v > 0]
    if log is None:
        log = bool(positive) and max(positive) > 50 * min(positive)
    for i, curve in enumerate(curves):
        colour, marker = _STYLES[i % len(_STYLES)]
        name = labels[i] if labels is not None else f"{curve.method} ({curve.theorem})"
        scope = "simultaneous" if curve.simultaneous else "pointwise"
        known = [(r, v) for r, v in zip(curve.rhos, curve.values, strict=True) if math.isfinite(v)]
        axes.plot(
            [r for r, _ in known],
            [v for _, v in known],
            linestyle="-" if curve.simultaneous else ":",
            marker=marker,
            color=colour,
            label=f"{name}, {scope}, α = {curve.alpha:.2g}, n = {curve.n:,}",
        )
        silent = [r for r, v in zip(curve.rhos, curve.values, strict=True) if not math.isfinite(v)]
        if silent:
            axes.plot(
                silent,
                [0.97] * len(silent),
                "x" if i % 2 == 0 else "+",
                color=colour,
                markersize=8,
                transform=axes.get_xaxis_transform(),
                label="no finite bound with these draws",
            )
    if yardstick is not None:
        axes.axhline(yardstick, color=GREY, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"{yardstick_label}: {yardstick:.4g}",
            (1, yardstick),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=GREY,
            fontsize=9,
        )
    if log and positive:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("radius ρ of the perturbation, ‖δ‖$_Σ$")
    axes.set_ylabel("certified squared distance")
    figure.legend(frameon=False, fontsize=9, loc="outside lower left")
    if title:
        axes.set_title(_shortened(title, 70), fontsize=10, loc="left")
    return figure


class EventRates(Protocol):
    """A bound of an event's probability at every radius: `EventBound`, `ClaimedEvent`, or anything like them."""

    @property
    def replicas(self) -> int: ...
    @property
    def successes(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    def at(self, rho: float) -> float:
        """The bound at a radius."""


def plot_event_rates(
    *bounds: EventRates,
    largest: float = 1.0,
    attacks: Sequence[Sequence[tuple[float, float, float, float]]] = (),
    undefended: float | None = None,
    title: str | None = None,
) -> Figure:
    """Certified probability of an event (an attack's success rate) against the radius, a line for each number of copies.

    Args:
        *bounds: what `event_bound` returned, or `Certificate.event`; each gives a whole line, which holds at once with
            probability 1 − α.
        largest: where the horizontal axis ends.
        attacks: for each of the bounds, what was measured under attack: (ρ, rate, lower, upper) with its confidence limits.
        undefended: the measured rate without the defence, a level line.
        title: above the picture.

    Raises:
        ValueError: no bounds, or attacks for another number of them.
    """
    if not bounds:
        raise ValueError("bounds = (): must be at least one EventBound")
    if attacks and len(attacks) != len(bounds):
        raise ValueError(f"attacks has {len(attacks)} entries: must be {len(bounds)}, one a bound")
    figure, axes = _axes(6.4, 4.0 + 0.25 * len(bounds))
    rhos = [largest * i / 200 for i in range(201)]
    for i, bound in enumerate(bounds):
        colour, marker = _STYLES[i % len(_STYLES)]
        copies = "1 noisy copy" if bound.replicas == 1 else f"{bound.replicas} noisy copies"
        seen = f"{bound.successes} of {bound.n:,} at ρ = 0, α = {bound.alpha:.2g}"
        axes.plot(rhos, [bound.at(r) for r in rhos], color=colour, label=f"certified, {copies} ({seen})")
        for j, (rho, rate, low, high) in enumerate(attacks[i] if attacks else ()):
            axes.errorbar(
                rho,
                rate,
                yerr=[[max(rate - low, 0)], [max(high - rate, 0)]],
                color=colour,
                marker=marker,
                markersize=5,
                capsize=3,
                linestyle="",
                label=f"strongest attack found, {copies}" if j == 0 else None,
            )
    if undefended is not None:
        axes.axhline(undefended, color=GREY, linestyle="--", linewidth=1.2, label="measured without the defence")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(0, largest)
    axes.set_xlabel("radius ρ of the perturbation, ‖δ‖$_Σ$")
    axes.set_ylabel("probability of the event")
    figure.legend(frameon=False, fontsize=9, loc="outside lower left")
    if title:
        axes.set_title(_shortened(title, 70), fontsize=10, loc="left")
    return figure


def plot_certified_fraction(
    *radii: Sequence[float],
    labels: Sequence[str] | None = None,
    tolerance: str = "the tolerance",
    title: str | None = None,
) -> Figure:
    """Certified fraction against radius, a step line a data set: the share of prompts whose certified radius is at least ρ.

    A prompt without a radius has radius 0: it lowers the line everywhere. An infinite radius keeps it up to the right edge.

    Args:
        *radii: a certified radius a prompt, for one or more data sets (or smoothers).
        labels: a name a line; None: how many prompts there are, and how many have a radius.
        tolerance: within what the smoothed output stays, in words.
        title: above the picture.

    Raises:
        ValueError: no radii, a negative one or NaN, or labels of another number.
    """
    if not radii or not all(len(line) and all(r >= 0 for r in line) for line in radii):
        raise ValueError(f"radii = {radii!r}: must be one or more lists of numbers >= 0")
    if labels is not None and len(labels) != len(radii):
        raise ValueError(f"labels = {list(labels)!r}: must be {len(radii)} names, one a line")
    figure, axes = _axes(6.4, 4.0 + 0.25 * len(radii))
    edge = 1.05 * max((r for line in radii for r in line if math.isfinite(r)), default=0.0) or 1.0
    for i, line in enumerate(radii):
        steps = sorted({min(r, edge) for r in line if r > 0})
        shares = [sum(r >= step for r in line) / len(line) for step in steps]
        some = sum(r > 0 for r in line)
        # A value holds up to and including its radius; behind the last the line falls to 0, unless a radius is infinite.
        falls = bool(steps) and steps[-1] < edge
        axes.step(
            [0.0, *steps, *([steps[-1], edge] if falls else [] if steps else [edge])],
            [some / len(line), *shares, *([0.0, 0.0] if falls else [] if steps else [0.0])],
            where="pre",
            color=_STYLES[i % len(_STYLES)][0],
            linewidth=1.6,
            label=labels[i] if labels is not None else f"{len(line):,} prompts, {some:,} with a radius",
        )
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(0, edge)
    axes.set_xlabel(f"radius ρ of the perturbation, ‖δ‖$_Σ$; within {tolerance}")
    axes.set_ylabel("certified fraction of prompts")
    figure.legend(frameon=False, fontsize=9, loc="outside lower left")
    if title:
        axes.set_title(_shortened(title, 70), fontsize=10, loc="left")
    return figure


def plot_token_noise(
    tokens: Sequence[str],
    sigma: Sequence[float],
    relevance: Sequence[float | None],
    *,
    spread: float | None = None,
    covered: Sequence[float | None] | None = None,
    rho: float | None = None,
    title: str | None = None,
) -> Figure:
    """The noise σ of every token on a logarithmic scale, and the relevance it comes from.

    Args:
        tokens: names, in the order of the positions.
        sigma: σ a token, in the unit of the token embeddings; 0: no noise.
        relevance: similarity to the concept a token; None: not scored.
        spread: standard deviation of the token embeddings, drawn as a level line.
        covered: share of the vocabulary that a radius covers as a substitution, a token; None: not to be shown.
        rho: that radius.
        title: above the picture.

    Raises:
        ValueError: lists of different lengths.
    """
    if not len(tokens) == len(sigma) == len(relevance):
        raise ValueError(
            f"tokens, sigma, relevance have {len(tokens)}, {len(sigma)}, {len(relevance)} entries: must be as many"
        )
    figure, axes = _axes(max(4.5, 0.55 * len(tokens) + 1.6), 3.6)
    places = range(len(tokens))
    shown = [s for s in [*sigma, spread or 0.0] if s > 0] or [1.0]
    floor, top = min(shown) / 3, max(shown) * 6
    axes.set_yscale("log")
    axes.set_ylim(floor, top)
    axes.bar(places, [max(s, floor) for s in sigma], color=BLUE, width=0.7, zorder=2)
    if spread is not None:
        axes.axhline(
            spread, color=ORANGE, linestyle="--", linewidth=1.2, zorder=1, label="spread of the token embeddings"
        )
        figure.legend(frameon=False, fontsize=9, loc="outside lower left")
    for i in places:
        score = relevance[i]
        text = "no\nnoise" if sigma[i] == 0 else f"{sigma[i]:.2g}" + ("" if score is None else f"\n({score:+.2f})")
        axes.annotate(
            text,
            (i, max(sigma[i], floor)),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            zorder=3,
        )
    axes.set_xticks(
        list(places), [_shortened(str(t), 14) for t in tokens], rotation=45 if len(tokens) > 6 else 0, ha="center"
    )
    axes.set_ylabel("noise σ (relevance)")
    if covered is not None and rho is not None:
        below = [
            f"{_shortened(str(token), 14)}\n{'–' if share is None else _percent(share)}"
            for token, share in zip(tokens, covered, strict=True)
        ]
        axes.set_xticks(list(places), below, rotation=45 if len(tokens) > 12 else 0, ha="center")
        axes.set_xlabel(f"token, and the share of the vocabulary that ρ = {rho:g} covers in its place", fontsize=9)
    if title:
        axes.set_title(_shortened(title, 60), fontsize=10, loc="left")
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share in (0, 1) or 0.01 <= share <= 0.99 else f"{100 * share:.2g} %"


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes
