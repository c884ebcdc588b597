"""Whether f is a function: a few inputs are evaluated again, in a batch of other rows, and must come out as they did.

A certificate is about a function of one input (or, with a `generator`, a random one whose randomness is the generator's). What
depends on earlier calls, on the global random state or on the other rows of its batch (BatchNorm in training mode) is
none, and no theorem speaks of it. Half of a block's rows are evaluated again after the first batch of a run, together, and the
other half at its end, in batches of 1 to 8, where many rows are the first or the last: one block more in all. Where few rows
are drawn, all of them are, at first several times. A random f gets the whole block again both times, with the same state of its
generator.

*What may differ.* Rounding: the same row gives values some ulp apart in batches of different sizes. A value differs where it
is off by more than 1 000 ulp (16 in half precision) of its own size and the mean size of all; the ulp are the coarsest
of input and output. And a discontinuous f (a label, a sign) may flip a value that rounding leaves undecided. So f is refused
only if one of its outputs differs in three rows or more, or a thousandth of all values do. Where the same batch gives the same
values twice and another batch does not, f is run once more to see what it computes in: with half precision (or TF32) inside,
these ulp count, and an eighth of the rows may flip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from certify._random import keyed

__all__ = ["FEW", "LOOKED", "compare", "few_together", "halves", "kept_differences"]

_COARSE = 1e-5
_TOGETHER = 2**22  # values compared at a time, in float64
"""Unit roundoffs above this are of half precision, bfloat16 and TF32."""
_TF32 = 2.0**-10
_FEW = (2, 1, 3, 2, 8, 2, 1, 4, 2, 3, 2, 2)
"""Sizes of small batches, 32 rows in all: ten of them are the last of several, more than may differ in half precision."""


LOOKED = 40
"""Evaluations of the first look where it has few rows, the same ones several times: a random answer that is mostly "no" would
pass in a few rows."""

FEW = 32
"""Rows below which there are few: all of them are evaluated again, at either look."""


def halves(rows: int) -> tuple[Tensor, Tensor]:
    """Which rows of a block are evaluated again first, and which at last, each in an order of its own."""
    order = torch.randperm(rows, generator=keyed("rows that are evaluated again"))
    half = (rows + 1) // 2
    return order[:half], order[half:] if rows > 1 else order


def kept_differences(first: Tensor, again: Tensor, once_more: Tensor) -> Tensor:
    """Of two further evaluations of rows the one that differs from the first, row by row."""
    same = (first.to(again.device) == again).reshape(len(again), -1).all(dim=1)
    return torch.where(same.reshape(-1, *[1] * (again.ndim - 1)), once_more, again)


def few_together(rows: Tensor) -> list[Tensor]:
    """The rows in small batches: whatever f does at the end of a batch, or to the rows after the first, many of them show."""
    sizes = [size for _ in range(0, len(rows), sum(_FEW)) for size in _FEW]
    return [part for part in rows.tensor_split(torch.tensor(sizes).cumsum(0)) if len(part)]


def compare(
    first: Tensor,
    again: Tensor,
    unit: float,
    evaluate: Callable[[], Tensor],
    *,
    same: bool = False,
    called: str = "f",
) -> None:
    """Refuses f if the same inputs did not come out alike.

    Args:
        first, again: outputs (rows, *output) of the same inputs.
        unit: the coarsest unit roundoff of inputs and outputs.
        evaluate: makes `again` once more.
        same: whether both were made in the same batch.
        called: what the caller calls f.

    Raises:
        ValueError: f is no function.
    """
    if not _unlike(first, again, unit):
        return
    if not same and not _unlike(again, evaluate(), unit):
        inside = _coarsest(evaluate, unit)
        if inside > max(unit, _COARSE) and not _unlike(first, again, inside):
            return
        how = "in a batch of other rows"
    else:
        how = "with the same generator" if same else "in the same batch"
    differ = _differing(first, again, unit)
    rows = int(differ.any(dim=1).sum())
    most = float((first.cpu().double() - again.cpu().double()).abs().max())
    raise ValueError(
        f"{called} is no function of its input: {rows} of {len(first)} inputs came out otherwise when they were evaluated "
        f"again {how}, by up to {most:.3g}; an output may depend on its own row alone: not on other rows, earlier calls or the "
        "global random state (BatchNorm and Dropout need .eval(); what is random draws from an argument named generator)"
    )


def _differing(first: Tensor, again: Tensor, unit: float) -> Tensor:
    """Which values differ by more than rounding, (rows, outputs)."""
    pair = [outputs.detach().cpu().reshape(len(outputs), -1) for outputs in (first, again)]
    rows = max(1, _TOGETHER // max(1, pair[0].shape[1]))
    size = torch.stack([(a.double().abs() / pair[0].numel()).sum() for a in pair[0].split(rows)]).sum()
    parts = []
    for a, b in zip(*(one.split(rows) for one in pair), strict=True):
        a, b = a.double(), b.double()
        parts.append((a - b).abs() > (16 if unit > _COARSE else 1000) * unit * (size + a.abs()))
    return torch.cat(parts)


def _unlike(first: Tensor, again: Tensor, unit: float) -> bool:
    differ = _differing(first, again, unit)
    rows = len(differ)
    few = max(3, rows // 8 + 1) if unit > _COARSE else 3
    most, total = int(differ.sum(dim=0).max()), int(differ.sum())
    return most >= min(few, rows) or (total >= 3 and rows * differ.shape[1] >= 1000 and total > differ.numel() / 1000)


def _coarsest(evaluate: Callable[[], Tensor], unit: float) -> float:
    """The coarsest unit roundoff of all that f computes, as far as torch knows."""
    with _Roundoffs() as seen:
        evaluate()
    tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    return max(unit, seen.coarsest, _TF32 if seen.on_cuda and tf32 else 0.0)


class _Roundoffs(TorchDispatchMode):
    """Sees the results of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.coarsest, self.on_cuda = 0.0, False

    def __torch_dispatch__(
        self, func: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.coarsest = max(self.coarsest, torch.finfo(tensor.dtype).eps)
                self.on_cuda |= tensor.is_cuda
        return made
