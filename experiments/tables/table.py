"""Table: measured rows, and what the paper printed, as data. Everything that prints, writes or draws one starts from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Column", "Line", "Table"]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: in the lines and the CSV.
        head: printed.
        kind: "rate" (a share, printed in per cent), "score" (three decimals), "seconds", or "p" (of a test, rounded up).
        better: "lower" or "higher"; "": neither.
    """

    key: str
    head: str
    kind: str = "rate"
    better: str = "lower"


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        victim: the unlearned model ("ESD", "UCE"; "" where a table has one model only).
        defense: the defence, as printed.
        values: by the columns' keys; what is missing was not measured, or not published. Rates are shares (0.2542), in
            published lines, too. Where a line has "chance", its other measured rates are printed with their excess over it.
        limits: confidence limits (low, high) of values that have some.
        settings: of a sweep, what the line stands for ({"sigma0": 0.006, "k": 9}).
    """

    victim: str
    defense: str
    values: Mapping[str, float]
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    settings: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        number: "1" … "12", or "pruning".
        title: of this measurement.
        columns: in their order.
        lines: measured.
        published: the paper's lines, with the same keys where a column means the same; () where it printed none.
        notes: what a reader must know: model, split, prompts, detector and its version, seeds, what differs from the paper.
    """

    number: str
    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    published: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()
