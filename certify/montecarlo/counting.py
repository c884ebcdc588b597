"""Counting: how often something happens in numbered draws, on disk if wanted, so that a stopped run can be resumed.

For what `certify.montecarlo.draw` does not draw itself: prompts chosen at random, images with noise of their own. Whoever calls
says what happens in the draws of given numbers; these must depend on the numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from certify.montecarlo.accumulators import AllDraws, Counts
from certify.montecarlo.batches import out_of_memory
from certify.montecarlo.checkpoint import Checkpoint
from certify.montecarlo.engine import Progress
from certify.montecarlo.processes import Processes, RunState
from certify.montecarlo.repeated import compare

__all__ = ["count_events"]

_Seen = TypeVar("_Seen", Counts, AllDraws)


def count_events(
    happens: Callable[[range], Tensor],
    into: _Seen,
    *,
    n: int,
    together: int,
    unit: int = 1,
    about: Tensor,
    seed: int,
    stream: str,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    again: Callable[[range, str], Tensor] | None = None,
    roundoff: float = 0.0,
    shape: tuple[int, ...] = (),
) -> _Seen:
    """Counts an event over n draws.

    Args:
        happens: numbers of draws → 0 or 1 for each, (draws, *shape).
        into: what takes them, empty; returned.
        n: draws.
        together: how many at a time. Where memory does not suffice it is halved.
        unit: numbers come in whole multiples of it, but for the last.
        about, seed, stream: what a checkpoint knows the run by; `about` is what the draws depend on besides the seed.
        checkpoint: where the count is kept after every batch, and from where it resumes. Every process has all draws.
        progress: called after every batch with (draws done, n).
        again: evaluates the first `unit` draws again, "early" and "late", to see whether the event is a function
            (`certify.montecarlo.repeated`); None: it is not looked.
        roundoff: unit roundoff of the inputs, for that.
        shape: of what happens in one draw.

    Raises:
        ValueError: the event is no function, or neither 0 nor 1; the checkpoint is another run's.
    """
    counts = into
    first: tuple[range, Tensor] | None = None
    state = RunState([counts], Processes(0, 1))
    if checkpoint is not None:
        checkpoint.open(about, None, n=n, seed=seed, stream=stream, state=state)
        checkpoint.resume(state, shape)
    together = max(1, together // unit) * unit

    def look(when: str) -> None:
        if again is not None and first is not None:
            numbers, verdicts = first
            compare(verdicts, again(numbers, when), roundoff, lambda: again(numbers, when), called="events")

    with torch.no_grad():
        while counts.count < n:
            numbers = range(counts.count, min(counts.count + together, n))
            try:
                verdicts = happens(numbers)
            except (RuntimeError, MemoryError) as error:
                if len(numbers) <= unit or not out_of_memory(error):
                    raise
                together = max(1, len(numbers) // 2 // unit) * unit
                continue
            if first is None:
                first = numbers[:unit], verdicts[:unit]
                look("early")
            if numbers.stop == n:  # before it is kept: a run that has all its draws looks at none
                look("late")
            counts.update(verdicts)
            if checkpoint is not None:
                checkpoint.save(0, 0, state, shape, always=True)
            if progress is not None:
                progress(counts.count, n)
    return counts
