"""What an edited embedded model still draws: judged images of named, indirect and other prompts."""

from __future__ import annotations

import random
from typing import Any

import torch

from certify import world
from experiments.world import gates, language, scenes

__all__ = ["contexts", "rates", "table"]


def contexts(count: int = 200, seed: int = 0) -> tuple[str, ...]:
    """Captions of the embedded world with "{}" in the place of the noun: the sentences in which a shape is erased."""
    rng = random.Random(seed)
    rows = scenes.sample_scenes(count, torch.Generator().manual_seed(seed)).tolist()
    texts = (language.caption(row, rng, kind="named", noun="NOUN").text for row in rows)
    return tuple(dict.fromkeys(text.replace("NOUN", "{}") for text in texts))


def prompts(shape: str, count: int, seed: int = 5) -> dict[str, list[tuple[str, str]]]:
    """(prompt, shape it asks for) of three kinds: naming `shape`, meaning it by another word, asking for another shape."""
    rng = random.Random(seed)
    index = scenes.SHAPES.index(shape)
    made: dict[str, list[tuple[str, str]]] = {"named": [], "indirect": [], "others": []}
    for kind, rows in made.items():
        while len(rows) < count:
            other = rng.choice([i for i in range(len(scenes.SHAPES)) if i != index])
            row = (other if kind == "others" else index, rng.randrange(8), rng.randrange(7), rng.randrange(4), 1)
            said = "synonym" if kind == "indirect" else "named"
            rows.append((language.caption(row, rng, kind=said, full=True).text, scenes.SHAPES[row[0]]))
    return made


def rates(pipe: Any, shape: str, count: int = 96) -> dict[str, float]:
    """Share of images that show what was asked for, by kind of prompt (judge; seeded)."""
    judge = world.load_judge()
    result = {}
    for kind, rows in prompts(shape, count).items():
        labels = judge.judge(gates.images(pipe, [text for text, _ in rows], seed=6)).labels["shape"]
        result[kind] = sum(label == asked for label, (_, asked) in zip(labels, rows, strict=True)) / count
    return result


def table(before: Any, after: Any, shape: str, count: int = 96) -> str:
    """`rates` before and after, as text."""
    old, new = rates(before, shape, count), rates(after, shape, count)
    lines = [f"share of {count} images that show the shape asked for", f"{'prompts':<26} before   after"]
    names = {"named": f"naming the {shape}", "indirect": f"a {shape} by another word", "others": "other shapes"}
    lines += [f"{names[kind]:<26} {old[kind]:6.3f}  {new[kind]:6.3f}" for kind in names]
    return "\n".join(lines)
