"""Gallery: which pictures belong to which table."""

from __future__ import annotations

from pathlib import Path

from experiments.tables.layouts import Run
from experiments.tables.table import Table

__all__ = ["pictures"]


def pictures(table: Table, run: Run, folder: Path) -> dict[str, str]:
    """Draws a table's pictures: file name → title."""
    return {}
