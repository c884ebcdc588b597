"""The prompt as a line of tokens: `plot_relevance`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Rectangle

from certify.plots.colours import GREY, over_white, shares
from certify.plots.style import TWO_COLUMNS, StyledFigure, score, styled, text_width, token, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_relevance"]

_EDGE: dict[str, Any] = {"edgecolor": "#8A8A8A", "linewidth": 0.6}
_SMALL: dict[str, Any] = {"va": "top", "fontsize": 7, "color": "#333333"}


@styled
def plot_relevance(
    tokens: Sequence[str],
    relevance: Sequence[float | None],
    *,
    concept: str = "the concept",
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    width: float = TWO_COLUMNS,
) -> StyledFigure:
    """The prompt as a line of tokens, each in the colour of its relevance and with the number below.

    The scale is that of `certify.plots.colours`, a single hue that gets darker. Tokens of one word stand close together, where
    the tokens are spelled as the vocabulary does ("</w>" ends a word). A token that was not scored has a dashed frame.

    Args:
        tokens: in the order of the positions.
        relevance: a score a token; None: not scored.
        concept: to what it is relevant.
        limits: scores at the ends of the scale, beyond which the colour stays; None: the smallest and the largest score.
        title: above the figure.
        width: of the figure in inches.

    Raises:
        ValueError: no tokens, lists of different lengths, a score that is not finite, or limits that do not increase.
    """
    if len(tokens) != len(relevance) or not len(tokens):
        raise ValueError(f"tokens, relevance have {len(tokens)}, {len(relevance)} entries: must be as many, not 0")
    scores = [s for s in relevance if s is not None]
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"relevance = {list(relevance)!r}: must be finite numbers or None")
    if limits is not None and not -math.inf < limits[0] < limits[1] < math.inf:
        raise ValueError(f"limits = {limits!r}: must be two finite numbers, the smaller one first")
    low, high = limits or (min(scores, default=0.0), max(scores, default=1.0))
    levels = shares([low, high, *(None if s is None else min(max(s, low), high) for s in relevance)])[2:]
    boxes, lines = _laid_out(tokens, relevance, width - 0.2)
    titled = wrapped(title, width - 0.2, lines=2, size=9) if title else ""
    above = 0.06 + (0.16 * (titled.count("\n") + 1) if titled else 0.0)
    below = above + 0.5 * lines
    height = below + (0.62 if scores else 0.3)
    figure = StyledFigure(width, height, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)  # inches from the upper left corner
    axes.set_axis_off()
    if titled:
        axes.set_title(titled, fontsize=9, loc="left", x=0.1 / width, y=1 - 0.06 / height, va="top", pad=0)
    for (name, left, wide, line), of, level in zip(boxes, relevance, levels, strict=True):
        x, y = 0.1 + left, above + 0.5 * line + 0.04
        dashes: Any = "-" if of is not None else (0, (3, 2))
        axes.add_patch(Rectangle((x, y), wide, 0.24, facecolor=over_white(level), linestyle=dashes, **_EDGE))
        axes.text(x + wide / 2, y + 0.12, name, ha="center", va="center", fontsize=8)
        axes.text(x + wide / 2, y + 0.27, score(of), ha="center", **_SMALL)
    if scores:
        _scale(axes, below + 0.12, low, high, f"relevance to {wrapped(concept, width - 3.0)}")
    else:
        axes.text(0.1, below + 0.1, "no token was scored", va="center", fontsize=8, color=GREY)
    return figure


def _laid_out(
    tokens: Sequence[str], relevance: Sequence[float | None], room: float
) -> tuple[list[tuple[str, float, float, int]], int]:
    """Name, left edge, width (inches) and line of every token, and how many lines there are."""
    spelled = any(str(t).endswith("</w>") for t in tokens)
    boxes: list[tuple[str, float, float, int]] = []
    x, line, joined = 0.0, 0, False
    for one, of in zip(tokens, relevance, strict=True):
        name = token(one, room=min(1.8, room - 0.1))
        wide = max(text_width(name) + 0.12, text_width(score(of), 7) + 0.08, 0.2)
        x += 0.0 if not boxes or joined else 0.07
        if boxes and x + wide > room:
            x, line = 0.0, line + 1
        boxes.append((name, x, wide, line))
        x += wide
        joined = spelled and not str(one).endswith("</w>") and not str(one).startswith("<|")
    return boxes, line + 1


def _scale(axes: Axes, y: float, low: float, high: float, what: str) -> None:
    """The colours of the scale with the numbers of its ends and its middle."""
    left, long, parts = 0.1, 1.6, 32
    for i in range(parts if high > low else 1):
        share = i / (parts - 1) if high > low else 1.0
        # To the right end, each over the one before: no seams.
        start = long * i / parts
        axes.add_patch(Rectangle((left + start, y), long - start, 0.13, linewidth=0, facecolor=over_white(share)))
    axes.add_patch(Rectangle((left, y), long, 0.13, facecolor="none", **_EDGE))
    ends = ((low, left, "left"), ((low + high) / 2, left + long / 2, "center"), (high, left + long, "right"))
    for value, x, side in ends if high > low else ends[1:2]:
        axes.text(x, y + 0.16, score(value), ha=side, **_SMALL)
    axes.text(left + long + 0.12, y + 0.065, what, va="center", fontsize=8)
