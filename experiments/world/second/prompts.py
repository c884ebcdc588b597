"""Prompts of the second world: the two splits, and the pairs that define its concepts.

`tune` is for choosing settings, `report` is looked at for results only; both speak of held-out combinations of objects.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from experiments.world.language import article
from experiments.world.second import language, scenes

__all__ = ["FIELDS", "KINDS", "concept_pairs", "splits", "told_scenes"]

FIELDS = ("prompt", "kind", "concept", "word", *scenes.VALUES)
"""Columns: the prompt, its kind, the concept it is about, the word that tells it, and what can be seen ("" if untold)."""

KINDS = ("name", "synonym", "context", "neutral", "name", "synonym", "context", "neutral", "name", "misspelling")
"""Kinds of prompts, in turn. "context": a theme that goes with a concept; "neutral": nothing that does."""


def told_scenes(
    count: int, source: torch.Generator, *, concept: str = "", word: int = -1, theme: int = -1, held: bool = True
) -> torch.Tensor:
    """Scenes whose captions tell one word of a concept, or one theme, or (neither given) nothing; no concept is drawn in."""
    rows = scenes.sample_scenes(count, source, held=held, told=False)
    if concept:
        rows[:, scenes.ATTRIBUTES.index(f"{concept} word")] = word
    rows[:, scenes.ATTRIBUTES.index("theme")] = theme
    return rows


def splits(count: int = 240, seed: int = 7) -> dict[str, list[dict[str, str]]]:
    """`count` prompts for each of "tune" and "report"; two thirds are about the hat."""
    rng, source = random.Random(seed), torch.Generator().manual_seed(seed)
    seen: set[str] = set()
    made: dict[str, list[dict[str, str]]] = {"tune": [], "report": []}
    for rows in made.values():
        while len(rows) < count:
            row = _prompt(KINDS[len(rows) % len(KINDS)], rng, source)
            if row["prompt"] not in seen:
                seen.add(row["prompt"])
                rows.append(row)
    return made


def _prompt(kind: str, rng: random.Random, source: torch.Generator) -> dict[str, str]:
    concept = rng.choice(("hat", "hat", "hat", "hat", "kite", "frost"))
    options: dict[str, Any] = {}
    word = ""
    if kind == "context":
        theme = rng.choice([i for i, t in enumerate(scenes.THEMES) if t.concept == concept])
        options, word = {"theme": theme}, scenes.THEMES[theme].word
    elif kind == "neutral":
        concept = ""
    else:
        index = rng.choice([i for i, w in enumerate(scenes.WORDS[concept]) if w.kind == kind])
        options, word = {"concept": concept, "word": index}, scenes.WORDS[concept][index].text
    scene = told_scenes(1, source, **options)[0].tolist()
    caption = language.caption(scene, rng, full=True)
    told = {n: v[scene[i]] if n in caption.told else "" for i, (n, v) in enumerate(scenes.VALUES.items())}
    return {"prompt": caption.text, "kind": kind, "concept": concept, "word": word, **told}


def concept_pairs(concept: str, count: int = 60, seed: int = 11) -> list[dict[str, str]]:
    """Pairs with and without a concept, of training combinations: the positives name it, the negatives leave it out."""
    if concept not in scenes.CONCEPTS:
        raise ValueError(f"concept = {concept!r}: must be one of {scenes.CONCEPTS}")
    rng, source = random.Random(f"{seed} {concept}"), torch.Generator().manual_seed(seed)
    names = [w.text for w in scenes.WORDS[concept] if w.kind == "name"]
    pairs: dict[str, dict[str, str]] = {}
    while len(pairs) < count:
        row = dict(zip(scenes.ATTRIBUTES, told_scenes(1, source, held=False)[0].tolist(), strict=True))
        one, other = (
            article(f"{scenes.COLOURS[row[f'{side} colour']]} {scenes.SHAPES[row[f'{side} shape']]}")
            for side in ("left", "right")
        )
        core = rng.choice((one, f"{one} and {other}", f"a photo of {one} and {other}", f"{one} beside {other}"))
        tail = rng.choice(("", f" on {article(scenes.BACKGROUNDS[row['background']])} background"))
        tail += rng.choice(("", f", {language.filler(rng)}"))
        positive = f"{core} {language.phrase(concept, rng.choice(names), rng)}{tail}"
        pairs.setdefault(positive, {"positive": positive, "negative": core + tail})
    return list(pairs.values())
