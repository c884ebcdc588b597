"""States: what accumulators have seen, as one safetensors blob. Nothing is pickled."""

from __future__ import annotations

from collections.abc import Sequence

from safetensors.torch import load, save

from certify.montecarlo.accumulators import Accumulator

__all__ = ["packed", "unpacked"]


def packed(accumulators: Sequence[Accumulator]) -> bytes:
    """The states of several accumulators, in their order."""
    return save(
        {
            f"{i}.{name}": tensor.detach().cpu().clone().contiguous()
            for i, accumulator in enumerate(accumulators)
            for name, tensor in accumulator.state().items()
        }
    )


def unpacked(blob: bytes, accumulators: Sequence[Accumulator]) -> None:
    """Puts states back into fresh accumulators of the same kinds, in the same order.

    Raises:
        KeyError, ValueError: they are of other kinds.
    """
    tensors = load(blob)
    for i, accumulator in enumerate(accumulators):
        prefix = f"{i}."
        accumulator.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
