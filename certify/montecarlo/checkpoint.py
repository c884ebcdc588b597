"""Checkpoint: what a long run has drawn so far, on disk, so that a killed run resumes where it was.

A checkpoint is one file that is replaced as a whole: whatever moment a run is killed at, the file is that of the last save.
It holds the accumulators after a number of whole shards, what has been drawn of the next one, and what run they belong to:
input, noise, draws, seed, stream, the kinds of the accumulators, and a name that the caller gives the function (a model's
SHA-256, say). All that names the file, too: another run has another file. One that is damaged is refused; nothing is
overwritten then. Shards are merged in their order, so a resumed run is the undisturbed one, bit for bit.

A certificate takes several passes (text encodings, statistics, images); `certify.montecarlo.runs` keeps their checkpoints.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from certify import _files
from certify._digests import tensor_digest
from certify.montecarlo.accumulators import part_of, state_of
from certify.montecarlo.ranks import ExtremeRanks
from certify.montecarlo.spilling import Room
from certify.montecarlo.streams import BLOCK, SHARD
from certify.noise import Noise

if TYPE_CHECKING:
    from certify.montecarlo.processes import RunState

__all__ = ["AGAIN", "Checkpoint", "CheckpointError", "as_checkpoint"]

AGAIN = "move it away to begin anew"
"""What can be done about a damaged checkpoint."""

_FORMAT = "certify checkpoint 4"
_SHARE = 20  # saving takes at most one part in so many of the time


class CheckpointError(ValueError):
    """A checkpoint is damaged, or another process writes it."""


class Checkpoint:
    """Where a run keeps what it has drawn.

    Args:
        folder: made if it is not there. Each run (stream) and each of several processes has a file of its own in it.
        interval: seconds between two saves, at least; 0: after every batch. Where a save takes long (large order statistics)
            it is twenty times what the last one took.
        function: what f is, as far as the caller can say: the SHA-256 of a model, a name.
        wrote: told of every file before it is written; None: nobody keeps account.
        salt: of the digests by which the run is known, where somebody could guess what they are of; files are then the owner's
            alone to read. Empty: plain ones.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        interval: float = 30.0,
        function: str = "",
        wrote: Callable[[Path], None] = lambda path: None,
        salt: bytes = b"",
    ) -> None:
        self.folder, self.interval, self.function = Path(folder), interval, function
        self.wrote, self._salt = wrote, salt
        self._file: Path | None = None
        self._run: dict[str, Any] = {}
        self._device = torch.device("cpu")
        self._saved, self._took, self._draws = time.monotonic(), 0.0, 0
        self._rooms: list[Room] = []

    def open(
        self,
        y: Tensor,
        noise: Noise | None,
        *,
        n: int,
        seed: int,
        stream: str,
        state: RunState,
    ) -> None:
        """Names the run that is going to be drawn; noise None: none."""
        self._run = {
            "format": _FORMAT,
            "input": tensor_digest(y),
            "noise": _named(noise),
            "n": n,
            "seed": seed,
            "stream": stream,
            "kinds": [total.described() for total in state.totals],
            "function": self.function,
            "device": y.device.type,
            "process": [state.processes.rank, state.processes.count],
        }
        if self._salt:
            self._run = {key: hmac.digest(self._salt, repr(v).encode(), "sha256").hex() for key, v in self._run.items()}
            self._run["format"] = _FORMAT
        _files.make_folder(self.folder, owner_only=bool(self._salt))
        name = f"{stream}-{hashlib.sha256(json.dumps(self._run).encode()).hexdigest()[:12]}"
        self._file = self.folder / f"{name}.safetensors"
        for i, total in enumerate(state.totals):
            if isinstance(total, ExtremeRanks):
                total.folder, total.wrote = total.folder or self.folder / f"draws-{name}-{i}", self.wrote
                total.owner_only = bool(self._salt)
        self._device, self._saved, self._took, self._draws = y.device, time.monotonic(), 0.0, 0

    def resume(self, state: RunState, shape: tuple[int, ...] | None) -> tuple[int, int, tuple[int, ...] | None]:
        """Puts back what was drawn.

        Args:
            state: where to; empty.
            shape: the output's shape, if that is known.

        Returns:
            The shard to go on with, how many of its blocks are drawn (0, 0: there is nothing), and the output's shape.

        Raises:
            CheckpointError: the file is damaged.
        """
        file = self._path
        if not file.exists():
            return 0, 0, shape
        try:
            tensors, metadata = _files.read_tensors(file)
            record = _files.json_object(metadata.get("run", ""))
            progress = _checked(_files.json_object(metadata.get("progress", "")), tensors)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"checkpoint {str(file)!r}: is damaged ({error}); {AGAIN}") from error
        sealed = metadata.get("sha256") == _content(tensors, metadata.get("progress", ""))
        if record.get("format") != _FORMAT or not sealed:
            raise CheckpointError(f"checkpoint {str(file)!r}: is damaged or no checkpoint; {AGAIN}")
        different = [key for key, value in self._run.items() if record.get(key) != value]
        if different:
            raise CheckpointError(
                f"checkpoint {str(file)!r}: belongs to another run ({', '.join(different)} differ); {AGAIN}"
            )
        if shape is not None and tuple(progress["shape"]) != shape:
            raise CheckpointError(
                f"checkpoint {str(file)!r}: is of outputs of shape {progress['shape']}, must be {list(shape)}"
            )
        self._draws = (progress["next"] * SHARD + progress["blocks"]) * BLOCK
        tensors |= {name: tensors[name].to(self._device) for name in progress["elsewhere"]}
        groups = {"totals": state.totals}
        for shard in progress["parts"]:
            state.parts[shard] = [state.totals[i].widened(state.totals[i]) for i in state.ordered]
            groups[f"shard {shard}"] = state.parts[shard]
        if progress["opened"]:
            state.opened = [total.widened(total) if total.ordered else total for total in state.totals]
            groups["opened"] = [part for part in state.opened if part.ordered]
        try:
            for group, accumulators in groups.items():
                for i, accumulator in enumerate(accumulators):
                    accumulator.restore(part_of(tensors, f"{group}.{i}"))
        except _NO_STATE as error:
            raise CheckpointError(f"checkpoint {str(file)!r}: is damaged ({error!r}); {AGAIN}") from error
        return progress["next"], progress["blocks"], tuple(progress["shape"])

    def agrees(self, state: RunState, done: int) -> None:
        """Raises CheckpointError unless everything in `state`, which one process has, has seen the same `done` draws."""
        of_shard = state.opened or state.totals
        for total, part in zip(state.totals, of_shard, strict=True):
            seen = total.count + (part.count if part is not total else 0)
            if seen != done:
                raise CheckpointError(
                    f"checkpoint {str(self._path)!r}: is damaged (has {seen} draws, must have {done}); {AGAIN}"
                )

    def save(self, shard: int, blocks: int, state: RunState, shape: tuple[int, ...], *, always: bool = False) -> None:
        """Keeps what was drawn, unless that was done within the interval.

        Args:
            shard: the shard to go on with.
            blocks: how many of its blocks are drawn.
            state: what was drawn.
            shape: the output's shape.
            always: whenever the last save was.

        Raises:
            OSError: there is no room; the last save is whole.
        """
        started = time.monotonic()
        if not always and started - self._saved < max(self.interval, _SHARE * self._took):
            return
        groups = {"totals": state.totals, **{f"shard {number}": part for number, part in state.parts.items()}}
        if state.opened is not None:
            groups["opened"] = [part for part in state.opened if part.ordered]
        states = state_of({f"{group}.{i}": part for group, parts in groups.items() for i, part in enumerate(parts)})
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in states.items()}
        progress = json.dumps(
            {
                "next": shard,
                "blocks": blocks,
                "shape": list(shape),
                "parts": list(state.parts),
                "opened": state.opened is not None,
                "elsewhere": [name for name, tensor in states.items() if tensor.device.type != "cpu"],
            }
        )
        metadata = {"run": json.dumps(self._run), "progress": progress, "sha256": _content(tensors, progress)}
        self.wrote(self._path)
        try:
            _files.write_tensors(self._path, tensors, metadata, owner_only=bool(self._salt))
        except OSError as error:
            left = f"what was saved after {self._draws:,} draws is whole" if self._draws else "nothing was saved before"
            raise OSError(
                error.errno, f"checkpoint {str(self.folder)!r} cannot be written ({error.strerror}); {left}"
            ) from error
        self._draws = (shard * SHARD + blocks) * BLOCK
        # Temporary folders that this save names must stay as long as it does, those of the one before need not.
        rooms = [room for group in groups.values() for part in group for room in getattr(part, "rooms", ())]
        for room in rooms:
            room.pin()
        for room in self._rooms:
            if room not in rooms:
                room.unpin()
        self._rooms = rooms
        self._saved = time.monotonic()
        self._took = self._saved - started

    @property
    def _path(self) -> Path:
        if self._file is None:
            raise RuntimeError("the checkpoint has not been opened for a run")
        return self._file


def as_checkpoint(value: Checkpoint | str | Path | None) -> Checkpoint | None:
    """`value` as a checkpoint: None, a checkpoint, or a folder."""
    if value is None or isinstance(value, Checkpoint):
        return value
    if not isinstance(value, (str, Path)):
        raise TypeError(f"checkpoint is a {type(value).__name__}: must be a folder or a Checkpoint")
    _files.no_file("checkpoint", Path(value))
    return Checkpoint(value)


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
