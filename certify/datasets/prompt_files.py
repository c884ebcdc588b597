"""Prompt files: the prompts of a table, whichever layout it was published in.

Which column holds them is found by its name, whatever the case: `prompt`, `text`, `caption` and the like; `adv_prompt`,
`adversarial` or `sensitive prompt`, of what an attack found; `target_prompt` and the like, of what it began with. A file with
more than one of them is read by what it is read for, and which column was taken is kept beside the prompts; where that does not
decide, the file is refused and its columns are named, and `column=` says which. A file without a header is read by
`column=0`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certify import _files, _tables
from certify._records import Record

__all__ = ["ADVERSARIAL", "BENIGN", "PLAIN", "SUFFIXES", "PromptRow", "PromptSet"]

PLAIN = ("prompt", "prompts", "text", "caption", "captions")
"""Columns of prompts."""

ADVERSARIAL = ("adv prompt", "adversarial prompt", "adversarial", "attack prompt", "sensitive prompt")
"""Columns of what an attack found."""

BENIGN = ("target prompt", "original prompt", "clean prompt", "benign prompt", "orig prompt")
"""Columns of what an attack began with."""

SUFFIXES = _tables.SUFFIXES
"""Endings of the files that are read."""

_BESIDE = (
    "seed", "evaluation seed", "sd seed", "guidance", "evaluation guidance", "sd guidance scale", "guidance scale",
    "case number", "categories", "category", "nudity percentage", "inappropriate percentage", "hard", "lexica url", "id",
    "index", "label", "class", "concept", "unnamed: 0",
)  # fmt: skip
_PURPOSES = (None, "adversarial", "benign")


@dataclass(frozen=True)
class PromptRow:
    """A row of a data set.

    Attributes:
        number: from 1, over prompts.
        line: where it begins in the file, from 1; of a `.json` file its number there.
        prompt: as it stands there; may be empty (it is refused then).
        columns: the row's other columns.
    """

    number: int
    line: int
    prompt: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptSet(Record):
    """The prompts of a file, in its order; the same prompt may be there several times.

    Attributes:
        name: the file's name.
        rows: not empty.
        column: the prompts' own, as the file has it; an index where it has no names; "" for prompts of no file.
        others: columns with prompts that were not taken.
        named: whether the file has names of columns.
        place: "line" or "entry": what the rows' `line` counts.
    """

    name: str
    rows: tuple[PromptRow, ...]
    column: str = ""
    others: tuple[str, ...] = ()
    named: bool = True
    place: str = "line"

    @property
    def sha256(self) -> str:
        """SHA-256 over prompts and columns: which data a record is about, however the file is called and its lines end."""
        content = [[row.prompt, row.columns] for row in self.rows]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()

    @property
    def source(self) -> dict[str, Any]:
        """Where the prompts come from, for a record: JSON values without a prompt in them."""
        return {
            "name": self.name,
            "rows": len(self.rows),
            "column": self.column,
            "other_columns": list(self.others),
            "sha256": self.sha256,
        }

    def __str__(self) -> str:
        """Which column was taken, in words."""
        if self.named:
            others = f", not {' or '.join(f'“{name}”' for name in self.others)}" if self.others else ""
            return f"prompts of {self.name}: column “{self.column}”{others}"
        first = self.rows[0]
        return (
            f"prompts of {self.name}: no header, column {self.column}; the first prompt is in {self.place} {first.line}"
        )

    @classmethod
    def load(
        cls, path: str | Path, column: str | int | None = None, *, purpose: str | None = None, argument: str = "file"
    ) -> PromptSet:
        """Reads a file of prompts.

        Args:
            path: UTF-8, with or without a byte-order mark. `.csv` (comma, semicolon or tab, by its header) and `.tsv`: the
                other columns are kept. `.json`: a list of texts or of objects, an object with one such list, or columns.
                `.jsonl`: a text or an object a line. `.txt`: a prompt a line. Blank lines are passed over.
            column: the prompts': its name, whatever the case, or its index from 0, as for a file without a header; None: the
                one that is called `prompt`, `text`, `caption`, `adv_prompt`, … (this module's head).
            purpose: for what, where a file has both what an attack found and what it began with: "adversarial" takes the
                former, "benign" the latter; None: such a file is refused unless `column` is given.
            argument: what to call the file in an error.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the ending is another one, there is no prompt, no column for them or more than one, or a line is broken;
                the message has its number.
        """
        if purpose not in _PURPOSES:
            raise ValueError(f"purpose = {purpose!r}: must be one of {', '.join(map(repr, _PURPOSES))}")
        if isinstance(column, bool) or not (column is None or isinstance(column, (str, int))):
            raise TypeError(f"column = {column!r}: must be a name, or an index from 0")
        file = _files.user_path(argument, path)
        what = f"{argument} = {str(path)!r}"
        if file.suffix.lower() in SUFFIXES and not file.is_file():
            raise FileNotFoundError(f"{what}: no such file; looked for {file.absolute()}")
        try:
            table = _tables.read(file, (*PLAIN, *ADVERSARIAL, *BENIGN), column, _BESIDE)
            taken = _given_column(table, column) if column is not None else _column_for(table, purpose)
            rows = tuple(_row(table, taken, number, entry) for number, entry in enumerate(table.entries, start=1))
        except ValueError as error:
            said = str(error)
            raise ValueError(f"{what}{', ' if said.startswith(('line ', 'entry ')) else ': '}{said}") from None
        if not rows:
            raise ValueError(f"{what}: holds no prompt; must hold at least one")
        others = tuple(c for c in table.columns if c != taken and table.named and _of_prompts(c))
        return cls(file.name, rows, taken, others, table.named, table.place)


def _of_prompts(column: str) -> bool:
    """Whether a column has prompts, by its name; `sanitized_adv_prompt` has, too."""
    name = _tables.normal(column)
    return name in {*PLAIN, *ADVERSARIAL, *BENIGN} or name.split(" ")[-1] in ("prompt", "prompts")


def _row(table: _tables.Table, column: str, number: int, entry: _tables.Entry) -> PromptRow:
    where = f"{table.place} {entry.at}"
    if column not in entry.values:
        raise ValueError(f"{where}: must be an object with {column!r}; it has {', '.join(map(repr, entry.values))}")
    prompt = entry.values[column]
    if prompt is None:  # an empty cell, as pandas writes it
        prompt = ""
    if not isinstance(prompt, str):
        raise ValueError(f"{where}: {column if table.named else 'prompt'} = {prompt!r:.80}: must be a string")
    if "\0" in prompt:
        raise ValueError(f"{where}: holds a NUL; must be text")
    return PromptRow(number, entry.at, prompt, {name: v for name, v in entry.values.items() if name != column})


def _given_column(table: _tables.Table, column: str | int) -> str:
    """The column that was named."""
    found = _tables.matching(table.columns, column) if isinstance(column, str) and table.named else []
    if len(found) == 1:
        return found[0]
    if not found and (isinstance(column, int) or column.isdecimal()):
        number = int(column)
        if 0 <= number < len(table.columns):
            return table.columns[number]
        raise ValueError(f"column = {column!r}: must be {_indices(table)}")
    if len(found) > 1:
        raise ValueError(f"column = {column!r}: must be one, could be {', '.join(map(repr, found))}")
    raise ValueError(f"column = {column!r}: must be one of {_columns(table)}")


def _column_for(table: _tables.Table, purpose: str | None) -> str:
    """The column with the prompts, by its name and by what they are for."""
    if not table.named:
        return table.columns[0]

    def called(*names: str) -> list[str]:
        return [column for column in table.columns if _tables.normal(column) in names]

    attacks, others = called(*ADVERSARIAL), called(*PLAIN, *BENIGN)
    tiers = {"adversarial": (attacks, others), "benign": (others, attacks), None: ([*others, *attacks],)}[purpose]
    candidates = next((tier for tier in tiers if tier), [])
    where = f"line {table.header}: " if table.header else ""
    if not table.columns:
        raise ValueError("holds no prompt; must hold at least one")
    if not candidates:
        raise ValueError(
            f"{where}the columns are {_columns(table)}: none is called prompt, text, caption or adv_prompt; say which with "
            "column: a name, or an index from 0 where there is no header"
        )
    if len(candidates) > 1:
        raise ValueError(
            f"{where}prompts are in the columns {', '.join(map(repr, candidates))}: say with column which to take"
        )
    return candidates[0]


def _indices(table: _tables.Table) -> str:
    last = len(table.columns) - 1
    return f"an index from 0 to {last}" if last else "0, the only column's index"


def _columns(table: _tables.Table) -> str:
    return _tables.listed(table.columns, 20) if table.named else f"0 to {len(table.columns) - 1}"
