"""The engine: the only place that loops over draws.

`draw` perturbs one input n times, runs the function on batches of perturbed inputs and hands every batch of outputs to
the accumulators. A NaN or an infinity in any output ends the run with an error: no certificate is issued about a
function that is not finite, and a refused run is not repeated until it passes (THEORY T10).

Draws are cut into *shards* of `SHARD` blocks, whatever is going to happen to them. Accumulators that depend on the order
of the draws are made anew for each shard and merged in the order of the shards. So it does not matter who draws: one
process, several of them under torchrun (`torch.distributed`; process p of P takes the shards p, p + P, …, and all end up
with everything), or a run that was killed and resumes from a checkpoint. The claims are the same, bit for bit, on the same
kind of device.

A checkpoint is written between two batches, also inside a shard: a slow function (an image of fifty steps) may never fill
one. A run that is stopped by an exception, Ctrl-C among them, keeps the batches that were fed whole.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify.montecarlo.accumulators import Accumulator, AllDraws, Counts
from certify.montecarlo.batches import Batch, BlockDraws, Caller, in_blocks
from certify.montecarlo.checkpoint import Checkpoint
from certify.montecarlo.processes import Processes, RunState
from certify.montecarlo.repeated import FEW, LOOKED, compare, few_together, halves, kept_differences
from certify.montecarlo.streams import BLOCK, SHARD
from certify.noise import Noise

__all__ = ["Function", "Progress", "draw", "draw_all", "draw_packed"]

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
    checkpoint: Checkpoint | None = None,
    called: str = "f",
    again: str = "both",
) -> tuple[int, ...]:
    """Runs `f` on n noisy copies of `y` and feeds the accumulators.

    Args:
        f: batch (b, *input) → batch (b, *output). If it takes a `generator` argument it is called with whole blocks and
            a generator seeded by the block, and may be random through it.
        y: one input, shape (*input), floating point.
        noise: what to add.
        n: draws.
        seed, stream: where the noise comes from (`certify.montecarlo.streams`).
        accumulators: each sees every output once, as float32 or float64, a block of 64 at a time whatever the batch is, so
            that sums are added up in the same order; `Counts`, which are whole numbers, several blocks at a time.
        batch_size: inputs in one call of `f`; None: 256. Only the rounding inside `f` can depend on it. Where memory does not
            suffice it is halved. A random `f` is called with whole blocks of 64.
        output_shape: what the output's shape must be, if that is known.
        progress: called after every batch (of this process) with draws done by all, about.
        checkpoint: where to keep what was drawn, and to go on from. An exception, `KeyboardInterrupt` among them, keeps all
            whole batches.
        called: what the caller calls `f`, for messages.
        again: when inputs are evaluated again, to see whether `f` is a function (`certify.montecarlo.repeated`): "early",
            "late", "both", or "never".

    Returns:
        The output's shape.

    Raises:
        TypeError, ValueError: `f` does not return a tensor of shape (b, *output), or returns NaN or infinity, or is no
            function or a module in training mode; the checkpoint is another run's.
    """
    size = DEFAULT_BATCH if batch_size is None else _validate.count("batch_size", batch_size)
    totals, processes = list(accumulators), Processes.current()
    _validate.evaluating(called, f)
    y = y.detach().clone()  # f may work on what y shares its memory with
    draws = BlockDraws(y, noise, n, seed, stream)
    caller = Caller(f, output_shape, size, called)
    look = _Look(caller, draws, again)
    shards = -(-n // (SHARD * BLOCK))
    first, blocks, state = 0, 0, RunState(totals, processes)
    if checkpoint is not None:
        checkpoint.open(y, noise, n=n, seed=seed, stream=stream, state=state)
        first, blocks, caller.shape = checkpoint.resume(state, output_shape)
    done = min(n, (first * SHARD + blocks) * BLOCK)
    if checkpoint is not None and processes.count == 1:
        checkpoint.agrees(state, done)
    alone = shards == 1 and processes.count == 1  # nothing to merge
    with torch.no_grad():
        for shard in range(first + processes.offset(first), shards, processes.count):
            if alone:
                part = totals
            else:
                part = state.opened or [t.widened(t) if t.ordered else t for t in totals]
                state.opened = part
            counted = all(isinstance(receiver, Counts) for receiver in part)
            whole = True  # whether the accumulators hold whole batches, up to `blocks`
            try:
                for batch in draws.batches(shard, blocks, caller):
                    for outputs in in_blocks(caller(batch), counted):
                        whole = False
                        look.first(batch, outputs)
                        for receiver in part:
                            receiver.update(outputs)
                    blocks += -(-batch.rows // BLOCK)
                    # Before anything is kept: a run that resumes from all its draws looks at none.
                    look.early()
                    if shard + processes.count >= shards and draws.ended(shard, blocks):
                        look.late()
                    whole = True
                    done = min(n, done + batch.rows * processes.count)
                    if progress is not None:
                        progress(done, n)
                    if checkpoint is not None:
                        checkpoint.save(shard, blocks, state, caller.known_shape)
            except BaseException:
                if checkpoint is not None and whole and done:
                    with contextlib.suppress(OSError, RuntimeError):  # what stopped the run is what is reported
                        checkpoint.save(shard, blocks, state, caller.known_shape, always=True)
                raise
            blocks, state.opened = 0, None
            if not alone:
                state.add(shard, part)
            if checkpoint is not None:
                following = shard + processes.count
                checkpoint.save(following, 0, state, caller.known_shape, always=following >= shards)
    if processes.count > 1:
        state.share()
        caller.shape = processes.agreed_shape(caller.shape)
    return caller.known_shape


def draw_all(
    f: Function,
    y: Tensor,
    noise: Noise,
    *,
    n: int,
    seed: int,
    stream: str,
    batch_size: int | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    again: str = "both",
    called: str = "f",
    output_shape: tuple[int, ...] | None = None,
) -> Tensor:
    """All outputs of `f` on n noisy copies of `y`, shape (n, *output); arguments and errors as of `draw`."""
    every = AllDraws()
    draw(
        f,
        y,
        noise,
        n=n,
        seed=seed,
        stream=stream,
        accumulators=[every],
        batch_size=batch_size,
        progress=progress,
        checkpoint=checkpoint,
        again=again,
        called=called,
        output_shape=output_shape,
    )
    return every.stacked()


def draw_packed(
    f: Function,
    ys: Sequence[Tensor],
    noises: Sequence[Noise],
    *,
    n: int,
    seeds: Sequence[int],
    stream: str,
    accumulators: Sequence[Iterable[Accumulator]],
    batch_size: int | None = None,
    output_shape: tuple[int, ...] | None = None,
    progress: Progress | None = None,
    wanted: Callable[[int], int] | None = None,
    called: str = "f",
    again: str = "both",
) -> list[int]:
    """Runs `f` on up to n noisy copies of each of several inputs, the draws of several of them in one batch.

    Every input has the draws, in the order, that `draw` gives it by itself; only the rounding inside `f` can depend on what
    else is in a batch. Inputs that may be decided at any time say how many draws they want next, so that few are made in vain.

    Args:
        f: batch (b, *input) → batch (b, *output), as in `draw`. A random one is called with whole blocks of 64.
        ys: the inputs, of one shape, dtype and device.
        noises, seeds: one an input.
        accumulators: some an input; they take parts of any size.
        n, stream, batch_size, output_shape, called: as in `draw`.
        progress: called after every batch with (draws done, draws found not to be needed), of all inputs.
        wanted: asked before each of its batches how many draws an input, by its number, wants next; 0: no more.
        again: as in `draw`, of the first input's first block.

    Returns:
        How many draws each input was given.

    Raises:
        TypeError, ValueError: as `draw`.
    """
    size = DEFAULT_BATCH if batch_size is None else _validate.count("batch_size", batch_size)
    _validate.evaluating(called, f)
    caller = Caller(f, output_shape, size, called)
    draws = [
        BlockDraws(y.detach().clone(), noise, n, seed, stream) for y, noise, seed in zip(ys, noises, seeds, strict=True)
    ]
    receivers = [list(some) for some in accumulators]
    look, recent = _Look(caller, draws[0], again), _Recent(draws)
    done = [0] * len(draws)

    def wants(i: int) -> int:
        rest = n - done[i]
        return min(rest, wanted(i)) if wanted is not None and rest else rest

    left = {i: count for i in range(len(draws)) if (count := wants(i))}
    unused = n * (len(draws) - len(left))
    with torch.no_grad():
        while left:
            if caller.random:
                i = next(iter(left))
                chosen = [(i, range(done[i], min(n, done[i] + BLOCK)))]
                parts = [draws[i].of(range(done[i] // BLOCK, done[i] // BLOCK + 1), True)]
            else:
                chosen = _in_turn(left, done, caller.size)
                parts = [Batch(len(rows), partial(recent.rows, i, rows)) for i, rows in chosen]
            for (i, rows), part, outputs in zip(chosen, parts, _outputs(caller, parts), strict=True):
                if i == 0:
                    look.part(rows, part, outputs)
                for receiver in receivers[i]:
                    receiver.update(outputs)
                done[i] = rows.stop
            look.early()
            for i in dict.fromkeys(i for i, _ in chosen):
                left[i] = wants(i)
                if not left[i]:
                    del left[i]
                    unused += n - done[i]
            if not left:
                look.late()
            if progress is not None:
                progress(sum(done), unused)
    return done


def _in_turn(left: Mapping[int, int], done: Sequence[int], room: int) -> list[tuple[int, range]]:
    """(input, which of its draws) for one batch: a part of a block of each in turn, as long as there is room.

    Args:
        left: how many more draws each input wants, > 0.
        done: draws that each has.
        room: rows of the batch.
    """
    wanted = {i: [done[i], done[i] + count] for i, count in itertools.islice(left.items(), room)}
    chosen: list[tuple[int, range]] = []
    while room and wanted:
        for i, (start, stop) in list(wanted.items()):
            rows = range(start, min(stop, start + room, (start // BLOCK + 1) * BLOCK))
            if rows:
                chosen.append((i, rows))
                room -= len(rows)
                wanted[i][0] = rows.stop
            if rows.stop == stop:
                del wanted[i]
    return chosen


def _outputs(caller: Caller, parts: Sequence[Batch]) -> list[Tensor]:
    """The outputs of each part, which are evaluated together where `f` is not random."""
    if caller.random:
        return [torch.cat(list(caller(part))) for part in parts]
    together = Batch(sum(part.rows for part in parts), lambda: torch.cat([part.draw() for part in parts]))
    return list(torch.cat(list(caller(together))).split([part.rows for part in parts]))


class _Recent:
    """Parts of blocks of several inputs. The last few blocks are kept, since the next part is mostly of the same one."""

    MOST = 16

    def __init__(self, draws: Sequence[BlockDraws]) -> None:
        self.draws, self.blocks = draws, dict[tuple[int, int], Tensor]()

    def rows(self, i: int, rows: range) -> Tensor:
        """Draws of input i within one block, in memory of their own."""
        block = rows.start // BLOCK
        kept = self.blocks.pop((i, block), None)
        if kept is None:
            kept = self.draws[i].of(range(block, block + 1), False).draw()
        if rows.stop < min((block + 1) * BLOCK, self.draws[i].n):
            self.blocks[i, block] = kept
            if len(self.blocks) > self.MOST:
                del self.blocks[next(iter(self.blocks))]
        return kept[rows.start - block * BLOCK : rows.stop - block * BLOCK].clone()


class _Look:
    """Evaluates the inputs of one block again: see `certify.montecarlo.repeated`."""

    def __init__(self, caller: Caller, draws: BlockDraws, when: str) -> None:
        self.caller, self.draws = caller, draws
        self.when = _validate.choice("again", when, ("early", "late", "both", "never"))
        self.seen: Tensor | None = None
        self.block = Batch(0, lambda: draws.y)
        self.looked = False
        self.before = torch.empty(0, dtype=torch.int64)  # rows that were evaluated again early

    def first(self, batch: Batch, outputs: Tensor) -> None:
        """Remembers the first outputs that come."""
        if self.seen is None and self.when != "never":
            self.seen = first = outputs[:BLOCK]
            self.block = Batch(len(first), lambda: batch.draw()[: len(first)], batch.source)

    def part(self, rows: range, batch: Batch, outputs: Tensor) -> None:
        """Remembers outputs of the first block as they come, part by part."""
        if self.seen is None or self.when == "never":
            self.first(batch, outputs)
        elif rows.start < BLOCK:
            self.seen = torch.cat([self.seen, outputs])
            self.block = Batch(rows.stop, lambda: self.draws.of(range(1), False).draw()[: rows.stop])

    def early(self) -> None:
        """After the first batch."""
        if not self.looked and self.when in ("early", "both"):
            self._look(0)
        self.looked = True

    def late(self) -> None:
        """At the end."""
        if self.when in ("late", "both"):
            self._look(1)

    def _look(self, half: int) -> None:
        seen, block = self.seen, self.block
        if seen is None:
            return
        few = not self.caller.random and len(seen) < FEW
        rows = torch.arange(len(seen)) if few or self.caller.random else halves(len(seen))[half]
        if half and len(self.before) and not few and not self.caller.random:
            every = torch.cat(halves(len(seen)))
            rows = every[~torch.isin(every, self.before)][: BLOCK // 2]
        repeats = -(-LOOKED // len(rows)) if few and not len(self.before) else 1
        self.before = rows
        together = few_together(rows) if half and not self.caller.random else [rows]

        def evaluate() -> Tensor:
            z = block.draw()
            parts = (Batch(len(part), partial(z.__getitem__, part), block.source) for part in together)
            return torch.cat([outputs for part in parts for outputs in self.caller(part)])

        unit = max(torch.finfo(self.draws.y.dtype).eps, self.caller.unit)
        first = seen[rows.to(seen.device)]
        again = evaluate()
        for _ in range(repeats - 1):  # of few rows each has to differ by chance once only
            again = kept_differences(first, again, evaluate())
        compare(first, again, unit, evaluate, same=self.caller.random, called=self.caller.called)
