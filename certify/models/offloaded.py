"""Weights of offloaded models: accelerate keeps them on the CPU or on disk, and leaves empty tensors in the modules.

`enable_sequential_cpu_offload` puts every tensor on the "meta" device, and a hook of the module's brings it in for the length
of a call. Whoever reads a weight without calling its module finds nothing there. Here it is read from where the hook keeps it.
"""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["at_hand", "device_of", "state_of", "weight_of"]


def device_of(module: nn.Module, pipe: Any = None) -> torch.device:
    """Where to put what a module is called with.

    Args:
        module: any; where it is offloaded, its hook takes tensors from the CPU.
        pipe: the pipeline that it is a part of, which knows where an offloaded part is run.
    """
    found = getattr(pipe, "_execution_device", None)
    if isinstance(found, torch.device):
        return found
    own = next(module.parameters()).device
    return torch.device("cpu") if own.type == "meta" else own


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's `state_dict`, with the values of what is offloaded.

    Raises:
        ValueError: a tensor has no values anywhere.
    """
    state: dict[str, Tensor] = module.state_dict()
    if all(tensor.device.type != "meta" for tensor in state.values() if isinstance(tensor, Tensor)):
        return state
    for path, inner in module.named_modules():
        for name, tensor in _own(inner).items():
            full = f"{path}.{name}" if path else name
            if tensor.device.type == "meta" and full in state:
                state[full] = _kept(inner, name)
    return state


def weight_of(module: nn.Module, name: str = "weight") -> Tensor:
    """A parameter or buffer of a module itself, with its values if it is offloaded.

    Raises:
        AttributeError: it has none of that name.
        ValueError: it has no values anywhere.
    """
    tensor = _own(module).get(name)
    if tensor is None:
        raise AttributeError(f"{type(module).__name__} has no tensor {name!r}")
    return _kept(module, name) if tensor.device.type == "meta" else tensor


def at_hand(module: nn.Module) -> nn.Module:
    """A module without parts, to be called as it is: itself, or if it is offloaded a copy that holds its values."""
    tensors = _own(module)
    if all(tensor.device.type != "meta" for tensor in tensors.values()):
        return module
    twin = copy.copy(module)
    for name in ("forward", "_hf_hook", "_old_forward"):
        twin.__dict__.pop(name, None)
    twin._forward_hooks, twin._forward_pre_hooks = OrderedDict(), OrderedDict()
    twin._parameters = {
        name: None if tensor is None else nn.Parameter(weight_of(module, name), requires_grad=False)
        for name, tensor in module._parameters.items()
    }
    twin._buffers = {n: None if t is None else weight_of(module, n) for n, t in module._buffers.items()}
    return twin


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(recurse=False, remove_duplicate=False)),
        **dict(module.named_buffers(recurse=False, remove_duplicate=False)),
    }


def _kept(module: nn.Module, name: str) -> Tensor:
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", [hook] * (hook is not None)):
        with contextlib.suppress(AttributeError, KeyError, TypeError):  # another hook's, or none
            found: Tensor = one.weights_map[name]
            return found
    raise ValueError(f"{type(module).__name__}.{name} is on the meta device, without values: must have some")
