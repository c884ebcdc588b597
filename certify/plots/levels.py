"""The words that are covered as deployed, and the nearest that are not (THEORY T17): `plot_levels`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D

from certify._text import shown
from certify.plots import style
from certify.plots.colours import BLUE, GREY, ORANGE
from certify.plots.style import ONE_COLUMN, StyledFigure, panels, styled, token

__all__ = ["plot_levels"]

_MOST = 24  # tokens of the level, and half as many of others


@styled
def plot_levels(
    members: Sequence[tuple[str, float | None]],
    leaving: Sequence[tuple[str, float | None]] = (),
    *,
    rho: float,
    word: str = "the word",
    title: str | None = None,
    width: float = ONE_COLUMN,
) -> StyledFigure:
    """From which radius on each token is covered in a word's place as deployed, and tokens of other levels, which never are.

    Args:
        members: tokens of the word's level and the ρ that covers each, nearest first; None: none does.
        leaving: the nearest tokens of other levels, likewise: where they would be covered, had they the word's Σ.
        rho: radius of the claim, drawn as a level line.
        word: what stands there.
        title: above the figure.
        width: of the figure in inches.

    Raises:
        ValueError: there is no token to draw, or a number is out of range.
    """
    rows = [
        *[(name, at, True) for name, at in members[:_MOST]],
        *[(name, at, False) for name, at in leaving[: _MOST // 2]],
    ]
    known = [at for _, at, _ in rows if at is not None]
    if not rows or not known:
        raise ValueError(f"members = {list(members)!r}, leaving = {list(leaving)!r}: must hold a token with a distance")
    if not all(0 <= at < math.inf for at in known) or not 0 < rho < math.inf:
        raise ValueError(f"rho = {rho!r}, distances {known!r}: must be finite numbers >= 0, rho > 0")
    figure, ((axes,),) = panels(1, 1, width, 0.19 * len(rows) + 1.15)
    marks: dict[bool, dict[str, Any]] = {
        True: {"marker": "o", "color": BLUE, "markersize": 5},
        False: {"marker": "X", "color": "white", "markeredgecolor": GREY, "markersize": 6},
    }
    for place, (_, at, same) in enumerate(rows):
        if at is not None:
            axes.plot([0, at], [place, place], color=BLUE if same else GREY, linewidth=1.0, alpha=0.45, zorder=1)
            axes.plot(at, place, linestyle="", zorder=3, clip_on=False, **marks[same])
    line: dict[str, Any] = {"color": ORANGE, "linestyle": "--", "linewidth": 1.1}
    axes.axvline(rho, zorder=2, **line)
    axes.set_yticks(range(len(rows)), [token(name) for name, _, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.08 * max(rho, *known))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"ρ from which on it may stand in the place of “{token(word)}”")
    style.head(axes, title, figure.get_figwidth() - 0.8)
    handles = [
        Line2D([], [], linestyle="", label="of its level: covered as deployed", **marks[True]),
        Line2D([], [], linestyle="", label="of another level: not covered", **marks[False]),
        Line2D([], [], label=f"the certificate’s ρ = {shown(rho, 'down', 4)}", **line),
    ]
    style.key(figure, [handle for handle, there in zip(handles, (members, leaving, True), strict=True) if there])
    return figure
