"""Features: what two sets of images are compared by.

The embedded model's images are described by the judge's last feature maps, averaged over the image: 128 numbers, from a
network that shares nothing with the model. Images of real models need Inception's pooled features or a CLIP image
tower, from local weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certify import _images
from certify.models.quiet import quiet_libraries
from certify.world.judge import Judge

__all__ = ["ClipFeatures", "JudgeFeatures"]


class JudgeFeatures(nn.Module):
    """Images (b, 3, 32, 32) in [0, 1] → (b, 128).

    Args:
        judge: of an embedded world; None: of the one that ships.
    """

    num_features = 128
    name = "judge, last feature maps averaged (128)"

    def __init__(self, judge: Judge | None = None) -> None:
        super().__init__()
        from certify import world

        self.body = (world.load_judge() if judge is None else judge).body.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.body(2 * _images.checked("images", images, size=(32, 32)) - 1)
        return maps.mean(dim=(2, 3))


class ClipFeatures(nn.Module):
    """Images (b, 3, height, width) in [0, 1] → (b, d): the image embedding of a CLIP in a local folder.

    Args:
        folder: with a `CLIPModel`.

    Raises:
        FileNotFoundError: no such folder.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"folder = {str(folder)!r}: must be a folder with a CLIPModel")
        with quiet_libraries(diffusers=False):
            from transformers import CLIPModel

            self.clip: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
        self.clip.eval().requires_grad_(False)
        self.num_features = int(self.clip.config.projection_dim)
        self.size = int(self.clip.config.vision_config.image_size)
        self.name = f"CLIP image embedding of {Path(folder).name} ({self.num_features})"
        self.register_buffer("mean", torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None])
        self.register_buffer("std", torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None])

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        given = _images.checked("images", images)
        sized = nn.functional.interpolate(given, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        pooled = self.clip.vision_model(pixel_values=(sized - self.mean) / self.std).pooler_output
        out: Tensor = self.clip.visual_projection(pooled)
        return out
