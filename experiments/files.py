"""Files: what is read of a user's: tables, folders of images; and digests, which say of what files a figure is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor

from certify import _files

__all__ = ["SUFFIXES", "digest", "images", "table"]

SUFFIXES = (".png", ".jpg", ".jpeg")


def table(path: str | Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV, and its rows by column, each with the line that it begins in.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not CSV in UTF-8, has a column twice, or a row of another length.
    """
    try:
        rows = _files.csv_rows(_files.read_text(Path(path)))
        _, columns = next(rows, (1, []))
        if len(set(columns)) < len(columns):
            raise ValueError(f"the columns are {', '.join(map(repr, columns))}: must be different")
        found = []
        for number, row in rows:
            if len(row) != len(columns):
                raise ValueError(f"line {number}: has {len(row)} fields, must have {len(columns)}, as the header")
            found.append((number, dict(zip(columns, row, strict=True))))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return columns, found


def images(folder: str | Path, height: int, width: int, argument: str = "images") -> Tensor:
    """Every PNG and JPEG of a folder, cut to its middle square and resized: (b, 3, height, width) in [0, 1].

    In the order of their names, numbers by value: "2.png" comes before "10.png".

    Args:
        folder: where they are.
        height, width: in pixels.
        argument: what to call the folder in an error.

    Raises:
        FileNotFoundError: the folder holds no image.
    """
    import numpy as np
    from PIL import Image

    found = sorted((p for p in Path(folder).glob("*") if p.suffix.lower() in SUFFIXES), key=_natural)
    if not found:
        raise FileNotFoundError(f"{argument} = {str(folder)!r}: holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    parts = []
    for file in found:
        with Image.open(file) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.convert("RGB").crop((left, top, left + side, top + side))
        pixels = np.asarray(square.resize((width, height)), dtype=np.float32) / 255
        parts.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return torch.stack(parts)


def digest(*paths: Path) -> str:
    """Sixteen hexadecimal digits that stand for what is in files, one after the other."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Of digits the number, of anything else the text."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
