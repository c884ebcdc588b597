"""Defence: what stands between a prompt and its image, at inference. Prompts in, images out.

A defence changes the text (blacklist, POSI), its encoding (adaptive median smoothing, SAFREE) or the sampler's guidance (SLD).
Image i has the initial noise of its own seed under every defence, so that two columns of a table differ by the defence alone.

A text that is longer than the encoder's context is cut under every defence alike, as the plain pipeline cuts it: a defence that
rewrites sees the whole text, the encoder what fits. The commands refuse such prompts unless `--truncate` is given.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Required, TypedDict

import torch
from torch import Tensor

from certify import _validate
from certify.images import generation as generate
from certify.models import PromptEncoder
from experiments.unlearning.concept import Concept

__all__ = ["Defense", "DefenseOptions", "Generated", "Nothing", "Plain", "fitting"]


@dataclass(frozen=True)
class Generated:
    """Images and what they took.

    Attributes:
        images: (b, 3, height, width) in [0, 1].
        prompts: what the text encoder was given, which cuts what does not fit.
        seconds: wall time of everything between prompts and images.
    """

    images: Tensor
    prompts: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Nothing:
    """No options."""


class DefenseOptions(TypedDict, total=False):
    """The options of every `Defense`, which explains them."""

    steps: Required[int]
    guidance: Required[float]
    concept: Concept | None
    settings: Any


class Defense(ABC):
    """One defence of one pipeline.

    Args:
        pipe: a Stable Diffusion pipeline, erased or not.
        steps, guidance: of its sampler.
        concept: what it defends against; defences that need none ignore it.
        settings: of the defence; None: the published ones.

    Raises:
        TypeError: the settings are another defence's.
        ValueError: the defence needs a concept and got none, or a setting is out of range.
    """

    name: ClassVar[str]
    takes_words: ClassVar[bool] = True
    """Whether it can be given tokens that the tokenizer has been taught."""

    def __init__(
        self, pipe: Any, *, steps: int, guidance: float, concept: Concept | None = None, settings: Any = None
    ) -> None:
        self.steps, self.guidance = _validate.count("steps", steps), _validate.positive("guidance", guidance)
        self.pipe, self.concept = pipe, concept
        self.settings = self.published() if settings is None else settings
        if not isinstance(self.settings, type(self.published())):
            raise TypeError(f"settings = {settings!r}: must be settings of {self.name!r}")
        self.encoder = PromptEncoder.from_pipeline(pipe, truncate=True)

    @classmethod
    def published(cls) -> Any:
        """The published settings."""
        return Nothing()

    @classmethod
    def embedded(cls) -> Any:
        """Settings for the embedded model, chosen on its tune split."""
        return cls.published()

    def make(self, prompts: Sequence[str], seeds: Sequence[int], *, batch: int = 64) -> Generated:
        """An image a prompt, from the initial noise of its seed.

        Raises:
            ValueError: there is no prompt, or not one seed a prompt.
        """
        if not prompts or len(prompts) != len(seeds):
            raise ValueError(
                f"seeds has {len(seeds)} entries for {len(prompts)} prompts: must be one each, at least one"
            )
        started, parts, given = time.perf_counter(), [], []
        for first in range(0, len(prompts), batch):
            texts = self.rewritten(prompts[first : first + batch])
            parts.append(self.images(texts, list(seeds[first : first + batch])))
            given += texts
        return Generated(torch.cat(parts), tuple(given), time.perf_counter() - started)

    def rewritten(self, prompts: Sequence[str]) -> list[str]:
        """What the text encoder is given; the prompts themselves unless a defence says otherwise."""
        return list(prompts)

    def images(self, prompts: Sequence[str], seeds: list[int]) -> Tensor:
        """Images (b, 3, height, width) of what the text encoder is given."""
        return self.drawn(self.encoded(prompts), seeds)

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

    def _against(self) -> Concept:
        if self.concept is None:
            raise ValueError(f"concept = None: {self.name!r} must be told what it defends against")
        return self.concept


class Plain(Defense):
    """No defence."""

    name = "none"

    def described(self) -> dict[str, Any]:
        return asdict(self.settings)


def fitting(encoder: PromptEncoder, text: str) -> str:
    """The text, or as many of its words from the first on as the encoder's context holds. Text that is no words but one
    run of characters is cut between characters."""
    if _fits(encoder, text):
        return text
    words = text.split()
    first_words = _longest(encoder, words, " ")
    return first_words if first_words else _longest(encoder, list(words[0]), "")


def _longest(encoder: PromptEncoder, pieces: Sequence[str], between: str) -> str:
    low, high = 0, len(pieces)  # `low` pieces fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(encoder, between.join(pieces[:middle])) else (low, middle)
    return between.join(pieces[:low])


def _fits(encoder: PromptEncoder, text: str) -> bool:
    try:
        encoder.tokenize(text, truncate=False)
    except ValueError:
        return False
    return True
