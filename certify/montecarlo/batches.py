"""Batches: the inputs that a function is called on, drawn block by block, and what of its answers counts.

A function is called on as many rows as memory allows: where that does not suffice, the batch is halved and its inputs are
drawn anew. Answers are checked here: their shape, their type, and that they are finite (THEORY T10).
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from certify._random import has_float64
from certify._records import Record
from certify.montecarlo.streams import BLOCK, SHARD, generator, sources
from certify.noise import Noise
from certify.noise.base import ScaledNoise

_LOG = logging.getLogger(__name__)

__all__ = ["Batch", "BlockDraws", "Caller", "accepts", "accepts_generator", "in_blocks", "out_of_memory"]


def accepts_generator(f: Callable[..., Any]) -> bool:
    """Whether `f` (or a module's forward) has a parameter named `generator`."""
    return accepts(f, "generator")


def accepts(f: Callable[..., Any], name: str) -> bool:
    """Whether `f` (or a module's forward) has a parameter of this name."""
    target = f.forward if isinstance(f, nn.Module) else f
    try:
        return name in inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False


class Caller:
    """Calls f on batches: checks what comes back, and halves the batch where memory does not suffice."""

    def __init__(self, f: Callable[..., Any], shape: tuple[int, ...] | None, size: int, called: str) -> None:
        self.f, self.shape, self.size, self.called = f, shape, size, called
        self.random = accepts_generator(f)
        self.unit = 0.0  # roundoff of f's outputs as they come

    @property
    def known_shape(self) -> tuple[int, ...]:
        """The output's shape."""
        if self.shape is None:
            raise ValueError("n: no draw was made, so the output's shape is not known")
        return self.shape

    def __call__(self, batch: Batch) -> Iterator[Tensor]:
        if batch.source is not None:
            yield self._checked(self.f(batch.draw(), generator=batch.source()), batch.rows)
            return
        z, done = batch.draw(), 0
        while done < batch.rows:
            chunk = z[done : done + self.size]
            count, outputs = len(chunk), None
            try:
                outputs = self._checked(self.f(chunk), count)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if count == 1:
                    if str(error):
                        raise
                    raise MemoryError(f"{self.called} ran out of memory on a batch of one input") from error
            if outputs is None:
                # Drawn anew: f may have worked in place before its memory ran out.
                on_cuda, self.size = z.is_cuda, count // 2
                _LOG.warning("memory does not suffice for %d rows at once: going on with %d", count, self.size)
                del chunk, z
                if on_cuda:
                    torch.cuda.empty_cache()
                z = batch.draw()
                continue
            done += count
            yield outputs

    def _checked(self, outputs: Any, b: int) -> Tensor:
        if isinstance(outputs, Tensor) and outputs.is_floating_point():
            self.unit = torch.finfo(outputs.dtype).eps
        outputs = _checked(outputs, b, self.shape, self.called)
        self.shape = tuple(outputs.shape[1:])
        return outputs


@dataclass(frozen=True)
class Batch(Record):
    """Inputs to be drawn, as often as they are needed, each time in memory of their own."""

    rows: int
    draw: Callable[[], Tensor]
    source: Callable[[], torch.Generator] | None = None


@dataclass(frozen=True, eq=False)
class BlockDraws(Record):
    """All draws of a run, by block."""

    y: Tensor
    noise: Noise
    n: int
    seed: int
    stream: str

    def of(self, blocks: range, random: bool) -> Batch:
        """Some blocks together."""
        rows = min(self.n, blocks.stop * BLOCK) - blocks.start * BLOCK

        def draw() -> Tensor:
            # A block is always drawn whole and then cut, so that a longer run begins with the draws of a shorter one.
            noise: Any = self.noise
            if isinstance(noise, ScaledNoise) and type(noise).draw is ScaledNoise.draw:
                drawn = noise.draw_each(self.y, BLOCK, sources(self.seed, self.stream, blocks, self.y.device))
            else:
                each = (generator(self.seed, self.stream, block, self.y.device) for block in blocks)
                parts = [noise.draw(self.y, BLOCK, one) for one in each]
                drawn = torch.cat(parts) if len(parts) > 1 else parts[0]
            return drawn[:rows]

        def source() -> torch.Generator:
            return generator(self.seed, self.stream, blocks.start, self.y.device, internal=True)

        return Batch(rows, draw, source if random else None)

    def batches(self, shard: int, done: int, caller: Caller) -> Iterator[Batch]:
        """Those of a shard after the first `done` blocks."""
        stop = self._stop(shard)
        together = 1 if caller.random else max(1, caller.size // BLOCK)
        for first in range(shard * SHARD + done, stop, together):
            yield self.of(range(first, min(first + together, stop)), caller.random)

    def ended(self, shard: int, done: int) -> bool:
        """Whether `done` blocks are all that a shard has."""
        return shard * SHARD + done == self._stop(shard)

    def _stop(self, shard: int) -> int:
        return min((self.n + BLOCK - 1) // BLOCK, (shard + 1) * SHARD)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice. Only CUDA's own has a type of its own, which is a RuntimeError, too."""
    said = ("DefaultCPUAllocator", "out of memory", "_STATUS_ALLOC_FAILED", "std::bad_alloc", "RESOURCE_EXHAUSTED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in said)


def in_blocks(parts: Iterable[Tensor], several: bool) -> Iterator[Tensor]:
    """The rows of the parts, `BLOCK` at a time, or as many whole blocks as there are; the last time what is left."""
    held: list[Tensor] = []
    count = 0
    for part in parts:
        rows = part
        while ready := (count + rows.shape[0]) // BLOCK:
            taken = (ready if several else 1) * BLOCK - count
            head, rows = rows[:taken], rows[taken:]
            yield torch.cat([*held, head]) if held else head
            held, count = [], 0
        if rows.shape[0]:
            held, count = [*held, rows], count + rows.shape[0]
    if held:
        yield torch.cat(held)


def _checked(outputs: Any, b: int, shape: tuple[int, ...] | None, called: str) -> Tensor:
    one = called != "f" and shape in (None, ())  # one number for each input
    what = "(b,)" if one else "(b, *output)"
    if not isinstance(outputs, Tensor):
        raise TypeError(f"{called} returned a {type(outputs).__name__}: must return a torch tensor of shape {what}")
    if one and tuple(outputs.shape) != (b,):
        raise ValueError(
            f"{called} returned shape {tuple(outputs.shape)} for a batch of {b}: must be ({b},), one number for each "
            "(replicas, *input)"
        )
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
        raise TypeError(f"{called} returned dtype {outputs.dtype}: must be real")
    if not has_float64(outputs.device):
        outputs = outputs.detach().cpu()
    if outputs.dtype in (torch.float32, torch.float64):
        # Copied: f may hand out the same buffer every time, and the accumulators keep what they are given.
        outputs = outputs.detach().clone()
    else:  # half precision is exact in float32, whole numbers up to 2⁵³ in float64
        outputs = outputs.detach().to(torch.float32 if outputs.is_floating_point() else torch.float64)
    # One pass: a sum is finite unless an entry is not, or it overflows, which the second look tells apart.
    if not math.isfinite(float(outputs.sum(dtype=torch.float64))):
        bad = ~torch.isfinite(outputs)
        if bool(bad.any()):
            rows = int(bad.reshape(b, -1).any(dim=1).sum())
            raise ValueError(
                f"{called} returned NaN or infinity in {rows} of {b} draws: a certificate is about a finite function; "
                "none is issued, and drawing again with another seed until it passes would void it"
            )
    return outputs
