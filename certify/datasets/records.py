"""A run over a data set on disk, read: what a whole file is, and its JSON schemas.

A run is a folder with `settings.json` (what decides the results: data, model, smoother, draws, and a digest of it),
`results.jsonl` (a line a prompt, in the file's order, each with the run's digest and one of its own), and with `certificates/`
if they are kept. While several processes share it, each has a file of lines in `parts/`; `results.jsonl` and the parts are read
as one. A row that was done twice has the same record but for the time that it took, and the first in order counts.

`RunRecord` reads such a folder; `certify.datasets.results.Results` writes it, with the functions of this module.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certify import _files
from certify._digests import json_digest
from certify._records import Record

__all__ = [
    "CLASSES",
    "FORMAT",
    "OLDER",
    "RESULTS",
    "SETTINGS",
    "RunRecord",
    "row_schema",
    "settings_of",
    "settings_schema",
]

FORMAT = "certify prompts 2"
"""Of the files of a run over prompts."""

CLASSES = "certify classes 1"
"""Of the files of a run over the inputs of a classifier."""

OLDER = "certify prompts 1"
"""Lines had no digest, and streams were others: it can be reported, but not resumed."""

SETTINGS, RESULTS = "settings.json", "results.jsonl"

PARTS = "parts"
"""The folder of lines of processes that share a run."""

ELSEWHERE = "; choose another folder"


def settings_of(folder: Path, advice: str = ELSEWHERE) -> dict[str, Any] | None:
    """What decided the results of the run in a folder; None: it has no run.

    Raises:
        ValueError: the file that says so is damaged. The message ends in `advice`.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        there = _files.read_json(path)
        settings = dict(there["settings"])
        intact = there["digest"] == json_digest(settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r}: is damaged ({error!r}){advice}") from None
    if not intact:
        raise ValueError(f"{str(path)!r}: is damaged (its digest differs){advice}")
    return settings


@dataclass(frozen=True)
class RunRecord(Record):
    """The folder of `certify prompts` or `certify classify`, read back.

    Attributes:
        settings: what decided the results (`certify.datasets.run_settings`).
        rows: a record a prompt or input, in order; fewer than the data set has where the run is not over, and then not always
            the first ones.
        run: the run's digest.
        certificates: row number → folder of its saved certificate, relative to the run's.
    """

    settings: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    run: str
    certificates: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> RunRecord:
        """Reads a run. Nothing is written. A torn last line, of a run that was killed, is passed over.

        Raises:
            FileNotFoundError: the folder holds no run.
            ValueError: a file is damaged, or the two are of different runs.
        """
        path = Path(folder)
        settings_file, results_file = path / SETTINGS, path / RESULTS
        for file in (settings_file, results_file):
            if not file.is_file() and (file == settings_file or not parts(path)):
                raise FileNotFoundError(f"folder = {str(path)!r}: holds no {file.name}")
        settings = settings_of(path, advice="") or {}
        if settings.get("format") not in (FORMAT, OLDER, CLASSES):
            raise ValueError(f"{settings_file}: format = {settings.get('format')!r}, must be {FORMAT!r} or {CLASSES!r}")
        run = json_digest(settings)[:16]
        held = Held(path, run, sealed=settings["format"] != OLDER)
        held.read()
        rows = held.rows
        if not rows:
            raise ValueError(f"{results_file}: holds no result yet; must hold at least one")
        return cls(settings, rows, run, _certificate_folders(path, {row["row"] for row in rows}))

    @property
    def of_classes(self) -> bool:
        """Whether it is a run over the inputs of a classifier."""
        return self.settings.get("format") == CLASSES


class Held:
    """The records of a run's folder, in `results.jsonl` and in `parts/`, read on as they are written.

    Args:
        path: the folder.
        run: the digest of the run's settings.
        sealed: whether each line has a digest of its own.
        most: the number of the last row; None: not known.
        advice: at the end of an error.
    """

    def __init__(self, path: Path, run: str, *, sealed: bool = True, most: int | None = None, advice: str = "") -> None:
        self.path, self.run, self.sealed, self.most, self.advice = path, run, sealed, most, advice
        self.found: dict[int, dict[str, Any]] = {}
        self.whole = self.ordered = 0  # bytes, and number, of the whole lines of results.jsonl
        self._ends: dict[Path, int] = {}
        self._before: tuple[int, ...] | None = None

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """The records that are there, in the order of their rows."""
        return tuple(self.found[number] for number in sorted(self.found))

    def read(self) -> None:
        """Reads what is new.

        Raises:
            ValueError: a line is damaged or of another run.
        """
        # The parts first: where they are gone, results.jsonl has all of them.
        for part in parts(self.path):
            self._read_part(part)
        results = self.path / RESULTS
        if results.is_file():
            status = results.stat()
            now = (status.st_ino, status.st_size, status.st_mtime_ns)
            if now != self._before:
                self.take(results.read_bytes())
                self._before = now

    def take(self, content: bytes) -> None:
        """Reads results.jsonl, which is in order, and goes before any part."""
        records, self.whole = _records(self.path / RESULTS, content, self.run, sealed=self.sealed, advice=self.advice)
        self.ordered = len(records)
        for record in records:
            self.found[record["row"]] = record

    def _read_part(self, part: Path) -> None:
        end = self._ends.get(part, 0)
        try:
            with part.open("rb") as file:
                file.seek(end)
                content = file.read()
        except FileNotFoundError:  # its lines are in results.jsonl by now
            return
        records, whole = _records(
            part, content, self.run, sealed=self.sealed, advice=self.advice, ordered=False, most=self.most
        )
        for record in records:
            self.found.setdefault(record["row"], record)
        self._ends[part] = end + whole


