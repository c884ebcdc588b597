"""What all stages of training have in common: a learning rate that rises, stays and falls, and a state to go on from.

The state is one safetensors file: weights and averages of the parts, the optimiser's moments, and how many steps are done.
A run that is stopped goes on from its last state, with scenes and noise drawn anew from (seed, steps done).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

__all__ = ["Run"]


class Run:
    """Counts steps, sets the learning rate, prints, and saves the state of a training now and then.

    Args:
        file: of the state; a run starts from it where it exists.
        parts: the modules to be saved.
        optimiser: over the parameters of some of them.
        steps: how many in all, those of earlier runs included.
        rate: peak learning rate.
        fall: share of the steps over which the rate falls to a hundredth of it, at the end.
        every: seconds between two states.
    """

    def __init__(
        self, file: Path, parts: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, *, steps: int, rate: float,
        fall: float = 0.4, every: float = 150.0,
    ) -> None:  # fmt: skip
        self.file, self.parts, self.optimiser = file, dict(parts), optimiser
        self.steps, self.rate, self.fall, self.every = steps, rate, fall, every
        self.step = 0
        self._parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self._smooth: dict[str, float] = {}
        if file.exists():
            self._load()

    def learning_rate(self, step: int) -> float:
        """Of the step that comes after `step` steps."""
        left = (self.steps - step) / max(1.0, self.fall * self.steps)
        return self.rate * max(0.01, min(1.0, (step + 1) / 150, left))

    def __iter__(self) -> Iterator[int]:
        """The steps that are left; the state is saved on the way and at the end."""
        saved = time.monotonic()
        while self.step < self.steps:
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate(self.step)
            yield self.step
            self.step += 1
            if time.monotonic() - saved > self.every:
                self.save()
                saved = time.monotonic()
        self.save()

    def descend(self, loss: torch.Tensor, **shown: float) -> None:
        """One step of the optimiser; prints running means of the loss and of what else is shown, every 100 steps."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self.optimiser.step()
        for name, value in {"loss": loss.item(), **shown}.items():
            self._smooth[name] = 0.97 * self._smooth.get(name, value) + 0.03 * value
        if (self.step + 1) % 50 == 0:
            means = ", ".join(f"{name} {value:.4f}" for name, value in self._smooth.items())
            print(f"{time.strftime('%H:%M:%S')} step {self.step + 1} of {self.steps}: {means}", flush=True)

    def save(self) -> None:
        """Writes the state; the old one stays until the new one is whole."""
        from safetensors.torch import save_file

        state = {
            f"part.{n}.{k}": v.contiguous() for n, part in self.parts.items() for k, v in part.state_dict().items()
        }
        for i, p in enumerate(self._parameters):
            for k, v in self.optimiser.state.get(p, {}).items():
                state[f"optimiser.{i}.{k}"] = v.contiguous()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        save_file({k: v.clone() for k, v in state.items()}, partial, metadata={"step": str(self.step)})
        partial.replace(self.file)

    def _load(self) -> None:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as file:
            self.step = int(file.metadata()["step"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for n, part in self.parts.items():
            prefix = f"part.{n}."
            part.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        for i, p in enumerate(self._parameters):
            prefix = f"optimiser.{i}."
            own = {k[len(prefix) :]: v.clone() for k, v in state.items() if k.startswith(prefix)}
            if own:
                self.optimiser.state[p] = own
        print(f"goes on after {self.step} steps", flush=True)
