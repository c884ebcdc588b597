"""Spilling: draws that do not fit in memory, as .npy files in folders that go when nobody reads them any more."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certify import _files

__all__ = ["HEADER", "ROOMS", "SPILLED", "Room", "compared", "header", "kind_of", "rows_in", "sound", "write_at"]

HEADER = 128
"""Bytes: where the numbers begin in a file of spilled draws."""


class Room:
    """A temporary folder of this process: what it wrote there is deleted when nobody refers to this object any more."""

    def __init__(self, beside: Path | None) -> None:
        if beside is not None:
            _files.make_folder(beside)
        self.path = Path(tempfile.mkdtemp(prefix="certify-", dir=beside)).absolute()
        self.files: list[Path] = []
        self._end = weakref.finalize(self, _emptied, self.path, self.files)
        ROOMS[str(self.path)] = self

    def pin(self) -> None:
        """Keeps it beyond this object and this process: a checkpoint names its files."""
        self._end.detach()

    def unpin(self) -> None:
        """No checkpoint does any more."""
        if not self._end.alive:
            self._end = weakref.finalize(self, _emptied, self.path, self.files)


def _emptied(folder: Path, files: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for file in files:
            for path in (file, *_files.temporaries(file)):
                path.unlink(missing_ok=True)
        folder.rmdir()


ROOMS: weakref.WeakValueDictionary[str, Room] = weakref.WeakValueDictionary()
"""Of this process, by their paths: a state names files, and whoever takes it over keeps their folder."""


def kind_of(like: Tensor) -> np.dtype[Any]:
    return np.dtype(np.float64 if like.dtype == torch.float64 else np.float32)


def header(shape: tuple[int, ...], kind: np.dtype[Any]) -> bytes:
    """The header of an .npy file, always of 128 bytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind.str, "fortran_order": False, "shape": shape})
    if file.tell() != HEADER:
        raise RuntimeError(f"the header of {shape} takes {file.tell()} bytes: must take {HEADER}")
    return file.getvalue()


def sound(draws: np.ndarray[Any, Any], path: Path) -> np.ndarray[Any, Any]:
    """Spilled draws as they are read; what was written was numbers."""
    if bool(np.isnan(draws).any()):
        raise ValueError(f"draws that were spilled to {str(path)!r} are not those that were written")
    return draws


SPILLED = re.compile(r"draws-\d+\.npy")


def compared(path: Path, digest: str) -> None:
    """Raises ValueError where a file is not what was written."""
    _files.regular(path)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError(f"state: draws that were spilled to {str(path)!r} are not those that were written")


def rows_in(path: Path) -> int:
    return int(np.load(path, mmap_mode="r").shape[1])


def write_at(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
