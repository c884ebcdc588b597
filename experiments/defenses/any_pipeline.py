"""AMS on a pipeline of any family: the defence of `certify.defend`, asked as the other defences are.

    Defended(certify.defend(pipe, concepts=[…])).make(prompts, seeds)

Images come from the pipeline's own `__call__`, a prompt at a time, image i from the initial noise of its own seed; the
smoothing noise is fresh at every call, as it is deployed. `smoothed=False` is the column without the defence, on the same
initial noise. ESD, SLD and what else reaches into a U-Net stay with Stable Diffusion.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from certify.defence import Defence
from experiments.defenses.defense import Defense, Generated

__all__ = ["Defended"]


class Defended(Defense):
    """A defended pipeline of any family as a defence.

    Args:
        safe: what `certify.defend` gave.
        smoothed: whether the smoother is in it.
        call: further arguments of the pipeline's `__call__`: steps, guidance, size.
    """

    name = "ams of any pipeline"

    def __init__(self, safe: Defence, *, smoothed: bool = True, **call: Any) -> None:
        if not isinstance(safe, Defence):
            raise TypeError(f"safe is a {type(safe).__name__}: must be what certify.defend gives")
        self.safe, self.pipe, self.smoothed, self.call = safe, safe.pipe, smoothed, call

    def make(self, prompts: Sequence[str], seeds: Sequence[int], *, batch: int = 64) -> Generated:
        """An image a prompt, from the initial noise of its seed; one at a time, whatever `batch` is.

        Raises:
            ValueError: there is no prompt, not one seed a prompt, or the pipeline makes no images.
        """
        if not prompts or len(prompts) != len(seeds):
            raise ValueError(
                f"seeds has {len(seeds)} entries for {len(prompts)} prompts: must be one each, at least one"
            )
        run = self.safe if self.smoothed else self.pipe
        given = {**self.safe.calls.options, **self.call, "output_type": "pt", "return_dict": False}
        started, made = time.perf_counter(), list[Tensor]()
        for prompt, seed in zip(prompts, seeds, strict=True):
            found = run(prompt=prompt, generator=torch.Generator().manual_seed(seed), **given)[0]
            if not isinstance(found, Tensor) or found.ndim != 4:
                raise ValueError(f"{type(self.pipe).__name__} gives no images (b, 3, height, width): must")
            made.append(found.float().clamp(0, 1).cpu())
        return Generated(torch.cat(made), tuple(prompts), time.perf_counter() - started)

    def described(self) -> dict[str, Any]:
        settings = self.safe.adaptive.settings() if self.smoothed else {}
        return {"pipeline": type(self.pipe).__name__, "smoothed": self.smoothed, **settings}
