"""Defence: what stands between a prompt and its image, at inference. Prompts in, images out.

A defence changes the text (blacklist, POSI), its encoding (adaptive median smoothing) or the sampler's guidance (SLD).
Image i has the initial noise of its own seed under every defence, so that two columns of a table differ by the defence alone.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from certify import generate
from certify.models import PromptEncoder

__all__ = ["Defense", "Made", "Plain"]


@dataclass(frozen=True)
class Made:
    """Images and what they took.

    Attributes:
        images: (b, 3, height, width) in [0, 1].
        prompts: what the text encoder was given.
        seconds: wall time of everything between prompts and images.
    """

    images: Tensor
    prompts: tuple[str, ...]
    seconds: float


class Defense(ABC):
    """One defence of one pipeline.

    Args:
        pipe: a Stable Diffusion pipeline, erased or not.
        steps, guidance: of its sampler.
    """

    name: ClassVar[str]

    def __init__(self, pipe: Any, *, steps: int, guidance: float) -> None:
        self.pipe, self.steps, self.guidance = pipe, steps, guidance
        self.encoder = PromptEncoder.from_pipeline(pipe)

    def make(self, prompts: Sequence[str], seeds: Sequence[int], *, batch: int = 64) -> Made:
        """An image a prompt, from the initial noise of its seed."""
        if len(prompts) != len(seeds):
            raise ValueError(f"seeds has {len(seeds)} entries for {len(prompts)} prompts: must be one each")
        started, parts, given = time.perf_counter(), [], []
        for first in range(0, len(prompts), batch):
            texts = self.rewritten(prompts[first : first + batch])
            parts.append(self.drawn(self.encoded(texts), list(seeds[first : first + batch])))
            given += texts
        return Made(torch.cat(parts), tuple(given), time.perf_counter() - started)

    def rewritten(self, prompts: Sequence[str]) -> list[str]:
        """What the text encoder is given; the prompts themselves unless a defence says otherwise."""
        return list(prompts)

    def encoded(self, prompts: Sequence[str]) -> Tensor:
        """(b, tokens, width); the plain encodings unless a defence says otherwise."""
        return self.encoder.plain(list(prompts))

    def drawn(self, embeds: Tensor, seeds: list[int]) -> Tensor:
        """Images of encodings, by the pipeline's own sampler unless a defence says otherwise."""
        return generate.images(
            self.pipe, embeds, seed=seeds, steps=self.steps, guidance=self.guidance, batch=len(embeds)
        )

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """Its settings, for the record, as JSON values."""


class Plain(Defense):
    """No defence."""

    name = "none"

    def described(self) -> dict[str, Any]:
        return {}
