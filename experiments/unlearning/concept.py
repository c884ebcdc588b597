"""A concept to be unlearned: the words that name it, what takes its place, what must stay, and sentences to say it in.

Published methods mostly use the bare words as the prompt. On the embedded model a concept has to be erased inside whole
captions, too (the encodings of a word differ with what stands around it), so every method draws its prompts from templates;
with the one template "{}" it is the published method.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from certify import _validate
from experiments.sentences import IDLE, filled

if TYPE_CHECKING:
    from experiments.world.embedded import EmbeddedWorld

__all__ = ["KINDS", "Concept", "Sentence"]

KINDS = ("object", "style")


@dataclass(frozen=True)
class Sentence:
    """One sentence in four forms: naming the concept, with its anchor, with nothing in its place, and with something
    that must stay."""

    target: str
    anchor: str
    neutral: str
    retained: str


@dataclass(frozen=True)
class Concept:
    """What is unlearned.

    Attributes:
        name: what it is called in folders and tables.
        kind: "object" or "style".
        erase: words or phrases that name it.
        anchor: what takes its place, where a method maps it to something ("cat" for "grumpy cat"); "": nothing.
        neutral: what stands in its place where nothing is said about it ("shape" for "circle", "" for a style).
        preserve: words or phrases, used in the same places, that must stay.
        captions: whole captions that tell nothing of it and must stay, for the methods that edit by prompts (UCE, RECE).
        templates: sentences with one "{}" each, the concept's place.
        head, implicit: of the embedded worlds only: which head of the judge sees it, and words that mean it without naming it.
        idle: patterns of what in a sentence only serves the phrase, "{}", and goes where the phrase is empty.
    """

    name: str
    kind: str
    erase: tuple[str, ...]
    anchor: str = ""
    neutral: str = ""
    preserve: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("{}",)
    head: str = ""
    implicit: tuple[str, ...] = ()
    idle: tuple[str, ...] = IDLE

    def __post_init__(self) -> None:
        _validate.choice("kind", self.kind, KINDS)
        if not self.erase or not all(phrase.strip() for phrase in self.erase):
            raise ValueError(f"erase = {self.erase!r}: must be words or phrases, none of them empty")
        wrong = [t for t in self.templates if t.count("{}") != 1]
        if not self.templates or wrong:
            raise ValueError(f"templates holds {wrong!r}: must be sentences with one '{{}}' each")

    @classmethod
    def of(
        cls,
        erase: Sequence[str],
        *,
        kind: str = "object",
        anchor: str = "",
        neutral: str = "",
        preserve: Sequence[str] = (),
        templates: Sequence[str] = ("{}",),
    ) -> Concept:
        """A concept of any model, named after its first phrase.

        Raises:
            TypeError: a text where a list of texts must be.
            ValueError: nothing to erase, an unknown kind, or a template without its place.
        """
        for argument, value in (("erase", erase), ("preserve", preserve), ("templates", templates)):
            if isinstance(value, str):
                raise TypeError(f"{argument} = {value!r}: must be a list of texts")
        if not erase:
            raise ValueError("erase = []: must be words or phrases, none of them empty")
        return cls(erase[0], kind, tuple(erase), anchor, neutral, tuple(preserve), templates=tuple(templates))

    @classmethod
    def embedded(
        cls, name: str, *, anchor: str | None = None, preserve: Sequence[str] | None = None, sentences: int = 200
    ) -> Concept:
        """A concept of an embedded world.

        Args:
            name: "circle", "striped", …; "hat", …
            anchor: what takes its place; None: the world's choice (of shapes the next, of styles "solid", or "outlined" for
                "solid", in the second world nothing); "": nothing.
            preserve: what must stay; None: the world's choice (all others of its kind, in the second world nothing).
            sentences: how many captions of the world to say it in.

        Raises:
            ValueError: no world has such a concept.
        """
        from experiments.world import worlds

        told = worlds.of(name).described(name, sentences)
        if anchor is not None:
            told["anchor"] = anchor
        if preserve is not None:
            told["preserve"] = tuple(preserve)
        return cls(name, **told)

    @property
    def world(self) -> EmbeddedWorld:
        """The embedded world that has it.

        Raises:
            ValueError: none has.
        """
        from experiments.world import worlds

        if not self.head:
            raise ValueError(f"concept = {self.name!r}: must be a concept of an embedded world")
        return worlds.of(self.name.partition("+")[0])

    @property
    def erased(self) -> list[tuple[str, str]]:
        """Every (template, phrase) that names it."""
        return [(template, phrase) for template in self.templates for phrase in self.erase]

    @property
    def preserved(self) -> list[tuple[str, str]]:
        """Every (template, phrase) that must stay, whole captions last."""
        kept = [(template, phrase) for phrase in self.preserve for template in self.templates]
        return kept + [("{}", caption) for caption in self.captions]

    def sentence(self, rng: random.Random) -> Sentence:
        """A sentence, drawn with its words."""
        template, kept = rng.choice(self.templates), rng.choice(self.preserve or ("",))
        return Sentence(
            filled(template, rng.choice(self.erase)),
            filled(template, self.anchor, self.idle),
            filled(template, self.neutral, self.idle),
            filled(template, kept, self.idle),
        )

    def sentences(self, count: int, rng: random.Random) -> list[Sentence]:
        """Several."""
        return [self.sentence(rng) for _ in range(count)]
