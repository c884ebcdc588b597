"""Checks of arguments: every message names the argument, its value and what it must be.

The command line checks its options here before anything is loaded: torch and numpy are imported where a tensor is checked.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "broadcastable",
    "choice",
    "count",
    "device",
    "evaluating",
    "failure",
    "finite",
    "finite_tensor",
    "flag",
    "function",
    "increasing",
    "not_negative",
    "options",
    "own_tensor",
    "positive",
    "probability",
    "seed_or_fresh",
    "seed_value",
    "suggests",
    "tensor",
]

_LONGEST = 1024
"""Bits of a whole number."""
_F = TypeVar("_F", bound=Callable[..., Any])


def positive(name: str, value: Any) -> float:
    """`value` as a finite float > 0."""
    number = _real(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} = {value!r}: must be a finite number > 0")
    return number


def finite(name: str, value: Any) -> float:
    """`value` as a finite float."""
    number = _real(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} = {value!r}: must be a finite number")
    return number


def not_negative(name: str, value: Any) -> float:
    """`value` as a finite float >= 0."""
    number = _real(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} = {value!r}: must be a finite number >= 0")
    return number


def probability(name: str, value: Any) -> float:
    """`value` as a float strictly between 0 and 1."""
    number = _real(name, value)
    if not 0 < number < 1:
        raise ValueError(f"{name} = {value!r}: must be strictly between 0 and 1")
    return number


def failure(name: str, value: Any) -> float:
    """`value` as a probability of failure: below 1, and large enough that its shares are numbers, too."""
    number = probability(name, value)
    if number < 1e-300:
        raise ValueError(f"{name} = {value!r}: must be strictly between 0 and 1, and at least 1e-300")
    return number


def count(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as a whole number >= `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} = {value!r}: must be a whole number >= {minimum}")
    number = int(value)
    if number.bit_length() > _LONGEST:  # Python refuses to write longer ones
        sign = "-" if number < 0 else ""
        raise ValueError(f"{name} = {sign}2**{number.bit_length() - 1}…: must be a whole number below 2**{_LONGEST}")
    if number < minimum:
        raise ValueError(f"{name} = {value!r}: must be a whole number >= {minimum}")
    return number


def seed_value(value: Any) -> int:
    """`value` as a seed: a whole number >= 0."""
    return count("seed", value, minimum=0)


ELSEWHERE = {
    "num_inference_steps": ("steps",),
    "guidance_scale": ("guidance",),
    "draws": ("n", "statistics"),
    "samples": ("n",),
    "num_samples": ("n",),
    "confidence": ("alpha",),
    "epsilon": ("rho",),
    "radius": ("rho",),
    "radii": ("rhos",),
    "replicas": ("n",),
    "copies": ("replicas",),
    "aggregate": ("smoother",),
    "sigma": ("sigma0",),
}
"""What an option may be called elsewhere, and its names here."""


def options(function: str, given: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Refuses, as Python does, an option that a function does not have; and says which one was probably meant.

    Args:
        function: its name.
        given: what `**options` holds.
        allowed: the names of its options: those of a `TypedDict` are its `__annotations__`.
    """
    known = list(allowed)
    for name in given:
        if name not in known:
            meant = [n for n in ELSEWHERE.get(name, ()) if n in known] or difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {meant[0]!r}?" if meant else f"its options are {', '.join(known)}"
            raise TypeError(f"{function}() has no option {name!r}: {hint}")


def suggests(*options_of: type) -> Callable[[_F], _F]:
    """A decorator: of a keyword that the function does not have, `options` says which was probably meant.

    Args:
        *options_of: the `TypedDict`s of its `**options`.
    """

    def decorated(function: _F) -> _F:
        name = function.__name__
        named = inspect.signature(function).parameters.values()
        own = [
            p.name
            for p in named
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in ("self", "cls")
        ]
        known = [*(option for kind in options_of for option in kind.__annotations__), *own]

        @functools.wraps(function)
        def checked(*args: Any, **given: Any) -> Any:
            options(type(args[0]).__name__ if name == "__init__" else name, given, known)
            return function(*args, **given)

        return cast(_F, checked)

    return decorated


def seed_or_fresh(value: Any) -> int:
    """`value` as a seed; None: a secret one from the operating system, 128 bits, which nothing in this process tells."""
    return secrets.randbits(128) if value is None else seed_value(value)


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """`value`, which must be one of `options`."""
    allowed = list(options)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} = {value!r}: must be one of {', '.join(repr(o) for o in allowed)}")
    return str(value)


def flag(name: str, value: Any) -> bool:
    """`value`, which must be True or False."""
    if not isinstance(value, (bool, *_loaded("numpy", "bool_"))):
        raise TypeError(f"{name} = {value!r}: must be True or False")
    return bool(value)