def parts(path: Path) -> list[Path]:
    """The files in which several processes keep their lines."""
    folder = path / PARTS
    return sorted(file for file in folder.glob("*.jsonl") if file.is_file()) if folder.is_dir() else []


def _records(
    file: Path,
    content: bytes,
    run: str,
    *,
    sealed: bool = True,
    advice: str = "",
    ordered: bool = True,
    most: int | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """The records of a results file, and how many of its bytes they are; a torn last line may follow.

    Args:
        file, content, run, sealed, advice: as of `Held`.
        ordered: whether line 1 is of row 1; else of any row from 1 to `most`.

    Raises:
        ValueError: a line is damaged or of another run. The message ends in `advice`.
    """
    *lines, _ = content.split(b"\n")
    records: list[dict[str, Any]] = []
    whole = 0
    for number, line in enumerate(lines, start=1):
        try:
            record = _files.json_value(line)
        except ValueError as error:
            if number == len(lines):
                break  # a file system may have kept a line's end without its beginning
            raise damaged(file, number, f"it is not JSON: {error}", advice) from None
        wrong = _wrong(record, number if ordered else None, run, sealed=sealed, most=most)
        if wrong:
            raise damaged(file, number, wrong, advice)
        records.append(record)
        whole += len(line) + 1
    return records, whole


def damaged(file: Path, number: int, wrong: str, advice: str) -> ValueError:
    return ValueError(f"{str(file)!r}, line {number}: is damaged or of another run ({wrong}){advice}")


def _wrong(record: Any, number: int | None, run: str, *, sealed: bool, most: int | None = None) -> str:
    """Why the value of a line is not the record of a row; "": it is.

    Args:
        record: of the line.
        number: of the row; None: any from 1 to `most`.
        run: the digest of the run's settings.
        sealed: whether each line has a digest of its own.
    """
    if not isinstance(record, dict):
        return "it is no JSON object"
    if sealed and record.get("sha256") != row_digest(record):
        return "its SHA-256 is not that of what it holds"
    status, radius = record.get("status"), record.get("radius")
    size: Any = math.inf if radius == "Infinity" else radius
    fits = isinstance(size, (int, float)) and not isinstance(size, bool) and size >= 0
    seconds = record.get("seconds", 0)
    row = record.get("row")
    if not isinstance(row, int) or isinstance(row, bool) or row != (row if number is None else number):
        return f"row = {row!r}, must be {'a whole number' if number is None else number}"
    if row < 1 or (most is not None and row > most):
        return f"row = {row}, the data have {most} rows"
    if record.get("run") != run:
        return f"run = {record.get('run')!r}, must be {run!r}"
    if status not in ("certified", "abstained", "refused"):
        return f"status = {status!r}"
    if not fits or (size > 0) != (status == "certified"):
        return f"radius = {radius!r} and status = {status!r}"
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds >= 0:
        return f"seconds = {seconds!r}, must be a number >= 0"
    if not isinstance(record.get("line", 0), int) or not isinstance(record.get("reason", ""), str):
        return "line and reason must be a whole number and a string"
    return ""


def row_digest(record: Mapping[str, Any]) -> str:
    """Of a record without its digest."""
    return json_digest({name: value for name, value in record.items() if name != "sha256"})


def _certificate_folders(path: Path, rows: Collection[int]) -> dict[int, str]:
    folder = path / "certificates"
    found = sorted(p for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
    return {
        int(p.name): f"certificates/{p.name}"
        for p in found
        if int(p.name) in rows and (p / "certificate.json").is_file()
    }


def settings_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `settings.json`."""
    settings = {
        "type": "object",
        "required": ["format", "version", "data", "seed"],
        "properties": {
            "format": {"enum": [FORMAT, CLASSES]},
            "version": {"type": "string", "description": "of certify"},
            "data": {"type": "object", "description": "which rows the run is about"},
            "seed": {"type": "integer", "minimum": 0},
        },
    }
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256 of the settings"}
    return _object("settings.json", {"digest": digest, "settings": settings}, ["digest", "settings"])


def row_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a line of `results.jsonl`: what `RunRecord` asks of it, and what is in every line."""
    nothing = {"const": 0}
    something = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "Infinity"}]}
    fields = {
        "row": {"type": "integer", "minimum": 1},
        "run": {"type": "string", "pattern": "^[0-9a-f]{16}$", "description": "of the digest of the settings"},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "of the record without this"},
        "status": {"enum": ["certified", "abstained", "refused"]},
        "radius": {"anyOf": [something, nothing]},
        "seconds": {"type": "number", "minimum": 0},
        "line": {"type": "integer"},
        "reason": {"type": "string"},
    }
    schema = _object("line of results.jsonl", fields, ["row", "run", "sha256", "status", "radius"])
    certified = {"properties": {"status": {"const": "certified"}}}
    return schema | {
        "if": certified,
        "then": {"properties": {"radius": something}},
        "else": {"properties": {"radius": nothing}},
    }


def _object(of: str, properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{of} of certify, {FORMAT!r} or {CLASSES!r}",
        "type": "object",
        "required": required,
        "properties": dict(properties),
    }
