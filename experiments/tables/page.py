"""A table in print: Markdown for the docs, CSV with every digit, and a terminal's 80 columns. All three from one `Table`.

Rates are printed in per cent, measured ones with one decimal and, where the line's chance level is known, with their excess
over it in parentheses; scores and seconds with three, the p of a test rounded up. Published figures keep the
digits that the paper printed, and stand in columns headed "published" where the table is narrow and its rows are the
paper's, in a table of their own below it elsewhere, in the measured table's order, with whose they are and on what model.
What is not there prints as "–" and is an empty cell of the CSV.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from certify import _files
from experiments.tables.published import source
from experiments.tables.table import Column, Line, Table

__all__ = ["MISSING", "csv_text", "markdown", "read_csv", "terminal"]

MISSING = "–"
ORIGINS = ("measured", "published")
Cell = TypeVar("Cell")
_ABOUT = ("origin", "victim", "defense", "settings")
_ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
_SYMBOLS = {"sigma0": "σ₀", "sigma0_relative": "σ₀, relative"}
_PLAIN = ("chance", "certified", "certified_t5")
"""Rates that have no excess: chance itself, and bounds."""
_WIDEST = 12
"""Columns that one Markdown table may have before the published figures move below it."""


@dataclass(frozen=True)
class _Block:
    """One printed table: columns that say which row it is, then groups of columns that stay together."""

    caption: str
    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, ...], ...]
    cells: tuple[tuple[tuple[str, ...], ...], ...]

    def heads(self) -> list[str]:
        return [*self.names, *(head for group in self.groups for head in group)]

    def rows(self) -> list[list[str]]:
        return [
            [*label, *(cell for group in row for cell in group)]
            for label, row in zip(self.labels, self.cells, strict=True)
        ]


def markdown(table: Table) -> str:
    """The table as a section of a Markdown page: title, notes, measured and published figures.

    Raises:
        ValueError: a value that is not finite or stands in no column, limits without their value, a line that is there
            twice, or published lines of a table that no paper has.
    """
    parts = [f"## {_title(table)}", "\n".join(f"- {note}" for note in table.notes)]
    for block in _blocks(table):
        rule = ["---"] * len(block.names) + ["---:"] * (len(block.heads()) - len(block.names))
        lines = [_row(block.heads()), "|" + "|".join(rule) + "|", *(_row(cells) for cells in block.rows())]
        parts += [block.caption, "\n".join(lines)]
    return "\n\n".join(part for part in [*parts, *_words(table)] if part) + "\n"


def terminal(table: Table, width: int = 80) -> str:
    """The table for a terminal. What is too wide goes on in a second block, below, with the rows' names again.

    Raises:
        ValueError: as `markdown`, or the width is below 60.
    """
    if width < 60:
        raise ValueError(f"width = {width}: must be at least 60")
    parts = [_filled(_title(table), width)]
    parts.append("\n".join(_filled(note, width, "- ") for note in table.notes))
    for block in _blocks(table):
        parts += [_filled(block.caption, width), *_wrapped(block, width)]
    parts += [_filled(text, width) for text in _words(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def csv_text(table: Table) -> str:
    """One line a row, measured ones first: origin, victim, defence, settings (JSON), then every column with all its digits.

    A column with confidence limits is followed by "KEY low" and "KEY high". Rates are shares.

    Raises:
        ValueError: as `markdown`.
    """
    _check(table)
    lines = [*table.lines, *table.published]
    keys = [column.key for column in table.columns]
    keys += _unique(key for line in lines for key in line.values if key not in keys)
    limited = {key for line in lines for key in line.limits}
    heads = [head for key in keys for head in ([key, *_limit_heads(key)] if key in limited else [key])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_ABOUT, *heads])
    for origin, part in zip(ORIGINS, (table.lines, table.published), strict=True):
        for line in part:
            figures = dict(line.values)
            for key, limits in line.limits.items():
                figures.update(zip(_limit_heads(key), limits, strict=True))
            settings = json.dumps(dict(line.settings), ensure_ascii=False) if line.settings else ""
            cells = [repr(float(figures[head])) if head in figures else "" for head in heads]
            writer.writerow([origin, line.victim, line.defense, settings, *cells])
    return text.getvalue()


def read_csv(text: str) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """The (measured, published) lines of `csv_text`, to the last digit.

    Raises:
        ValueError: another head, an unknown origin, or a cell that is no number.
    """
    rows = [row for _, row in _files.csv_rows(text)]
    if not rows or tuple(rows[0][: len(_ABOUT)]) != _ABOUT:
        raise ValueError(f"the head is {rows[0] if rows else []}: must begin with {', '.join(_ABOUT)}")
    heads = rows[0][len(_ABOUT) :]
    limited = [key for key in heads if all(head in heads for head in _limit_heads(key))]
    bounds = {head for key in limited for head in _limit_heads(key)}
    found: dict[str, list[Line]] = {origin: [] for origin in ORIGINS}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]) or row[0] not in ORIGINS:
            raise ValueError(
                f"row {number} is {row}: must be {len(rows[0])} cells, the first one of {', '.join(ORIGINS)}"
            )
        origin, victim, defense, settings, *cells = row
        try:
            figures = {head: float(cell) for head, cell in zip(heads, cells, strict=True) if cell}
            given = _files.json_object(settings) if settings else {}
        except ValueError as error:
            raise ValueError(f"row {number} is {row}: must hold numbers, and settings as JSON ({error})") from error
        found[origin].append(
            Line(
                victim=victim,
                defense=defense,
                values={head: value for head, value in figures.items() if head not in bounds},
                limits={
                    key: (figures[low], figures[high])
                    for key in limited
                    for low, high in [_limit_heads(key)]
                    if low in figures and high in figures
                },
                settings=given,
            )
        )
    return tuple(found["measured"]), tuple(found["published"])


def _title(table: Table) -> str:
    return f"Table {table.number}. {table.title}" if table.number.isdigit() else table.title


def _words(table: Table) -> list[str]:
    """What a paper said without a figure that could stand in a row."""
    return [f"Published, in words only: {source(table.number)}"] if table.number == "pruning" else []


def _limit_heads(key: str) -> tuple[str, str]:
    return f"{key} low", f"{key} high"


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _check(table: Table) -> None:
    keys = [column.key for column in table.columns]
    if len(set(keys)) < len(keys) or any(key != "".join(key.split()) or not key for key in keys):
        raise ValueError(f"columns = {keys}: must be different keys without blanks")
    for name, lines in (("lines", table.lines), ("published", table.published)):
        seen = set()
        for line in lines:
            where = f"{name}: {line.victim} {line.defense} {dict(line.settings) or ''}".rstrip()
            about = (line.victim, line.defense, _settings(line))
            if about in seen:
                raise ValueError(f"{where} is there twice")
            seen.add(about)
            if name == "lines" and not set(line.values) <= set(keys):
                raise ValueError(f"{where} has {', '.join(sorted(set(line.values) - set(keys)))}: must be among {keys}")
            if not set(line.limits) <= set(line.values):
                raise ValueError(
                    f"{where} has limits of {', '.join(sorted(set(line.limits) - set(line.values)))} alone"
                )
            numbers = [*line.values.values(), *(limit for limits in line.limits.values() for limit in limits)]
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError(f"{where} has values {numbers}: must be finite; what was not measured is left out")


def _settings(line: Line) -> tuple[tuple[str, float | str], ...]:
    return tuple(sorted(line.settings.items()))


def _blocks(table: Table) -> list[_Block]:
    _check(table)
    partners = _partners(table)
    matched = {id(line) for line in partners if line is not None}
    rest = tuple(line for line in table.published if id(line) not in matched)
    quoted = [c for c in table.columns if any(c.key in line.values for line in table.published)]
    legend = _legend(table)
    names = _names([*table.lines, *table.published])
    width = len(names) + len(table.columns) + len(quoted)
    ours = _Printer(table.columns, table.lines, exact=False)
    theirs = _Printer(quoted, table.published, exact=True)
    if not table.published:
        return [_block(legend, table.columns, (), [(line, line, None) for line in table.lines], ours, theirs)]
    if width <= _WIDEST and 2 * len(rest) <= len(table.published):
        caption = f"{legend} Columns headed “published” are not ours: {source(table.number)}."
        rows: list[tuple[Line, Line | None, Line | None]] = [
            (line, line, partner) for line, partner in zip(table.lines, partners, strict=True)
        ]
        return [_block(caption, table.columns, quoted, [*rows, *((line, None, line) for line in rest)], ours, theirs)]
    below = [line for line in [*partners, *rest] if line is not None]
    caption = f"Published figures, not ours: {source(table.number)}."
    return [
        _block(legend, table.columns, (), [(line, line, None) for line in table.lines], ours, theirs),
        _block(caption, (), quoted, [(line, None, line) for line in below], ours, theirs),
    ]


def _partners(table: Table) -> list[Line | None]:
    """The published line of every measured one: of the same defence and settings, and of the same victim unless one of the
    two tables is about one model only and does not name it."""
    single = [len({line.victim for line in lines}) == 1 for lines in (table.lines, table.published)]
    swept = any(line.settings for line in table.published)

    def same(ours: Line, theirs: Line) -> bool:
        nameless = (not ours.victim and single[1]) or (not theirs.victim and single[0])
        if ours.defense != theirs.defense or not (nameless or ours.victim == theirs.victim):
            return False
        return not swept or _settings(ours) == _settings(theirs)

    left, partners = list(table.published), list[Line | None]()
    for line in table.lines:
        partner = next((other for other in left if same(line, other)), None)
        partners.append(partner)
        if partner is not None:
            left.remove(partner)
    return partners


def _legend(table: Table) -> str:
    parts = []
    if any(column.kind == "rate" for column in table.columns):
        parts.append("Rates in per cent")
    if any("chance" in line.values for line in table.lines):
        parts.append("in parentheses what they exceed chance by")
    if any(set(line.limits) & set(_limited(table.columns)) for line in table.lines):
        parts.append("confidence limits in brackets")
    if any(column.kind == "p" for column in table.columns):
        parts.append("p of a paired exact test on the same prompts, two-sided")
    if any(column.kind == "seconds" for column in table.columns):
        parts.append("times in seconds")
    parts.append(f"“{MISSING}”: not measured, or not published")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _limited(columns: Sequence[Column]) -> list[str]:
    """Columns whose confidence limits are printed: the averages, or, where there is none, every rate."""
    averages = [c.key for c in columns if c.key.startswith("average")]
    return averages or [c.key for c in columns if c.kind == "rate"]


class _Printer:
    """Prints the cells of columns, with one number of decimals a column."""

    def __init__(self, columns: Sequence[Column], lines: Sequence[Line], *, exact: bool) -> None:
        self.limited = _limited(columns)
        self.decimals = {}
        for column in columns:
            values = [_scaled(column, line.values[column.key]) for line in lines if column.key in line.values]
            least = 1 if column.kind == "rate" else 3
            self.decimals[column.key] = max([least, *(map(_needed, values) if exact else ())])

    def __call__(self, column: Column, line: Line | None) -> str:
        if line is None or column.key not in line.values:
            return MISSING
        places, value = self.decimals[column.key], _scaled(column, line.values[column.key])
        if column.kind == "p":
            value = math.ceil(value * 10**places) / 10**places
        text = f"{value:.{places}f}"
        if "chance" in line.values and column.kind == "rate" and column.key not in _PLAIN:
            text += f" ({value - 100 * line.values['chance']:+.{places}f})"
        if column.key not in line.limits or column.key not in self.limited:
            return text
        low, high = (_scaled(column, limit) for limit in line.limits[column.key])
        return f"{text} [{low:.{places}f}, {high:.{places}f}]"


def _scaled(column: Column, value: float) -> float:
    return 100 * value if column.kind == "rate" else float(value)


def _needed(value: float) -> int:
    """Decimals of a printed figure that went through a division by 100."""
    return next(places for places in range(7) if places == 6 or abs(round(value, places) - value) < 1e-9)


def _names(lines: Sequence[Line]) -> list[str]:
    """Of the columns that say which row it is."""
    keys = _unique(key for line in lines for key in line.settings)
    return [*(["Model"] if any(line.victim for line in lines) else []), "Defence", *(_SYMBOLS.get(k, k) for k in keys)]


def _block(
    caption: str,
    columns: Sequence[Column],
    quoted: Sequence[Column],
    rows: Sequence[tuple[Line, Line | None, Line | None]],
    ours: _Printer,
    theirs: _Printer,
) -> _Block:
    """Rows of (whose name it has, the measured line, the published line); a column and its published one are a group."""
    lines = [line for line, _, _ in rows]
    settings = _unique(key for line in lines for key in line.settings)
    shown = any(line.victim for line in lines)
    groups: list[tuple[str, ...]] = []
    cells: list[list[tuple[str, ...]]] = [[] for _ in rows]
    for column in columns or quoted:
        pair = column in quoted
        heads = ([_head(column)] if columns else []) + ([_head(column, "published" if columns else "")] if pair else [])
        groups.append(tuple(heads))
        for row, (_, measured, published) in zip(cells, rows, strict=True):
            texts = ([ours(column, measured)] if columns else []) + ([theirs(column, published)] if pair else [])
            row.append(tuple(texts))
    return _Block(
        caption=caption,
        names=tuple(_names(lines)),
        groups=tuple(groups),
        labels=tuple(
            (*([line.victim] if shown else []), line.defense, *(_setting(line.settings, key) for key in settings))
            for line in lines
        ),
        cells=tuple(map(tuple, cells)),
    )


def _head(column: Column, suffix: str = "") -> str:
    head = column.head if column.head.endswith(("↓", "↑")) else column.head + _ARROWS[column.better]
    return f"{head} {suffix}".strip()


def _setting(settings: Mapping[str, float | str], key: str) -> str:
    if key not in settings:
        return MISSING
    value = settings[key]
    if isinstance(value, str):
        return value
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _filled(text: str, width: int, mark: str = "") -> str:
    indent = " " * len(mark)
    return textwrap.fill(text, width, initial_indent=mark, subsequent_indent=indent, break_on_hyphens=False)


def _wrapped(block: _Block, width: int) -> list[str]:
    """The block's columns, as many groups of them side by side as fit, and the rest below."""
    groups = [
        [_fitted(head, texts) for head, texts in zip(heads, _columns(cells, len(heads)), strict=True)]
        for heads, cells in zip(block.groups, _columns(block.cells, len(block.groups)), strict=True)
    ]
    names = list(zip(block.names, _columns(block.labels, len(block.names)), strict=True))
    caps = [min(max(map(len, [name, *texts])), 24) for name, texts in names]
    room = width - max((_wide(group) + 2 for group in groups), default=0)
    while sum(caps) + 2 * (len(caps) - 1) > room and max(caps) > 6:
        caps[caps.index(max(caps))] -= 1
    left = [
        _Fitted(textwrap.wrap(name, cap), [textwrap.wrap(text, cap) or [""] for text in texts], cap, "<")
        for (name, texts), cap in zip(names, caps, strict=True)
    ]
    parts: list[list[_Fitted]] = [[]]
    for group in groups:
        if parts[-1] and _wide([*left, *parts[-1], *group]) > width:
            parts.append([])
        parts[-1] += group
    return [_drawn([*left, *part]) for part in parts]


