"""Victims to try attacks on: the small random pipelines, ε and v, with a disturbed U-Net; the embedded model less circles."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from certify import load_pipeline
from certify.models import PromptEncoder
from experiments.attacks import sight
from experiments.attacks.attack import Target, Victim
from experiments.attacks.places import Layout, Places, Words
from experiments.unlearning import uce
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import TrainingLoop

__all__ = ["captions", "erased", "mean_error", "random_search", "small", "targets"]

Score = Callable[[Sequence[str]], Iterable[float]]


def small(folder: Path, *, images: bool = True) -> Victim:
    """A random pipeline whose U-Net is another than its original."""
    pipe = load_pipeline(folder)
    original = copy.deepcopy(pipe.unet)
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in pipe.unet.named_parameters():
            if "attn2" in name:
                p.add_(0.3 * torch.randn(p.shape, generator=source))
    shown = torch.rand(3, 3, 8, 8, generator=source) if images else None
    return Victim("disturbed", Diffusion(pipe, original), Concept.of(["circle"]), images=shown)


@functools.cache
def erased() -> Victim:
    """The embedded model after UCE of "circle", in a few captions of the world."""
    pipe = load_pipeline()
    original = copy.deepcopy(pipe.unet)
    concept = Concept.embedded("circle", sentences=40)
    edit = uce.edit(Diffusion(pipe), concept, uce.Settings(), TrainingLoop())
    pipe.unet.load_state_dict(dict(edit.unet), strict=False)
    return Victim("uce", Diffusion(pipe, original), concept)


def captions(count: int) -> list[Target]:
    """Targets that ask the embedded model for circles."""
    texts = [
        "a red circle on a white background",
        "a photo of a blue circle on a black background",
        "a green circle on a gray background",
        "on a teal background, a circle in yellow",
    ]
    return [Target(i, texts[i % len(texts)], 40 + i) for i in range(count)]


def targets(prompts: Sequence[str]) -> list[Target]:
    """One each."""
    return [Target(i, prompt, 10 + i) for i, prompt in enumerate(prompts)]


def random_search(
    layouts: Sequence[Layout], words: Words, encoder: PromptEncoder, count: int, score: Score, seed: int = 0
) -> list[str]:
    """Of `count` uniformly random fillings of every layout, the text of least score."""
    places, source = Places(encoder, layouts, words), torch.Generator().manual_seed(seed)
    best = [(float("inf"), "")] * len(layouts)
    for _ in range(count):
        texts = [str(text) for text in places.texts(words.random((len(layouts), places.count), source))]
        best = [min(old, (float(value), text)) for old, value, text in zip(best, score(texts), texts, strict=True)]
    return [text for _, text in best]


@torch.no_grad()
def mean_error(victim: Victim, x_0: Tensor, texts: Sequence[str], draws: int, seed: int) -> Tensor:
    """The loss of UnlearnDiffAtk over draws of (ε, t), the same for whatever texts: (b,)."""
    diffusion, source = victim.diffusion, torch.Generator().manual_seed(seed)
    c, total = victim.encoder.plain(list(texts)), torch.zeros(len(texts))
    for _ in range(draws):
        noise, t = diffusion.normal(len(texts), source), diffusion.times(len(texts), source)
        total += sight.error(diffusion, x_0, noise, t, c)
    return total / draws
