"""SHA-256 of tensors and of records: what a certificate, a checkpoint and a run say they are about.

(`certify.models.fingerprint` is that of a whole model.)
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

__all__ = ["json_digest", "tensor_digest"]


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over a tensor's dtype, shape and bytes."""
    array = tensor.detach().cpu().contiguous()
    head = f"{array.dtype} {tuple(array.shape)} ".encode()
    return hashlib.sha256(head + array.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 over JSON values, whatever the order of their keys. Halves of letters, which only a damaged file has, are `?`."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