def _columns(rows: Sequence[Sequence[Cell]], count: int) -> list[list[Cell]]:
    return [[row[i] for row in rows] for i in range(count)]


@dataclass(frozen=True)
class _Fitted:
    """One column: the lines of its head and of every cell, and its width."""

    head: list[str]
    cells: list[list[str]]
    width: int
    align: str


def _fitted(head: str, texts: Sequence[str]) -> _Fitted:
    """A column of figures, its head in several lines where it is wider than they are."""
    widest = max([7, *map(len, texts)])
    lines = [""]
    # An arrow stays with the word before it, and “ρ = 1” in one line; a hyphen or dash may end one.
    for piece in re.findall(r"\S+ = \S+(?: [↓↑])?|[^\s–-]*[–-]|[^\s–-]+(?: [↓↑])?|\s+", head):
        if lines[-1].strip() and len((lines[-1] + piece).rstrip()) > widest:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    kept = [line.rstrip() for line in lines if line.strip()]
    return _Fitted(kept, [[text] for text in texts], max(map(len, [*kept, *texts])), ">")


def _wide(columns: Sequence[_Fitted]) -> int:
    return sum(column.width for column in columns) + 2 * (len(columns) - 1)


def _drawn(columns: Sequence[_Fitted]) -> str:
    high = max(len(column.head) for column in columns)
    heads = [[""] * (high - len(column.head)) + column.head for column in columns]
    lines = [*_side_by_side(columns, heads), "  ".join("─" * column.width for column in columns)]
    for cells in zip(*(column.cells for column in columns), strict=True):
        lines += _side_by_side(columns, cells)
    return "\n".join(lines)


def _side_by_side(columns: Sequence[_Fitted], cells: Sequence[Sequence[str]]) -> list[str]:
    high = max(map(len, cells))
    padded = [[*lines, *[""] * (high - len(lines))] for lines in cells]
    return [
        "  ".join(
            f"{lines[i]:{column.align}{column.width}}" for column, lines in zip(columns, padded, strict=True)
        ).rstrip()
        for i in range(high)
    ]
