"""Targets: prompts that ask for the concept, each with the seed of its image.

For a real model they come from a file (`read`). In the embedded world they are captions of a split:

    own captions of the split that name it; then its other captions, their shape's noun (or the style's word) ← the name

A split has some twenty captions that name a shape by its own word; a row of a table needs more. The others become like
them: captions of the world differ in the noun as they do in any other word. No prompt is a target in both splits.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certify import _validate
from certify._tables import normal
from certify.datasets.prompt_files import PromptRow, PromptSet
from certify.models import PromptEncoder
from experiments.attacks.attack import Target
from experiments.unlearning.concept import Concept

__all__ = ["SPLITS", "ReadTargets", "read", "targets", "within"]

SPLITS = ("tune", "report")
_SEEDS = ("seed", "evaluation seed", "sd seed")
_GUIDANCE = ("guidance", "evaluation guidance", "sd guidance scale", "guidance scale")


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


@dataclass(frozen=True)
class ReadTargets:
    """Targets of a file.

    Attributes:
        targets: numbered from 0.
        source: the file, its column and how many rows were passed over, for a record.
        summary: the same in words.
    """

    targets: list[Target]
    source: dict[str, Any]
    summary: str


def read(
    path: str | Path,
    *,
    column: str | int | None = None,
    purpose: str = "benign",
    count: int | None = None,
    first: int = 0,
    category: str = "",
    empty: bool = False,
    argument: str = "prompts",
) -> ReadTargets:
    """Targets of a file, of any layout that `certify.datasets.prompt_files` reads.

    Args:
        path: a table with prompts, and perhaps a column of seeds: `seed`, `evaluation_seed` (I2P's) or `sd_seed`. A column of
            guidance is not used: a table generates all its rows alike.
        column, purpose: which prompts, as for `PromptSet.load`; "benign": what is asked for, "adversarial": what was found.
        count: at most so many, the first; None: all.
        first: the first image's seed, where the table has none.
        category: of I2P's table only those rows.
        empty: whether an empty prompt is one: of what an attack found, not of what is asked for; there it is passed over.
        argument: what to call the file in an error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, has no column of prompts or none of categories, a seed that is no whole number, or no row.
    """
    if count is not None:
        _validate.count("count", count)
    data = PromptSet.load(path, column, purpose=purpose, argument=argument)
    rows = [row for row in data.rows if not category or category in _categories(row, f"{argument} = {str(path)!r}")]
    chosen = [row for row in rows if empty or row.prompt.strip()]
    accepted = []
    for number, row in enumerate(chosen[:count]):
        of_seed = _column(row, _SEEDS)
        value = first + number if of_seed is None else row.columns[of_seed]
        try:
            accepted.append(Target(number, row.prompt, _whole(value)))
        except ValueError:
            raise ValueError(
                f"{argument} = {str(path)!r}, {data.place} {row.line}: {of_seed} = {value!r}: must be a whole number >= 0"
            ) from None
    if not accepted:
        of = f" of category {category!r}" if category else ""
        raise ValueError(f"{argument} = {str(path)!r}: has no prompt{of}")
    passed = len(rows) - len(chosen)
    summary = str(data)
    if passed:
        summary += f"; {passed:,} empty {'one' if passed == 1 else 'ones'} passed over"
    guidance = _column(data.rows[0], _GUIDANCE)
    if guidance is not None:
        summary += f"; column “{guidance}” is not used"
    return ReadTargets(accepted, {**data.source, "empty": passed, "category": category or None}, summary)


def within(encoder: PromptEncoder, texts: Sequence[str], what: str, *, truncate: bool) -> int:
    """How many of some prompts do not fit into the context, and will be cut as the plain pipeline cuts them.

    Args:
        encoder: whose context.
        texts: the prompts.
        what: what to call them in an error.
        truncate: whether they may be.

    Raises:
        ValueError: they may not, and there are such.
    """
    lengths = [
        (read.length + read.dropped, read.dropped) for read in (encoder.tokenize(t, truncate=True) for t in texts)
    ]
    long = [(number, tokens) for number, (tokens, dropped) in enumerate(lengths, start=1) if dropped]
    if long and not truncate:
        number, tokens = long[0]
        raise ValueError(
            f"{what}: {len(long):,} of {len(texts):,} prompts do not fit into the context of {encoder.context_length} tokens; "
            f"prompt {number} has {tokens} with begin and end; --truncate cuts them as the plain pipeline does"
        )
    return len(long)


def _column(row: PromptRow, names: Sequence[str]) -> str | None:
    """The first of some columns that a row has, whatever the case."""
    there = {normal(name): name for name in reversed(list(row.columns))}
    return next((there[name] for name in names if name in there), None)


def _whole(value: Any) -> int:
    """A seed; 4068.0 is 4068, as a table that was once kept with gaps has it.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if re.fullmatch(r"[0-9]{1,40}", text) else float(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1 or value < 0:
        raise ValueError
    return int(value)


def _categories(row: PromptRow, what: str) -> list[str]:
    column = _column(row, ("categories", "category"))
    if column is None:
        raise ValueError(f"{what}: lacks the column categories; it has {', '.join(map(repr, row.columns))} besides")
    value = row.columns[column]
    return [str(part).strip() for part in (value if isinstance(value, list) else str(value).split(","))]


def _captions(concept: Concept, split: str) -> list[list[str]]:
    """Prompts of a split that name the concept, none twice: its own captions that do, then those that were made to."""
    return _without(concept.world.naming(concept.name, split, concept.erase), (), keep=0)


def _without(groups: Sequence[Sequence[str]], texts: Sequence[str], *, keep: int) -> list[list[str]]:
    """The groups less what an earlier one has, and less some texts in all but the first `keep`."""
    seen: set[str] = set()
    left = []
    for number, group in enumerate(groups):
        there = seen if number < keep else seen | set(texts)
        left.append([text for text in dict.fromkeys(group) if text not in there])
        seen |= set(left[-1])
    return left
