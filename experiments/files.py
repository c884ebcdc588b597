"""Files: what is read of a user's: folders of images; and digests, which say of what files a figure is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["SUFFIXES", "digest", "images"]

SUFFIXES = (".png", ".jpg", ".jpeg")


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

    paths = sorted((p for p in Path(folder).glob("*") if p.suffix.lower() in SUFFIXES), key=_natural)
    if not paths:
        raise FileNotFoundError(f"{argument} = {str(folder)!r}: holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    parts = []
    for file in paths:
        with Image.open(file) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.convert("RGB").crop((left, top, left + side, top + side))
        pixels = np.asarray(square.resize((width, height)), dtype=np.float32) / 255
        parts.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return torch.stack(parts)


def digest(*paths: Path) -> str:
    """Sixteen hexadecimal digits that stand for what is in files, one after the other."""
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:16]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Of digits the number, of anything else the text."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
