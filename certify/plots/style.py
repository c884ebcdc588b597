"""The style of every figure: sizes, letters, frames, legends, and how a file is written.

Figures are made for print: at `ONE_COLUMN` or `TWO_COLUMNS` they go into a paper as they are, letters 8 points high. They are
drawn under `RC` alone, which is put back afterwards: neither a style that somebody has set changes them, nor do they
change anything for anybody else. Words of others (prompts, tokens, names) are never read as formulas (`plain`).

**Files.** `StyledFigure.savefig` writes the same bytes for the same figure: no date, no version, and in SVG names that
depend on the content. Letters in an SVG are drawn as paths: it looks the same where the font is
missing. The title is kept as metadata.
"""

from __future__ import annotations

import functools
import io
import math
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from certify import _files
from certify._text import shown, spelled
from certify.plots.colours import GREY, LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "ONE_COLUMN",
    "RADIUS",
    "RC",
    "SUFFIXES",
    "TWO_COLUMNS",
    "StyledFigure",
    "as_many",
    "below",
    "checked_suffix",
    "dress",
    "head",
    "key",
    "log_scale",
    "panels",
    "plain",
    "say",
    "score",
    "styled",
    "text_width",
    "token",
    "wrapped",
]

ONE_COLUMN, TWO_COLUMNS = 3.4, 6.8
"""Widths in inches."""

SUFFIXES = (".png", ".svg", ".pdf")
RADIUS = "radius ρ of the perturbation, ‖δ‖$_Σ$"
"""What stands below an axis of radii, with a formula in it."""

RC: Mapping[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, and has the letters of the mathematics
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#333333",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LIGHT,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "lines.dashed_pattern": (4.5, 2.0),
    "errorbar.capsize": 2.5,
    "figure.dpi": 150,
    "savefig.dpi": "figure",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "certify",
    "svg.id": None,
    "pdf.fonttype": 42,
}
"""What differs from matplotlib's defaults."""

# Settings that are not a style: they stay as they are.
_FOREIGN = (
    "backend",
    "interactive",
    "toolbar",
    "timezone",
    "datapath",
    "docstring",
    "webagg",
    "tk.",
    "macosx",
    "date.",
)
_P = ParamSpec("_P")
_R = TypeVar("_R")


@functools.cache
def _settings() -> Any:
    ours = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(_FOREIGN)}
    return ours | {k: v for k, v in RC.items() if k in ours}


