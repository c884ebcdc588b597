"""The embedded world: a text-to-image model small enough to ship, in the real classes of diffusers and transformers.

Coloured shapes on backgrounds, 32×32 pixels. `path()` is a Stable Diffusion pipeline folder; `load_image_tower()` scores
images against captions (the image side of the CLIP whose text side conditions the pipeline); `load_judge()` says what an
image shows and shares no weights with the model. `experiments/world/` makes all of it; docs/guide/world.md has figures.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certify import _validate

if TYPE_CHECKING:
    from certify.world.judge import Judge
    from certify.world.towers import ImageTower

__all__ = ["DEFAULTS", "SMOOTHING", "load_image_tower", "load_judge", "path", "prompts"]

_FOLDER = Path(__file__).resolve().parent

DEFAULTS: dict[str, Any] = {"num_inference_steps": 8, "guidance_scale": 2.0}
"""What to call the pipeline with."""


SMOOTHING: dict[str, Any] = {"sigma0_relative": 0.1, "k": 6.0, "similarity": "end-of-text"}
"""Settings of the adaptive smoother for the embedded model, chosen on the tune split (docs/guide/world.md)."""


def path() -> Path:
    """The pipeline's folder, for `StableDiffusionPipeline.from_pretrained` or `certify.load_pipeline`."""
    return _FOLDER / "pipeline"


def prompts(split: str = "tune") -> list[dict[str, str]]:
    """The prompts of a split: one dictionary a row, with the columns prompt, kind, noun, carriers and five attributes.

    Args:
        split: "tune", for choosing settings, or "report", for results only. Both are held-out combinations.
    """
    name = _validate.choice("split", split, ("tune", "report"))
    with (_FOLDER / "prompts" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def load_judge() -> Judge:
    """The judge: what shape, colour, background and style does an image show, if any?"""
    from certify.world.judge import Judge

    return Judge.load(_FOLDER / "judge.safetensors")


def load_image_tower() -> ImageTower:
    """The image side of the world's CLIP."""
    from certify.world.towers import ImageTower

    return ImageTower.load(_FOLDER / "image_tower.safetensors", path())
