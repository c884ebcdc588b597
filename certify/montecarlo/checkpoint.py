"""Checkpoint: what a long run has drawn so far, on disk, so that a killed run goes on where it was.

A checkpoint is one file that is replaced as a whole: whatever moment a run is killed at, the file is that of the last save.
It holds the accumulators after a number of whole shards, what has been drawn of the next one, and what run they belong to:
input, noise, draws, seed, stream, the kinds of the accumulators, and a name that the caller gives the function (a model's
SHA-256, say). A file of another run, or one that is damaged, is refused; nothing is overwritten then.
Shards are merged in their order, so the run that goes on is the undisturbed one, bit for bit.

A certificate takes several passes (text encodings, statistics, images). `RunFolder` keeps their checkpoints in one folder
that belongs to one run, with one writer at a time, and is removed when the run is over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from safetensors.torch import save_file
from torch import Tensor

from certify import _files
from certify._digests import json_digest, tensor_digest
from certify.noise import Noise

if TYPE_CHECKING:
    from certify.montecarlo.processes import Kept

__all__ = ["Checkpoint", "CheckpointError", "RunFolder", "as_checkpoint"]

_FORMAT = "certify checkpoint 3"
_RUN_FORMAT = "certify run 2"
_OLD = ("certify checkpoint 2", "certify run 1")
_OLD_DRAWS = (
    "was drawn by an older version of certify, whose streams of random numbers were others; delete it to begin anew"
)
_RUN, _LOCK = "run.json", "lock"
_SECONDS = 10.0
_SHARE = 20  # saving takes at most one part in so many of the time


class CheckpointError(ValueError):
    """A checkpoint is damaged, or of another run, or another process writes it."""


class Checkpoint:
    """Where a run keeps what it has drawn.

    Args:
        folder: made if it is not there. Each run (stream) and each of several processes has a file of its own in it.
        interval: seconds between two saves, at least; 0: after every batch. Where a save takes long (large order statistics)
            it is twenty times what the last one took.
        function: what f is, as far as the caller can say: the SHA-256 of a model, a name. Another one is refused.
    """

    def __init__(self, folder: str | Path, *, interval: float = 30.0, function: str = "") -> None:
        self.folder, self.interval, self.function = Path(folder), interval, function
        self._file: Path | None = None
        self._run: dict[str, Any] = {}
        self._device = torch.device("cpu")
        self._saved, self._took = time.monotonic(), 0.0

    def open(
        self,
        y: Tensor,
        noise: Noise | None,
        *,
        n: int,
        seed: int,
        stream: str,
        kept: Kept,
    ) -> None:
        """Names the run that is going to be drawn; noise None: none."""
        self._run = {
            "format": _FORMAT,
            "input": tensor_digest(y),
            "noise": _named(noise),
            "n": n,
            "seed": seed,
            "stream": stream,
            "kinds": [total.described() for total in kept.totals],
            "function": self.function,
            "device": y.device.type,
            "process": [kept.processes.rank, kept.processes.count],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = [self._run[key] for key in ("stream", "kinds", "n", "function", "process")]
        name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        self._file = self.folder / f"{stream}-{name}.safetensors"
        self._device, self._saved, self._took = y.device, time.monotonic(), 0.0

    def resume(self, kept: Kept, shape: tuple[int, ...] | None) -> tuple[int, int, tuple[int, ...] | None]:
        """Puts back what was drawn.

        Args:
            kept: where to; empty.
            shape: the output's shape, if that is known.

        Returns:
            The shard to go on with, how many of its blocks are drawn (0, 0: there is nothing), and the output's shape.

        Raises:
            CheckpointError: the file is damaged, or belongs to another run.
        """
        file = self._path
        if not file.exists():
            return 0, 0, shape
        try:
            tensors, metadata = _files.read_tensors(file)
            record = _files.json_object(metadata.get("run", ""))
            progress = _checked(_files.json_object(metadata.get("progress", "")), tensors)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"checkpoint {str(file)!r}: is damaged ({error}); delete it to begin anew") from error
        sealed = metadata.get("sha256") == _content(tensors, metadata.get("progress", ""))
        if record.get("format") in _OLD:
            raise CheckpointError(f"checkpoint {str(file)!r}: {_OLD_DRAWS}")
        if record.get("format") != _FORMAT or not sealed:
            raise CheckpointError(f"checkpoint {str(file)!r}: is damaged or no checkpoint; delete it to begin anew")
        different = [key for key, value in self._run.items() if record.get(key) != value]
        if different:
            raise CheckpointError(
                f"checkpoint {str(file)!r}: belongs to another run ({', '.join(different)} differ); must be this run's: delete "
                "it to begin anew"
            )
        if shape is not None and tuple(progress["shape"]) != shape:
            raise CheckpointError(
                f"checkpoint {str(file)!r}: is of outputs of shape {progress['shape']}, must be {list(shape)}"
            )
        tensors |= {name: tensors[name].to(self._device) for name in progress["elsewhere"]}
        groups = {"totals": kept.totals}
        for shard in progress["parts"]:
            kept.parts[shard] = [kept.totals[i].widened(kept.totals[i]) for i in kept.ordered]
            groups[f"shard {shard}"] = kept.parts[shard]
        if progress["opened"]:
            kept.opened = [total.widened(total) if total.ordered else total for total in kept.totals]
            groups["opened"] = [part for part in kept.opened if part.ordered]
        try:
            for group, accumulators in groups.items():
                for i, accumulator in enumerate(accumulators):
                    prefix = f"{group}.{i}."
                    accumulator.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        except _NO_STATE as error:
            raise CheckpointError(
                f"checkpoint {str(file)!r}: is damaged ({error!r}); delete it to begin anew"
            ) from error
        return progress["next"], progress["blocks"], tuple(progress["shape"])

    def agrees(self, kept: Kept, done: int) -> None:
        """Raises CheckpointError unless everything in `kept`, which one process has, has seen the same `done` draws."""
        of_shard = kept.opened or kept.totals
        for total, part in zip(kept.totals, of_shard, strict=True):
            seen = total.count + (part.count if part is not total else 0)
            if seen != done:
                raise CheckpointError(
                    f"checkpoint {str(self._path)!r}: is damaged (has {seen} draws, must have {done}); delete it to begin anew"
                )

    def save(self, shard: int, blocks: int, kept: Kept, shape: tuple[int, ...], *, always: bool = False) -> None:
        """Keeps what was drawn, unless that was done within the interval.

        Args:
            shard: the shard to go on with.
            blocks: how many of its blocks are drawn.
            kept: what was drawn.
            shape: the output's shape.
            always: whenever the last save was.
        """
        started = time.monotonic()
        if not always and started - self._saved < max(self.interval, _SHARE * self._took):
            return
        groups = {"totals": kept.totals, **{f"shard {number}": part for number, part in kept.parts.items()}}
        if kept.opened is not None:
            groups["opened"] = [part for part in kept.opened if part.ordered]
        states = {
            f"{group}.{i}.{name}": tensor.detach()
            for group, accumulators in groups.items()
            for i, accumulator in enumerate(accumulators)
            for name, tensor in accumulator.state().items()
        }
        tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in states.items()}
        progress = json.dumps(
            {
                "next": shard,
                "blocks": blocks,
                "shape": list(shape),
                "parts": list(kept.parts),
                "opened": kept.opened is not None,
                "elsewhere": [name for name, tensor in states.items() if tensor.device.type != "cpu"],
            }
        )
        metadata = {"run": json.dumps(self._run), "progress": progress, "sha256": _content(tensors, progress)}
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            save_file(tensors, temporary, metadata=metadata)
            os.replace(temporary, self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._saved = time.monotonic()
        self._took = self._saved - started

    @property
    def _path(self) -> Path:
        if self._file is None:
            raise RuntimeError("the checkpoint has not been opened for a run")
        return self._file


class RunFolder:
    """A folder for the checkpoints of one run of several passes, for one writer at a time; a context manager.

    Args:
        folder: made if it is not there.
        settings: everything that decides the run's results, as JSON values. They are written there, and a folder with other
            ones is refused.
        interval: seconds between two saves of a pass, at least; None: the environment's CERTIFY_SAVE_EVERY, or 10.

    Attributes:
        resumed: whether the run was there already.

    Raises:
        CheckpointError: the folder is of another run, damaged, or being written by another process. Nothing is changed then.
        FileExistsError: the folder is a file.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], *, interval: float | None = None) -> None:
        self.folder = Path(folder)
        self.interval = float(os.environ.get("CERTIFY_SAVE_EVERY") or _SECONDS) if interval is None else interval
        self._settings = json.loads(json.dumps({"format": _RUN_FORMAT, **settings}, allow_nan=False))
        self._digest = json_digest(self._settings)
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"checkpoint = {str(folder)!r}: is a file; must be a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resumed = self._compare()
        self._lock: BinaryIO = (self.folder / _LOCK).open("ab")
        try:
            self._alone()
            if not self.resumed:
                self._begin()
        except BaseException:
            self._lock.close()
            raise
        for left in self.folder.glob(".*.safetensors.*"):  # of saves that a kill cut short
            left.unlink(missing_ok=True)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of one pass, by its name."""
        return Checkpoint(self.folder, interval=self.interval, function=f"{self._digest[:16]} {name}")

    @staticmethod
    def holds_draws(folder: Path) -> bool:
        """Whether anything is kept in a folder."""
        return any(folder.glob("*.safetensors"))

    @staticmethod
    def remove(folder: Path) -> None:
        """Removes a folder whose run is over, but for what is not ours. A kill in between leaves one that still says whose
        it is."""
        if not folder.is_dir():
            return
        for entry in filter(_ours, folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink():  # spilled draws
                shutil.rmtree(entry)
            elif entry.name != _RUN:
                entry.unlink()
        (folder / _RUN).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()

    def _begin(self) -> None:
        text = json.dumps({"digest": self._digest, "settings": self._settings}, indent=2, ensure_ascii=False)
        _files.write(self.folder / _RUN, text + "\n")

    def _compare(self) -> bool:
        """Whether the run is there; refuses another one's folder."""
        path, where = self.folder / _RUN, f"checkpoint {str(self.folder)!r}"
        if not path.exists():
            if RunFolder.holds_draws(self.folder):
                raise CheckpointError(f"{where}: is damaged ({_RUN} is gone); delete it to begin anew")
            foreign = sorted(entry.name for entry in self.folder.iterdir() if not _ours(entry))
            if foreign:  # the folder is removed when the run is over
                raise CheckpointError(f"{where}: holds {foreign[0]!r}, which is not of a run; choose another folder")
            return False
        try:
            there = _files.read_json(path)
            settings = dict(there["settings"])
            intact = there["digest"] == json_digest(settings)
        except (OSError, ValueError, KeyError, TypeError):
            intact, settings = False, {}
        if not intact:
            raise CheckpointError(f"{where}: is damaged ({_RUN} is not what was written); delete it to begin anew")
        if settings.get("format") in _OLD:
            raise CheckpointError(f"{where}: {_OLD_DRAWS}")
        names = [name for name in {**self._settings, **settings} if settings.get(name) != self._settings.get(name)]
        if names:
            raise CheckpointError(
                f"{where}: belongs to another run ({', '.join(names)} differ{'s' if len(names) == 1 else ''}); delete it to "
                "begin anew"
            )
        return True

    def _alone(self) -> None:
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"checkpoint {str(self.folder)!r}: another process is writing there") from None


