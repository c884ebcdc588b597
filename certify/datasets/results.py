"""A run over a data set on disk: written a line a prompt, resumed after a kill, and read back.

A run is a folder with `settings.json` (what decides the results: data, model, smoother, draws, and a digest of it),
`results.jsonl` (a line a prompt, in the file's order, each with the run's digest and one of its own), and with `certificates/`
if they are kept. A line is written at once and flushed to disk. After a kill a torn last line is dropped and its prompt done
again. A folder of another run is refused, and nothing in it is changed.

`Results` is the one writer of such a folder, `RunRecord` its reader; both learn from the same two functions what is whole.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from certify import _files
from certify._digests import json_digest
from certify._records import Record

__all__ = ["CLASSES", "FORMAT", "OLDER", "RESULTS", "SETTINGS", "Results", "RunRecord", "settings_of"]

FORMAT = "certify prompts 2"
"""Of the files of a run over prompts."""

CLASSES = "certify classes 1"
"""Of the files of a run over the inputs of a classifier."""

OLDER = "certify prompts 1"
"""Lines had no digest, and streams were others: it can be reported, but not resumed."""

SETTINGS, RESULTS = "settings.json", "results.jsonl"

_DATA = "private.json"  # which data a private run is about, for its owner alone
_ELSEWHERE = "; choose another folder"


# Reading


def settings_of(folder: Path, advice: str = _ELSEWHERE) -> dict[str, Any] | None:
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
        rows: a record a prompt or input, in order; fewer than the data set has where the run is not over.
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
            if not file.is_file():
                raise FileNotFoundError(f"folder = {str(path)!r}: holds no {file.name}")
        settings = settings_of(path, advice="") or {}
        if settings.get("format") not in (FORMAT, OLDER, CLASSES):
            raise ValueError(f"{settings_file}: format = {settings.get('format')!r}, must be {FORMAT!r} or {CLASSES!r}")
        run = json_digest(settings)[:16]
        rows, _ = _records(results_file, results_file.read_bytes(), run, sealed=settings["format"] != OLDER)
        if not rows:
            raise ValueError(f"{results_file}: holds no result yet; must hold at least one")
        return cls(settings, tuple(rows), run, _certificate_folders(path, len(rows)))

    @property
    def of_classes(self) -> bool:
        """Whether it is a run over the inputs of a classifier."""
        return self.settings.get("format") == CLASSES


def _records(
    file: Path, content: bytes, run: str, *, sealed: bool = True, advice: str = ""
) -> tuple[list[dict[str, Any]], int]:
    """The records of a results file, and how many of its bytes they are; a torn last line may follow.

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
            raise _damaged(file, number, f"it is not JSON: {error}", advice) from None
        wrong = _wrong(record, number, run, sealed=sealed)
        if wrong:
            raise _damaged(file, number, wrong, advice)
        records.append(record)
        whole += len(line) + 1
    return records, whole


def _damaged(file: Path, number: int, wrong: str, advice: str) -> ValueError:
    return ValueError(f"{str(file)!r}, line {number}: is damaged or of another run ({wrong}){advice}")


def _wrong(record: Any, number: int, run: str, *, sealed: bool) -> str:
    """Why the value of a line is not the record of a row; "": it is.

    Args:
        record: of the line.
        number: of the row.
        run: the digest of the run's settings.
        sealed: whether each line has a digest of its own.
    """
    if not isinstance(record, dict):
        return "it is no JSON object"
    if sealed and record.get("sha256") != _digest(record):
        return "its SHA-256 is not that of what it holds"
    status, radius = record.get("status"), record.get("radius")
    size: Any = math.inf if radius == "Infinity" else radius
    fits = isinstance(size, (int, float)) and not isinstance(size, bool) and size >= 0
    seconds = record.get("seconds", 0)
    if record.get("row") != number or isinstance(record.get("row"), bool):
        return f"row = {record.get('row')!r}, must be {number}"
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


def _digest(record: Mapping[str, Any]) -> str:
    """Of a record without its digest."""
    return json_digest({name: value for name, value in record.items() if name != "sha256"})


