"""Processes: jobs side by side, one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

__all__ = ["at_work"]

Row = TypeVar("Row")


def at_work(
    work: Callable[..., list[Row]],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """The rows of all jobs, in their order.

    Args:
        work: a function of a module: a job's arguments → its rows.
        jobs: arguments.
        workers: 1: here; more: as many processes, with one thread each.
        progress: told how many of how many are done.
    """

    def gathered(parts: Iterable[list[Row]]) -> list[Row]:
        rows: list[Row] = []
        for done, part in enumerate(parts, 1):
            rows += part
            if progress is not None:
                progress(done, len(jobs))
        return rows

    if workers == 1:
        return gathered(work(*job) for job in jobs)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return gathered(pool.map(work, *zip(*jobs, strict=True)))