@contextmanager
def _alone() -> Iterator[None]:
    """Under `RC`, and without a word about letters that the font does not have: they are drawn as boxes."""
    with matplotlib.rc_context(_settings()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        yield


def styled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function that draws under `RC`."""

    @functools.wraps(function)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _alone():
            return function(*args, **kwargs)

    return drawn


class StyledFigure(Figure):
    """A `matplotlib.figure.Figure` that no global state knows of, and that writes the same bytes every time.

    Args:
        width, height: in inches.
        layout: as in `Figure`.
        dpi: pixels an inch.
    """

    def __init__(self, width: float, height: float, *, layout: Any = "constrained", dpi: float | None = None) -> None:
        with _alone():
            super().__init__(figsize=(width, height), dpi=dpi, layout=layout)
            FigureCanvasAgg(self)

    def draw(self, renderer: Any) -> None:
        """Draws under `RC`: ticks are made as late as that."""
        with _alone():
            super().draw(renderer)

    def savefig(self, fname: str | Path | IO[bytes], **options: Any) -> None:  # type: ignore[override]
        """Writes a file, PNG, SVG or PDF by its suffix.

        Args:
            fname: path, or an open binary file with `format`.
            **options: as in `matplotlib.figure.Figure.savefig`.

        Raises:
            ValueError: another suffix.
        """
        named = options.get("format")
        kind = str(named).lower() if named else checked_suffix("fname", fname)[1:] if _path(fname) else "png"
        without_date: dict[str, Any] = {
            "png": {"Software": None},
            "svg": {"Date": None, "Creator": None},
            "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        }
        metadata = {**without_date.get(kind, {}), **({"Title": self._said} if self._said else {})}
        options["metadata"] = {**metadata, **(options.get("metadata") or {})}
        if kind == "png":
            options.setdefault("pil_kwargs", {"optimize": True})
        # An existing file, or a link's target, is replaced only once the figure is complete.
        buffer, target = (io.BytesIO(), Path(fname)) if isinstance(fname, (str, Path)) else (fname, None)
        with _alone():
            super().savefig(buffer, **{**options, "format": kind})
        if target is not None and isinstance(buffer, io.BytesIO):
            _files.write(target, buffer.getvalue())

    @property
    def _said(self) -> str:
        found = (axes.get_title(loc) for axes in self.axes for loc in ("left", "center"))
        return " ".join(next((text for text in found if text), "").replace(r"\$", "$").split())

    def _repr_png_(self) -> bytes:
        """For notebooks."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def _path(fname: Any) -> bool:
    return isinstance(fname, (str, Path))


def checked_suffix(name: str, path: str | Path | Any) -> str:
    """The suffix of a figure's path, in small letters.

    Raises:
        ValueError: none of `SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{name} = {str(path)!r}: must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    return suffix


@styled
def panels(
    rows: int,
    columns: int,
    width: float,
    height: float,
    *,
    sharey: bool = False,
    sharex: bool = False,
    heights: Sequence[float] | None = None,
) -> tuple[StyledFigure, list[list[Axes]]]:
    """A figure with frames in rows and columns.

    Args:
        rows, columns: how many.
        width, height: of the whole, in inches.
        sharey, sharex: one axis for all.
        heights: relative heights of the rows.
    """
    figure = StyledFigure(width, height)
    grid = figure.subplots(
        rows, columns, squeeze=False, sharey=sharey, sharex=sharex, height_ratios=None if heights is None else heights
    )
    for axes in grid.flat:
        dress(axes)
    return figure, [list(row) for row in grid]


def dress(axes: Axes) -> None:
    """A frame's look, for one that `panels` did not make."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color=LIGHT, linewidth=RC["grid.linewidth"])
    axes.set_axisbelow(True)


def plain(text: str) -> str:
    """Words of others on one line, and never a formula: control characters become spaces, letters the font lacks boxes."""
    return _clean(text).replace("$", r"\$")


def _clean(text: str) -> str:
    known = _charmap()
    spaced = (" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in str(text))
    shown = "".join(c if ord(c) in known else "□" for c in spaced)
    return " ".join(part for part in shown.split(" ") if part)  # a no-break space stays one


def head(axes: Axes, title: str | None, width: float) -> None:
    """A title to the left above a frame, in at most two lines.

    Args:
        axes: the frame.
        title: words of others; None: none.
        width: that the title may take, in inches.
    """
    if title:
        axes.set_title(
            wrapped(title, width, lines=2, size=RC["axes.titlesize"]), fontsize=RC["axes.titlesize"], loc="left"
        )


@styled
def key(figure: Figure, handles: Sequence[Any] | None = None, *, columns: int | None = None) -> None:
    """The legend, below the frames: it never covers what is drawn.

    Args:
        figure: with its frames.
        handles: None: of everything that has a label, each label once.
        columns: None: as many as fit.
    """
    if handles is None:
        found = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
        first = {label: handle for handle, label in reversed(found)}
        names = list(dict.fromkeys(label for _, label in found))
        handles = [first[name] for name in names]
    else:
        names = [str(handle.get_label()) for handle in handles]
    if not handles:
        return
    room = figure.get_figwidth() - 0.2
    names = [wrapped(name.replace(r"\$", "$"), room - 0.45, lines=3) for name in names]
    if columns is None:
        widest = max(text_width(line) for name in names for line in name.split("\n")) + 0.55
        columns = max(1, min(len(names), int(room / widest)))
        if columns > 1:
            columns = math.ceil(len(names) / math.ceil(len(names) / columns))  # no row much shorter than the others
    figure.legend(list(handles), list(names), loc="outside lower left", ncols=columns)


def log_scale(axes: Axes) -> None:
    """A logarithmic vertical axis whose numbers are words, not formulas; between powers of ten where they are few."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = low > 0 and math.log10(high / low) < 2.2
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    if not 1e-4 <= value < 1e6:
        exponent = math.floor(math.log10(value) + 1e-9) if value > 0 else 0
        factor = value / 10.0**exponent
        power = "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return "0" if value <= 0 else power if abs(factor - 1) < 1e-6 else f"{factor:.3g}·{power}"
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


@functools.cache
def _font(size: float) -> tuple[FontProperties, Any]:
    font = FontProperties(family=list(RC["font.family"]), size=size)
    return font, FigureCanvasAgg(Figure(figsize=(1, 1), dpi=300)).get_renderer()


@functools.cache
def _charmap() -> frozenset[int]:
    return frozenset(get_font(findfont(_font(8)[0])).get_charmap())


def text_width(text: str, size: float = 8) -> float:
    """The width of a line in inches, in letters so many points high."""
    font, renderer = _font(size)
    return float(renderer.get_text_width_height_descent(text.replace(r"\$", "$"), font, False)[0]) / 300


def wrapped(text: str, width: float, *, lines: int = 1, size: float = 8) -> str:
    """Words of others in lines of at most this width in inches; a longer word is broken, and what is left over becomes "…"."""
    found = [""]
    for word in _clean(text).split(" "):
        longer = f"{found[-1]} {word}".strip()
        if text_width(longer, size) <= width:
            found[-1] = longer
            continue
        if found[-1]:
            found.append("")
        for character in word:
            if found[-1] and text_width(found[-1] + character, size) > width:
                found.append("")
            found[-1] += character
        if len(found) > lines:
            break
    if len(found) > lines:
        last = found[lines - 1]
        while last and text_width(f"{last}…", size) > width:
            last = last[:-1]
        found = [*found[: lines - 1], f"{last.rstrip()}…"]
    return "\n".join(found).replace("$", r"\$")


def token(name: Any, room: float = 0.95) -> str:
    """A token for readers, without the vocabulary's marks, shortened to `room` inches."""
    return wrapped(spelled(name), room) or "␣"


def score(value: float | None) -> str:
    """A relevance in a few letters."""
    if value is None:
        return "–"
    return "0" if abs(value) < 0.005 else shown(value, "near", 2, sign=True)


def as_many(name: str, values: Sequence[Any] | None, count: int, what: str) -> None:
    """Refuses a list that has not one entry for each of `count` things."""
    if values is not None and len(values) != count:
        raise ValueError(f"{name} = {list(values)!r}: must be {count} entries, one {what}")


def below(entries: int, width: float) -> float:
    """Room for the axis's words and a legend of so many entries, in inches."""
    return 0.55 + 0.16 * (math.ceil(entries / 2) if width > 5 else entries)


def say(axes: Axes, text: str) -> None:
    """Words in place of what cannot be drawn."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(0.5, 0.9, text, transform=axes.transAxes, bbox=box, ha="center", va="center", color=GREY, fontsize=9)
