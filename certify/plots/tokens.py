"""What every token of a prompt gets: its noise (`plot_token_noise`) and how far it may move (`plot_ellipsoid`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from certify._text import percent, shown
from certify.bounds import CertifiedRadius
from certify.noise import Ellipsoid
from certify.plots import style
from certify.plots.colours import BLUE, ORANGE, SKY
from certify.plots.style import ONE_COLUMN, TWO_COLUMNS, StyledFigure, panels, score, styled, text_width, token, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_ellipsoid", "plot_token_noise"]

_FRAME = 1.6  # inches, height of a frame with bars
_WIDE = 0.66  # of a bar, in units of its place
_LEVEL: dict[str, Any] = {"color": ORANGE, "linestyle": "--", "linewidth": 1.1}
_DIAMOND: dict[str, Any] = {"marker": "D", "color": "white", "markeredgecolor": "black", "markersize": 5}


@styled
def plot_token_noise(
    tokens: Sequence[str],
    sigma: Sequence[float],
    relevance: Sequence[float | None],
    *,
    std: float | None = None,
    covered: Sequence[float | None] | None = None,
    rho: float | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> StyledFigure:
    """The noise σ of every token on a logarithmic scale, and the relevance it comes from.

    Args:
        tokens: names, in the order of the positions.
        sigma: σ a token, in the unit of the token embeddings; 0: no noise.
        relevance: similarity to the concept a token; None: not scored.
        std: standard deviation of the token embeddings, drawn as a level line.
        covered: share of the vocabulary that a radius covers as a substitution, a token; None: not to be shown.
        rho: that radius.
        title: above the figure.
        width: of the figure in inches.

    Raises:
        ValueError: no tokens, lists of different lengths, or a number out of range.
    """
    if not len(tokens) == len(sigma) == len(relevance) or not len(tokens):
        raise ValueError(
            f"tokens, sigma, relevance have {len(tokens)}, {len(sigma)}, {len(relevance)} entries: must be as many, not 0"
        )
    if not all(0 <= s < math.inf for s in sigma):
        raise ValueError(f"sigma = {list(sigma)!r}: must be finite numbers >= 0")
    style.as_many("covered", covered, len(tokens), "a token")
    names = [token(t) for t in tokens]
    if covered is not None and rho is not None:
        parts = ["–" if share is None else percent(share, "down") for share in covered]
        names = [f"{name}\n{part}" for name, part in zip(names, parts, strict=True)]
    figure, frames = _frames(names, width, below=0.3)
    top, floor = _log_range([*sigma, std])
    for axes, part in frames:
        heights = [max(sigma[i], floor) for i in part]
        axes.bar(range(len(part)), [h - floor for h in heights], bottom=floor, color=BLUE, width=_WIDE, zorder=2)
        for place, (i, height) in enumerate(zip(part, heights, strict=True)):
            of = relevance[i]
            text = shown(sigma[i], "near", 2) + ("" if of is None else f"\n({score(of)})")
            _above(axes, place, height, text if sigma[i] else "no\nnoise")
        _dress(axes, std, floor, top, "noise σ (relevance)")
    if covered is not None and rho is not None:
        said = f"token, and the share of the vocabulary that ρ = {shown(rho, 'down')} covers in its place"
        frames[-1][0].set_xlabel(wrapped(said, figure.get_figwidth() - 0.8, lines=2))
    style.head(frames[0][0], title, figure.get_figwidth() - 0.8)
    if std is not None:
        style.key(figure, [Line2D([], [], label="standard deviation of the token embeddings", **_LEVEL)])
    return figure


@styled
def plot_ellipsoid(
    certified: Ellipsoid | CertifiedRadius,
    tokens: Sequence[str],
    *,
    nearest: Sequence[float | None] | None = None,
    std: float | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> StyledFigure:
    """How far each token may move alone: the semi-axes ρσ of the certified set, by token, on a logarithmic scale.

    Where a token's coordinates have different noise, the dark bar is its shortest semi-axis and the light one its longest. A
    token without noise has no extent: nothing is certified for changes of it. Where the bar reaches the diamond, at least one
    other token is covered in its place.

    Args:
        certified: the ellipsoid, of shape (tokens, …) as the noise, or what `certified_radius` returned.
        tokens: a name a position of the ellipsoid.
        nearest: ℓ2 distance from each token's embedding to the nearest other one; None: not known, or none is comparable.
        std: standard deviation of the token embeddings, drawn as a level line.
        title: above the figure.
        width: of the figure in inches.

    Raises:
        ValueError, TypeError: lists of different lengths, an ellipsoid of another shape, or no ellipsoid.
    """
    ellipsoid = getattr(certified, "ellipsoid", certified)
    if not isinstance(ellipsoid, Ellipsoid):
        raise TypeError(
            f"certified is a {type(ellipsoid).__name__}: must be an Ellipsoid, the certified set of Gaussian noise"
        )
    shape = tuple(ellipsoid.sigma.shape)
    if not shape or shape[0] != len(tokens) or not len(tokens):
        raise ValueError(f"certified has shape {shape}: must be ({len(tokens)}, …), a row for each of the tokens")
    style.as_many("nearest", nearest, len(tokens), "a token")
    rows = ellipsoid.semi_axes.reshape(len(tokens), -1)
    longest = [float(row.max()) for row in rows]
    shortest = [float(row[row > 0].min()) if bool((row > 0).any()) else 0.0 for row in rows]
    partly = [bool((row > 0).any()) and bool((row == 0).any()) for row in rows]
    distances = list(nearest) if nearest is not None else [None] * len(tokens)
    figure, frames = _frames([token(t) for t in tokens], width, below=0.5)
    top, floor = _log_range([*longest, *shortest, *distances, std])
    light: dict[str, Any] = {"facecolor": SKY, "edgecolor": BLUE}
    for axes, part in frames:
        for place, i in enumerate(part):
            if longest[i] > 0:
                bar: dict[str, Any] = {"bottom": floor, "width": _WIDE}
                axes.bar(place, min(longest[i], top) - floor, linewidth=0.7, zorder=2, **bar, **light)
                axes.bar(place, min(shortest[i], top) - floor, color=BLUE, zorder=2.1, **bar)
            text = shown(longest[i], "down", 2) + ("\nin part" if partly[i] else "") if longest[i] > 0 else "no\nextent"
            distance = distances[i]
            foot = _foot(max(min(longest[i], top), floor), distance, text, math.log(top / floor) / _FRAME)
            _above(axes, place, foot, text, inside=math.isinf(longest[i]))
            if distance is not None:
                axes.plot(place, distance, markeredgewidth=1.0, zorder=3, **_DIAMOND)
        _dress(axes, std, floor, top, "semi-axis ρσ")
    if not any(longest):
        style.say(frames[0][0], "ρ = 0: nothing is certified" if not ellipsoid.rho else "no token has noise")
    uneven = any(s < g for s, g in zip(shortest, longest, strict=True))
    handles: list[Any] = [Rectangle((0, 0), 1, 1, color=BLUE, label="shortest semi-axis" if uneven else "semi-axis")]
    if uneven:
        handles.append(Rectangle((0, 0), 1, 1, label="longest semi-axis", **light))
    if nearest is not None:
        said = "nearest other token: covered where the bar reaches it"
        handles.append(Line2D([], [], linestyle="", label=said, **_DIAMOND))
    if std is not None:
        handles.append(Line2D([], [], label="standard deviation of the embeddings", **_LEVEL))
    frames[-1][0].set_xlabel(f"certified set at ρ = {shown(ellipsoid.rho, 'down')}; ℓ2 lengths")
    style.head(frames[0][0], title, figure.get_figwidth() - 0.8)
    style.key(figure, handles)
    return figure


def _frames(names: Sequence[str], width: float, below: float) -> tuple[StyledFigure, list[tuple[Axes, range]]]:
    """Frames below one another, each with the positions in it, as many as there is room for; `below`: inches for a legend."""
    widest = max(text_width(line) for name in names for line in name.split("\n"))
    turned = widest > 0.62
    slot = 0.46 if turned else max(widest + 0.06, 0.46)
    count = math.ceil(len(names) / max(1, int((width - 0.75) / slot)))
    each = math.ceil(len(names) / count)
    wide = max(min(width, 0.75 + each * max(slot, 0.62)), min(width, ONE_COLUMN))
    label = (0.75 * widest if turned else 0.0) + 0.14 * max(name.count("\n") for name in names)
    figure, grid = panels(count, 1, wide, (_FRAME + 0.1 + label) * count + 0.5 + below)
    how: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    frames = []
    for row, (axes,) in enumerate(grid):
        part = range(row * each, min((row + 1) * each, len(names)))
        axes.set_xticks(range(len(part)), [names[i] for i in part], **how)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.5, max(each, (wide - 0.75) / 0.75 if count == 1 else each) - 0.5)
        frames.append((axes, part))
    return figure, frames


def _dress(axes: Axes, std: float | None, floor: float, top: float, what: str) -> None:
    """The level line of a frame, and its vertical axis."""
    if std is not None:
        axes.axhline(std, zorder=1, **_LEVEL)
    axes.set_ylim(floor, top)
    style.log_scale(axes)
    axes.set_ylabel(what)


def _log_range(values: Sequence[float | None]) -> tuple[float, float]:
    """Upper and lower end of a logarithmic axis on which every finite value above 0 is seen, with room for words above."""
    finite = [v for v in values if v is not None and 0 < v < math.inf] or [1.0]
    return max(finite) * max(5, (max(finite) / min(finite)) ** 0.3), min(finite) / 3


def _foot(bar: float, mark: float | None, text: str, inch: float) -> float:
    """Where words above a bar begin: above its mark, too, where they would cover it. `inch`: logarithms an inch."""
    high = 0.11 * (text.count("\n") + 1) + 0.04
    if mark is None or not math.log(bar) - 0.06 * inch < math.log(mark) < math.log(bar) + (high + 0.06) * inch:
        return bar
    return max(bar, mark * math.exp(0.05 * inch))


def _above(axes: Axes, x: float, y: float, text: str, *, inside: bool = False) -> None:
    """Words above a bar; inside its end, where it goes on for ever."""
    axes.annotate(
        text,
        (x, y),
        xytext=(0, -3 if inside else 2.5),
        textcoords="offset points",
        ha="center",
        va="top" if inside else "bottom",
        fontsize=7,
        linespacing=1.05,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        zorder=3.5,
    )
