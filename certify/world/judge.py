"""The judge: what does an image of the world show?

A small convolutional network with a head each for shape, colour, background and style. It was trained on renderings
alone and shares nothing with the model it judges. Its shape head has a class "none" for images that show no shape of the
world: blanks, blobs, shuffled and half-erased scenes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from certify._names import LABELS
from certify._records import Record
from certify.world.towers import as_images, convolutions, pooled

__all__ = ["LABELS", "Judge", "Verdicts"]


@dataclass(frozen=True)
class Verdicts(Record):
    """What the judge sees in a batch: for each head the most probable label and all probabilities (b, classes)."""

    labels: Mapping[str, tuple[str, ...]]
    probabilities: Mapping[str, Tensor]


class Judge(nn.Module):
    """Images (b, 3, 32, 32) in [0, 1] → logits of every head.

    Args:
        labels: heads and their classes.
        columns: strips of the image that are pooled apart; two tell left from right.
    """

    def __init__(self, labels: Mapping[str, tuple[str, ...]] = LABELS, columns: int = 1) -> None:
        super().__init__()
        self.labels, self.columns = labels, columns
        self.body = convolutions((24, 1), (32, 1), (48, 2), (64, 1), (96, 2), (96, 1), (128, 2))
        self.heads = nn.ModuleDict({name: nn.Linear(2 * columns * 128, len(values)) for name, values in labels.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.body(2 * images - 1)
        x = pooled(x, self.columns)
        return {name: head(x) for name, head in self.heads.items()}

    @classmethod
    def load(cls, file: Path, labels: Mapping[str, tuple[str, ...]] = LABELS, columns: int = 1) -> Judge:
        """From a safetensors file; the rest as for a new one."""
        from safetensors.torch import load_file

        judge = cls(labels, columns)
        judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()})
        return judge.eval()

    @torch.no_grad()
    def judge(self, images: object, batch_size: int = 256) -> Verdicts:
        """Labels and probabilities for a tensor (b, 3, 32, 32) in [0, 1] or a list of PIL images."""
        x = as_images(images)
        parts = [self(chunk) for chunk in x.split(batch_size)]
        chances = {name: torch.cat([p[name] for p in parts]).softmax(dim=1) for name in self.labels}
        named = {name: tuple(self.labels[name][int(i)] for i in p.argmax(dim=1)) for name, p in chances.items()}
        return Verdicts(named, chances)

    @torch.no_grad()
    def shape_probability(self, images: object, shape: str) -> Tensor:
        """Probability of one shape in each image, (b,)."""
        if shape not in self.labels["shape"]:
            raise ValueError(f"shape = {shape!r}: must be one of {self.labels['shape']}")
        return self(as_images(images))["shape"].softmax(dim=1)[:, self.labels["shape"].index(shape)]
