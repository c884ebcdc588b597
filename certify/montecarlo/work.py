"""What f costs, in operations: counted, not timed, so that what depends on it is the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from certify.montecarlo.batches import accepts_generator
from certify.montecarlo.engine import Function
from certify.montecarlo.streams import generator

__all__ = ["counted_work"]


class _Products(TorchDispatchMode):
    """Counts the multiplications and additions of matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        from torch.utils.flop_counter import flop_registry

        given = dict(kwargs or {})
        made = func(*args, **given)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += int(count(*args, **given, out_val=made))
        return made


def counted_work(f: Function, y: Tensor, seed: int) -> float | None:
    """Operations of the matrix products and convolutions in one evaluation of f, on `y` itself.

    Args:
        f: batch (b, *input) → batch (b, *output), as in `draw`.
        y: one input, (*input).
        seed: of the generator that a random f is given, on a block of its own.

    Returns:
        The count; None where f does none that torch sees: nothing is known then.
    """
    how: dict[str, Any] = {}
    if accepts_generator(f):
        how["generator"] = generator(seed, "choosing", 2**40, y.device, internal=True)
    with torch.no_grad(), _Products() as seen:
        try:
            f(y.detach().clone()[None], **how)
        except Exception:  # whatever works on batches of other sizes only, or not under a dispatch mode
            return None
    return float(seen.operations) or None
