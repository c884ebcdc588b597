"""Images: one check of what is taken for images, wherever images are judged, measured or compared.

Everywhere here images are a floating-point tensor (b, 3, height, width) with values in [0, 1]. A network computes something of
bytes, of [−1, 1] and of channels that stand last just as well, and says nothing; so they are refused before one sees them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["checked"]

_SLACK = 1e-3
"""What rounding of a resized or half-precision image may exceed [0, 1] by; a step of eight bits is four times that."""


def checked(name: str, images: Any, *, size: tuple[int, int] | None = None) -> Tensor:
    """`images`, where they are (b, 3, height, width), floating-point, finite and in [0, 1], each of them.

    Args:
        name: of the argument.
        images: to be checked.
        size: (height, width) that they must have; None: any.

    Raises:
        TypeError: they are no tensor, or not of a floating-point dtype.
        ValueError: another shape or order of channels, an entry that is not finite, or another range; the message says which
            image it is and what would mend it.
    """
    wanted = "(b, 3, height, width)" if size is None else f"(b, 3, {size[0]}, {size[1]})"
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} is a {type(images).__name__}: must be a torch tensor {wanted} with values in [0, 1]")
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] != 3 or (size is not None and shape[2:] != size):
        hint = ""
        if images.ndim == 3 and 3 in (shape[0], shape[2]):
            hint = "; one image is a batch of one, images[None]"
        elif images.ndim == 4 and shape[3] == 3 and shape[1] != 3:
            hint = "; its channels stand last: images.permute(0, 3, 1, 2)"
        raise ValueError(f"{name} has shape {shape}: must be {wanted}{hint}")
    if not images.dtype.is_floating_point:
        hint = "; divide bytes by 255" if images.dtype is torch.uint8 else ""
        raise TypeError(f"{name} has dtype {images.dtype}: must be floating-point with values in [0, 1]{hint}")
    if not images.numel():
        return images
    flat = images.detach().flatten(1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)  # NaN wins in both
    right = (low >= -_SLACK) & (high <= 1 + _SLACK)
    if bool(right.all()):
        return images
    number = int((~right).nonzero()[0, 0])
    least, most = float(low[number]), float(high[number])
    if not (abs(least) < float("inf") and abs(most) < float("inf")):
        raise ValueError(f"{name}[{number}] holds NaN or infinity: every entry must be finite")
    hint = ""
    if least >= -_SLACK and 2 < most <= 255 + _SLACK:
        hint = "; divide values from 0 to 255 by 255"
    elif least >= -1 - _SLACK and most <= 1 + _SLACK:
        hint = "; of values in [-1, 1] take (images + 1) / 2"
    others = f" ({int((~right).sum())} of {len(right)} images)" if len(right) > 1 else ""
    raise ValueError(f"{name}[{number}] has values from {least} to {most}: must be in [0, 1]{hint}{others}")
