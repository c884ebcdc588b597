"""What an edited embedded model still draws: judged images of prompts that name a concept, mean it, or ask for
something else."""

from __future__ import annotations

import random
from typing import Any

import torch

from certify import world
from experiments.unlearning.concept import Concept
from experiments.world import gates, language, scenes

__all__ = ["KINDS", "prompts", "rates"]

KINDS = ("named", "implicit", "others")


def prompts(concept: Concept, count: int, seed: int = 5) -> dict[str, list[tuple[str, str]]]:
    """(prompt, what the judge should see in it) of the three `KINDS`: naming the concept, meaning it by another word,
    asking for another of its kind. All are captions that tell colour and background, and styles of a named shape.

    Raises:
        ValueError: the concept is none of the embedded world's.
    """
    rng = random.Random(seed)
    column, values = concept.attribute()
    index = values.index(concept.name)
    made: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}
    for kind, rows in made.items():
        while len(rows) < count:
            value = rng.choice([i for i in range(len(values)) if i != index]) if kind == "others" else index
            row = [rng.randrange(6), rng.randrange(8), rng.randrange(7), rng.randrange(4), 1]
            row[column] = value
            if concept.head == "shape":
                text = language.caption(row, rng, kind="synonym" if kind == "implicit" else "named", full=True).text
            else:
                word = rng.choice(concept.implicit) if kind == "implicit" else values[value]
                text = language.caption(row, rng, kind="named", style=word, full=True).text
            rows.append((text, values[value]))
    return made


def rates(
    pipe: Any,
    concept: Concept,
    count: int = 96,
    *,
    seed: int = 6,
    steps: int | None = None,
    guidance: float | None = None,
) -> dict[str, float]:
    """Share of images that show what was asked for, by kind of prompt.

    Args:
        pipe: an embedded pipeline, edited or not.
        concept: of the embedded world.
        count: images of each kind.
        seed: of the images' initial noise.
        steps, guidance: as in `gates.images`.
    """
    judge = world.load_judge()
    result = {}
    for kind, rows in prompts(concept, count).items():
        made = gates.images(pipe, [text for text, _ in rows], seed=seed, steps=steps, guidance=guidance)
        labels = judge.judge(made).labels[concept.head]
        result[kind] = sum(label == asked for label, (_, asked) in zip(labels, rows, strict=True)) / count
    return result


def utility_prompts(concept: Concept, count: int = 512, seed: int = 9) -> list[str]:
    """Captions of scenes without the concept, in which no word of its kind is left open."""
    rng, source = random.Random(seed), torch.Generator().manual_seed(seed)
    column, values = concept.attribute()
    gone = {values.index(word) for word in concept.erase}
    texts: list[str] = []
    while len(texts) < count:
        for row in scenes.sample_scenes(count, source).tolist():
            if row[column] in gone or len(texts) == count:
                continue
            style = None if concept.head == "shape" else values[row[3]]
            texts.append(language.caption(row, rng, kind="named", style=style, full=True).text)
    return texts


def rendered(concept: Concept, count: int = 512, seed: int = 10) -> torch.Tensor:
    """Renderings of scenes without the concept: (count, 3, 32, 32) in [0, 1]."""
    source = torch.Generator().manual_seed(seed)
    column, values = concept.attribute()
    rows = scenes.sample_scenes(2 * count, source)
    gone = torch.tensor([values.index(word) for word in concept.erase])
    rows = rows[~torch.isin(rows[:, column], gone)][:count]
    return scenes.render(rows, source)


def utility(pipe: Any, concept: Concept, plain: torch.Tensor, *, seed: int = 8) -> dict[str, float]:
    """What is left of everything else: FID against the unedited model's images and against renderings, and the
    image–text score.

    Args:
        pipe: an embedded pipeline.
        concept: what was erased; prompts are about other things.
        plain: `utility_images` of the unedited model.
        seed: of the initial noise.
    """
    from experiments.metrics.features import JudgeFeatures
    from experiments.metrics.fid import fid
    from experiments.metrics.image_text import world_scorer

    texts = utility_prompts(concept, len(plain))
    made, features = gates.images(pipe, texts, seed=seed), JudgeFeatures()
    return {
        "fid_plain": fid(plain, made, features),
        "fid_rendered": fid(rendered(concept, len(plain)), made, features),
        "image_text": world_scorer()(made, texts),
    }


def utility_images(pipe: Any, concept: Concept, count: int = 512, *, seed: int = 7) -> torch.Tensor:
    """Images of the unedited model that `utility` compares with (other noise than there): (count, 3, 32, 32)."""
    return gates.images(pipe, utility_prompts(concept, count), seed=seed)
