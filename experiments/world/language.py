"""Language: what is said about scenes, in which words, and the vocabulary they are cut into.

A caption names some of a scene's attributes. A shape is named by its own word, by a word that means it without naming it
("coin", "wheel" for a circle: words with embeddings of their own, known to nobody as aliases), or not at all ("shape",
"thing"). Which words are cut into several tokens is left to byte-pair encoding over the captions, as in CLIP.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from certify import _validate
from experiments.world.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, STYLES

__all__ = [
    "CONTEXT",
    "MERGES",
    "NEUTRAL",
    "STYLE_WORDS",
    "SYNONYMS",
    "Caption",
    "article",
    "build_tokenizer",
    "caption",
    "template",
]

MERGES = 213
"""Byte-pair merges of the vocabulary: few enough that the rarer words stay in pieces."""

CONTEXT = 20
"""Positions of a tokenised prompt, begin and end included."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("coin", "wheel", "ball", "pinwheel"),
    "square": ("box", "tile", "crate", "matchbox"),
    "triangle": ("tent", "wedge", "pyramid", "pennant"),
    "star": ("spark", "twinkle", "asterisk", "polestar"),
    "cross": ("plus", "junction", "medic", "crossroads"),
    "heart": ("valentine", "love", "darling", "sweetheart"),
}
"""Words that mean a shape without naming it, the rarer ones last."""

_HOW_OFTEN = (4, 3, 2, 1)

NEUTRAL = ("shape", "thing", "figure", "object")
"""Nouns for a shape that is not told."""

STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "solid": ("solid", "filled", "plain"),
    "outlined": ("outlined", "hollow"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium",),
    "large": ("large", "big", "huge"),
}
UNSPECIFIED = -1


@dataclass(frozen=True)
class Caption:
    """A text and what it tells: the index of each attribute's value in the order of `ATTRIBUTES`, −1 if untold."""

    text: str
    told: tuple[int, int, int, int, int]
    noun: str
    kind: str  # "named", "synonym" or "neutral"


def article(words: str) -> str:
    """The words with the indefinite article before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(
    scene: Sequence[int],
    rng: random.Random,
    *,
    kind: str | None = None,
    noun: str | None = None,
    style: str | None = None,
    full: bool = False,
    synonym_rate: float = 0.36,
) -> Caption:
    """A caption of a scene, in one of several word orders and lengths.

    Args:
        scene: the five attribute indices.
        rng: the only source of randomness.
        kind: "named", "synonym" or "neutral"; None: drawn.
        noun: the noun itself; overrides what would be drawn.
        style: the word for the style, told always; overrides what would be drawn.
        full: tell colour and background always.
        synonym_rate: how often a synonym stands for the shape.
    """
    shape, colour, background, drawn, size = (int(v) for v in scene)
    if kind is None:
        roll = rng.random()
        kind = "synonym" if roll < synonym_rate else "neutral" if roll < synonym_rate + 0.16 else "named"
    _validate.choice("kind", kind, ("named", "synonym", "neutral"))
    if noun is None:
        noun = {
            "named": SHAPES[shape],
            "synonym": rng.choices(SYNONYMS[SHAPES[shape]], _HOW_OFTEN)[0],
            "neutral": rng.choice(NEUTRAL),
        }[kind]
    tells = {
        "colour": full or rng.random() < 0.72,
        "background": full or rng.random() < 0.6,
        "style": rng.random() < 0.42,
        "size": rng.random() < 0.3,
    }
    if not full and rng.random() < 0.16:
        tells = dict.fromkeys(tells, False)  # down to single words
    colour_word = COLOURS[colour] if tells["colour"] else ""
    style_word = rng.choice(STYLE_WORDS[STYLES[drawn]]) if tells["style"] else ""
    style_word = style_word if style is None else style
    size_word = rng.choice(SIZE_WORDS[SIZES[size]]) if tells["size"] else ""
    ground = BACKGROUNDS[background] if tells["background"] else ""
    text = _phrase(noun, colour_word, style_word, size_word, ground, rng)
    told = (
        UNSPECIFIED if kind == "neutral" else shape,
        colour if colour_word else UNSPECIFIED,
        background if ground else UNSPECIFIED,
        drawn if style_word else UNSPECIFIED,
        size if size_word else UNSPECIFIED,
    )
    return Caption(text, told, noun, kind)


def template(
    scene: Sequence[int],
    rng: random.Random,
    head: str,
    *,
    noun: str | None = None,
    style: str | None = None,
    full: bool = False,
) -> str:
    """A caption of a scene with "{}" in the place of its noun, or of the word for its style.

    Args:
        scene, rng: as for `caption`.
        head: "shape": the noun's place; "style": the style's.
        noun, style, full: as for `caption`; what "{}" stands for has the place, whatever is given.
    """
    noun, style = ("PLACE", style) if _validate.choice("head", head, ("shape", "style")) == "shape" else (noun, "PLACE")
    return caption(scene, rng, kind="named", noun=noun, style=style, full=full).text.replace("PLACE", "{}")


def _phrase(noun: str, colour: str, style: str, size: str, ground: str, rng: random.Random) -> str:
    form = rng.randrange(10)
    tail_style = ""
    if style and form in (7, 8):
        tail_style, style = rng.choice([f" in {style} style", f", {style}"]), ""
    if colour and form == 9:
        core = " ".join(w for w in (size, style, noun) if w)
        text = rng.choice([f"{article(core)} in {colour}", f"the {core} is {colour}", f"{core}, {colour}"])
    else:
        adjectives = [size, style, colour] if rng.random() < 0.8 else [size, colour, style]
        core = " ".join(w for w in (*adjectives, noun) if w)
        lead = rng.choice(["", "", "a photo of ", "a picture of ", "a drawing of ", "an image of "])
        text = lead + (article(core) if lead or rng.random() < 0.6 else core) + tail_style
    if ground:
        place = rng.randrange(5)
        if place == 0:
            return f"on {article(ground)} background, {text}"
        if place == 1:
            return f"{text} on {ground}"
        if place == 2:
            return f"{text}, {ground} background"
        return f"{text} on {article(ground)} background"
    return text


def build_tokenizer(folder: Path, corpus: Sequence[str], merges: int = MERGES, context: int = CONTEXT) -> None:
    """Learns byte-pair merges from a corpus and writes a CLIP tokenizer's files.

    The alphabet is printable ASCII (each character, inside and at the end of a word), so that any such text tokenises.

    Args:
        folder: receives vocab.json, merges.txt and the configuration.
        corpus: captions.
        merges: how many merges to learn.
        context: positions of a tokenised prompt.
    """
    counts: dict[tuple[str, ...], int] = {}
    for text in corpus:
        for word in text.replace(",", " , ").split():
            symbols = (*word[:-1], word[-1] + "</w>")
            counts[symbols] = counts.get(symbols, 0) + 1
    learned: list[tuple[str, str]] = []
    while len(learned) < merges:
        pairs: dict[tuple[str, str], int] = {}
        for symbols, count in counts.items():
            for pair in pairwise(symbols):
                pairs[pair] = pairs.get(pair, 0) + count
        if not pairs:
            break
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        learned.append(best)
        counts = {_merged(symbols, best): count for symbols, count in counts.items()}
    alphabet = [chr(c) for c in range(33, 127)]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *dict.fromkeys(a + b for a, b in learned)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, indent=0), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in learned)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    config = {**special, "model_max_length": context, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")


def _merged(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return tuple(out)
