"""Runs of several passes: where they keep their checkpoints, and what of that is theirs to remove.

`RunFolder` is a folder in which each run has a folder of its own, named by a digest of everything that decides its results:
one with other settings goes elsewhere and stands in nobody's way, and the same one goes on. One process at a time writes to
a run.

What a run is going to write is first entered in a list in its folder. When the run is over the files of the list are
removed and nothing else: whatever somebody else put there stays, and the folder with it.

Where the prompt is private no digest of it can be public, salted or not: there are few enough prompts to try them all. Then
the name is made with a random key that lies beside the runs, readable by the owner alone, as all of the run is, which the
draws in it would make necessary in any case: who has the model can test guesses against them.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from certify import _files
from certify._digests import json_digest
from certify.montecarlo.checkpoint import AGAIN, Checkpoint, CheckpointError

__all__ = ["RunFolder", "as_run_folder"]

_FORMAT = "certify run 3"
_RUN, _LOCK, _WRITTEN, _KEY = "run.json", "lock", "written.jsonl", "certify-private.key"
_KEY_FORMAT = "certify private key 1"
_SECONDS = 10.0


class RunFolder:
    """A folder for the checkpoints of runs, each of several passes; once opened, a context manager around one run.

    Args:
        folder: made if it is not there. What else is in it is left alone.
        fresh: whether to begin anew where the run is there already. What can be read is removed, a damaged run set aside.
        interval: seconds between two saves of a pass, at least; None: the environment's CERTIFY_SAVE_EVERY, or 10.
        resuming: called with the run's folder where there are draws to go on from.

    Attributes:
        path: of the run that was opened; None: none was.
        resumed: whether it was there already.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        fresh: bool = False,
        interval: float | None = None,
        resuming: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self.folder, self.fresh, self.resuming = Path(folder), fresh, resuming
        self.interval = float(os.environ.get("CERTIFY_SAVE_EVERY") or _SECONDS) if interval is None else interval
        self.path: Path | None = None
        self.resumed = False
        self._salt, self._digest = b"", ""
        self._lock: BinaryIO | None = None
        self._listed: set[str] = set()

    def open(self, settings: Mapping[str, Any], *, secret: str | None = None) -> RunFolder:
        """Names the run, and makes its folder where it is not there.

        Args:
            settings: everything that decides the run's results, as JSON values. They are written there.
            secret: what decides them as well, and must not be learned from the folder; None: nothing.

        Raises:
            CheckpointError: the run's folder is damaged, or being written by another process. Nothing is changed then.
            FileExistsError: the folder is a file.
        """
        _files.no_file("checkpoint", self.folder)
        kept = json.loads(json.dumps({"format": _FORMAT, **settings}, allow_nan=False))
        self._salt = b"" if secret is None else self._key()
        self._digest = self._digest_of(kept, secret)
        self.path = self.folder / self._digest[:16]
        _files.make_folder(self.path, owner_only=bool(self._salt))
        try:
            self._alone()
            if self.fresh and not self._intact(kept):
                self._set_aside()
                self._alone()
            elif self.fresh:
                self._clear()
            self.resumed = self._compare(kept)
            if self.resumed:
                self.resumed = not self.fresh
            else:
                text = json.dumps({"digest": self._digest, "settings": kept}, indent=2, ensure_ascii=False)
                _files.write(self.path / _RUN, text + "\n", owner_only=bool(self._salt))
            self._listed = self._written()
        except BaseException:
            self._release()
            raise
        if self.holds_draws:
            self.resuming(self.path)
        return self

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not self.holds_draws:  # refused, or stopped before it drew: it leaves nothing behind
            self.remove()
        self._release()

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of one pass, by its name."""
        about = {"interval": self.interval, "function": f"{self._digest[:16]} {name}", "salt": self._salt}
        return Checkpoint(self._place, wrote=self._write_down, **about)  # type: ignore[arg-type]

    @property
    def holds_draws(self) -> bool:
        """Whether anything is kept of the run."""
        return self.path is not None and any(self.path.glob("*.safetensors"))

    def remove(self) -> None:
        """Removes what the run wrote, which is over, and the folders that are empty then. A kill in between leaves one that
        still says whose it is."""
        if self.path is None or not self.path.is_dir():
            return
        self._clear()
        _unlinked(self.path / _WRITTEN)
        if (self.path / _LOCK).is_file() and not (self.path / _LOCK).stat().st_size:  # ours is empty
            _unlinked(self.path / _LOCK)
        _unlinked(self.path / _RUN)
        with contextlib.suppress(OSError):
            self.path.rmdir()
        with contextlib.suppress(OSError):
            self._remove_key()
            self.folder.rmdir()

    @property
    def _place(self) -> Path:
        if self.path is None:
            raise RuntimeError("the folder has not been opened for a run")
        return self.path

    def _key(self) -> bytes:
        """The key of private runs, created if missing."""
        path = self.folder / _KEY
        if not path.exists() and not path.is_symlink():
            _files.make_folder(self.folder)
            _files.write(path, _key_text(secrets.token_hex(32)), owner_only=True)
        text = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        key = text.decode("ascii", "replace").splitlines()[1:2]
        if not key or text != _key_text(key[0]).encode():
            raise ValueError(
                f"checkpoint = {str(self.folder)!r}: holds a {_KEY} that is damaged or not of a private run; "
                "choose another folder"
            )
        return bytes.fromhex(key[0])

    def _remove_key(self) -> None:
        """Removes the key that this run is named with, if no other run can be."""
        path = self.folder / _KEY
        others = any(re.fullmatch(r"[0-9a-f]{16}(\.damaged-\d+)?", entry.name) for entry in self.folder.iterdir())
        if self._salt and not others and path.read_bytes() == _key_text(self._salt.hex()).encode():
            _unlinked(path)

    def _digest_of(self, settings: Mapping[str, Any], secret: str | None) -> str:
        digest = json_digest(dict(settings))
        if secret is None:
            return digest
        return hmac.digest(self._salt, f"{digest} {secret}".encode("utf-8", "replace"), "sha256").hex()

    def _compare(self, settings: Mapping[str, Any]) -> bool:
        """Whether the run is there; refuses a damaged one."""
        if not (self._place / _RUN).exists():
            if not any(entry.name != _LOCK for entry in self._place.iterdir()):
                return False
            raise CheckpointError(f"checkpoint {str(self._place)!r}: is damaged ({_RUN} is gone); {AGAIN}")
        if not self._intact(settings):
            raise CheckpointError(
                f"checkpoint {str(self._place)!r}: is damaged ({_RUN} is not what was written); {AGAIN}"
            )
        return True

    def _intact(self, settings: Mapping[str, Any]) -> bool:
        """Whether what says which run this is, and what it wrote, is what was written, or nothing is there."""
        if not any(entry.name != _LOCK for entry in self._place.iterdir()):
            return True
        try:
            self._written()
            return _files.read_json(self._place / _RUN) == {"digest": self._digest, "settings": settings}
        except (OSError, ValueError):
            return False

    def _set_aside(self) -> None:
        self._release()
        number = 1
        while (aside := self._place.with_name(f"{self._place.name}.damaged-{number}")).exists():
            number += 1
        self._place.rename(aside)
        _files.make_folder(self._place, owner_only=bool(self._salt))

    def _write_down(self, path: Path) -> None:
        """Enters a file in the list before it is written."""
        name = str(path.absolute().relative_to(self._place.absolute()))
        if name not in self._listed:
            with _files.log(self._place / _WRITTEN, owner_only=bool(self._salt)) as file:
                file.write(json.dumps(name).encode() + b"\n")
            self._listed.add(name)

    def _written(self) -> set[str]:
        """The files in the list; a last line that was cut short was of a file that was not begun."""
        path = self._place / _WRITTEN
        text = _files.read_text(path) if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        names = {_files.json_value(line) for line in whole.splitlines()}
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{_WRITTEN} is not what was written")
        if whole != text:
            _files.write(path, whole, owner_only=bool(self._salt))
        return names

    def _clear(self) -> None:
        """Removes the files in the list, and folders that are empty then."""
        with contextlib.suppress(ValueError):
            self._listed |= self._written()
        root, folders = self._place.resolve(), set()
        for name in self._listed:
            path = self._place / name
            if path.parent.resolve().is_relative_to(root) and path.resolve() != root:
                for file in (*_files.temporaries(path), path):
                    _unlinked(file)
                folders |= {folder for folder in path.parents if folder.resolve().is_relative_to(root)}
        for folder in sorted(folders, key=lambda f: -len(f.parts)):
            if folder.resolve() != root:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        _unlinked(self._place / _WRITTEN)
        self._listed = set()

    def _alone(self) -> None:
        self._lock = _files.log(self._place / _LOCK, owner_only=bool(self._salt))
        if not _files.locked(self._lock):
            raise CheckpointError(f"checkpoint {str(self._place)!r}: another process is writing there")

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def as_run_folder(value: RunFolder | str | Path) -> RunFolder:
    """`value` as a run folder: one, or its path."""
    return value if isinstance(value, RunFolder) else RunFolder(value)


def _key_text(key: str) -> str:
    """A key's file: sealed, since what is not ours is neither used nor removed, whatever its name."""
    return f"{_KEY_FORMAT}\n{key}\n{hashlib.sha256(f'{_KEY_FORMAT} {key}'.encode()).hexdigest()}\n"


def _unlinked(path: Path) -> None:
    if path.is_file() or path.is_symlink():
        path.unlink()
