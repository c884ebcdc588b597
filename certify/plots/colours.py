"""Colours: one palette and one scale for every figure, for the pages of `certify report` and for the experiments.

**Series** are told apart by colours of Okabe and Ito (2008), which stay apart for the colour-blind, and by a marker and a
pattern of dashes each, which stay apart in black and white.

**A scale** for one quantity is a single hue that gets darker, so that it reads in grey; it is said as the opacity of `ORANGE`,
which lies over light and over dark paper alike. A number stands wherever a colour of the scale does.

>>> shares([1.0, 2.0, None, 5.0])
[0.0, 0.25, None, 1.0]
>>> over_white(0.0), over_white(1.0)
('#fcf2eb', '#e28e4c')
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "BLUE",
    "GOLD",
    "GREEN",
    "GREY",
    "LIGHT",
    "ORANGE",
    "PINK",
    "SERIES",
    "SKY",
    "Series",
    "ink",
    "opacity",
    "over_white",
    "series",
    "shares",
]

BLUE, ORANGE, GREEN, PINK, SKY, GOLD = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
GREY, LIGHT = "#5F5F5F", "#DDDDDD"
"""What is no series: level lines and words; grids."""


class Series(NamedTuple):
    """How one line of a figure is drawn.

    Attributes:
        colour: as #RRGGBB.
        marker: of its points, as matplotlib names it.
        dashes: of its line where points do not tell it from others: (0, (on, off, …)) in widths of the line; (0, ()): solid.
    """

    colour: str
    marker: str
    dashes: tuple[int, tuple[float, ...]]


SERIES = (
    Series(BLUE, "o", (0, ())),
    Series(ORANGE, "s", (0, (5, 1.6))),
    Series(GREEN, "^", (0, (5, 1.5, 1.2, 1.5))),
    Series(PINK, "D", (0, (1.4, 1.4))),
    Series("#000000", "v", (0, (9, 2))),
    Series(GOLD, "P", (0, (5, 1.5, 1.2, 1.5, 1.2, 1.5))),
    Series(SKY, "X", (0, (3, 3))),
)
"""The styles of the first, second, … line of a figure."""


def series(number: int) -> Series:
    """The style of a line by its number, from 0; after the last colour the first comes again, with the next line's marker."""
    first = SERIES[number % len(SERIES)]
    again = number // len(SERIES)
    return first if not again else Series(first.colour, *SERIES[(number + again) % len(SERIES)][1:])


def ink(colour: str) -> str:
    """A darker shade of a colour of the palette, for letters on white paper (contrast at least 4.5 to 1)."""
    return "#" + "".join(f"{round(0.65 * int(colour[i : i + 2], 16)):02x}" for i in (1, 3, 5))


def shares(values: Sequence[float | None], *, log: bool = False) -> list[float | None]:
    """Where each value lies between the smallest (0) and the largest (1) of them; all 1 where they are equal.

    Args:
        values: None stays None. With `log`, what is not above 0 becomes None, too.
        log: compare logarithms.
    """
    scale = math.log if log else float
    known = [scale(v) for v in values if v is not None and (v > 0 or not log)]
    low, top = (min(known), max(known)) if known else (0.0, 0.0)

    def share(value: float | None) -> float | None:
        if value is None or (log and value <= 0):
            return None
        return (scale(value) - low) / (top - low) if top > low else 1.0

    return [share(value) for value in values]


def opacity(share: float | None) -> float:
    """The scale: how much of `ORANGE` stands for a share of the range in [0, 1]; None: nothing to colour."""
    return 0.0 if share is None else 0.08 + 0.62 * min(max(share, 0.0), 1.0)


def over_white(share: float | None) -> str:
    """The scale on white paper, as #rrggbb. Black letters can be read on all of it (contrast at least 8 to 1)."""
    part = opacity(share)
    mixed = (round(255 + (int(ORANGE[i : i + 2], 16) - 255) * part) for i in (1, 3, 5))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
