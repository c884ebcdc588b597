"""Checkpoint: what a long run has drawn so far, on disk, so that a killed run goes on where it was.

A checkpoint is one file that is replaced as a whole: whatever moment a run is killed at, the file is that of the last save.
It holds the accumulators after a number of whole shards, and what run they belong to: input, noise, draws, seed, stream, the
kinds of the accumulators, and a name that the caller gives the function (a model's SHA-256, say). A file of another run, or
one that is damaged, is refused; nothing is overwritten then.
Shards are merged in their order, so the run that goes on is the undisturbed one, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from certify.noise import Noise

if TYPE_CHECKING:
    from certify.montecarlo.processes import Kept

__all__ = ["Checkpoint", "as_checkpoint"]

_FORMAT = "certify checkpoint 1"


class Checkpoint:
    """Where a run keeps what it has drawn.

    Args:
        folder: made if it is not there. Each run (stream) and each of several processes has a file of its own in it.
        interval: seconds between two saves, at least; 0: after every shard.
        function: what f is, as far as the caller can say: the SHA-256 of a model, a name. Another one is refused.
    """

    def __init__(self, folder: str | Path, *, interval: float = 30.0, function: str = "") -> None:
        self.folder, self.interval, self.function = Path(folder), interval, function
        self._file: Path | None = None
        self._run: dict[str, Any] = {}
        self._saved = time.monotonic()

    def open(
        self,
        y: Tensor,
        noise: Noise,
        *,
        n: int,
        seed: int,
        stream: str,
        kept: Kept,
    ) -> None:
        """Names the run that is going to be drawn."""
        sigma = getattr(noise, "sigma", None)
        self._run = {
            "format": _FORMAT,
            "input": _digest(y),
            "noise": f"{type(noise).__name__} {_digest(sigma) if isinstance(sigma, Tensor) else repr(noise)}",
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
        self._saved = time.monotonic()

    def resume(self, kept: Kept, shape: tuple[int, ...] | None) -> tuple[int, tuple[int, ...] | None]:
        """Puts back what was drawn.

        Args:
            kept: where to; empty.
            shape: the output's shape, if that is known.

        Returns:
            The shard to go on with (0: there is nothing), and the output's shape.

        Raises:
            ValueError: the file is damaged, or belongs to another run.
        """
        file = self._path
        if not file.exists():
            return 0, shape
        try:
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            record = json.loads(metadata.get("run", "null"))
            progress = json.loads(metadata.get("progress", "null"))
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"checkpoint {str(file)!r}: is damaged ({error}); delete it to begin anew") from error
        sealed = metadata.get("sha256") == _content(tensors, metadata.get("progress", ""))
        if not isinstance(record, dict) or record.get("format") != _FORMAT or not sealed:
            raise ValueError(f"checkpoint {str(file)!r}: is damaged or no checkpoint; delete it to begin anew")
        different = [key for key, value in self._run.items() if record.get(key) != value]
        if different:
            raise ValueError(
                f"checkpoint {str(file)!r}: belongs to another run ({', '.join(different)} differ); must be this run's, or "
                "choose another folder"
            )
        if shape is not None and tuple(progress["shape"]) != shape:
            raise ValueError(
                f"checkpoint {str(file)!r}: is of outputs of shape {progress['shape']}, must be {list(shape)}"
            )
        groups = {"totals": kept.totals}
        for shard in progress["parts"]:
            kept.parts[shard] = [kept.totals[i].widened(kept.totals[i]) for i in kept.ordered]
            groups[f"shard {shard}"] = kept.parts[shard]
        for group, accumulators in groups.items():
            for i, accumulator in enumerate(accumulators):
                prefix = f"{group}.{i}."
                accumulator.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        return int(progress["next"]), tuple(progress["shape"])

    def save(self, following: int, kept: Kept, shape: tuple[int, ...], *, last: bool = False) -> None:
        """Keeps what was drawn, unless that was done within the interval.

        Args:
            following: the shard to go on with.
            kept: what was drawn.
            shape: the output's shape.
            last: keep it in any case.
        """
        if not last and time.monotonic() - self._saved < self.interval:
            return
        groups = {"totals": kept.totals, **{f"shard {shard}": part for shard, part in kept.parts.items()}}
        tensors = {
            f"{group}.{i}.{name}": tensor.detach().cpu().clone().contiguous()
            for group, accumulators in groups.items()
            for i, accumulator in enumerate(accumulators)
            for name, tensor in accumulator.state().items()
        }
        progress = json.dumps({"next": following, "shape": list(shape), "parts": list(kept.parts)})
        metadata = {"run": json.dumps(self._run), "progress": progress, "sha256": _content(tensors, progress)}
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            save_file(tensors, temporary, metadata=metadata)
            os.replace(temporary, self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._saved = time.monotonic()

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
    return Checkpoint(value)


def _digest(tensor: Tensor) -> str:
    array = tensor.detach().cpu().contiguous()
    head = f"{array.dtype} {tuple(array.shape)} ".encode()
    return hashlib.sha256(head + array.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _content(tensors: dict[str, Tensor], progress: str) -> str:
    text = progress + "".join(f"{name} {_digest(tensors[name])} " for name in sorted(tensors))
    return hashlib.sha256(text.encode()).hexdigest()
