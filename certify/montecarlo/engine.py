"""The engine: the only place that loops over draws.

`draw` perturbs one input n times, runs the function on batches of perturbed inputs and hands every batch of outputs to
the accumulators. A NaN or an infinity in any output ends the run with an error: no certificate is issued about a
function that is not finite, and a refused run is not repeated until it passes (THEORY T10).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from certify import _validate
from certify.montecarlo.accumulators import Accumulator
from certify.montecarlo.streams import BLOCK, generator
from certify.noise import Noise

__all__ = ["Function", "accepts_generator", "draw"]

Function = Callable[..., Any]
"""A batch of inputs (b, *input) → a batch of outputs (b, *output); may take a keyword `generator`."""

Progress = Callable[[int, int], None]
"""Called with (draws done, draws in all)."""

DEFAULT_BATCH = 256


def draw(
    f: Function,
    y: Tensor,
    noise: Noise,
    *,
    n: int,
    seed: int,
    stream: str,
    accumulators: Iterable[Accumulator],
    batch_size: int | None = None,
    output_shape: tuple[int, ...] | None = None,
    progress: Progress | None = None,
) -> tuple[int, ...]:
    """Runs `f` on n noisy copies of `y` and feeds the accumulators.

    Args:
        f: batch (b, *input) → batch (b, *output). If it takes a `generator` argument it is called with whole blocks and
            a generator seeded by the block, and may be random through it.
        y: one input, shape (*input), floating point.
        noise: what to add.
        n: draws.
        seed, stream: where the noise comes from (`certify.montecarlo.streams`).
        accumulators: each sees every output once, as float32 or float64.
        batch_size: inputs in one call of `f`; None: 256. Only the rounding inside `f` can depend on it. A random `f` is
            called with whole blocks of 64.
        output_shape: what the output's shape must be, if that is known.
        progress: called after every batch.

    Returns:
        The output's shape.

    Raises:
        TypeError, ValueError: `f` does not return a tensor of shape (b, *output), or returns NaN or infinity.
    """
    size = DEFAULT_BATCH if batch_size is None else _validate.count("batch_size", batch_size)
    random = accepts_generator(f)
    receivers = list(accumulators)
    shape, done = output_shape, 0
    with torch.no_grad():
        for z, source in _batches(y, noise, n, seed, stream, size, random):
            outputs = f(z, generator=source) if random else f(z)
            outputs = _checked(outputs, z.shape[0], shape)
            shape = tuple(outputs.shape[1:])
            for receiver in receivers:
                receiver.update(outputs)
            done += z.shape[0]
            if progress is not None:
                progress(done, n)
    if shape is None:  # pragma: no cover - n >= 1
        raise ValueError(f"n = {n}: must be at least 1")
    return shape


def accepts_generator(f: Function) -> bool:
    """Whether `f` (or a module's forward) has a parameter named `generator`."""
    target = f.forward if isinstance(f, nn.Module) else f
    try:
        return "generator" in inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False


def _batches(
    y: Tensor, noise: Noise, n: int, seed: int, stream: str, size: int, random: bool
) -> Iterator[tuple[Tensor, torch.Generator | None]]:
    blocks = (n + BLOCK - 1) // BLOCK
    together = 1 if random else max(1, size // BLOCK)
    for first in range(0, blocks, together):
        # A block is always drawn whole and then cut, so that a longer run begins with the draws of a shorter one.
        parts = [
            noise.draw(y, BLOCK, generator(seed, stream, block, y.device))[: n - block * BLOCK]
            for block in range(first, min(first + together, blocks))
        ]
        z = torch.cat(parts) if len(parts) > 1 else parts[0]
        if random:
            yield z, generator(seed, stream, first, y.device, internal=True)
        else:
            for chunk in z.split(size):
                yield chunk, None


def _checked(outputs: Any, b: int, shape: tuple[int, ...] | None) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise TypeError(f"f returned a {type(outputs).__name__}: must return a torch tensor of shape (b, *output)")
    if outputs.ndim == 0 or outputs.shape[0] != b:
        raise ValueError(
            f"f returned shape {tuple(outputs.shape)} for a batch of {b}: the first axis must be the batch, ({b}, …)"
        )
    if shape is not None and tuple(outputs.shape[1:]) != tuple(shape):
        raise ValueError(
            f"f returned outputs of shape {tuple(outputs.shape[1:])}: must be {tuple(shape)}, the shape of the center "
            "and of all other draws"
        )
    if outputs.numel() == 0:
        raise ValueError(f"f returned shape {tuple(outputs.shape)}: must have at least one output")
    if outputs.is_complex():
        raise TypeError(f"f returned dtype {outputs.dtype}: must be real")
    if outputs.dtype in (torch.float32, torch.float64):
        # Copied: f may hand out the same buffer every time, and the accumulators keep what they are given.
        outputs = outputs.detach().clone()
    else:  # half precision is exact in float32, whole numbers up to 2⁵³ in float64
        outputs = outputs.detach().to(torch.float32 if outputs.is_floating_point() else torch.float64)
    bad = ~torch.isfinite(outputs)
    if bool(bad.any()):
        rows = int(bad.reshape(b, -1).any(dim=1).sum())
        raise ValueError(
            f"f returned NaN or infinity in {rows} of {b} draws: a certificate is about a finite function; "
            "none is issued, and drawing again with another seed until it passes would void it"
        )
    return outputs
