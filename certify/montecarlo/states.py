"""States: what accumulators have seen, as one safetensors blob. Nothing is pickled."""

from __future__ import annotations

from collections.abc import Sequence

from safetensors.torch import load, save

from certify.montecarlo.accumulators import Accumulator, part_of, state_of

__all__ = ["packed", "unpacked"]


def packed(accumulators: Sequence[Accumulator]) -> bytes:
    """The states of several accumulators, in their order."""
    return save(
        {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in state_of({str(i): part for i, part in enumerate(accumulators)}).items()
        }
    )


def unpacked(blob: bytes, accumulators: Sequence[Accumulator]) -> None:
    """Puts states back into fresh accumulators of the same kinds, in the same order.

    Raises:
        KeyError, ValueError: they are of other kinds.
    """
    tensors = load(blob)
    for i, accumulator in enumerate(accumulators):
        accumulator.restore(part_of(tensors, str(i)))
