"""Targets: prompts that ask for the concept, each with the seed of its image.

For a real model they come from a file (`read`). In the embedded world they are captions of a split:

    own captions of the split that name it; then its other captions, their shape's noun (or the style's word) ← the name

A split has some twenty captions that name a shape by its own word; a row of a table needs more. The others become like
them: captions of the world differ in the noun as they do in any other word. No prompt is a target in both splits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from certify import _validate, world
from experiments import files
from experiments.attacks.attack import Target
from experiments.attacks.implicit import read_i2p, renamed
from experiments.attacks.tokens import concept_pattern
from experiments.unlearning.concept import Concept

__all__ = ["SPLITS", "read", "targets"]

SPLITS = ("tune", "report")
_SEEDS = ("seed", "evaluation_seed", "sd_seed")
_KINDS = ("named", "synonym")  # whose captions are rewritten, in this order; neutral ones show no shape in particular


def targets(concept: Concept, split: str = "report", *, count: int = 48, seed: int = 0) -> list[Target]:
    """Prompts of a split that name a concept, numbered from 0, each with a seed of its own.

    Those of a smaller count are the first of those of a larger one.

    Args:
        concept: of the embedded world.
        split: "report" or "tune".
        count: how many.
        seed: of their order and of the images' initial noise.

    Raises:
        ValueError: no such split, the concept is none of the world's, or there are not as many.
    """
    _validate.choice("split", split, SPLITS)
    _validate.count("count", count)
    _validate.seed_value(seed)
    concept.attribute()  # or refuses
    groups = _captions(concept, split)
    if split == "tune":  # what both splits can be rewritten to is for reporting
        groups = _without(groups, [text for group in _captions(concept, "report") for text in group], keep=1)
    else:
        groups = _without(groups, _captions(concept, "tune")[0], keep=1)
    rng = random.Random(f"{seed} {concept.name} {split}")
    texts = [text for group in groups for text in rng.sample(group, len(group))]
    if count > len(texts):
        raise ValueError(f"count = {count}: must be at most {len(texts)} for {concept.name!r} in {split!r}")
    first = seed * 1_000_003 + 10_000 * SPLITS.index(split)
    return [Target(number, text, first + number) for number, text in enumerate(texts[:count])]


def read(
    path: str | Path, *, count: int | None = None, first: int = 0, category: str = "", empty: bool = False
) -> list[Target]:
    """Targets of a table, numbered from 0.

    Args:
        path: a CSV with a column `prompt`, and perhaps one of seeds: `seed`, `evaluation_seed` (I2P's) or `sd_seed`.
        count: at most so many, the first; None: all.
        first: the first image's seed, where the table has none.
        category: of I2P's table only those rows.
        empty: whether an empty prompt is one: of what an attack found, not of what is asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no column `prompt`, an empty prompt, a seed that is no whole number, or no row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"prompts = {str(path)!r}: no such file")
    if count is not None:
        _validate.count("count", count)
    columns, lines = files.table(path)
    if "prompt" not in columns:
        raise ValueError(f"{path}: lacks the column prompt; it has {', '.join(map(repr, columns))}")
    of_seed = next((name for name in _SEEDS if name in columns), None)
    if category:
        found = read_i2p(path, category=category, limit=count)
        return [replace(target, number=number) for number, target in enumerate(found)]
    made = []
    for number, (at, line) in enumerate(lines[:count]):
        seed = str(first + number) if of_seed is None else line[of_seed]
        try:
            made.append(Target(number, line["prompt"], int(seed)))
        except ValueError as error:
            raise ValueError(f"{path}, line {at}: {of_seed} = {seed!r}: must be a whole number") from error
        if not empty and not made[-1].prompt.strip():
            raise ValueError(f"{path}, line {at}: prompt is empty")
    if not made:
        raise ValueError(f"{path}: has no prompt")
    return made


def _captions(concept: Concept, split: str) -> list[list[str]]:
    """Prompts of a split that name the concept, none twice: its own captions that do, then those that do once another
    name is replaced, by kind."""
    from experiments.world import language

    names, rows = concept_pattern(concept.erase), world.prompts(split)
    groups = [[row["prompt"] for row in rows if names.search(row["prompt"])]]
    words = [word for group in language.STYLE_WORDS.values() for word in group]
    for kind in _KINDS:
        told = [row for row in rows if row["kind"] == kind]
        made = [
            renamed(row["prompt"], [row["noun"]] if concept.head == "shape" else words, concept.erase[0])
            for row in told
        ]
        groups.append([text for text in made if names.search(text)])
    return _without(groups, (), keep=0)


def _without(groups: Sequence[Sequence[str]], texts: Sequence[str], *, keep: int) -> list[list[str]]:
    """The groups less what an earlier one has, and less some texts in all but the first `keep`."""
    seen: set[str] = set()
    left = []
    for number, group in enumerate(groups):
        there = seen if number < keep else seen | set(texts)
        left.append([text for text in dict.fromkeys(group) if text not in there])
        seen |= set(left[-1])
    return left
