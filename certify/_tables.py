"""Tables: rows of named values as people keep them, in CSV, TSV, JSON, JSON lines, or as text, a value a line.

A file says by its ending what it is. The delimiter of a `.csv` is the one under which the first row has a column that is looked
for, a comma where none has: a comma within a prompt is never taken for it. What cannot be read is refused with the line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certify import _files

__all__ = ["SUFFIXES", "Entry", "Table", "listed", "matching", "normal", "read"]

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".txt")
"""Endings of the files that are read."""

_DELIMITERS = (",", ";", "\t", "|")
_HINT = "; a field with the delimiter in it must stand in quotation marks"


@dataclass(frozen=True)
class Entry:
    """A row.

    Attributes:
        at: the line that it begins in, from 1; of a `.json` file its number, from 1.
        values: by column.
    """

    at: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Attributes:
        columns: their names, as the file has them; "0", "1", … where it has none.
        named: whether the names are the file's.
        entries: in its order.
        place: "line" or "entry": what `Entry.at` counts.
        header: the line of the header of a CSV.
    """

    columns: tuple[str, ...]
    named: bool
    entries: tuple[Entry, ...]
    place: str = "line"
    header: int = 0


def read(
    path: Path, wanted: Collection[str], column: str | int | None = None, companions: Collection[str] = ()
) -> Table:
    """The table of a file.

    Args:
        path: a file whose name ends in one of `SUFFIXES`, UTF-8, with or without a byte-order mark.
        wanted: columns of which the caller looks for one, `normal`.
        column: the one that was asked for: a name, or an index from 0. A file whose first row has neither it by name, nor one
            of `wanted` or `companions`, has no header where an index is given.
        companions: columns that stand beside them, `normal`: they tell that there is a header.

    Raises:
        OSError: it cannot be read.
        ValueError: it is broken; the message has the line.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    text = _files.read_text(path)
    if "\0" in text:
        raise ValueError(f"line {text.count(chr(10), 0, text.index(chr(0))) + 1}: holds a NUL; must be text in UTF-8")
    names = {*wanted, *([normal(column)] if isinstance(column, str) else [])}
    if suffix in (".csv", ".tsv"):
        delimiters = ("\t",) if suffix == ".tsv" else _DELIMITERS
        return _delimited(text, delimiters, names, {*names, *companions}, index=_is_index(column))
    if suffix == ".json":
        return _json(text, names)
    if suffix == ".jsonl":
        return _of_values(list(_json_lines(text)), "line")
    return _lines(text, names, index=_is_index(column))


def normal(name: str) -> str:
    """A column's name as it is compared: "adv_prompt" and "Adv prompt" are the same."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def matching(columns: Collection[str], name: str) -> list[str]:
    """The columns that a name means: the one that is spelt so, else those that are, whatever the case."""
    return [name] if name in columns else [column for column in columns if normal(column) == normal(name)]


def _is_index(column: str | int | None) -> bool:
    return isinstance(column, int) or (isinstance(column, str) and column.isdecimal())


# Lines with delimiters


def _delimited(text: str, delimiters: tuple[str, ...], names: set[str], known: set[str], *, index: bool) -> Table:
    def first(delimiter: str) -> list[str]:
        return next(_files.csv_rows(text, delimiter, quoted=quoted), (1, []))[1]

    def has(row: list[str], of: set[str]) -> bool:
        return any(normal(field) in of for field in row)

    def even(delimiter: str, quoted: bool = True) -> bool:
        try:
            return len({len(row) for _, row in _files.csv_rows(text, delimiter, quoted=quoted)}) == 1
        except ValueError:
            return False

    # Many a .tsv has quotation marks as they are: a field cannot hold a tab, and needs none.
    quoted = delimiters != ("\t",) or even("\t") or not even("\t", quoted=False)
    heads: dict[str, list[str]] = {}
    for delimiter in delimiters:
        try:
            heads[delimiter] = first(delimiter)
        except ValueError:  # a quotation mark that only another delimiter makes sense of
            if delimiter == delimiters[0] and len(delimiters) == 1:
                raise
    # Where the first row may be a prompt, a name in it is no proof of another delimiter; that all rows are as long is.
    told = {d for d, row in heads.items() if has(row, known if index else names)}
    chosen = next((d for d in heads if d in told and (not index or d == delimiters[0] or even(d))), delimiters[0])
    rows = _files.csv_rows(text, chosen, quoted=quoted)
    named = not index or has(heads.get(chosen, []), known)
    begin, head = next(rows, (1, []))
    if named:
        columns = tuple(name.strip() or f"column {number}" for number, name in enumerate(head))
        if len(set(columns)) < len(columns):
            raise ValueError(f"line {begin}: the columns are {listed(columns)}: must be different, none twice")
    else:
        columns = tuple(map(str, range(len(head))))
    entries = [] if named or not head else [Entry(begin, dict(zip(columns, head, strict=True)))]
    for number, row in rows:
        if len(row) != len(columns):
            than = "as the header" if named else "as the first row"
            hint = _HINT if len(row) > len(columns) else ""
            raise ValueError(f"line {number}: has {len(row)} fields: must have {len(columns)}, {than}{hint}")
        entries.append(Entry(number, dict(zip(columns, row, strict=True))))
    return Table(columns, named, tuple(entries), header=begin)


