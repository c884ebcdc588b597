"""A summary as text."""

from __future__ import annotations

from typing import Any

from certify._text import cleaned
from certify.summaries.summary import summary

__all__ = ["ROWS", "as_text", "cut"]

ROWS = 24
"""Rows of a table that are shown."""

_LETTERS = 600  # of a sentence or a cell


def as_text(record: Any) -> str:
    """The summary of a record in plain words."""
    made = summary(record)
    lines = [cut(made.sentence)]
    if made.mark[0] not in ("certified", "no claim") and made.mark[0].lower() not in made.sentence.lower():
        lines[0] = f"{made.mark[0].capitalize()}. {lines[0]}"
    width = max((len(name) for name, _ in made.facts), default=0)
    lines += [f"  {name:<{width}}  {cut(value)}" for name, value in made.facts]
    for table in made.tables:
        rows = [table.head, *([cut(c) for c in row] for row in table.rows[:ROWS])]
        widths = [max(len(row[i]) for row in rows) for i in range(len(table.head))]
        left = {0, *table.words}
        lines += [f"  {table.title}"] if table.title else []
        for row in rows:
            cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            lines.append(("  " + "  ".join(cells)).rstrip())
        rest = len(table.rows) - ROWS
        lines += [f"  … and {rest:,} more"] if rest > 0 else []
    return cleaned("\n".join([*lines, *made.notes]))


def cut(text: str) -> str:
    """The beginning of a text that is long."""
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"
