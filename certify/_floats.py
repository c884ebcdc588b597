"""Squares, lengths and means on every scale that float64 has, and rounded up where it has no number for them.

The square of 1e-170 is 0 in float64 and that of 1e170 is infinite, though neither number is remarkable. So what is squared is
first divided by a power of two near its largest entry, which changes no digit. A result too small for float64 becomes the
smallest number there is, never 0: a bound of 0 says that nothing moves at all.

>>> square(1e-170), square(0.0), square(3.0)
(5e-324, 0.0, 9.0)
>>> length(torch.tensor([3e-170, 4e-170], dtype=torch.float64)).item() > 4.9e-170
True
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

__all__ = [
    "TOO_LARGE",
    "distance",
    "flat",
    "grown",
    "half_way",
    "in_units",
    "least_above",
    "length",
    "mean",
    "square",
    "squared_length",
    "squared_lengths",
    "unit_of",
    "up",
]

TOO_LARGE = "the squared distance is more than float64 can hold (1.8e308): scale f's outputs down"

_LOSSY = 2.0**-960
"""Below this a product may have lost digits to gradual underflow."""

_LEAST, _MOST = 2.0**-450, 2.0**450
"""Between these a length is computed as it stands: no square that matters to it has left float64."""


def up(value: float, slack: float = 0.0) -> float:
    """`value` ≥ 0 times 1 + `slack`; where digits may have been lost, the next number above."""
    grown = value * (1 + slack)
    return math.nextafter(grown, math.inf) if 0 < value < _LOSSY else grown


def grown(values: Tensor, slack: float) -> Tensor:
    """`up` for a tensor."""
    result = values * (1 + slack)
    lossy = (values > 0) & (result < _LOSSY)
    return torch.where(lossy, torch.nextafter(result, torch.full_like(result, math.inf)), result)


def least_above(exact: Fraction) -> float:
    """The least float64 at or above an exact number.

    >>> least_above(Fraction(1, 2)), least_above(Fraction(1, 10)) == 0.1, least_above(Fraction(2, 3)) == 2 / 3
    (0.5, True, False)
    """
    try:
        near = float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf
    return near if Fraction(near) >= exact else math.nextafter(near, math.inf)


def square(value: float, slack: float = 0.0) -> float:
    """The square of a number, times 1 + `slack`; 0 for 0 alone."""
    result = value * value * (1 + slack)
    return math.nextafter(result, math.inf) if value and result < _LOSSY else result


def unit_of(*tensors: Tensor) -> float:
    """The power of two at or below the largest finite entry of all: 1 if there is none but 0."""
    largest = 0.0
    for tensor in tensors:
        sizes = tensor.detach().abs()
        most = float(sizes.max()) if sizes.numel() else 0.0
        if not math.isfinite(most):
            sizes = sizes[torch.isfinite(sizes)]
            most = float(sizes.max()) if sizes.numel() else 0.0
        largest = max(largest, most)
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0


def in_units(share: float, unit: float, slack: float = 0.0) -> float:
    """share · unit², times 1 + `slack`, rounded up; 0 for a share of 0 alone."""
    result = share * (1 + slack) * unit * unit
    return math.nextafter(result, math.inf) if share > 0 and result < _LOSSY else result


def squared_length(x: Tensor, slack: float = 0.0) -> float:
    """Σ x², times 1 + `slack`, rounded up where float64 has no number for it; 0 where all entries are."""
    unit = unit_of(x)
    return in_units(float((x.to(torch.float64) / unit).square().sum()), unit, slack)


def squared_lengths(x: Tensor, dim: int) -> Tensor:
    """Σ x² along an axis, rounded up likewise."""
    unit = x.detach().abs().amax(dim=dim, keepdim=True)
    whole = (unit == 0) | torch.isinf(unit) | ((unit > _LEAST) & (unit < _MOST))
    unit = torch.where(whole, 1.0, unit)
    share = (x / unit).square().sum(dim=dim)
    unit = unit.squeeze(dim)
    result = share * unit * unit
    least = torch.nextafter(result, torch.full_like(result, math.inf))
    return torch.where((share > 0) & (result < _LOSSY), least, result)


def length(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """‖x‖ of a float64 tensor, along an axis or as a whole, on every scale."""
    result = torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)
    if not x.numel() or bool(((result > _LEAST) & (result < _MOST)).all()):
        return result
    largest = x.abs().amax() if dim is None else x.abs().amax(dim=dim, keepdim=True)
    usable = (largest > 0) & torch.isfinite(largest)
    shares = torch.linalg.vector_norm(x / torch.where(usable, largest, 1.0), dim=dim, keepdim=keepdim)
    if dim is not None and not keepdim:
        largest, usable = largest.squeeze(dim), usable.squeeze(dim)
    return torch.where(usable, largest * shares, largest)


def flat(tensor: Tensor) -> Tensor:
    """All entries in a row, float64, on the CPU."""
    return tensor.detach().to("cpu", torch.float64).reshape(-1)


def distance(a: Tensor, b: Tensor, slack: float) -> float:
    """‖a − b‖, times 1 + `slack`, rounded up; 0 for a tensor from itself."""
    return 0.0 if a is b else up(float(length(flat(a) - flat(b))), slack)


def half_way(a: Tensor, b: Tensor) -> Tensor:
    """(a + b)/2, also where the sum is not finite."""
    middle = (a + b) / 2
    return torch.where(torch.isfinite(middle), middle, a / 2 + b / 2)


def mean(draws: Tensor, dim: int = 0) -> Tensor:
    """The mean over an axis, also where the sum is not finite."""
    result = draws.mean(dim=dim)
    if bool(torch.isfinite(result).all()):
        return result
    return (draws.to(torch.float64) / draws.shape[dim]).sum(dim=dim).to(draws.dtype)