def _lines(text: str, names: set[str], *, index: bool) -> Table:
    entries = [Entry(number, {"0": line.strip()}) for number, line in _files.lines(text)]
    first = str(entries[0].values["0"]) if entries else ""
    if not index:
        # A table under another ending would become prompts, its header the first of them.
        for delimiter in _DELIMITERS:
            fields = [normal(field.strip('"')) for field in first.split(delimiter)]
            if any(field in names for field in fields) and all(re.fullmatch(r"[\w .:/()%]{0,40}", f) for f in fields):
                raise ValueError(
                    f"line {entries[0].at}: {first[:80]!r} looks like the header of a table: must end in .csv or .tsv then; "
                    "column 0 takes every line as it is"
                )
    return Table(("0",), False, tuple(entries))


# JSON


def _json(text: str, names: set[str]) -> Table:
    try:
        value = _files.json_value(text)
    except ValueError as error:
        try:
            values = list(_json_lines(text))  # many a .json is JSON lines
        except ValueError:
            values = []
        if len(values) < 2:
            raise ValueError(f"{_entry(text)}is not JSON ({error})") from None
        return _of_values(values, "line")
    if isinstance(value, dict):
        return _of_object(value, names)
    if not isinstance(value, list):
        raise ValueError(f"holds a {type(value).__name__}: must hold a list, or an object with one")
    return _of_values(list(enumerate(value, start=1)), "entry")


def _entry(text: str) -> str:
    """Where a list has what a reader of JSON in another language would refuse, as pandas' NaN: "entry 3: "; "": not known."""
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return ""
    if isinstance(value, dict) and len(value) == 1:
        (value,) = value.values()
    for number, entry in enumerate(value if isinstance(value, list) else (), start=1):
        try:
            _files.json_value(json.dumps(entry))
        except ValueError:
            return f"entry {number}: "
    return ""


def _of_object(found: dict[str, Any], names: set[str]) -> Table:
    def of_names(value: Any) -> bool:
        return isinstance(value, dict) and any(normal(key) in names for key in value)

    def columns(lists: Mapping[str, list[Any]]) -> Table | None:
        flat = len(set(map(len, lists.values()))) == 1 and not any(
            isinstance(v, dict) for v in next(iter(lists.values()))
        )
        if not flat:
            return None
        rows = zip(*lists.values(), strict=True)
        entries = [Entry(number, dict(zip(lists, row, strict=True))) for number, row in enumerate(rows, start=1)]
        return Table(tuple(lists), True, tuple(entries), "entry")

    table = None
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    if any(normal(name) in names and isinstance(value, str) for name, value in found.items()):
        table = _of_values([(1, found)], "entry")  # a row
    elif found and all(map(of_names, found.values())):  # rows by name
        table = _of_values(list(enumerate(found.values(), start=1)), "entry")
    elif len(lists) == 1:  # rows beside what else is said of them
        (name,) = lists
        if all(isinstance(value, str) for value in lists[name]):
            table = columns(lists)
        else:
            table = _of_values(list(enumerate(lists[name], start=1)), "entry")
    elif lists:
        table = columns(lists)
    elif found and all(isinstance(value, dict) for value in found.values()):
        keys = list(map(list, found.values()))
        if all(row == keys[0] for row in keys):  # columns by row numbers, as pandas writes them
            table = columns({name: list(value.values()) for name, value in found.items()})
    if table is None:
        raise ValueError(
            f"holds an object with {listed(tuple(found)) or 'nothing'}: must be a list of texts or of objects, an object with "
            "one such list, or one with columns of equal length"
        )
    return table


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in _files.lines(text):
        try:
            yield number, _files.json_value(line)
        except ValueError as error:
            raise ValueError(f"line {number}: is not JSON ({error})") from None


def _of_values(values: list[tuple[int, Any]], place: str) -> Table:
    """A table of texts, or of objects."""
    if values and isinstance(values[0][1], str):
        entries = []
        for at, value in values:
            if not isinstance(value, str):
                raise ValueError(f"{place} {at}: is {value!r:.80}: must be a text, as the first one")
            entries.append(Entry(at, {"0": value}))
        return Table(("0",), False, tuple(entries), place)
    for at, value in values:
        if not isinstance(value, dict):
            raise ValueError(f"{place} {at}: must be an object of named values")
    columns = tuple(values[0][1]) if values else ()  # a later row must have what is taken of the first
    return Table(columns, True, tuple(Entry(at, value) for at, value in values), place)


def listed(names: tuple[str, ...], most: int = 12) -> str:
    """Names of columns in a message, no more than `most` of them."""
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return f"{shown}, …" if len(names) > most else shown
