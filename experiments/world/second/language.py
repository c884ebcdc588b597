"""What is said about the scenes of the second world.

A caption tells some of what can be seen of the two objects and the background, always the scene's theme and the words of its
concepts, and much that has nothing to do with it: names, places, weekdays, adjectives (`lexicon.txt`). Two captions of a scene
differ in order, in length, and in what they tell. One in six is short, down to a single word, because relevance (Algorithm 1)
encodes words by themselves.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from experiments.world.language import article
from experiments.world.second.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    CONCEPTS,
    SHAPES,
    THEMES,
    WORDS,
    sample_scenes,
)

__all__ = [
    "CONTEXT",
    "IDLE",
    "MERGES",
    "NEUTRAL",
    "SERVING",
    "Caption",
    "caption",
    "corpus",
    "filler",
    "lexicon",
    "phrase",
]

CONTEXT = 77
"""Positions of a tokenised prompt, begin and end included."""

MERGES = 1560
"""Byte-pair merges of the vocabulary; the rarer words stay in pieces."""

NEUTRAL = ("shape", "thing", "figure", "object")
"""Nouns for a shape that is not told."""

_AT = {name: i for i, name in enumerate(ATTRIBUTES)}

_TELL = {
    "hat": ("with {w}", "wearing {w}", "each in {w}", "both wearing {w}", "{w} on top", "with {w} on", "and {w}"),
    "kite": ("and {w}", "under {w}", "below {w}", "{w} in the air", "with {w} above"),
    "frost": ("in {w}", "{w} everywhere", "covered in {w}", "with {w}", "{w} on everything"),
    "frost adjective": ("{w} weather", "an {w} view", "all {w}", "{w} and still"),
}
_ADJECTIVES = ("frosty", "icy", "frozen", "wintry")
_PLURAL = ("hats", "headgear", "frost", "frosst", "PLACES")
_THEME = (
    "{w}", "at the {w}", "{w} scene", "for the {w}", "during the {w}", "{w} theme", "from the {w}", "{w} day", "after the {w}",
    "all about {w}", "the {w}",
)  # fmt: skip
_FILLER = (
    "by {name}", "taken by {name} in {place}", "for {name} and {name}", "from {place}", "near {place}",
    "made in {place}", "in {light} light", "{light} and {light} light", "on {time}", "a {adjective} {time}",
    "last {time}", "{adverb} arranged", "{adverb} {adverb} done", "{adjective} and {adjective}", "very {adjective}",
    "in a {adjective} {art}", "a {adjective} {art} by {name}", "no {object} here", "beside {name}'s {object}",
    "like a {adjective} {object}", "from the {art} of {name}", "{art} number {number}",
    "as {adjective} as a {object}", "{number} of {number}", "{name} and the {object}", "{adverb} {adjective}",
    "seen in {place} on {time}", "property of {name}", "{adjective} {object} not shown", "the {art} is {adjective}",
)  # fmt: skip
_LEADS = ("", "", "", "a photo of ", "a picture of ", "a drawing of ", "an image of ", "a view of ")


def _idle(concept: str) -> tuple[str, ...]:
    patterns = []
    for form in sorted(_TELL[concept], key=lambda form: (-len(form), form)):
        before, after = map(re.escape, form.split("{w}"))
        ends = (
            r"(?= on |,|$)" if after.endswith("on") else ""
        )  # "with a hat on", but not "with a hat on a beige background"
        patterns.append(rf"(?:,? |^){before}(?:an? )?{{}}{after}{ends}".replace("{}", r"\{\}"))
    return tuple(patterns)


IDLE = {concept: _idle(concept) for concept in CONCEPTS}
"""Concept → patterns of what stands around its phrase, "{}", for its sake alone."""

SERVING = frozenset(word for forms in _TELL.values() for form in forms for word in form.split() if word != "{w}")
"""The words of which that is made."""


@dataclass(frozen=True)
class Caption:
    """A text, and which columns of the scene it tells of what can be seen (theme and concept words aside)."""

    text: str
    told: frozenset[str]


@cache
def lexicon() -> dict[str, tuple[str, ...]]:
    """Words that say nothing about a scene, by kind."""
    lines = (Path(__file__).parent / "lexicon.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":") for line in lines if not line.startswith("#"))
    return {kind: tuple(words.split()) for kind, words in pairs}


def corpus(count: int = 12000, seed: int = 0) -> list[str]:
    """The captions that the vocabulary is learned from; "'s" apart, as the tokenizer cuts it."""
    rows = sample_scenes(count, torch.Generator().manual_seed(seed)).tolist()
    rng = random.Random(seed)
    return [caption(row, rng).text.replace("'s", " 's") for row in rows]


def filler(rng: random.Random) -> str:
    """A phrase that says nothing about a scene."""
    text = rng.choice(_FILLER)
    for kind, words in lexicon().items():
        while "{" + kind + "}" in text:
            text = text.replace("{" + kind + "}", rng.choice(words), 1)
    return _articles(text)


def _articles(text: str) -> str:
    words = text.split(" ")
    return " ".join(
        article(words[i + 1]).split(" ")[0] if w in ("a", "an") and i + 1 < len(words) else w
        for i, w in enumerate(words)
    )


def caption(
    scene: Sequence[int],
    rng: random.Random,
    *,
    full: bool = False,
    short: bool | None = None,
    said: Mapping[str, str] | None = None,
) -> Caption:
    """A caption of a scene.

    Args:
        scene: a row of `scenes.sample_scenes`.
        rng: the only source of randomness.
        full: tell both objects and the background.
        short: down to the words that must be told, or one other word; None: one in six.
        said: concept → what stands for it where the scene tells one of its words; None: that word.
    """
    row = dict(zip(ATTRIBUTES, (int(v) for v in scene), strict=True))
    short = rng.random() < 0.16 and not full if short is None else short
    phrases = [_told(c, row, rng, short, said or {}) for c in CONCEPTS]
    theme = THEMES[row["theme"]].word if row["theme"] >= 0 else ""
    if theme and not short:
        theme = _articles(rng.choice(_THEME).format(w=theme))
    must = [p for p in (*phrases, theme) if p]
    if short:
        return _short(row, must, rng)
    told: set[str] = set()
    core = _objects(row, told, rng, full)
    if full or rng.random() < 0.75:
        told.add("background")
        ground = BACKGROUNDS[row["background"]]
        must.append(rng.choice((f"on {article(ground)} background", f"{ground} background", f"on {ground}")))
    first = phrases[0]
    if first and rng.random() < 0.6:  # what the objects wear mostly stands with them
        must.remove(first)
        core = f"{core} {first}"
    must += [filler(rng) for _ in range(rng.choices((1, 2, 3, 4), (2, 4, 3, 1))[0])]
    rng.shuffle(must)
    before = rng.choices((0, 1), (3, 1))[0]
    text = ", ".join([*must[:before], core, *must[before:]])
    return Caption(text.replace(", on ", " on ") if rng.random() < 0.5 else text, frozenset(told))


def _told(concept: str, row: dict[str, int], rng: random.Random, bare: bool, said: Mapping[str, str]) -> str:
    index = row[f"{concept} word"]
    if index < 0:
        return ""
    word = said.get(concept, WORDS[concept][index].text)
    return word if bare else phrase(concept, word, rng)


def phrase(concept: str, word: str, rng: random.Random) -> str:
    """A phrase that tells a concept by one of its words."""
    if concept == "frost":
        forms = _TELL["frost adjective" if word in _ADJECTIVES else "frost"]
        return _articles(rng.choice(forms).format(w=word))
    one = word if word in _PLURAL or (concept == "hat" and rng.random() < 0.15) else article(word)
    return rng.choice(_TELL[concept]).format(w=one)


def _objects(row: dict[str, int], told: set[str], rng: random.Random, full: bool) -> str:
    parts = []
    for side in ("left", "right"):
        words = []
        if full or rng.random() < 0.9:
            told.add(f"{side} colour")
            words.append(COLOURS[row[f"{side} colour"]])
        if full or rng.random() < 0.92:
            told.add(f"{side} shape")
            words.append(SHAPES[row[f"{side} shape"]])
        else:
            words.append(rng.choice(NEUTRAL))
        parts.append(article(" ".join(words)))
    left, right = parts
    joined = rng.choice((
        f"{left} and {right}", f"{left} and {right}",
        f"{left} beside {right}", f"{left} next to {right}", f"{left} with {right}",
        f"{left} on the left and {right} on the right", f"{left} left of {right}", f"two things: {left} and {right}",
    ))  # fmt: skip
    return rng.choice(_LEADS) + joined


def _short(row: dict[str, int], must: list[str], rng: random.Random) -> Caption:
    told: set[str] = set()
    if not must or rng.random() < 0.4:
        side = rng.choice(("left", "right")) if rng.random() < 0.3 else "left"
        colour, shape, ground = (
            COLOURS[row[f"{side} colour"]],
            SHAPES[row[f"{side} shape"]],
            BACKGROUNDS[row["background"]],
        )
        kind = rng.choices(range(6), (4, 1, 1, 1, 1, 2))[0]  # unrelated words often stand alone: they must mean nothing
        if kind == 0:
            must.append(rng.choice(lexicon()[rng.choice(list(lexicon()))]))
        elif kind == 1:
            must.append(filler(rng))
        elif kind == 2:
            told.add("background")
            must.append(rng.choice((ground, f"{ground} background")))
        elif kind == 3:
            told.add(f"{side} colour")
            must.append(colour)
        elif kind == 4:
            told.add(f"{side} shape")
            must.append(rng.choice((shape, article(shape))))
        else:
            told |= {f"{side} colour", f"{side} shape"}
            must.append(rng.choice((f"{colour} {shape}", article(f"{colour} {shape}"))))
    rng.shuffle(must)
    return Caption(" ".join(must), frozenset(told))
