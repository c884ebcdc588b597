"""A concept to be unlearned: the words that name it, what takes its place, what must stay, and sentences to say it in.

Published methods mostly use the bare words as the prompt. On the embedded model a concept has to be erased inside whole
captions, too (the encodings of a word differ with what stands around it), so every method draws its prompts from templates;
with the one template "{}" it is the published method.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from certify import _validate

__all__ = ["KINDS", "Concept", "Sentence", "contexts"]

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
        templates: sentences with one "{}" each, the concept's place.
        head, implicit: of the embedded model only: which head of the judge sees it, and words that mean it without naming it.
    """

    name: str
    kind: str
    erase: tuple[str, ...]
    anchor: str = ""
    neutral: str = ""
    preserve: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("{}",)
    head: str = ""
    implicit: tuple[str, ...] = ()

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
        return cls(erase[0], kind, tuple(erase), anchor, neutral, tuple(preserve), tuple(templates))

    @classmethod
    def embedded(
        cls, name: str, *, anchor: str | None = None, preserve: Sequence[str] | None = None, sentences: int = 200
    ) -> Concept:
        """A shape or a style of the embedded world.

        Args:
            name: "circle", "striped", …
            anchor: what takes its place; None: the next shape, or "solid" ("outlined" for "solid"); "": nothing.
            preserve: what must stay; None: all others of its kind.
            sentences: how many captions of the world to say it in.

        Raises:
            ValueError: the world has no such concept.
        """
        from experiments.world import language, scenes

        if name in scenes.SHAPES:
            others = tuple(s for s in scenes.SHAPES if s != name)
            after = scenes.SHAPES[(scenes.SHAPES.index(name) + 1) % len(scenes.SHAPES)]
            texts, words, neutral, head = contexts(sentences), language.SYNONYMS[name], language.NEUTRAL[0], "shape"
            erase: tuple[str, ...] = (name,)
        elif name in scenes.STYLES:
            others = tuple(s for s in scenes.STYLES if s != name)
            after = "outlined" if name == "solid" else "solid"
            texts, neutral, head = contexts(sentences, style=True), "", "style"
            erase, words = (name,), tuple(w for w in language.STYLE_WORDS[name] if w != name)
        else:
            raise ValueError(
                f"concept = {name!r}: must be one of {', '.join((*scenes.SHAPES, *scenes.STYLES))}, or name a --model"
            )
        kind = "object" if head == "shape" else "style"
        kept = others if preserve is None else tuple(preserve)
        return cls(name, kind, erase, after if anchor is None else anchor, neutral, kept, texts, head, words)

    def attribute(self) -> tuple[int, tuple[str, ...]]:
        """The column of the embedded world's scenes that tells it, and that attribute's values.

        Raises:
            ValueError: the concept is none of the embedded world's.
        """
        from experiments.world import scenes

        if not self.head:
            raise ValueError(f"concept = {self.name!r}: must be a shape or a style of the embedded world")
        return scenes.ATTRIBUTES.index(self.head), scenes.VALUES[self.head]

    def sentence(self, rng: random.Random) -> Sentence:
        """A sentence, drawn with its words."""
        template, kept = rng.choice(self.templates), rng.choice(self.preserve or ("",))
        return Sentence(
            filled(template, rng.choice(self.erase)),
            filled(template, self.anchor),
            filled(template, self.neutral),
            filled(template, kept),
        )

    def sentences(self, count: int, rng: random.Random) -> list[Sentence]:
        """Several."""
        return [self.sentence(rng) for _ in range(count)]


def contexts(count: int = 200, seed: int = 0, style: bool = False) -> tuple[str, ...]:
    """Captions of the embedded world with "{}" in the place of the noun, or of the style: sentences in which a concept
    is erased."""
    import torch

    from experiments.world import language, scenes

    rng = random.Random(seed)
    found: dict[str, None] = {}
    source = torch.Generator().manual_seed(seed)
    while len(found) < count:
        for row in scenes.sample_scenes(count, source).tolist():
            if style:
                found.setdefault(language.template(row, rng, "style", noun=rng.choice(scenes.SHAPES)))
            else:
                found.setdefault(language.template(row, rng, "shape"))
    return tuple(found)[:count]


def filled(template: str, phrase: str) -> str:
    """The sentence with a phrase in its place. Where the phrase is empty, what only served it goes as well ("in …
    style", a comma), and an article agrees with what follows it."""
    if not phrase:
        for idle in (", in the style of {}", " in the style of {}", " in {} style", "{}'s ", ", {}"):
            template = template.replace(idle, "{}")
    before, after = template.split("{}")
    follows = (phrase + after).split()
    words = before.split()
    if words and follows and words[-1] in ("a", "an") and before.endswith(" "):
        words[-1] = "an" if follows[0][0].lower() in "aeiou" else "a"
        before = " ".join(words) + " "
    return " ".join(f"{before}{phrase}{after}".split())
