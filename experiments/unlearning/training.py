"""Training: the loop that all iterative methods share. Seeded, with progress, and resumable at any step.

A method gives a function that computes one loss, with a `Rng` for every random choice it makes. What a run needs to go on is
written every half minute: the trained tensors, the optimiser's, and the state of the rng. Continued, it is the same run.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certify import _files, _validate
from certify.models import fingerprint

__all__ = ["Progress", "Rng", "TrainingLoop"]

Progress = Callable[[str, int, int, float], None]
"""Called with (stage, step, steps, loss)."""

_EVERY = 30.0


class Rng:
    """All randomness of a run: a generator for tensors and one for choices."""

    def __init__(self, seed: int) -> None:
        self.source = torch.Generator().manual_seed(seed)
        self.python = random.Random(seed)

    def state(self) -> dict[str, Any]:
        version, words, rest = self.python.getstate()
        return {"torch": self.source.get_state().tolist(), "python": [version, list(words), rest]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.source.set_state(torch.tensor(state["torch"], dtype=torch.uint8))
        version, words, rest = state["python"]
        self.python.setstate((version, tuple(words), rest))


@dataclass
class TrainingLoop:
    """How a method's iterations are run.

    Attributes:
        seed: of everything.
        folder: where a checkpoint is kept while it runs; None: nowhere.
        progress: told after every step.
        every: seconds between checkpoints.
        what: says what is run (method, concept, settings): a checkpoint of anything else is refused.
    """

    seed: int = 0
    folder: Path | None = None
    progress: Progress | None = None
    every: float = _EVERY
    what: str = ""

    def __post_init__(self) -> None:
        _validate.seed_value(self.seed)
        self._checkpoints: list[Path] = []

    def run(
        self,
        stage: str,
        parameters: Mapping[str, Tensor],
        optimiser: torch.optim.Optimizer,
        steps: int,
        loss_of: Callable[[int, Rng], Tensor],
        *,
        clip: float | None = None,
        state: Mapping[str, Tensor] | None = None,
        rng: Rng | None = None,
    ) -> list[float]:
        """`steps` steps of `optimiser` on `loss_of(step, rng)`.

        Args:
            stage: names the checkpoint, and what progress shows: one run may have several.
            parameters: name → what the optimiser trains.
            optimiser: of exactly these, in this order.
            steps: how many in all.
            loss_of: a scalar to go down.
            clip: largest gradient norm.
            state: further tensors that the method changes as it goes, in place, kept in the checkpoint as well.
            rng: the run's randomness; None: fresh from the seed.

        Returns:
            The loss of every step made in this call.

        Raises:
            ValueError: the loss is not finite, or the checkpoint is another run's.
        """
        rng = rng or Rng(self.seed)
        tensors = {
            **{f"parameter.{n}": p for n, p in parameters.items()},
            **{f"state.{n}": t for n, t in (state or {}).items()},
        }
        path = self._path(stage)
        first = 0 if path is None or not path.exists() else _resume(path, tensors, optimiser, rng, steps, self)
        losses: list[float] = []
        saved = time.monotonic()
        for step in range(first, steps):
            loss = loss_of(step, rng)
            value = float(loss.detach())
            if not torch.isfinite(loss.detach()):
                raise ValueError(
                    f"{stage}: the loss of step {step} is {value}: must be finite; try a smaller learning rate"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(list(parameters.values()), clip)
            optimiser.step()
            losses.append(value)
            if self.progress is not None:
                self.progress(stage, step + 1, steps, value)
            if path is not None and time.monotonic() - saved > self.every:
                _save(path, tensors, optimiser, rng, step + 1, steps, self)
                saved = time.monotonic()
        if path is not None:  # a later stage may be killed: this one need not be run again
            _save(path, tensors, optimiser, rng, steps, steps, self)
        return losses

    def collect(self, stage: str, count: int, batch: int, make: Callable[[int, int, Rng], Tensor]) -> Tensor:
        """Rows that are made once, before the training (images, latents), `batch` at a time; kept like a checkpoint.

        Args:
            stage: names the checkpoint, and what progress shows.
            count: how many rows in all.
            batch: how many at a time; every batch has an rng of its own.
            make: (first, stop, rng) → the rows first … stop − 1.

        Returns:
            The rows, on the CPU.

        Raises:
            ValueError: the checkpoint is another run's.
        """
        path = self._path(stage)
        about = {"count": count, "batch": batch, "seed": self.seed, "what": self.what}
        parts: list[Tensor] = []
        if path is not None and path.exists():
            run, tensors = _read(path)
            _check(path, run, about)
            parts = [tensors["rows"]]
        saved = time.monotonic()
        for first in range(sum(map(len, parts)), count, batch):
            stop = min(first + batch, count)
            # Seeds of different batches, and of the training that follows, do not meet.
            parts.append(make(first, stop, Rng((self.seed * 1_000_003 + 1 + first) % 2**63)).detach().cpu())
            if self.progress is not None:
                self.progress(stage, stop, count, 0.0)
            if path is not None and (stop == count or time.monotonic() - saved > self.every):
                _write(path, {"rows": torch.cat(parts)}, about)
                saved = time.monotonic()
        return torch.cat(parts)

    def finish(self) -> None:
        """Removes the checkpoints of the stages that were run: what they were for has been written."""
        for path in self._checkpoints:
            for left in (*_files.temporaries(path), path):
                left.unlink(missing_ok=True)

    def _path(self, stage: str) -> Path | None:
        """Where a stage is kept, if it is."""
        if self.folder is None:
            return None
        self._checkpoints.append(self.folder / f"{stage}.checkpoint.safetensors")
        return self._checkpoints[-1]


def _save(
    path: Path,
    weights: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    rng: Rng,
    step: int,
    steps: int,
    loop: TrainingLoop,
) -> None:
    tensors = dict(weights)
    scalars: dict[str, float] = {}
    for index, entry in optimiser.state_dict()["state"].items():
        for name, value in entry.items():
            key = f"optimiser.{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            elif value is not None:
                scalars[key] = value
    about = {"step": step, **_run(loop, steps), "dice": rng.state(), "scalars": scalars}
    _write(path, tensors, about)


def _run(loop: TrainingLoop, steps: int) -> dict[str, Any]:
    """What tells one run from another."""
    return {"steps": steps, "seed": loop.seed, "what": loop.what}


def _check(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    wrong = [
        f"{name} = {stored.get(name)!r}, not {value!r}" for name, value in wanted.items() if stored.get(name) != value
    ]
    if wrong:
        raise ValueError(
            f"{path}: is the checkpoint of another run ({'; '.join(wrong)}); move it away, or choose another folder"
        )


def _write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    _files.make_folder(path.parent)
    still = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    run = json.dumps(about)
    _files.write_tensors(path, still, {"run": run, "sha256": _seal(run, still)})


def _seal(run: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{run} {fingerprint(tensors)}".encode()).hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        tensors, metadata = _files.read_tensors(path)
        if metadata.get("sha256") != _seal(metadata["run"], tensors):
            raise ValueError("its SHA-256 is not that of what it holds")
        return _files.json_object(metadata["run"]), tensors
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: is not a checkpoint that can be read ({error}); move it away to start again"
        ) from error


def _resume(
    path: Path,
    targets: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    rng: Rng,
    steps: int,
    loop: TrainingLoop,
) -> int:
    about, tensors = _read(path)
    _check(path, about, _run(loop, steps))
    if any(name not in tensors or tensors[name].shape != t.shape for name, t in targets.items()):
        raise ValueError(
            f"{path}: is the checkpoint of another run (other parameters); move it away, or choose another folder"
        )
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(tensors[name])
    state: dict[int, dict[str, Any]] = {}
    try:
        entries = {name: value for name, value in tensors.items() if name.startswith("optimiser.")} | about["scalars"]
        for key, value in entries.items():
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        rng.restore(about["dice"])
        return int(about["step"])
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: is damaged ({error!r}); move it away to start again") from error
