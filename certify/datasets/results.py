"""A run over a data set on disk, written: a line a prompt, resumed after a kill.

The folder is that of `certify.datasets.records`. A line is written at once and flushed to disk. After a kill a torn last
line is dropped and its prompt done again. A folder of another run is refused, and nothing in it is changed.

Several processes share a run out by its folder alone (`certify._workers`). Each appends the lines of its rows to a file of its
own in `parts/`, in the order in which it does them. When all rows are done, the lines are put in order into `results.jsonl` and
the parts are removed: the folder is then that of one process.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from certify import _files
from certify._digests import json_digest
from certify._workers import PATIENCE, POLL, Claims, Worker
from certify.datasets.records import ELSEWHERE, PARTS, RESULTS, SETTINGS, Held, damaged, parts, row_digest, settings_of

__all__ = ["Results", "Rows"]

ALONE = Worker()

_CLAIMS = "claims"
_DATA = "private.json"  # which data a private run is about, for its owner alone


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
        self._held = Held(self.folder, self.run, most=len(data.rows), advice=ELSEWHERE)
        self._claims = Claims(self.folder / _CLAIMS, owner_only=self._private)
        _files.make_folder(self.folder, owner_only=self._private)
        self._compare()
        self._lock: BinaryIO = (self.folder / SETTINGS).open("r+b")
        self._file: BinaryIO | None = None
        try:
            if not _files.locked(self._lock, shared=not worker.alone):
                raise ValueError(f"out = {str(folder)!r}: another process is writing there")
            self._shared = not worker.alone or bool(parts(self.folder))
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
        kept["sha256"] = row_digest(kept)
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
        with self._claims.waited("merge", self.patience, ready=lambda: not parts(self.folder)):
            self._held.read()
            first = list(
                itertools.takewhile(lambda pair: pair[0] == pair[1]["row"], enumerate(self._held.rows, start=1))
            )
            if len(first) > self._held.ordered:
                text = b"".join(_line(record) for _, record in first)
                _files.write(results, text, owner_only=self._private)
            over = len(first) == len(self.data.rows)
            if over:
                for part in parts(self.folder):
                    part.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    (self.folder / PARTS).rmdir()
        if over:
            self._over()
            self._claims.remove()

    def certificate_folder(self, number: int) -> Path:
        """Where a row's certificate is kept."""
        return self.folder / "certificates" / f"{number:0{max(4, len(str(len(self.data.rows))))}d}"

    def _opened(self) -> BinaryIO:
        """The file that lines are appended to; of several processes one of its own, that no other ever writes to."""
        if self._file is None:
            folder = self.folder / PARTS
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
                raise ValueError(f"out = {str(self.folder)!r}: holds {foreign[0]} without {SETTINGS}{ELSEWHERE}")
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
                f"differ{'s' if len(names) == 1 else ''}){ELSEWHERE}"
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
            raise ValueError(f"{str(path)!r}: is damaged ({error}){ELSEWHERE}") from error
        if not same:
            raise ValueError(f"out = {str(self.folder)!r}: holds the results of another run (data differs){ELSEWHERE}")

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
            raise damaged(path, rows + 1, f"the data have {rows} rows", ELSEWHERE)
        # The rest is cut off: what cannot be the beginning of a line of ours is somebody else's.
        torn, begin = content[whole:].split(b"\n")[0], b'{"row": %d' % number
        if torn.strip(b"\0") and not (torn.startswith(begin) or begin.startswith(torn)):
            raise damaged(path, number, "it is not one that was cut short", ELSEWHERE)


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


_WRITTEN = (RESULTS, "summary.json", "fraction.png", "accuracy.png", "certificates", _DATA, PARTS)
"""What a run writes beside its settings."""
