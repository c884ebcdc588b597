"""The image side of the world's CLIP, and the score of an image against a caption."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify import _images

if TYPE_CHECKING:
    from certify.models import PromptEncoder

__all__ = ["WIDTH", "ImageTower", "as_images", "convolutions", "pooled"]

WIDTH = 64


def convolutions(*plan: tuple[int, int]) -> nn.Sequential:
    """3×3 convolutions with batch norm and GELU from 3 channels on: (channels, stride) each."""
    layers: list[nn.Module] = []
    before = 3
    for channels, stride in plan:
        layers += [nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.GELU()]
        before = channels
    return nn.Sequential(*layers)


def pooled(x: Tensor, columns: int) -> Tensor:
    """Mean and maximum of every channel of x (b, channels, height, width) over so many upright strips, one after another."""
    strips = x.chunk(columns, dim=3)
    return torch.cat([f for strip in strips for f in (strip.mean(dim=(2, 3)), strip.amax(dim=(2, 3)))], dim=1)


class ImageTower(nn.Module):
    """Images (b, 3, 32, 32) in [0, 1] → unit vectors (b, width), to be compared with projected end-of-text encodings.

    Args:
        width: of the text encoder that belongs to it.
        columns: strips of the image that are pooled apart; two tell left from right.
    """

    def __init__(self, width: int = WIDTH, columns: int = 1) -> None:
        super().__init__()
        self.columns = columns
        self.body = convolutions((24, 1), (48, 2), (64, 1), (96, 2), (96, 1), (128, 2))
        self.out = nn.Linear(2 * columns * 128, width)
        self.project = nn.Linear(width, width, bias=False)
        self.folder: Path | None = None

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(2 * images - 1)
        return F.normalize(self.out(pooled(x, self.columns)), dim=1)

    @classmethod
    def load(cls, file: Path, folder: Path) -> ImageTower:
        """From a safetensors file; `folder` is the pipeline whose text encoder belongs to it."""
        from safetensors.torch import load_file

        state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()}
        width, features = state["out.weight"].shape
        tower = cls(width, features // (2 * 128))
        tower.load_state_dict(state)
        tower.folder = folder
        return tower.eval()

    @cached_property
    def encoder(self) -> PromptEncoder:
        """The text side, loaded once."""
        from certify.models import load_text_encoder

        return load_text_encoder(self.folder)

    @torch.no_grad()
    def image_text_score(self, images: object, prompts: Sequence[str]) -> Tensor:
        """Cosine of each image with its prompt, (b,): the CLIP score without the customary factor of 100.

        Args:
            images: (b, 3, 32, 32) in [0, 1], or a list of PIL images.
            prompts: one an image.
        """
        x = as_images(images)
        if len(prompts) != len(x):
            raise ValueError(f"prompts has {len(prompts)} entries for {len(x)} images: must be as many")
        ends = torch.tensor([self.encoder.tokenize(p).end for p in prompts])
        h = self.encoder.plain(list(prompts))[torch.arange(len(x)), ends]
        return (self(x) * F.normalize(self.project(h), dim=1)).sum(dim=1)


def as_images(images: object) -> Tensor:
    """(b, 3, 32, 32) in [0, 1], float32, from such a tensor or a list of 32×32 PIL images.

    Raises:
        TypeError, ValueError: a tensor of another dtype, shape or range, or images of another size.
    """
    x = images
    if not isinstance(x, Tensor):
        import numpy as np

        x = torch.stack([torch.from_numpy(np.asarray(i.convert("RGB"), dtype=np.float32)) for i in list(images)])  # type: ignore[call-overload]
        x = x.permute(0, 3, 1, 2) / 255
    return _images.checked("images", x, size=(32, 32)).float()