def device(name: str, value: str | torch.device) -> torch.device:
    """`value` as a device that exists."""
    import torch

    try:
        place = torch.device(value)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"{name} = {str(value)!r}: must be a device that this machine and this torch have") from error
    return place


def tensor(name: str, value: Any) -> Tensor:
    """`value` as a floating-point tensor: a tensor itself, a numpy array, a number, or a list of numbers.

    A tensor or an array keeps its dtype, which must be a floating one: whole numbers are refused, as they are likelier indices
    or counts. Numbers, and lists of them, become float64, which is what Python's floats are. An array is copied.
    """
    import numpy as np
    import torch
    from torch import Tensor

    if isinstance(value, Tensor):
        found = value
    elif isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: must be a torch tensor, or an array or list without a mask")
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:
            raise TypeError(f"{name} has dtype {array.dtype}: must be a real floating-point tensor or array")
        return torch.tensor(array.astype(array.dtype.newbyteorder("=")))
    elif _is_numbers(value):
        try:
            array = np.asarray(value)
        except ValueError:
            raise ValueError(f"{name} = {value!r}: must be rows of one length") from None
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
            raise TypeError(f"{name} = {value!r}: must hold real numbers")
        return torch.tensor(array, dtype=torch.float64)
    else:
        raise TypeError(f"{name} is a {type(value).__name__}: must be a torch tensor, or an array or list of numbers")
    if not found.dtype.is_floating_point:
        raise TypeError(f"{name} has dtype {found.dtype}: must be a real floating-point tensor")
    return found


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (numbers.Real, list, tuple)) and not isinstance(value, bool)


def finite_tensor(name: str, value: Any) -> Tensor:
    """`value` as `tensor` takes it, without NaN or infinity."""
    found = tensor(name, value)
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity: every entry must be finite")
    return found


def function(name: str, value: Any, batch: str = "(b, *input)") -> Callable[..., Any]:
    """`value`, which must be callable on a batch of this shape."""
    if not callable(value):
        raise TypeError(f"{name} = {value!r}: must be callable on a batch {batch}")
    evaluating(name, value)
    return value


def evaluating(name: str, value: Any) -> None:
    """Refuses a module, or a method or partial of one, that is in training mode, or a part of which is.

    There BatchNorm mixes the rows of a batch and changes its own running mean, and Dropout draws from the global state.
    """
    from torch import nn

    while isinstance(value, functools.partial):
        value = value.func
    module = value if isinstance(value, nn.Module) else getattr(value, "__self__", None)
    if not isinstance(module, nn.Module):
        return
    for path, part in module.named_modules():
        if part.training:
            where = f" (its part {path!r})" if path else ""
            raise ValueError(
                f"{name} = {type(module).__name__}{where}: is in training mode, must be in evaluation mode; call .eval() "
                "(again where parts were put in later, by quantization say: they begin in training mode)"
            )


def own_tensor(name: str, value: Any) -> Tensor:
    """`value` as `finite_tensor`, in memory of its own: what a caller or a function does to theirs does not change it."""
    found = finite_tensor(name, value)
    if found.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(found.shape)}: must hold at least one number")
    return found.detach().clone()


def broadcastable(name: str, value: Tensor, shape: Sequence[int], what: str) -> None:
    """Refuses `value` unless it broadcasts to exactly `shape`."""
    target, own = tuple(shape), tuple(value.shape)
    # (torch.broadcast_shapes loads sympy, which takes a second.)
    if len(own) > len(target) or any(a not in (1, b) for a, b in zip(own[::-1], target[::-1], strict=False)):
        raise ValueError(f"{name} has shape {tuple(value.shape)}: must broadcast to {what}, {target}")


def increasing(name: str, values: Any) -> tuple[float, ...]:
    """`values` as strictly increasing finite floats > 0."""
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        raise TypeError(f"{name} = {values!r}: must be a non-empty, strictly increasing list")
    numbers_ = tuple(positive(f"{name}[{i}]", v) for i, v in enumerate(values))
    if not numbers_ or any(b <= a for a, b in pairwise(numbers_)):
        raise ValueError(f"{name} = {list(numbers_)!r}: must be a non-empty, strictly increasing list")
    return numbers_


def _loaded(library: str, kind: str) -> tuple[type, ...]:
    """A class of a library, nothing where it is not loaded: then no value can be of it."""
    found = getattr(sys.modules.get(library), kind, None)
    return () if found is None else (found,)


def _is_array(value: Any) -> bool:
    return isinstance(value, (*_loaded("torch", "Tensor"), *_loaded("numpy", "ndarray")))


def _real(name: str, value: Any) -> float:
    if _is_array(value):
        if math.prod(value.shape) != 1:
            raise TypeError(f"{name} has shape {tuple(value.shape)}: must be a single number")
        value = value.reshape(()).tolist()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} = {value!r}: must be a real number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} = {str(value)[:20]}…: must be a number that float64 can hold") from None
