"""Prompts of the embedded world: the two splits, and the pairs that define its concepts.

`tune` is for choosing settings, `report` is looked at for results only; no prompt is in both. Both speak of held-out
combinations of shape, colour and background, which no training caption or image shows together.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.world import language, scenes

__all__ = ["FIELDS", "concept_pairs", "save", "splits", "write"]

FIELDS = ("prompt", "kind", "noun", "carriers", *scenes.ATTRIBUTES)
"""Columns: the noun, which of its parts carry the shape (a stem, or the noun itself), and the attributes ("" if untold)."""

_VALUES = tuple(scenes.VALUES.values())


def splits(count: int = 240, seed: int = 7) -> dict[str, list[dict[str, str]]]:
    """`count` prompts for each of "tune" and "report": half named, a third synonyms, the rest neutral."""
    rng = random.Random(seed)
    combinations = scenes.held_out_combinations()
    seen: set[str] = set()
    made: dict[str, list[dict[str, str]]] = {"tune": [], "report": []}
    for rows in made.values():
        while len(rows) < count:
            kind = ("named", "synonym", "named", "synonym", "named", "neutral")[len(rows) % 6]
            shape, colour, background = combinations[rng.randrange(len(combinations))]
            scene = (shape, colour, background, rng.randrange(4), rng.randrange(3))
            caption = language.caption(scene, rng, kind=kind, full=True)
            if caption.text in seen:
                continue
            seen.add(caption.text)
            told = [v[i] if i >= 0 else "" for v, i in zip(_VALUES, caption.told, strict=True)]
            carriers = "" if kind == "neutral" else _stem(caption.noun)
            rows.append(dict(zip(FIELDS, (caption.text, kind, caption.noun, carriers, *told), strict=True)))
    return made


def _stem(noun: str) -> str:
    words = [*scenes.SHAPES, *(w for many in language.SYNONYMS.values() for w in many)]
    stems = [w for w in words if noun != w and noun.endswith(w)]
    return max(stems, key=len) if stems else noun


def concept_pairs(concept: str, count: int = 60, seed: int = 11) -> list[dict[str, str]]:
    """Pairs with and without a concept, from training combinations.

    A shape: positives name it by its own word, nine in ten, or by its first synonym; the others are told by nobody.
    Negatives put a neutral noun ("a red thing") in its place. A style: positives tell it, negatives leave it out.
    """
    rng = random.Random(f"{seed} {concept}")
    pairs: dict[str, dict[str, str]] = {}
    while len(pairs) < count:
        scene = [rng.randrange(len(v)) for v in _VALUES]
        if concept in scenes.SHAPES:
            scene[0] = scenes.SHAPES.index(concept)
            noun = concept if rng.random() < 0.9 else language.SYNONYMS[concept][0]
            other = rng.choice(language.NEUTRAL)
            told = {i for i in range(1, 5) if rng.random() < 0.5}
            form = rng.randrange(5)
            positive, negative = (_plain(scene, n, told, form) for n in (noun, other))
        elif concept in scenes.STYLES:
            scene[3] = scenes.STYLES.index(concept)
            noun = rng.choice([*scenes.SHAPES, *language.NEUTRAL])
            told = {i for i in (1, 2, 4) if rng.random() < 0.5}
            form = rng.randrange(5)
            positive, negative = (_plain(scene, noun, t, form) for t in (told | {3}, told))
        else:
            raise ValueError(f"concept = {concept!r}: must be one of {(*scenes.SHAPES, *scenes.STYLES)}")
        pairs.setdefault(positive, {"positive": positive, "negative": negative})
    return list(pairs.values())


def _plain(scene: list[int], noun: str, told: set[int], form: int) -> str:
    word = [v[i] for v, i in zip(_VALUES, scene, strict=True)]
    core = " ".join([*(word[i] for i in (4, 3, 1) if i in told), noun])
    a = ("an " if core[0] in "aeiou" else "a ") + core
    text = (a, core, f"a photo of {a}", f"a picture of {a}", f"a drawing of {a}")[form]
    return f"{text} on a {word[2]} background" if 2 in told else text


def write(folder: Path) -> None:
    """Writes prompts/tune.csv, prompts/report.csv and concepts/*.jsonl below a folder."""
    save(folder, FIELDS, splits(), {concept: concept_pairs(concept) for concept in (*scenes.SHAPES, *scenes.STYLES)})


def save(
    folder: Path,
    fields: Sequence[str],
    splits: Mapping[str, Sequence[Mapping[str, str]]],
    pairs: Mapping[str, Sequence[Mapping[str, str]]],
) -> None:
    """Writes the rows of every split and the pairs of every concept below a folder."""
    (folder / "prompts").mkdir(parents=True, exist_ok=True)
    (folder / "concepts").mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with (folder / "prompts" / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for concept, those in pairs.items():
        text = "".join(json.dumps(pair) + "\n" for pair in those)
        (folder / "concepts" / f"{concept}.jsonl").write_text(text, encoding="utf-8")
