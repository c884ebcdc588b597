"""Measuring: time and peak memory of several ways to do one thing, taken in turns within one run.

These machines are noisy, so only ratios are reported: every round runs all ways, one after the other, and the median of the
rounds' ratios is the figure; their range says how noisy it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Timing", "in_turns", "peak_memory"]


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, and what the last round returned."""

    seconds: tuple[float, ...]
    result: Any

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, floor: Timing) -> tuple[float, float, float]:
        """Median, least and largest of the rounds' ratios."""
        ratios = [a / b for a, b in zip(self.seconds, floor.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def in_turns(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    warm: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Runs every way once a round. A first round is not counted (`warm`).

    On one thread of a busy machine the `clock` had better be `time.process_time`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for i in range(rounds + warm):
        for name, way in ways.items():
            gc.collect()
            started = clock()
            results[name] = way()
            if i >= warm:
                seconds[name].append(clock() - started)
    return {name: Timing(tuple(times), results[name]) for name, times in seconds.items()}


def peak_memory(work: Callable[[], Any]) -> float:
    """MB by which the resident memory rises above its start while `work` runs (sampled every 5 ms)."""
    gc.collect()
    _give_back()
    start, peak, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
        peak = max(peak, _resident())
    finally:
        done.set()
        watcher.join()
    return max(0, peak - start) / 1e6


def _give_back() -> None:
    """Freed memory that the C library keeps goes back to the system, so that it is not counted as there already."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
