"""What a page is made from: the folder of a run over a data set, read back, and the digests of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certify import _files
from certify._digests import json_digest
from certify._records import Record
from certify.datasets.runs import FORMAT, OLDER, read_record

__all__ = ["RunRecord", "file_digests"]


@dataclass(frozen=True)
class RunRecord(Record):
    """The folder of `certify prompts`, read back.

    Attributes:
        settings: what decided the results (`certify.datasets.runs.run_settings`).
        rows: a record a prompt, in order; fewer than the data set has where the run is not over.
        run: the run's digest.
        kept: row number → folder of its certificate, relative to the run's, where certificates were kept.
    """

    settings: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    run: str
    kept: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> RunRecord:
        """Reads a run. Nothing is written. A torn last line, of a run that was killed, is passed over.

        Raises:
            FileNotFoundError: the folder holds no run.
            ValueError: a file is damaged, or the two are of different runs.
        """
        path = Path(folder)
        settings_file, results_file = path / "settings.json", path / "results.jsonl"
        for file in (settings_file, results_file):
            if not file.is_file():
                raise FileNotFoundError(f"folder = {str(path)!r}: holds no {file.name}")
        try:
            there = _files.read_json(settings_file)
            settings = dict(there["settings"])
            stated = there["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{settings_file}: is damaged ({error!r})") from None
        digest = json_digest(settings)
        if stated != digest:
            raise ValueError(f"{settings_file}: is damaged (its digest differs)")
        if settings.get("format") not in (FORMAT, OLDER):
            raise ValueError(f"{settings_file}: format = {settings.get('format')!r}, must be {FORMAT!r}")
        run = digest[:16]
        rows = _rows(results_file, run, settings["format"] == FORMAT)
        return cls(settings, tuple(rows), run, _kept(path, len(rows)))


def _rows(file: Path, run: str, sealed: bool) -> list[Mapping[str, Any]]:
    lines = file.read_bytes().split(b"\n")
    lines.pop()  # what follows the last line's end: nothing, or a torn line
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        record, wrong = read_record(line, number, run, sealed=sealed)
        if record is None and number == len(lines):
            break
        if wrong or record is None:
            raise ValueError(f"{file}, line {number}: is damaged or of another run ({wrong})")
        rows.append(record)
    if not rows:
        raise ValueError(f"{file}: holds no result yet; must hold at least one")
    return rows


def _kept(path: Path, rows: int) -> dict[int, str]:
    folder = path / "certificates"
    found = sorted(p for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
    return {
        int(p.name): f"certificates/{p.name}"
        for p in found
        if 1 <= int(p.name) <= rows and (p / "certificate.json").is_file()
    }


def file_digests(folder: str | Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of the files that are in the folder."""
    there = {name: Path(folder) / name for name in names}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items() if path.is_file()}