def _certificate_folders(path: Path, rows: int) -> dict[int, str]:
    folder = path / "certificates"
    found = sorted(p for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
    return {
        int(p.name): f"certificates/{p.name}"
        for p in found
        if 1 <= int(p.name) <= rows and (p / "certificate.json").is_file()
    }


# Writing


class Rows(Protocol):
    """What a run is about: prompts (`PromptSet`), or inputs of a classifier."""

    @property
    def rows(self) -> Sequence[Any]:
        """One an entry of the results."""

    @property
    def source(self) -> Mapping[str, Any]:
        """What the record says of the data."""


class Results:
    """The results of a run in its folder, for one writer at a time; a context manager.

    Args:
        folder: made if it is not there.
        settings: of `certify.datasets.run_settings`.
        data: the rows they are about.

    Attributes:
        done: the records that are there, in the rows' order.

    Raises:
        FileExistsError: the folder is a file.
        ValueError: the folder holds results of another run, damaged ones, or is being written by another process. Nothing
            is changed then.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], data: Rows) -> None:
        self.folder, self.data = Path(folder), data
        self.settings = json.loads(json.dumps(settings, allow_nan=False))
        self.run = json_digest(self.settings)[:16]
        self.done: list[dict[str, Any]] = []
        _files.no_file("out", self.folder)
        self._private = bool(self.settings.get("private"))
        _files.make_folder(self.folder, owner_only=self._private)
        self._compare()
        file: BinaryIO = _files.log(self.folder / RESULTS, owner_only=self._private)
        try:
            if not _files.locked(file):
                raise ValueError(f"out = {str(folder)!r}: another process is writing there")
            whole = self._read(file)
            self._same_data()
            file.truncate(whole)
            file.seek(0, os.SEEK_END)
        except BaseException:
            file.close()
            raise
        self._file = file

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes the next row's record, and returns when it is on disk."""
        if record["row"] != len(self.done) + 1:
            raise ValueError(f"record of row {record['row']}: must be of row {len(self.done) + 1}, the next one")
        kept = json.loads(json.dumps({**record, "run": self.run}, allow_nan=False))
        kept["sha256"] = _digest(kept)
        line, end = (json.dumps(kept, ensure_ascii=False) + "\n").encode(), os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[os.write(self._file.fileno(), line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            whole = f"{len(self.done):,} results are whole"
            raise OSError(
                error.errno,
                f"out = {str(self.folder)!r} cannot be written ({error.strerror}); {whole}: when there is room the same "
                "command resumes from there",
            ) from error
        self.done.append(kept)
        if self._private and len(self.done) == len(self.data.rows):
            (self.folder / _DATA).unlink(missing_ok=True)

    def certificate_folder(self, number: int) -> Path:
        """Where a row's certificate is kept."""
        return self.folder / "certificates" / f"{number:0{max(4, len(str(len(self.data.rows))))}d}"

    def _compare(self) -> None:
        """Refuses the folder of another run; an empty one gets the settings."""
        settings = settings_of(self.folder)
        if settings is None:
            foreign = [name for name in _WRITTEN if (self.folder / name).exists()]
            if foreign:
                raise ValueError(f"out = {str(self.folder)!r}: holds {foreign[0]} without {SETTINGS}{_ELSEWHERE}")
            kept = {"digest": json_digest(self.settings), "settings": self.settings}
            text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
            _files.write(self.folder / SETTINGS, text, owner_only=self._private)
            return
        names = [name for name in {**self.settings, **settings} if settings.get(name) != self.settings.get(name)]
        if names:
            raise ValueError(
                f"out = {str(self.folder)!r}: holds the results of another run ({', '.join(names)} "
                f"differ{'s' if len(names) == 1 else ''}){_ELSEWHERE}"
            )

    def _same_data(self) -> None:
        """Refuses to go on with other data than those that a private run is about."""
        path = self.folder / _DATA
        if not self._private or len(self.done) == len(self.data.rows):
            return
        if not path.exists() and not self.done:
            key = secrets.token_hex(32)
            _files.write(path, json.dumps({"key": key, "data": self._mark(key)}) + "\n", owner_only=True)
            return
        try:
            there = _files.read_json(path)
            same = there["data"] == self._mark(str(there["key"]))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{str(path)!r}: is damaged ({error}){_ELSEWHERE}") from error
        if not same:
            raise ValueError(f"out = {str(self.folder)!r}: holds the results of another run (data differs){_ELSEWHERE}")

    def _mark(self, key: str) -> str:
        return hmac.digest(key.encode(), json_digest(self.data.source).encode(), "sha256").hex()

    def _read(self, file: BinaryIO) -> int:
        """Reads the whole lines, and returns how many bytes they are."""
        file.seek(0)
        content, rows, path = file.read(), len(self.data.rows), self.folder / RESULTS
        self.done, whole = _records(path, content, self.run, advice=_ELSEWHERE)
        number = len(self.done) + 1
        if number > rows + 1:
            raise _damaged(path, rows + 1, f"the data have {rows} rows", _ELSEWHERE)
        # The rest is cut off: what cannot be the beginning of a line of ours is somebody else's.
        torn, begin = content[whole:].split(b"\n")[0], b'{"row": %d' % number
        if torn.strip(b"\0") and not (torn.startswith(begin) or begin.startswith(torn)):
            raise _damaged(path, number, "it is not one that was cut short", _ELSEWHERE)
        return whole


_WRITTEN = (RESULTS, "summary.json", "fraction.png", "accuracy.png", "certificates", _DATA)
"""What a run writes beside its settings."""
