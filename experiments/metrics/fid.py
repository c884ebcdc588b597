"""FID: the Fréchet distance between Gaussians fitted to the features of two sets of images, by torchmetrics.

    FID = ‖μ_1 − μ_2‖² + tr(Σ_1 + Σ_2 − 2 (Σ_1 Σ_2)^½)

Reference: Heusel et al. (2017). Values with one extractor cannot be compared with those of another, nor are they
independent of how many images there are.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from certify import _images

__all__ = ["fid"]


def fid(real: Tensor, generated: Tensor, extractor: Any, *, batch: int = 256) -> float:
    """The FID of images against reference images.

    Args:
        real, generated: (b, 3, height, width) in [0, 1].
        extractor: module, images → (b, d), with `num_features` = d.
        batch: images at a time.

    Raises:
        TypeError, ValueError: a set is none of images in [0, 1], all its values are at most 1/255, or it has no more images
            than there are features; its covariance would be singular.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    for name, images in (("real", real), ("generated", generated)):
        _images.checked(name, images)
        if len(images) <= extractor.num_features:
            raise ValueError(
                f"{name} has {len(images)} images: must be more than the extractor's {extractor.num_features} features"
            )
        if 0 < float(images.max()) <= 1 / 255:  # one dark image may be so, not a whole set
            raise ValueError(
                f"{name} has no value over 1/255: must be in [0, 1]; it was divided by 255 twice, it seems"
            )
    metric = FrechetInceptionDistance(feature=extractor)
    for images, is_real in ((real, True), (generated, False)):
        for part in images.split(batch):
            metric.update(part, real=is_real)
    return float(metric.compute())
