"""Fingerprint: which weights a statement is about, as one SHA-256.

A certificate holds for the function that was run. Its weights are identified by a digest over the named tensors: sorted
names, each with its dtype, shape and bytes. Files, folders and hub names do not enter, so the same weights loaded from
another place have the same fingerprint, and one changed bit gives another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from certify.models.offloaded import state_of

__all__ = ["fingerprint"]


def fingerprint(model: nn.Module | Mapping[str, Tensor] | Any) -> str:
    """SHA-256 over a model's named tensors.

    Equation
        SHA-256 of the concatenation, over names in sorted order, of (name, dtype, shape, bytes), each preceded by its
        length, so that no two different models run together into one message.

    Args:
        model: a module (its `state_dict`: parameters and persistent buffers), a mapping of names to tensors, or a
            diffusers pipeline (the modules among its `components`, each name preceded by the component's).

    Returns:
        64 hexadecimal digits. The dtype enters: the same model in float16 and in float32 is not the same function.

    Raises:
        TypeError: `model` is none of these, or holds something that is not a tensor.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_named_tensors(model), key=lambda pair: pair[0]):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"model[{name!r}] is a {type(tensor).__name__}: must be a tensor")
        data = tensor.detach().to("cpu").contiguous().reshape(-1)
        head = f"{name}|{str(tensor.dtype).removeprefix('torch.')}|{tuple(tensor.shape)}".encode()
        digest.update(len(head).to_bytes(8, "little"))
        digest.update(head)
        digest.update((data.numel() * data.element_size()).to_bytes(8, "little"))
        digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _named_tensors(model: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(model, nn.Module):
        yield from state_of(getattr(model, "_orig_mod", model)).items()  # a compiled module's weights are the module's
    elif isinstance(model, Mapping):
        yield from model.items()
    elif isinstance(getattr(model, "components", None), Mapping):
        for part, component in model.components.items():
            if isinstance(component, nn.Module):
                for name, tensor in _named_tensors(component):
                    yield f"{part}.{name}", tensor
    else:
        raise TypeError(f"model is a {type(model).__name__}: must be a module, a mapping of tensors or a pipeline")
