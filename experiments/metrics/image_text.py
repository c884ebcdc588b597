"""Image–text score: the mean cosine of an image's and its prompt's embeddings, the CLIP score without its customary
factor of 100.

Reference: Hessel et al. (2021), "CLIPScore". The embedded model's images are scored by the world's own small CLIP;
those of real models by a `CLIPModel` in a local folder, through torchmetrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

__all__ = ["Scorer", "clip_scorer", "world_scorer"]

Scorer = Callable[[Tensor, Sequence[str]], float]
"""(images (b, 3, height, width) in [0, 1], prompts) → mean cosine."""


def world_scorer() -> Scorer:
    """Of the embedded world."""
    from certify import world

    tower = world.load_image_tower()
    return lambda images, prompts: float(tower.image_text_score(images, list(prompts)).mean())


def clip_scorer(folder: str | Path, *, batch: int = 64) -> Scorer:
    """Of a CLIP in a local folder.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"folder = {str(folder)!r}: must be a folder with a CLIPModel and its processor")

    def score(images: Tensor, prompts: Sequence[str]) -> float:
        from torchmetrics.multimodal.clip_score import CLIPScore

        metric = CLIPScore(model_name_or_path=str(folder))
        for first in range(0, len(images), batch):
            part = (255 * images[first : first + batch]).round().byte()
            metric.update(part, list(prompts[first : first + batch]))
        return float(metric.compute()) / 100

    return score
