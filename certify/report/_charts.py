"""A line over the radius as a figure in the page itself (SVG), in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from certify._text import escaped, shown

_WIDE, _HIGH = 480, 290  # of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 14, 16, 44


@dataclass(frozen=True)
class Line:
    """Points (x, y), joined; `dots`: each is seen; `dashed`: what is between them is not certified; `name`: at its end."""

    points: Sequence[tuple[float, float]]
    dots: bool = False
    dashed: bool = False
    name: str = ""


def chart(
    line: Line,
    y_label: str,
    *,
    name: str,
    log: bool = False,
    top: float | None = None,
    level: tuple[float, str] | None = None,
    beside: Line | None = None,
) -> str:
    """A line over the radius as SVG, in the page's own colours.

    Args:
        line: what is drawn; without points a sentence says so.
        y_label: of the vertical axis, which ends at `top` or above the largest value.
        name: of the whole, for who cannot see it.
        log: whether the vertical axis is logarithmic.
        top: see `y_label`.
        level: a value to compare with, and what it is.
        beside: another line to compare with.
    """
    xs = [x for x, _ in line.points]
    ys = [y for _, y in [*line.points, *(beside.points if beside else ())]] + ([level[0]] if level else [])
    if log:
        ys = [y for y in ys if y > 0]
    if not xs or not ys:
        return f"<p>{escaped(name)}: nothing is certified at any of these radii.</p>"
    right = max(xs) or 1.0
    y_ticks = _log_ticks(min(ys), max(ys)) if log else _ticks(0.0, top if top is not None else max(ys) or 1.0)
    low, high = (min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))) if log else (0.0, max(y_ticks[-1], max(ys)))
    scale: Callable[[float], float] = math.log if log else float

    def at_x(x: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * x / right

    def at_y(y: float) -> float:
        share = (scale(y) - scale(low)) / (scale(high) - scale(low))
        return _HIGH - _BOTTOM - (_HIGH - _TOP - _BOTTOM) * share

    def rule(kind: str, y: float) -> str:
        return f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'

    def text(x: float, y: float, said: str, anchor: str = "middle", more: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escaped(said, isolate=False)}</text>'

    floor, middle = _HIGH - _BOTTOM, (_TOP + _HIGH - _BOTTOM) / 2
    parts = []
    for tick in y_ticks:
        parts += [rule("grid", at_y(tick)), text(_LEFT - 7, at_y(tick) + 4, _tick(tick), "end")]
    for tick in (tick for tick in _ticks(0.0, right) if tick <= right):
        x = at_x(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(text(x, floor + 18, _tick(tick)))
    parts += [rule("axis", floor), text((_LEFT + _WIDE - _RIGHT) / 2, _HIGH - 6, "radius ρ")]
    parts.append(text(12, middle, y_label, more=f' transform="rotate(-90 12 {middle})"'))
    if level is not None and low <= level[0] <= high:
        y = at_y(level[0])
        below = 15 if y < _TOP + 18 else -6
        parts += [rule("level", y), text(_LEFT + 6, y + below, level[1], "start", ' class="level-text"')]

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

    if beside is not None:
        other = [(at_x(x), at_y(y)) for x, y in beside.points if low <= y <= high and (not log or y > 0)]
        parts.append(f'<polyline class="beside" points="{path(other)}"/>')
        parts.append(
            text(_WIDE - _RIGHT, other[len(other) // 2][1] + 18, beside.name, "end", ' class="level-text"')
        )  # below it
    known = [(at_x(x), at_y(y)) for x, y in line.points if not log or y > 0]
    parts.append(f'<polyline class="curve{" dashed" if line.dashed else ""}" points="{path(known)}"/>')
    if line.dots:
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>' for x, y in known]
    label = escaped(name, isolate=False)
    return f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high` or just above."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    return [low + i * step for i in range(math.ceil((high - low) / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    skip = max(1, (last - first) // 6)
    ticks = [10.0**e for e in range(first, last + 1, skip)]
    return ticks if len(ticks) > 1 else [10.0**first, 10.0 ** (first + 1)]


def _tick(value: float) -> str:
    return shown(value, "near", 3)
