"""Figures of tables: measured figures only, published ones are never drawn among them.

    trade_off    mean attack success rate against FID, a panel a victim, a mark a defence
    sweep        rate and FID against σ₀ at the chosen k, and against k at the chosen σ₀
    grid         images of the same prompts and seeds under several defences, marked where the detector fired
    certified    certified bound and strongest attack found against the radius

Files, PNG, SVG or PDF by their suffix; every function returns the figure, too. Style and colours are those of
`certify.plots.style` and `certify.plots.colours`; what a colour says, a mark's shape, a dash or a label says, too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.transforms import Bbox, BboxBase
from torch import Tensor

from certify.plots import style
from certify.plots.colours import BLUE, GREEN, GREY, ORANGE, PINK, ink, series
from experiments.tables.table import Line, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AtRadius", "certified", "grid", "sweep", "trade_off"]

_FAMILIES: tuple[tuple[tuple[str, ...], str, str, float], ...] = (
    (("none",), "#000000", "*", 10),
    (("race", "rece", "advunlearn", "gift"), PINK, "D", 6),
    (("sld",), ORANGE, "s", 6),
    (("safree",), ORANGE, "P", 7),
    (("blacklist", "posi"), GREEN, "^", 7),
    (("ams",), BLUE, "o", 6.5),
)
"""How the defences whose names begin so are marked."""
_OTHERS = (GREY, "v", 6.0)
_SIGMAS = {"sigma0": "σ₀", "sigma0_relative": "σ₀, in standard deviations of the token embeddings"}


@dataclass(frozen=True)
class AtRadius:
    """One radius of one curve.

    Attributes:
        label: whose curve it belongs to.
        rho: ρ ≥ 0.
        bound: the success rate is at most this.
        attacked: that of the strongest attack found; None: not attacked here.
        limits: confidence limits of it.
    """

    label: str
    rho: float
    bound: float
    attacked: float | None = None
    limits: tuple[float, float] | None = None


@style.styled
def trade_off(
    table: Table, path: str | Path, *, robustness: str = "average", utility: str = "fid"
) -> style.StyledFigure:
    """Robustness against utility: down and to the left is better.

    Args:
        table: lines with both values; others are left out.
        path: of the file.
        robustness, utility: keys of a rate, whose confidence limits are drawn, and of a score.

    Raises:
        ValueError: no line has both.
    """
    shown = [line for line in table.lines if robustness in line.values and utility in line.values]
    if not shown:
        raise ValueError(f"table {table.number} has no line with {robustness} and {utility}: must have at least one")
    victims = list(dict.fromkeys(line.victim for line in shown))
    figure, panels = style.panels(1, len(victims), 5.0 * len(victims), 4.6, sharey=True)
    values = [line.values[utility] for line in shown]
    heads = {column.key: column.head for column in table.columns}
    for axes, victim in zip(panels[0], victims, strict=True):
        lines = [line for line in shown if line.victim == victim]
        # The presets of one defence, in their order, are one path.
        path_of = [line for line in lines if line.defense.startswith("sld")]
        x, y = [line.values[utility] for line in path_of], [100 * line.values[robustness] for line in path_of]
        axes.plot(x, y, color=ORANGE, linewidth=0.8, alpha=0.5)
        for line in lines:
            colour, marker, size = _family(line.defense)
            rate = line.values[robustness]
            axes.errorbar(
                line.values[utility],
                100 * rate,
                yerr=_errors(rate, line.limits.get(robustness)),
                color=colour,
                marker=marker,
                markersize=size,
                markeredgecolor="white",
                markeredgewidth=0.6,
                elinewidth=0.7,
                capsize=2,
                linestyle="",
            )
        if min(values) > 0 and max(values) > 15 * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.16)
        axes.set_title(style.plain(victim))
        axes.set_xlabel(f"{heads.get(utility, utility)} (lower is better)")
    panels[0][0].set_ylabel("mean attack success rate, per cent (lower is better)")
    _from_zero(panels[0][0])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, victim in zip(panels[0], victims, strict=True):
        _label(figure, axes, [line for line in shown if line.victim == victim], robustness, utility)
    figure.savefig(path)
    return figure


@style.styled
def sweep(table: Table, path: str | Path, *, unit: str = "") -> style.StyledFigure:
    """Rate and FID when one of σ₀ and k varies and the other is what was chosen, a line a victim. A ring marks the choice.

    What was chosen is the line whose defence's name holds "chosen", or else the one where the sweeps cross. A line without
    settings is the undefended victim: a level line.

    Args:
        table: lines with `settings` "k" and "sigma0" (or "sigma0_relative"), "average" and "fid".
        path: of the file.
        unit: of σ₀, in words.

    Raises:
        ValueError: no line has settings.
    """
    swept = [line for line in table.lines if line.settings]
    if not swept:
        raise ValueError(f"table {table.number} has no line with settings: must have σ₀ and k")
    sigma = next((key for key in _SIGMAS if key in swept[0].settings), "sigma0")
    names = {sigma: f"σ₀, {unit}" if unit else _SIGMAS[sigma], "k": "k"}
    victims = list(dict.fromkeys(line.victim for line in swept))
    best = {victim: _chosen([line for line in swept if line.victim == victim], sigma) for victim in victims}
    figure, panels = style.panels(2, 2, style.TWO_COLUMNS, 4.9)
    for column, (varied, fixed) in enumerate(((sigma, "k"), ("k", sigma))):
        for row, (key, factor) in enumerate((("average", 100), ("fid", 1))):
            axes = panels[row][column]
            for victim, (colour, marker, dashes) in zip(victims, map(series, range(len(victims))), strict=True):
                of_best = best[victim]
                lines = sorted(
                    (
                        line
                        for line in swept
                        if line.victim == victim
                        and line.settings[fixed] == of_best.settings[fixed]
                        and key in line.values
                    ),
                    key=lambda line: float(line.settings[varied]),
                )
                errors = [_errors(line.values[key], line.limits.get(key), factor) for line in lines]
                axes.errorbar(
                    [float(line.settings[varied]) for line in lines],
                    [factor * line.values[key] for line in lines],
                    yerr=[[e[side][0] for e in errors] for side in (0, 1)],
                    color=colour,
                    marker=marker,
                    linestyle=dashes,
                    elinewidth=0.8,
                    capsize=2,
                    label=victim or "measured",
                )
                if key in of_best.values:
                    axes.plot(
                        float(of_best.settings[varied]),
                        factor * of_best.values[key],
                        "o",
                        markersize=13,
                        markerfacecolor="none",
                        markeredgecolor=colour,
                    )
                for line in table.lines:
                    if line.victim == victim and not line.settings and key in line.values:
                        axes.axhline(
                            factor * line.values[key],
                            color=colour,
                            linewidth=1.2,
                            linestyle=(0, (1, 2)),
                            label=f"{victim} without defence".strip(),
                        )
            axes.margins(x=0.12, y=0.14)
            _from_zero(axes)
            places = sorted({float(line.settings[varied]) for line in swept})
            axes.set_xticks(places, [f"{place:g}" for place in places])
            axes.minorticks_off()
        told = ", ".join(f"{victim} {float(best[victim].settings[fixed]):g}".strip() for victim in victims)
        panels[0][column].set_title(f"at the chosen {_short(fixed)}: {told}", fontsize=8)
        panels[1][column].set_xlabel(names[varied])
    panels[0][0].set_ylabel("mean ASR, per cent")
    panels[1][0].set_ylabel("FID")
    panels[0][0].plot([], [], "o", markersize=11, markerfacecolor="none", markeredgecolor=GREY, label="chosen")
    style.key(figure)
    figure.savefig(path)
    return figure


@style.styled
def grid(
    images: Mapping[str, Tensor],
    path: str | Path,
    captions: Sequence[str],
    *,
    hits: Mapping[str, Sequence[bool]] | None = None,
) -> style.StyledFigure:
    """A row a defence, a column a prompt, whole pixels: small images are enlarged four times without smoothing.

    Args:
        images: defence → (b, 3, height, width) in [0, 1], the same b and size for all.
        path: of the file.
        captions: a column each; long ones are shortened.
        hits: defence → where the detector fired; marked by a disc in the image's corner.

    Raises:
        ValueError: no images, of different shapes, or captions or hits that are not one an image.
    """
    shapes = {tuple(batch.shape) for batch in images.values()}
    if len(shapes) != 1 or any(len(shape) != 4 or shape[1] != 3 or not math.prod(shape) for shape in shapes):
        raise ValueError(f"images have shapes {sorted(shapes)}: must be one shape (b, 3, height, width), b at least 1")
    ((count, _, high, wide),) = shapes
    for name, entries in {"captions": captions, **{f"hits[{d!r}]": h for d, h in (hits or {}).items()}}.items():
        if len(entries) != count:
            raise ValueError(f"{name} has {len(entries)} entries for {count} images: must be one each")
    unknown = set(hits or {}) - set(images)
    if unknown:
        raise ValueError(f"hits are of {', '.join(sorted(unknown))}: must be among {', '.join(images)}")
    scale = 4 if max(high, wide) <= 64 else 1
    high, wide = scale * high, scale * wide
    column = max(wide, 96)
    figure = style.StyledFigure(1, 1, layout="none", dpi=100)
    line, gap = 12, 8
    texts = [style.wrapped(caption, column / 100, lines=5, size=7) for caption in captions]
    names = [style.wrapped(name, 1.1, lines=4, size=7) for name in images]
    left = 2 * gap + max(math.ceil(100 * style.text_width(part, 7)) for name in names for part in name.split("\n"))
    top = gap + line * max(text.count("\n") + 1 for text in texts)
    bottom = 3 * gap if hits else gap
    width = left + count * (column + gap)
    height = top + len(images) * (high + gap) + bottom
    if hits:
        legend = "the detector fired"
        width = max(width, left + 3 * gap + math.ceil(100 * style.text_width(legend, 7)))
    figure.set_size_inches(width / 100, height / 100)

    def text(x: float, y: float, words: str, **how: Any) -> None:
        figure.text(x / width, 1 - y / height, words, fontsize=7, **how)

    for i, caption in enumerate(texts):
        text(left + i * (column + gap) + column / 2, top - 4, caption, ha="center", va="bottom", linespacing=1.15)
    for row, (name, batch) in enumerate(images.items()):
        y = top + row * (high + gap)
        text(left - gap, y + high / 2, names[row], ha="right", va="center", linespacing=1.15)
        for i, image in enumerate(batch.detach().cpu().float().clamp(0, 1)):
            x = left + i * (column + gap) + (column - wide) // 2
            axes = figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))
            axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            if hits and name in hits and hits[name][i]:
                _disc(axes, 1 - 9 / wide, 1 - 9 / high)
    if hits:
        middle = height - 1.5 * gap
        axes = figure.add_axes((left / width, 1 - (middle + 7) / height, 14 / width, 14 / height))
        axes.set_axis_off()
        _disc(axes, 0.5, 0.5)
        text(left + 18, middle, legend, ha="left", va="center_baseline")
    figure.savefig(path, dpi=100)
    return figure


@style.styled
def certified(
    curves: Sequence[AtRadius],
    path: str | Path,
    *,
    undefended: Mapping[str, float] | float | None = None,
    title: str | None = None,
) -> style.StyledFigure:
    """Certified bound (lines: no attack within ρ does better) and strongest attack found (marks), a colour a label.

    Args:
        curves: one record a radius and label.
        path: of the file.
        undefended: the rate without the defence, a level line; or one a label.
        title: above the figure.

    Raises:
        ValueError: no records, or a rate that is not between 0 and 1.
    """
    if not curves:
        raise ValueError("curves = (): must be at least one record")
    for record in curves:
        rates = [record.bound, *([] if record.attacked is None else [record.attacked]), *(record.limits or ())]
        if not all(0 <= rate <= 1 for rate in rates):
            raise ValueError(f"{record}: rates must be between 0 and 1")
    labels = list(dict.fromkeys(record.label for record in curves))
    figure, ((axes,),) = style.panels(1, 1, style.TWO_COLUMNS, 3.9 + 0.3 * len(labels))
    largest = max(record.rho for record in curves) or 1.0
    for i, label in enumerate(labels):
        colour, marker, dashes = series(i)
        records = sorted((r for r in curves if r.label == label), key=lambda r: r.rho)
        rhos = [record.rho for record in records]
        name = style.plain(label)
        axes.plot(rhos, [100 * r.bound for r in records], color=colour, linestyle=dashes, label=f"{name}, certified")
        attacked = [record for record in records if record.attacked is not None]
        if not attacked:
            continue
        # Beside one another where several were attacked at the same radius.
        shift = 0.008 * largest * (i - (len(labels) - 1) / 2)
        errors = [_errors(record.attacked or 0.0, record.limits) for record in attacked]
        axes.errorbar(
            [record.rho + shift for record in attacked],
            [100 * (record.attacked or 0.0) for record in attacked],
            yerr=[[e[side][0] for e in errors] for side in (0, 1)],
            color=colour,
            marker=marker,
            linestyle="",
            label=f"{name}, strongest attack found",
        )
    levels = undefended if isinstance(undefended, Mapping) else {} if undefended is None else {"": undefended}
    for label, level in levels.items():
        colour = series(labels.index(label)).colour if label in labels else GREY
        name = f"{style.plain(label)}, without the defence" if label else "without the defence"
        axes.axhline(100 * level, color=colour, linestyle=(0, (1, 2)), linewidth=1.2, label=name)
    axes.set_ylim(-2, 102)
    axes.set_xlim(-0.02 * largest, 1.03 * largest)
    axes.set_xlabel(style.RADIUS)
    axes.set_ylabel("attack success rate, per cent")
    style.key(figure)
    style.head(axes, title, style.TWO_COLUMNS - 0.8)
    figure.savefig(path)
    return figure


def _from_zero(axes: Axes) -> None:
    """The vertical axis begins just below 0, and ends above the largest value: marks at either end are whole."""
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.04 * top, 1.06 * top)


def _family(defense: str) -> tuple[str, str, float]:
    for names, *look in _FAMILIES:
        if defense.startswith(names):
            return tuple(look)  # type: ignore[return-value]
    return _OTHERS


def _errors(value: float, limits: tuple[float, float] | None, factor: float = 100) -> list[list[float]]:
    low, high = limits or (value, value)
    return [[factor * max(value - low, 0.0)], [factor * max(high - value, 0.0)]]


def _short(key: str) -> str:
    return "k" if key == "k" else "σ₀"


def _chosen(lines: Sequence[Line], sigma: str) -> Line:
    """The line that is named so, or the one that shares its σ₀ or its k with most others (the middle one of several)."""
    named = [line for line in lines if "chosen" in line.defense]
    if named:
        return named[0]

    def company(line: Line) -> int:
        return sum(any(other.settings[key] == line.settings[key] for key in (sigma, "k")) for other in lines)

    most = max(map(company, lines))
    among = sorted((line for line in lines if company(line) == most), key=lambda line: _ordered(line, sigma))
    return among[len(among) // 2]


def _ordered(line: Line, sigma: str) -> tuple[float, float]:
    return float(line.settings[sigma]), float(line.settings["k"])


def _label(figure: style.StyledFigure, axes: Axes, lines: Sequence[Line], robustness: str, utility: str) -> None:
    """Names beside the marks, each at the nearest place where it covers no mark, no error bar and no other name."""
    unit = figure.dpi / 72
    frame = axes.get_window_extent()
    points = [axes.transData.transform((line.values[utility], 100 * line.values[robustness])) for line in lines]
    taken = [Bbox.from_extents(x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit) for x, y in points]
    for line, (x, _) in zip(lines, points, strict=True):
        ends = [
            axes.transData.transform((line.values[utility], 100 * limit))[1]
            for limit in line.limits.get(robustness, ())
        ]
        if ends:
            taken.append(Bbox.from_extents(x - 2 * unit, min(ends), x + 2 * unit, max(ends)))
    path = [points[i] for i, line in enumerate(lines) if line.defense.startswith("sld")]
    for (x0, y0), (x1, y1) in itertools.pairwise(path):
        taken += [Bbox.from_extents(x - 1, y - 1, x + 1, y + 1) for x, y in _along((x0, y0), (x1, y1), unit)]
    names: list[Bbox] = []
    for line, (x, y) in zip(lines, points, strict=True):
        wide, high = 72 * unit * style.text_width(line.defense) + 2 * unit, 10 * unit
        candidates = (
            Bbox.from_bounds(
                x + (distance * unit + wide / 2) * math.cos(turn * math.pi / 12) - wide / 2,
                y + (distance * unit + high / 2) * math.sin(turn * math.pi / 12) - high / 2,
                wide,
                high,
            )
            for distance in (8, 14, 22, 32, 44, 58, 74, 92)
            for turn in range(24)
        )
        box = _first_free(candidates, taken, names, frame, (x, y))
        taken.append(box)
        names.append(box)
        colour = _family(line.defense)[0]
        nearest = _nearest((x, y), box)
        if math.dist(nearest, (x, y)) > 9 * unit:
            taken += [Bbox.from_extents(u - 1, v - 1, u + 1, v + 1) for u, v in _along((x, y), nearest, unit)]
            (x0, y0), (x1, y1) = axes.transData.inverted().transform([(x, y), nearest])
            axes.plot([x0, x1], [y0, y1], color=colour, linewidth=0.5, scalex=False, scaley=False, zorder=1)
        at_x, at_y = figure.transFigure.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
        figure.text(at_x, at_y, style.plain(line.defense), ha="center", va="center", fontsize=8, color=ink(colour))


def _first_free(
    candidates: Iterable[Bbox],
    taken: Sequence[Bbox],
    names: Sequence[Bbox],
    frame: BboxBase,
    mark: tuple[float, float],
) -> Bbox:
    """The first box inside the frame that covers nothing and whose way to the mark crosses no name, or the one that covers
    least."""
    least: list[tuple[float, Bbox]] = []
    for box in candidates:
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        covered = sum(_common(box, other) for other in taken) + (0.0 if inside else 1e6)
        covered += sum(name.contains(*point) for point in _along(mark, _nearest(mark, box), 2.0) for name in names)
        if covered == 0:
            return box
        if not least or covered < least[0][0]:
            least = [(covered, box)]
    return least[0][1]


def _nearest(point: tuple[float, float], box: Bbox) -> tuple[float, float]:
    """The box's point that is nearest."""
    return min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)


def _along(start: tuple[float, float], end: tuple[float, float], step: float) -> list[tuple[float, float]]:
    """Points between two points, about a step apart."""
    steps = max(1, math.ceil(math.dist(start, end) / step))
    return [
        (start[0] + (end[0] - start[0]) * i / steps, start[1] + (end[1] - start[1]) * i / steps)
        for i in range(1, steps)
    ]


def _common(a: Bbox, b: Bbox) -> float:
    """Area of what two boxes share."""
    wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(wide, 0.0) * max(high, 0.0)


def _disc(axes: Axes, x: float, y: float) -> None:
    axes.plot(
        x,
        y,
        "o",
        transform=axes.transAxes,
        color=ORANGE,
        markersize=8,
        markeredgecolor="white",
        markeredgewidth=1.2,
        clip_on=False,
        scalex=False,
        scaley=False,
    )
