"""Masks: which weights of a U-Net are pruned, one bit each, as a small file that is laid over the base.

    W̃ = W ⊙ m,      m ∈ {0, 1}

The file holds for every masked weight the bits of m, packed eight to a byte (uint8, ⌈size/8⌉), and its shape in the
metadata. Laying it over multiplies; the base's weights are needed to undo it, and are restored bit for bit by loading
the base again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from certify import _files

__all__ = ["FORMAT", "packed", "unpacked"]

FORMAT = "certify mask"


def packed(masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(bits, metadata) of boolean masks, for a safetensors file.

    Args:
        masks: name of a weight → its mask, True where it stays.

    Raises:
        ValueError: a mask is not boolean.
    """
    wrong = [name for name, mask in masks.items() if mask.dtype != torch.bool]
    if wrong:
        raise ValueError(f"masks: {wrong[0]!r} is {masks[wrong[0]].dtype}, must be torch.bool")
    bits = {name: torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1))) for name, mask in masks.items()}
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    return bits, {"format": FORMAT, "shapes": json.dumps(shapes)}


def unpacked(bits: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The boolean masks again.

    Raises:
        ValueError: bits and shapes do not belong together.
    """
    try:
        shapes = _files.json_object(metadata["shapes"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"mask: its metadata cannot be read ({error})") from error
    masks = {}
    for name, packed_bits in bits.items():
        shape = shapes.get(name)
        if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"mask: the shape of {name!r} is {shape!r}, must be a list of whole numbers")
        size = math.prod(shape)
        if packed_bits.dtype != torch.uint8 or packed_bits.ndim != 1 or len(packed_bits) != -(-size // 8):
            raise ValueError(f"mask: the bits of {name!r} do not fit shape {tuple(shape)}")
        flat = np.unpackbits(packed_bits.numpy(), count=size).astype(bool)
        masks[name] = torch.from_numpy(flat).reshape(shape)
    return masks