def as_checkpoint(value: Checkpoint | str | Path | None) -> Checkpoint | None:
    """`value` as a checkpoint: None, a checkpoint, or a folder."""
    if value is None or isinstance(value, Checkpoint):
        return value
    if not isinstance(value, (str, Path)):
        raise TypeError(f"checkpoint is a {type(value).__name__}: must be a folder or a Checkpoint")
    return Checkpoint(value)


_OURS = re.compile(r"run\.json|\.run\.json\..*|lock|\.?.*\.safetensors(\..*)?|draws-.*|ordered\.npy|certify-.*")
_NO_STATE = (
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    OSError,
    EOFError,
)
"""What numbers and tensors of another kind than an accumulator's own lead to."""


def _ours(entry: Path) -> bool:
    """Whether this is a name that a run gives."""
    return _OURS.fullmatch(entry.name) is not None


def _checked(progress: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What is on record of how far a run is.

    Raises:
        ValueError: it is something else.
    """

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63

    def listed(value: Any, fits: Callable[[Any], bool]) -> bool:
        return isinstance(value, list) and all(fits(item) for item in value)

    fits: dict[str, Callable[[Any], bool]] = {
        "next": whole,
        "blocks": whole,
        "shape": lambda value: listed(value, whole),
        "parts": lambda value: listed(value, whole),
        "opened": lambda value: isinstance(value, bool),
        "elsewhere": lambda value: listed(value, lambda name: isinstance(name, str) and name in tensors),
    }
    for name, right in fits.items():
        if not right(progress.get(name)):
            raise ValueError(f"{name} = {progress.get(name)!r}")
    return progress


def _named(noise: Noise | None) -> str:
    """A noise by all that it was made of, to the last digit."""
    made_of = vars(noise).values() if hasattr(noise, "__dict__") else [noise]
    return " ".join([type(noise).__name__, *(tensor_digest(v) if isinstance(v, Tensor) else repr(v) for v in made_of)])


def _content(tensors: dict[str, Tensor], progress: str) -> str:
    text = progress + "".join(f"{name} {tensor_digest(tensors[name])} " for name in sorted(tensors))
    return hashlib.sha256(text.encode()).hexdigest()
