"""What `encode_prompt` returns, as a tree: which tensors of it belong to the prompts, row by row, and to which encoder.

Pipelines return tuples of tensors, of lists with a tensor a prompt, of None and of constants. A *slot* is a place in that tree
whose values follow the prompt's embeddings; where a batch has its rows is found by comparing a batch of one with a larger one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certify._records import Record

__all__ = ["Slot", "alike", "leaves", "replaced", "rounding"]

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Slot(Record):
    """A place in what `encode_prompt` returns.

    Attributes:
        path: keys that lead there.
        axis: which axis of the tensor counts prompts; None: it is a list with a tensor a prompt.
        boxes: for each part of the input (a lookup of embeddings) the (start, stop) of every axis of one prompt's tensor that
            it can move; None: nothing.
    """

    path: Path
    axis: int | None
    boxes: tuple[tuple[tuple[int, int], ...] | None, ...]

    def rows(self, tree: Any, count: int) -> list[Tensor]:
        """One prompt's tensor for each of `count` prompts.

        Raises:
            ValueError: it has another number of rows.
        """
        value = tree
        for key in self.path:
            value = value[key]
        found = list(value) if self.axis is None else list(value.movedim(self.axis, 0))
        if len(found) != count:
            raise ValueError(f"encode_prompt returned {len(found)} rows at {self.path}: must be {count}, one a prompt")
        return found

    def put(self, tree: Any, rows: Sequence[Tensor]) -> Any:
        """The tree with these rows in place of its own."""
        value: Any = list(rows) if self.axis is None else torch.stack(list(rows)).movedim(0, self.axis)
        return replaced(tree, self.path, value)


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, tensor or list of tensors) of all that a tree holds."""
    if isinstance(tree, Tensor) or (
        isinstance(tree, list) and tree and all(isinstance(entry, Tensor) for entry in tree)
    ):
        yield path, tree
    elif isinstance(tree, (list, tuple)):
        for key, entry in enumerate(tree):
            yield from leaves(entry, (*path, key))
    elif isinstance(tree, dict):
        for name, entry in tree.items():
            yield from leaves(entry, (*path, name))


def replaced(tree: Any, path: Path, value: Any) -> Any:
    """The tree with another value at a path; it is not changed itself."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(tree, dict):
        return type(tree)({**tree, key: replaced(tree[key], rest, value)})
    entries = [replaced(entry, rest, value) if i == key else entry for i, entry in enumerate(tree)]
    if hasattr(tree, "_fields"):
        return type(tree)(*entries)
    return tuple(entries) if isinstance(tree, tuple) else entries


_ROUNDING = 1e-5  # of the largest entry: what another batch size may change


def rounding(row: Tensor) -> float:
    """What another place in a batch may change."""
    scale = float(row.abs().max()) if row.numel() else 0.0
    return max(_ROUNDING, 8 * torch.finfo(row.dtype).eps) * scale


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs are the same, but for what another place in a batch may change."""
    return one.shape == other.shape and bool(((one.float() - other.float()).abs() <= rounding(one)).all())
