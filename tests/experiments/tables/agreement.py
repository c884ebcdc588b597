"""Does a page say what a CSV says? Both are read again by rules of their own, none of the code that printed them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from experiments.tables.table import Column

SYMBOLS = {"sigma0": "σ₀", "sigma0_relative": "σ₀, relative"}


def tables_of(page: str) -> list[list[list[str]]]:
    """The tables of a Markdown page: head, then rows, as cells."""
    found: list[list[list[str]]] = [[]]
    for line in page.splitlines():
        if not line.startswith("|"):
            found.append([])
        elif set(line) - set("|-: "):
            found[-1].append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return [table for table in found if table]


def disagreements(page: str, text: str, columns: Sequence[Column]) -> list[str]:
    """Every cell of the page that the CSV does not round to, every row and figure that only one of the two has.

    Args:
        page: with one table, or with the measured and the published one below each other.
        text: the CSV.
        columns: of the table.
    """
    tables, wrong = tables_of(page), []
    rows = list(csv.DictReader(io.StringIO(text)))
    printed: set[tuple[int, str]] = set()
    for place, (heads, *lines) in enumerate(tables):
        origins = {"published" if suffix or place else "measured": suffix for suffix in (" published", "")}
        for cells in lines:
            shown = dict(zip(heads, cells, strict=True))
            for origin, suffix in origins.items():
                printed_as = {c.key: shown.get(_head(heads, c, suffix), "–") for c in columns}
                if set(printed_as.values()) == {"–"}:
                    continue
                partners = [i for i, row in enumerate(rows) if row["origin"] == origin and _is(row, shown)]
                if len(partners) != 1:
                    wrong.append(f"{cells[:2]}: {len(partners)} {origin} rows of the CSV")
                    continue
                for column in columns:
                    if printed_as[column.key] != "–":
                        printed.add((partners[0], column.key))
                        wrong += _differences(printed_as[column.key], rows[partners[0]], column)
    for number, row in enumerate(rows):
        wrong += [
            f"{row['origin']} {row['victim']} {row['defense']}, {column.key}: {row[column.key]} is not on the page"
            for column in columns
            if row.get(column.key) and (number, column.key) not in printed
        ]
    return wrong


def _head(heads: Sequence[str], column: Column, suffix: str) -> str:
    names = {f"{column.head}{arrow}{suffix}" for arrow in ("", " ↓", " ↑")}
    return next((head for head in heads if head in names), "")


def _is(row: dict[str, str], shown: dict[str, str]) -> bool:
    given = dict(re.findall(r'"(\w+)": "?([^",}]+)', row["settings"]))
    same = row["defense"] == shown["Defence"] and row["victim"] in (shown.get("Model", ""), "")
    return same and all(float(shown[SYMBOLS.get(key, key)]) == float(value) for key, value in given.items())


def _differences(cell: str, row: dict[str, str], column: Column) -> list[str]:
    factor = 100 if column.kind == "rate" else 1
    if column.kind == "p":
        unit, value = 10 ** -len(cell.partition(".")[2]), float(row[column.key])
        up = value - 1e-12 <= float(cell) < value + unit
        return [] if up else [f"{row['victim']} {row['defense']}, {column.key}: {cell} on the page, {value} in the CSV"]
    excess = re.search(r" \(([-+][\d.]+)\)", cell)
    if (excess is not None) != bool(
        row.get("chance") and column.kind == "rate" and column.key not in ("chance", "certified", "certified_t5")
    ):
        return [f"{row['victim']} {row['defense']}, {column.key}: {cell} on the page, chance is {row.get('chance')}"]
    expected = [row[column.key], row.get(f"{column.key} low", ""), row.get(f"{column.key} high", "")]
    wrong = []
    if excess is not None:
        cell = cell.replace(excess[0], "")
        half, over = (
            0.5 * 10 ** -len(excess[1].partition(".")[2]),
            100 * (float(row[column.key]) - float(row["chance"])),
        )
        if abs(float(excess[1]) - over) > half * (1 + 1e-9):
            wrong.append(f"{row['victim']} {row['defense']}, {column.key}: {excess[1]} on the page, {over} over chance")
    for figure, value in zip(re.findall(r"-?[\d.]+", cell), expected, strict=False):
        half = 0.5 * 10 ** -len(figure.partition(".")[2])
        if not value or abs(float(figure) - factor * float(value)) > half * (1 + 1e-9):
            wrong.append(
                f"{row['victim']} {row['defense']}, {column.key}: {figure} on the page, {value or 'nothing'} in the CSV"
            )
    return wrong
