"""Pairs: a JSON record and its tensors, two files in a folder that belong together, replaced as one.

The record names the SHA-256 of its tensors. Two files cannot be renamed at once: so new tensors first lie aside, under a
name made of their digest, where a reader looks as well; then the record is replaced, and then they take the usual name. At
every moment there is a record on the disk whose tensors are found, the old one or the new.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save as packed
from torch import Tensor

from certify import _files

__all__ = ["DIGEST", "Pair"]

DIGEST = "tensors_sha256"
"""The record's field."""


@dataclass(frozen=True)
class Pair:
    """The names of a record and of its tensors.

    Attributes:
        record, tensors: of the files.
        older: values of the record's `schema_version` in which it did not name a digest.
    """

    record: str
    tensors: str
    older: tuple[int, ...] = ()

    def write(
        self,
        folder: Path,
        record: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        overwrite: bool,
        owner_only: bool = False,
    ) -> None:
        """Writes both into a folder, which is made if need be; `owner_only`: whether nobody else may read them.

        Raises:
            FileExistsError: there is a record already and `overwrite` is not set, or there are tensors without a record.
            OSError: they cannot be written; what was there is there.
        """
        _files.no_file("folder", folder)
        if os.path.lexists(folder / self.record) and not overwrite:  # a link that leads nowhere is somebody's, too
            raise FileExistsError(
                f"folder = {str(folder)!r} holds a {Path(self.record).stem} already: choose another or set overwrite"
            )
        if (folder / self.tensors).exists() and not (folder / self.record).exists():
            raise FileExistsError(f"folder = {str(folder)!r} holds a foreign {self.tensors}: choose another")
        text, blob = self.contents(record, tensors)
        digest = hashlib.sha256(blob).hexdigest()
        _files.make_folder(folder)
        aside = folder / self._aside(digest)
        _files.write(aside, blob, owner_only=owner_only)
        try:
            _files.write(folder / self.record, text, owner_only=owner_only)
        except OSError:
            with contextlib.suppress(OSError):  # the name may be there, and only its way to the disk have failed
                if digest.encode() not in (folder / self.record).read_bytes():
                    aside.unlink()
            raise
        os.replace(aside, folder / self.tensors)

    def contents(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[str, bytes]:
        """What the two files hold: the record, with the digest of its tensors, and the tensors."""
        # Cloned: two tensors may share memory (a reference that is the input itself), which the format refuses.
        blob = packed({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
        named = {**record, DIGEST: hashlib.sha256(blob).hexdigest()}
        return json.dumps(named, indent=2, ensure_ascii=False, allow_nan=False) + "\n", blob

    def read(
        self, folder: Path, record_of: Callable[[Path], dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Both.

        Args:
            folder: where they are.
            record_of: reads and checks the record, with errors of its own.

        Raises:
            OSError: the tensors cannot be read.
            ValueError: they are not those of the record.
        """
        record = record_of(folder / self.record)
        try:
            return record, self._tensors(folder, record)
        except (OSError, ValueError):
            again = record_of(folder / self.record)  # somebody may have written over it between the two
            if again == record:
                raise
            return again, self._tensors(folder, again)

    def _tensors(self, folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
        if record.get("schema_version") in self.older:
            return _files.read_tensors(folder / self.tensors)[0]
        digest = str(record.get(DIGEST))
        if re.fullmatch("[0-9a-f]{64}", digest) and (folder / self._aside(digest)).is_file():
            # Of a save that was cut short. If it is damaged, what the usual name stands for may be whole.
            with contextlib.suppress(OSError, ValueError):
                return _files.read_tensors(folder / self._aside(digest), digest)[0]
        try:
            return _files.read_tensors(folder / self.tensors, digest)[0]
        except ValueError as error:
            raise ValueError(f"{folder / self.tensors}: {error}") from error

    def _aside(self, digest: str) -> str:
        return f"{Path(self.tensors).stem}-{digest[:16]}.safetensors"
