"""A run over a data set on disk: written a line a prompt, resumed after a kill, and read back.

A run is a folder with `settings.json` (what decides the results: data, model, smoother, draws, and a digest of it),
`results.jsonl` (a line a prompt, in the file's order, each with the run's digest and one of its own), and with `certificates/`
if they are kept. A line is written at once and flushed to disk. After a kill a torn last line is dropped and its prompt done
again. A folder of another run is refused, and nothing in it is changed.

Several processes share a run out by its folder alone (`certify._workers`). Each appends the lines of its rows to a file of its
own in `parts/`, in the order in which it does them; `results.jsonl` and the parts are read as one. When all rows are done, the
lines are put in order into `results.jsonl` and the parts are removed: the folder is then that of one process. A row that was
done twice has the same record but for the time that it took, and the first in order counts.

`Results` is the one writer of such a folder, `RunRecord` its reader; both learn from the same functions what is whole.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import json
import math
import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from certify import _files
from certify._digests import json_digest
from certify._records import Record
from certify._workers import PATIENCE, POLL, Claims, Worker

__all__ = [
    "CLASSES",
    "FORMAT",
    "OLDER",
    "RESULTS",
    "SETTINGS",
    "Results",
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

_PARTS, _CLAIMS = "parts", "claims"

ALONE = Worker()

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
            if not file.is_file() and (file == settings_file or not _parts(path)):
                raise FileNotFoundError(f"folder = {str(path)!r}: holds no {file.name}")
        settings = settings_of(path, advice="") or {}
        if settings.get("format") not in (FORMAT, OLDER, CLASSES):
            raise ValueError(f"{settings_file}: format = {settings.get('format')!r}, must be {FORMAT!r} or {CLASSES!r}")
        run = json_digest(settings)[:16]
        held = _Held(path, run, sealed=settings["format"] != OLDER)
        held.read()
        rows = held.rows
        if not rows:
            raise ValueError(f"{results_file}: holds no result yet; must hold at least one")
        return cls(settings, rows, run, _certificate_folders(path, {row["row"] for row in rows}))

    @property
    def of_classes(self) -> bool:
        """Whether it is a run over the inputs of a classifier."""
        return self.settings.get("format") == CLASSES


class _Held:
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
        for part in _parts(self.path):
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


def _parts(path: Path) -> list[Path]:
    """The files in which several processes keep their lines."""
    folder = path / _PARTS
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
        file, content, run, sealed, advice: as of `_Held`.
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
            raise _damaged(file, number, f"it is not JSON: {error}", advice) from None
        wrong = _wrong(record, number if ordered else None, run, sealed=sealed, most=most)
        if wrong:
            raise _damaged(file, number, wrong, advice)
        records.append(record)
        whole += len(line) + 1
    return records, whole


def _damaged(file: Path, number: int, wrong: str, advice: str) -> ValueError:
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
    if sealed and record.get("sha256") != _digest(record):
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


def _digest(record: Mapping[str, Any]) -> str:
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


# In words of others


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
    """The results of a run in its folder, for one process, or for several that share its rows out; a context manager.

    Args:
        folder: made if it is not there.
        settings: of `certify.datasets.run_settings`.
        data: the rows they are about.
        worker: which of several processes this is; each of them opens the results for itself.
        patience: seconds without any news after which a row that another process has claimed is done here, too.

    Attributes:
        done: the records that are there, in the rows' order.

    Raises:
        FileExistsError: the folder is a file.
        ValueError: the folder holds results of another run, damaged ones, or is being written by another process that does not
            share it. Nothing is changed then.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        data: Rows,
        *,
        worker: Worker = ALONE,
        patience: float = PATIENCE,
    ) -> None:
        self.folder, self.data, self.worker, self.patience = Path(folder), data, worker, patience
        self.settings = json.loads(json.dumps(settings, allow_nan=False))
        self.run = json_digest(self.settings)[:16]
        _files.no_file("out", self.folder)
        self._private = bool(self.settings.get("private"))
        self._held = _Held(self.folder, self.run, most=len(data.rows), advice=_ELSEWHERE)
        self._claims = Claims(self.folder / _CLAIMS, owner_only=self._private)
        _files.make_folder(self.folder, owner_only=self._private)
        self._compare()
        self._lock: BinaryIO = (self.folder / SETTINGS).open("r+b")
        self._file: BinaryIO | None = None
        try:
            if not _files.locked(self._lock, shared=not worker.alone):
                raise ValueError(f"out = {str(folder)!r}: another process is writing there")
            self._shared = not worker.alone or bool(_parts(self.folder))
            if not self._shared:
                self._file = _files.log(self.folder / RESULTS, owner_only=self._private)
            self._read()
            self._same_data()
            if self._file is not None:
                self._file.truncate(self._held.whole)
                self._file.seek(0, os.SEEK_END)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def done(self) -> list[dict[str, Any]]:
        """The records that are there, in the rows' order."""
        return list(self._held.rows)

    def ahead(self, rows: int, together: int = 1) -> Iterator[list[int]]:
        """Numbers of the rows to do next, until the first `rows` are all done, by whomever.

        Of one process they come in order. Of several each begins with a share of its own, then helps the others. What comes is
        claimed until the next is asked for; by then its records must have been appended.

        Args:
            rows: how many of the data's rows are to be done.
            together: how many come at once, at most.
        """
        if not self._shared:
            while (number := len(self._held.found) + 1) <= rows:
                yield list(range(number, min(number + together, rows + 1)))
            return
        groups = [range(first, min(first + together, rows + 1)) for first in range(1, rows + 1, together)]
        own = groups[self.worker.rank :: self.worker.count]
        others = set(groups) - set(own)
        order = own + [
            group for group in reversed(groups) if group in others
        ]  # theirs from the end, where they come last
        news = time.monotonic()
        while order := [group for group in order if self._left(group)]:
            before = len(self._held.found)
            for group in order:
                if not self._left(group):
                    continue
                with self._claims.claimed(str(group.start)) as mine:
                    if mine:
                        self._held.read()  # another process may have done it just before
                        if left := self._left(group):
                            yield left
            self._held.read()
            if len(self._held.found) > before:
                news = time.monotonic()
            elif time.monotonic() - news > self._patience(together):  # claimed by a lost machine, or by a very slow one
                yield self._left(order[0])
                news = time.monotonic()
            else:
                time.sleep(POLL)

    def _patience(self, together: int) -> float:
        longest = max((float(record.get("seconds", 0)) for record in self._held.found.values()), default=0.0)
        return self.patience + 2 * together * longest if self.patience else 0.0

    def _left(self, group: Sequence[int]) -> list[int]:
        return [number for number in group if number not in self._held.found]

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes a row's record, the next one's where one process writes, and returns when it is on disk."""
        number = record["row"]
        if not self._shared and number != len(self._held.found) + 1:
            raise ValueError(f"record of row {number}: must be of row {len(self._held.found) + 1}, the next one")
        if not 1 <= number <= len(self.data.rows):
            raise ValueError(f"record of row {number}: must be of one of the {len(self.data.rows)} rows")
        kept = json.loads(json.dumps({**record, "run": self.run}, allow_nan=False))
        kept["sha256"] = _digest(kept)
        file = self._opened()
        line, end = _line(kept), os.fstat(file.fileno()).st_size
        try:
            while line:
                line = line[os.write(file.fileno(), line) :]
            os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(end)
            whole = f"{len(self._held.found):,} results are whole"
            raise OSError(
                error.errno,
                f"out = {str(self.folder)!r} cannot be written ({error.strerror}); {whole}: when there is room the same "
                "command resumes from there",
            ) from error
        self._held.found.setdefault(number, kept)
        if not self._shared:
            self._over()

    def merge(self) -> None:
        """Puts what several processes did in order into results.jsonl, as far as no row is missing, and removes their parts
        when the run is over. Whoever comes later finds it done. Of one process everything is there already.
        """
        if not self._shared:
            return
        results = self.folder / RESULTS
        over = False
        with self._claims.waited("merge", self.patience, ready=lambda: not _parts(self.folder)):
            self._held.read()
            first = list(
                itertools.takewhile(lambda pair: pair[0] == pair[1]["row"], enumerate(self._held.rows, start=1))
            )
            if len(first) > self._held.ordered:
                text = b"".join(_line(record) for _, record in first)
                _files.write(results, text, owner_only=self._private)
            over = len(first) == len(self.data.rows)
            if over:
                for part in _parts(self.folder):
                    part.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    (self.folder / _PARTS).rmdir()
        if over:
            self._over()
            self._claims.remove()

    def certificate_folder(self, number: int) -> Path:
        """Where a row's certificate is kept."""
        return self.folder / "certificates" / f"{number:0{max(4, len(str(len(self.data.rows))))}d}"

    def _opened(self) -> BinaryIO:
        """The file that lines are appended to; of several processes one of its own, that no other ever writes to."""
        if self._file is None:
            folder = self.folder / _PARTS
            _files.make_folder(folder, owner_only=self._private)
            name = f"{self.worker.rank}-{secrets.token_hex(8)}.jsonl"
            self._file = _files.log(folder / name, owner_only=self._private)
        return self._file

    def _close(self) -> None:
        for file in (self._file, self._lock):
            if file is not None:
                file.close()

    def _over(self) -> None:
        """A private run that is over needs no mark of its data."""
        if self._private and len(self._held.found) == len(self.data.rows):
            (self.folder / _DATA).unlink(missing_ok=True)

    def _compare(self) -> None:
        """Refuses the folder of another run; an empty one gets the settings."""
        settings = settings_of(self.folder)
        if settings is None:
            foreign = [name for name in _WRITTEN if (self.folder / name).exists()]
            settings = settings_of(self.folder)  # by now a process may have begun that shares the run
            if foreign and settings is None:
                raise ValueError(f"out = {str(self.folder)!r}: holds {foreign[0]} without {SETTINGS}{_ELSEWHERE}")
        if settings is None:
            kept = {"digest": json_digest(self.settings), "settings": self.settings}
            text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
            if _files.create(self.folder / SETTINGS, text, owner_only=self._private):
                return
            settings = settings_of(self.folder) or {}
        names = [name for name in {**self.settings, **settings} if settings.get(name) != self.settings.get(name)]
        if names:
            raise ValueError(
                f"out = {str(self.folder)!r}: holds the results of another run ({', '.join(names)} "
                f"differ{'s' if len(names) == 1 else ''}){_ELSEWHERE}"
            )

    def _same_data(self) -> None:
        """Refuses to go on with other data than those that a private run is about."""
        path = self.folder / _DATA
        if not self._private or len(self._held.found) == len(self.data.rows):
            return
        if not path.exists() and not self._held.found:
            key = secrets.token_hex(32)
            if _files.create(path, json.dumps({"key": key, "data": self._mark(key)}) + "\n", owner_only=True):
                return
        try:
            there = _files.read_json(path)
            same = there["data"] == self._mark(str(there["key"]))
        except (OSError, ValueError, KeyError) as error:
            self._held.read()
            if len(self._held.found) == len(self.data.rows):  # another process has just done the last row
                return
            raise ValueError(f"{str(path)!r}: is damaged ({error}){_ELSEWHERE}") from error
        if not same:
            raise ValueError(f"out = {str(self.folder)!r}: holds the results of another run (data differs){_ELSEWHERE}")

    def _mark(self, key: str) -> str:
        return hmac.digest(key.encode(), json_digest(self.data.source).encode(), "sha256").hex()

    def _read(self) -> None:
        """Reads what is there."""
        self._held.read()
        path, rows = self.folder / RESULTS, len(self.data.rows)
        content = path.read_bytes() if path.is_file() else b""
        whole = self._held.whole
        number = content[:whole].count(b"\n") + 1
        if number > rows + 1:
            raise _damaged(path, rows + 1, f"the data have {rows} rows", _ELSEWHERE)
        # The rest is cut off: what cannot be the beginning of a line of ours is somebody else's.
        torn, begin = content[whole:].split(b"\n")[0], b'{"row": %d' % number
        if torn.strip(b"\0") and not (torn.startswith(begin) or begin.startswith(torn)):
            raise _damaged(path, number, "it is not one that was cut short", _ELSEWHERE)


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


_WRITTEN = (RESULTS, "summary.json", "fraction.png", "accuracy.png", "certificates", _DATA, _PARTS)
"""What a run writes beside its settings."""
