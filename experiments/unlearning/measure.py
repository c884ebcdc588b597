"""What an edited embedded model still draws: judged images of prompts that name a concept, mean it, or ask for
something else."""

from __future__ import annotations

from typing import Any

import torch

from experiments.unlearning.concept import Concept

__all__ = ["KINDS", "prompts", "rates"]

KINDS = ("named", "implicit", "others")


def prompts(concept: Concept, count: int, seed: int = 5) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """(prompt, what an image of it should show: the judge's head → value) of the three `KINDS`: naming the concept, meaning
    it by another word, asking for something else.

    Raises:
        ValueError: the concept is none of an embedded world's.
    """
    return concept.world.asked(concept.name, count, seed)


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
        steps, guidance: as in `EmbeddedWorld.images`.
    """
    world, result = concept.world, {}
    for kind, rows in prompts(concept, count).items():
        made = world.images(pipe, [text for text, _ in rows], seed=seed, steps=steps, guidance=guidance)
        result[kind] = sum(world.right(made, [asked for _, asked in rows])) / count
    return result


def utility_prompts(concept: Concept, count: int = 512, seed: int = 9) -> list[str]:
    """Captions of scenes without the concept, in which no word of its kind is left open."""
    return concept.world.without(concept.erase, count, seed)


def rendered(concept: Concept, count: int = 512, seed: int = 10) -> torch.Tensor:
    """Renderings of scenes without the concept: (count, 3, 32, 32) in [0, 1]."""
    return concept.world.rendered(concept.erase, count, seed)


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
    world = concept.world
    made, features = world.images(pipe, texts, seed=seed), JudgeFeatures(world.judge)
    return {
        "fid_plain": fid(plain, made, features),
        "fid_rendered": fid(rendered(concept, len(plain)), made, features),
        "image_text": world_scorer(world.tower)(made, texts),
    }


def utility_images(pipe: Any, concept: Concept, count: int = 512, *, seed: int = 7) -> torch.Tensor:
    """Images of the unedited model that `utility` compares with (other noise than there): (count, 3, 32, 32)."""
    return concept.world.images(pipe, utility_prompts(concept, count), seed=seed)
