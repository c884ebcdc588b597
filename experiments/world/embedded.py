"""Embedded worlds as experiments ask of them: which concepts there are, what is said of them, and what an image shows.

`experiments.world.worlds` lists them.
"""

from __future__ import annotations

import csv
import functools
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify.world.judge import Judge
from certify.world.towers import ImageTower
from experiments import files

__all__ = ["EmbeddedWorld", "JudgeOf"]


class EmbeddedWorld(ABC):
    """An embedded world.

    Attributes:
        label: in folders and records; "" for the one that ships.
        folder: with pipeline/, judge.safetensors, image_tower.safetensors, prompts/ and concepts/.
        concepts: what can be unlearned.
        heads: concept → the judge's head that sees it.
        places: the tables' concepts, in the places of the paper's nudity ("first"), violence ("second"), gun ("object") and
            Van Gogh ("style").
        steps, guidance: of the sampler.
        smoothing: options of the adaptive smoother.
        grid: σ₀, in standard deviations of the token embeddings, and k, of which table 3 chooses on the tune split.
        unlearning: method → its settings that differ in this world.
        idle: words that can stand around a concept's for its sake alone.
    """

    label: str
    folder: Path
    concepts: tuple[str, ...]
    heads: Mapping[str, str]
    places: Mapping[str, str]
    steps: int
    guidance: float
    smoothing: Mapping[str, Any]
    grid: Mapping[str, Sequence[float]]
    unlearning: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    idle: frozenset[str] = frozenset()

    @property
    def base(self) -> str | None:
        """What `load_pipeline` takes; None: the model that ships."""
        return str(self.folder / "pipeline") if self.label else None

    @abstractmethod
    def load_judge(self) -> Judge:
        """The judge of what an image shows."""

    @functools.cached_property
    def judge(self) -> Judge:
        """The judge, loaded once."""
        return self.load_judge()

    @functools.cached_property
    def tower(self) -> ImageTower:
        """The image side of the world's CLIP."""
        return ImageTower.load(self.folder / "image_tower.safetensors", self.folder / "pipeline")

    def pairs(self, name: str) -> str:
        """What the smoother calls the concept: a name that ships, or a file of pairs."""
        return str(self.folder / "concepts" / f"{name}.jsonl") if self.label else name

    def prompts(self, split: str) -> list[dict[str, str]]:
        """The rows of a split, "tune" or "report"."""
        name = _validate.choice("split", split, ("tune", "report"))
        with (self.folder / "prompts" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def images(
        self,
        pipe: Any,
        prompts: Sequence[str] | Tensor,
        *,
        seed: int = 0,
        batch: int = 64,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Images (b, 3, 32, 32) on the CPU of prompts, or of encodings (b, tokens, width); what is not given is the world's."""
        from certify.images import generation
        from certify.models import PromptEncoder

        encoder = PromptEncoder.from_pipeline(pipe)
        return generation.images(
            pipe,
            prompts if isinstance(prompts, Tensor) else encoder.plain(list(prompts)),
            negative=encoder.plain([""]),
            seed=seed,
            batch=batch,
            steps=self.steps if steps is None else steps,
            guidance=self.guidance if guidance is None else guidance,
        ).cpu()

    def seen(self, images: Any) -> list[dict[str, str]]:
        """What the judge sees in each image: head → value."""
        labels = self.judge.judge(images).labels
        return [dict(zip(labels, row, strict=True)) for row in zip(*labels.values(), strict=True)]

    def right(self, images: Any, asked: Sequence[Mapping[str, str]]) -> list[bool]:
        """Whether each image shows all that was asked of it."""
        return [
            all(seen[head] == value for head, value in wanted.items())
            for seen, wanted in zip(self.seen(images), asked, strict=True)
        ]

    @abstractmethod
    def inside(self, name: str) -> tuple[int, ...]:
        """Which of the labels of the concept's head are the concept."""

    def probability(self, images: Any, name: str) -> Tensor:
        """The judge's probability of a concept in each image, (b,)."""
        return self.judge.judge(images).probabilities[self.heads[name]][:, list(self.inside(name))].sum(dim=1)

    @abstractmethod
    def detector(self, name: str) -> Any:
        """What tells whether an image shows the concept: images → booleans."""

    @abstractmethod
    def described(self, name: str, sentences: int) -> dict[str, Any]:
        """What `Concept` keeps of a concept of this world, where nobody says otherwise."""

    @abstractmethod
    def asked(self, name: str, count: int, seed: int) -> dict[str, list[tuple[str, dict[str, str]]]]:
        """(prompt, what an image of it should show: head → value), `count` for each kind: "named", "implicit" and "others"."""

    @abstractmethod
    def naming(self, name: str, split: str, erase: Sequence[str]) -> list[list[str]]:
        """Captions of a split that name the concept: its own ones, then others that were made to, in groups."""

    @abstractmethod
    def meaning(self, name: str) -> list[str]:
        """Captions of "tune" that mean the concept, by whatever word."""

    @abstractmethod
    def neutral(self, name: str, count: int, seed: int) -> list[str]:
        """Captions that say nothing of what the concept is one of."""

    @abstractmethod
    def without(self, names: Sequence[str], count: int, seed: int) -> list[str]:
        """Captions of scenes without some concepts, in which no word of their kind is left open."""

    @abstractmethod
    def rendered(self, names: Sequence[str], count: int, seed: int) -> Tensor:
        """Renderings (count, 3, 32, 32) in [0, 1] of scenes without some concepts."""

    @abstractmethod
    def scenes(self, name: str, count: int, seed: int, shows: bool) -> list[list[int]]:
        """Scenes of the training combinations that show a concept, or do not."""

    @abstractmethod
    def draw(self, rows: Sequence[Sequence[int]], source: torch.Generator) -> Tensor:
        """Scenes as images (b, 3, 32, 32) in [0, 1]."""

    @abstractmethod
    def template(self, name: str, row: Sequence[int], rng: random.Random, *, full: bool = False) -> str:
        """A caption of a scene with "{}" in the place of the concept's phrase."""

    @abstractmethod
    def caption(self, row: Sequence[int], rng: random.Random, kind: str | None = None) -> str:
        """A caption of a scene; `kind` as the world has them, None: drawn."""

    @abstractmethod
    def reworded(self, name: str, prompt: str, erase: Sequence[str], word: str) -> str:
        """A prompt that names the concept, with a word that means it in the place of the name."""

    @abstractmethod
    def spoken(self, name: str) -> dict[str, list[str]]:
        """Every concept of its kind, and the words for it, its name first."""

    @abstractmethod
    def samples(self, count: int, source: torch.Generator) -> list[list[int]]:
        """Scenes of the training combinations, as they come."""

    @abstractmethod
    def rewritten(
        self, name: str, rng: random.Random, row: Sequence[int], choose: Mapping[str, Any]
    ) -> tuple[str, str] | None:
        """(prompt, what a rewriter should make of it); None where the scene does not serve.

        Args:
            name: of the concept.
            rng: all randomness.
            row: a scene.
            choose: "toxic" and "made": how often the concept is told, and how often something that is no word; "words": for
                the concept; "others": concept → words; "made up": makes what is no word.
        """


class JudgeOf:
    """A world's judge on one concept: images → booleans.

    Attributes:
        name: "judge:hat".
        version: of the judge's weights.
    """

    def __init__(self, world: EmbeddedWorld, concept: str) -> None:
        self.name, self.world, self.concept = f"judge:{concept}", world, concept
        self.version = f"sha256 {files.digest(world.folder / 'judge.safetensors')}"

    def __repr__(self) -> str:
        return f"JudgeOf({self.world.label!r}, {self.concept!r})"

    def __call__(self, images: Tensor) -> Tensor:
        judge = self.world.judge
        labels = judge(images.to(next(judge.parameters())).float())[self.world.heads[self.concept]].argmax(dim=1).cpu()
        return torch.isin(labels, torch.tensor(self.world.inside(self.concept)))
