"""Cells: what was measured, one file each, so that a stopped table goes on and two tables share what they have in common.

A cell is named by everything that its values depend on. The same question finds the same file; another model, prompt,
setting or seed is another question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from certify import _files
from certify._digests import json_digest

__all__ = ["Cells", "digest"]


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


class Cells:
    """A folder of cells.

    Args:
        folder: made when the first cell is.
        progress: told of every cell that is measured (not of those found).
    """

    def __init__(self, folder: Path, progress: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.progress = folder, progress
        self.measured = self.found = 0

    def get(self, kind: str, asked: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The values of a cell; measured if they are not there.

        Args:
            kind: of question: the subfolder.
            asked: everything that the values depend on, as JSON values.
            measure: answers it, with JSON values.

        Raises:
            ValueError: the file is damaged.
        """
        question = json.loads(json.dumps(asked))
        file = self.folder / kind / f"{digest(question)}.json"
        if file.exists():
            try:
                kept = _files.read_json(file)
                if kept.get("asked") != question:
                    raise ValueError("is the answer to another question")
                values = kept.get("values")
                if not isinstance(values, dict):
                    raise ValueError(f"values = {values!r}")
                if "sha256" in kept and kept["sha256"] != json_digest(values):
                    raise ValueError("its SHA-256 is not that of what it holds")
            except ValueError as error:
                raise ValueError(
                    f"{file}: is no cell of a table ({error}); move it away to measure it again"
                ) from error
            self.found += 1
            return values
        self.progress(f"{kind}: {' '.join(str(v) for v in question.values() if isinstance(v, str))}")
        measured: dict[str, Any] = json.loads(json.dumps(measure(), allow_nan=False))
        _files.make_folder(file.parent)
        content = {"asked": question, "values": measured, "sha256": json_digest(measured)}
        _files.write(file, json.dumps(content, indent=1) + "\n")
        self.measured += 1
        return measured
