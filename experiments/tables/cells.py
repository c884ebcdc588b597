"""Cells: what was measured, one file each, so that a stopped table goes on and two tables share what they have in common.

A cell is named by everything that its values depend on. The same question finds the same file; another model, prompt,
setting or seed is another question.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
                kept = json.loads(file.read_text(encoding="utf-8"))
                if kept["asked"] != question:
                    raise ValueError("is the answer to another question")
                self.found += 1
                values: dict[str, Any] = kept["values"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}: is no cell of a table ({error}); delete it to measure it again") from error
            return values
        self.progress(f"{kind}: {' '.join(str(v) for v in question.values() if isinstance(v, str))}")
        values = json.loads(json.dumps(measure()))
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}.new")
        new.write_text(json.dumps({"asked": question, "values": values}, indent=1) + "\n", encoding="utf-8")
        new.replace(file)
        self.measured += 1
        return values
