"""Result cache: what was measured, one file each: a stopped table goes on, and two tables share what they have in common.

A result is named by everything that its values depend on. The same key finds the same file; another model, prompt, setting or
seed is another key.

Several processes that torchrun starts share the results of a table out by the folder alone (`certify._workers`): each goes
through the whole table and measures what is not there and nobody else is measuring. For what somebody else is at it takes a
stand-in and goes on; the table that comes out is thrown away, and made again, until there is no stand-in in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from certify import _files
from certify._digests import json_digest
from certify._workers import POLL, Claims, Worker

__all__ = ["ResultCache", "digest"]


Made = TypeVar("Made")


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for JSON values."""
    return json_digest(value)[:16]


class ResultCache:
    """A folder of results.

    Args:
        folder: made when the first result is.
        progress: told of every result that is measured (not of those that are read).
        worker: which of several processes this is.

    Attributes:
        measured, read: how many were, so far.
        elsewhere: how many stand-ins were taken, for what other processes are measuring.
    """

    def __init__(
        self, folder: Path, progress: Callable[[str], None] = lambda text: None, worker: Worker | None = None
    ) -> None:
        self.folder, self.progress, self.worker = folder, progress, worker or Worker()
        self.measured = self.read = self.elsewhere = 0
        self._claims = Claims(folder / "claims")

    def get(
        self,
        kind: str,
        key: Mapping[str, Any],
        measure: Callable[[], dict[str, Any]],
        stand_in: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The values of a result; measured if they are not there.

        Args:
            kind: of result: the subfolder.
            key: everything that the values depend on, as JSON values.
            measure: gives the values, as JSON values.
            stand_in: values of the same form, for a table that is thrown away; None: another process is not asked for.

        Raises:
            ValueError: the file is damaged.
        """
        key = json.loads(json.dumps(key))
        file = self.folder / kind / f"{digest(key)}.json"
        if file.exists():
            return self._stored(file, key)
        if self.worker.alone or stand_in is None:
            return self._measured(kind, key, measure, file)
        with self._claims.claimed(f"{kind}-{digest(key)}") as mine:
            if not mine:
                self.elsewhere += 1
                return dict(stand_in)
            if file.exists():  # another process has just measured it
                return self._stored(file, key)
            return self._measured(kind, key, measure, file)

    def complete(self, make: Callable[[], Made]) -> Made:
        """What `make` gives when all results in it are measured: it is called again while other processes are at some of them.
        Where one of them is lost the system lets go of what it had claimed, and it is measured here.
        """
        while True:
            self.elsewhere, before = 0, self.measured
            made = make()
            if not self.elsewhere:
                return made
            if self.measured == before:
                time.sleep(POLL)

    def _stored(self, file: Path, key: Any) -> dict[str, Any]:
        try:
            stored = _files.read_json(file)
            if stored.get("asked") != key:
                raise ValueError("is the answer to another question")
            values = stored.get("values")
            if not isinstance(values, dict):
                raise ValueError(f"values = {values!r}")
            if "sha256" in stored and stored["sha256"] != json_digest(values):
                raise ValueError("its SHA-256 is not that of what it holds")
        except ValueError as error:
            raise ValueError(f"{file}: is no result of a table ({error}); move it away to measure it again") from error
        self.read += 1
        return values

    def _measured(
        self, kind: str, key: Mapping[str, Any], measure: Callable[[], dict[str, Any]], file: Path
    ) -> dict[str, Any]:
        self.progress(f"{kind}: {' '.join(str(v) for v in key.values() if isinstance(v, str))}")
        measured: dict[str, Any] = json.loads(json.dumps(measure(), allow_nan=False))
        _files.make_folder(file.parent)
        content = {"asked": key, "values": measured, "sha256": json_digest(measured)}
        _files.write(file, json.dumps(content, indent=1) + "\n")
        self.measured += 1
        return measured
