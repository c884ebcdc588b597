"""Result cache: what was measured, one file each: a stopped table goes on, and two tables share what they have in common.

A result is named by everything that its values depend on. The same key finds the same file; another model, prompt, setting or
seed is another key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from certify import _files
from certify._digests import json_digest

__all__ = ["ResultCache", "digest"]


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for JSON values."""
    return json_digest(value)[:16]


class ResultCache:
    """A folder of results.

    Args:
        folder: made when the first result is.
        progress: told of every result that is measured (not of those that are read).

    Attributes:
        measured, read: how many were, so far.
    """

    def __init__(self, folder: Path, progress: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.progress = folder, progress
        self.measured = self.read = 0

    def get(self, kind: str, key: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The values of a result; measured if they are not there.

        Args:
            kind: of result: the subfolder.
            key: everything that the values depend on, as JSON values.
            measure: gives the values, as JSON values.

        Raises:
            ValueError: the file is damaged.
        """
        key = json.loads(json.dumps(key))
        file = self.folder / kind / f"{digest(key)}.json"
        if file.exists():
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
                raise ValueError(
                    f"{file}: is no result of a table ({error}); move it away to measure it again"
                ) from error
            self.read += 1
            return values
        self.progress(f"{kind}: {' '.join(str(v) for v in key.values() if isinstance(v, str))}")
        measured: dict[str, Any] = json.loads(json.dumps(measure(), allow_nan=False))
        _files.make_folder(file.parent)
        content = {"asked": key, "values": measured, "sha256": json_digest(measured)}
        _files.write(file, json.dumps(content, indent=1) + "\n")
        self.measured += 1
        return measured
