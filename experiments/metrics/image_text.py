"""Image–text score: the mean cosine of an image's and its prompt's embeddings; the CLIP score without its factor of 100.

Reference: Hessel et al. (2021), "CLIPScore". The embedded model's images are scored by the world's own small CLIP, those of
real models by a `CLIPModel` in a local folder. (Not through torchmetrics: its version 1.9 takes the image features of
transformers 5 for a tensor, which they no longer are.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from certify import _images
from certify.models.quiet import quiet_libraries
from certify.world.towers import ImageTower

__all__ = ["Scorer", "clip_scorer", "world_scorer"]

Scorer = Callable[[Tensor, Sequence[str]], float]
"""(images (b, 3, height, width) in [0, 1], prompts) → mean cosine."""


def world_scorer(tower: ImageTower | None = None) -> Scorer:
    """Of an embedded world's image tower; None: of the one that ships."""
    from certify import world

    tower = world.load_image_tower() if tower is None else tower

    def score(images: Tensor, prompts: Sequence[str]) -> float:
        cosines = tower.image_text_score(images, list(prompts))
        if not len(cosines):
            raise ValueError("prompts has 0 entries for 0 images: must be as many, and some")
        return float(cosines.mean())

    return score


def clip_scorer(folder: str | Path, *, batch: int = 64) -> Scorer:
    """Of a CLIP in a local folder: `CLIPModel` and tokenizer.

    Raises:
        FileNotFoundError: no such folder.
    """
    from experiments.metrics.features import ClipFeatures

    features = ClipFeatures(folder)
    with quiet_libraries(diffusers=False):
        from transformers import CLIPTokenizer

        words = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    length = int(features.clip.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def score(images: Tensor, prompts: Sequence[str]) -> float:
        _images.checked("images", images)
        if len(prompts) != len(images) or not prompts:
            raise ValueError(f"prompts has {len(prompts)} entries for {len(images)} images: must be as many, and some")
        cosines = []
        for first in range(0, len(images), batch):
            texts = list(prompts[first : first + batch])
            tokens = words(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            pooled = features.clip.text_model(**tokens).pooler_output
            cosines.append(
                torch.cosine_similarity(features(images[first : first + batch]), features.clip.text_projection(pooled))
            )
        return float(torch.cat(cosines).mean())

    return score
