"""Workers: processes that share out work through a folder that all of them see, on one machine or many, with no network.

A launcher says how many there are and which one this is (`RANK`, `WORLD_SIZE`, as torchrun and its like set them). A worker
*claims* a piece of work by a lock on a file, which the system lets go of when the process ends, however it ends: no claim is
left behind, and no clock is asked. Where a file system knows no locks, or a lock outlives a lost machine, pieces are worked on
twice. So claims save work, and nothing else may depend on them: what a worker makes is the same whoever makes it, is put in
place as a whole, and is looked for again before it is made.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from certify import _files

__all__ = ["PATIENCE", "POLL", "Claims", "Worker", "launched", "one_at_a_time", "own_device"]

PATIENCE = 60.0
"""Seconds without any news after which a claim is taken for one that was left behind by a lost machine."""

POLL = 0.2
"""Seconds between two looks at what others have done."""


@dataclass(frozen=True)
class Worker:
    """One of several processes: its number from 0, and how many there are."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Worker:
        """This process, as the launcher has it in `RANK` and `WORLD_SIZE`; one alone where they are not set.

        Raises:
            ValueError: they do not fit together.
        """
        count = launched("WORLD_SIZE", 1)
        rank = launched("RANK", 0) if count > 1 else 0
        if count < 1 or not 0 <= rank < count:
            raise ValueError(
                f"RANK = {rank}, WORLD_SIZE = {count}: must be a number from 0 to WORLD_SIZE − 1, and a count"
            )
        return cls(rank, count)

    @property
    def is_main(self) -> bool:
        """Whether this is the one that speaks for all."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1


def launched(name: str, default: int) -> int:
    """A whole number that the launcher set in the environment.

    Raises:
        ValueError: it is none.
    """
    text = os.environ.get(name, "").strip() or str(default)
    if not text.lstrip("-").isdecimal():
        raise ValueError(f"{name} = {text!r}: must be a whole number, as torchrun sets it")
    return int(text)


class Claims:
    """Claims on pieces of work, by name.

    Args:
        folder: of the files that are locked; made when the first is.
        owner_only: whether nobody else may read it.
    """

    def __init__(self, folder: Path, *, owner_only: bool = False) -> None:
        self.folder, self.owner_only = folder, owner_only

    @contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Claims a piece while it is open; False: somebody else has it."""
        with self._opened(name) as file:
            yield _files.locked(file)

    def _opened(self, name: str) -> BinaryIO:
        while True:  # who is done removes the folder
            _files.make_folder(self.folder, owner_only=self.owner_only)
            with contextlib.suppress(FileNotFoundError):
                return _files.log(self.folder / name, owner_only=self.owner_only)

    def remove(self) -> None:
        """Removes the files, of which none is needed when all work is done."""
        with contextlib.suppress(OSError):
            for file in list(self.folder.iterdir()):
                file.unlink(missing_ok=True)
            self.folder.rmdir()

    @contextmanager
    def waited(
        self, name: str, patience: float = PATIENCE, ready: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Claims a piece as soon as nobody else has it, it is `ready` all the same, or nobody has let go of it for so long."""
        until = time.monotonic() + patience
        while True:
            with self.claimed(name) as mine:
                if mine or ready() or time.monotonic() > until:
                    yield
                    return
            time.sleep(POLL)


@contextmanager
def one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    """Something that several processes would make in one place: each waits until no other is at it. Alone nothing is done.

    Args:
        folder: where the files that are locked go, in a folder `claims`.
        name: of what is made.
    """
    if Worker.current().alone:
        yield
        return
    with Claims(folder / "claims").waited(name, math.inf):
        yield


def own_device() -> None:
    """Makes the GPU that the launcher has for this process (`LOCAL_RANK`) its current one, where there are GPUs."""
    import torch

    if not Worker.current().alone and torch.cuda.is_available():
        torch.cuda.set_device(launched("LOCAL_RANK", 0) % torch.cuda.device_count())
