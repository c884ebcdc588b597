"""Counting numbered draws: whatever is counted together, however often it is stopped, the count is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from certify.montecarlo import Counts, count_events
from certify.montecarlo.checkpoint import Checkpoint

N = 1000
TRUTH = torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.3
ABOUT = torch.zeros(2)


class Event:
    """Happens as `TRUTH` says; remembers which draws it was asked for, and takes `room` of them at most."""

    def __init__(self, room: int = N) -> None:
        self.room, self.calls = room, []

    def __call__(self, numbers: range) -> Tensor:
        if len(numbers) > self.room:
            raise torch.OutOfMemoryError
        self.calls.append(numbers)
        return TRUTH[numbers.start : numbers.stop]


def counted(happens: Any, **options: Any) -> int:
    how: dict[str, Any] = {"n": N, "together": 128, "about": ABOUT, "seed": 0, "stream": "images"}
    counts = count_events(happens, Counts(), **{**how, **options})
    assert counts.count == N
    return int(counts.ones)


@pytest.mark.parametrize(("together", "unit"), [(1, 1), (7, 1), (300, 64), (30, 64), (5000, 64)])
def test_every_draw_is_counted_once(together: int, unit: int) -> None:
    event = Event()
    assert counted(event, together=together, unit=unit) == int(TRUTH.sum())
    assert [number for numbers in event.calls for number in numbers] == list(range(N))
    assert all(numbers.start % unit == 0 for numbers in event.calls)
    assert max(map(len, event.calls)) == min(N, max(unit, together // unit * unit))


def test_a_batch_is_halved_where_memory_does_not_suffice() -> None:
    event = Event(room=50)
    assert counted(event) == int(TRUTH.sum())
    assert max(map(len, event.calls)) == 32
    with pytest.raises(torch.OutOfMemoryError):  # a unit is not taken apart
        counted(Event(room=50), unit=64)
    with pytest.raises(RuntimeError, match="another reason"):
        counted(failing)


def failing(numbers: range) -> Tensor:
    raise RuntimeError("another reason")


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done >= 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        counted(Event(), checkpoint=Checkpoint(tmp_path), progress=stop)
    assert told == [(128, N), (256, N), (384, N), (512, N)]
    event = Event()
    assert counted(event, checkpoint=Checkpoint(tmp_path), together=200) == int(TRUTH.sum())
    assert event.calls[0].start == 512
    assert counted(failing, checkpoint=Checkpoint(tmp_path)) == int(TRUTH.sum())  # all is there
    other = Event()
    assert counted(other, checkpoint=Checkpoint(tmp_path), seed=1) == int(TRUTH.sum())
    assert other.calls[0].start == 0  # another run has another file


def test_an_event_is_evaluated_again_early_and_late() -> None:
    asked: list[tuple[range, str]] = []

    def again(numbers: range, when: str) -> Tensor:
        asked.append((numbers, when))
        return TRUTH[numbers.start : numbers.stop]

    counted(Event(), unit=64, again=again, roundoff=1e-7)
    assert asked == [(range(64), "early"), (range(64), "late")]
    with pytest.raises(ValueError, match="events is no function of its input"):
        counted(Event(), unit=64, again=lambda numbers, when: ~TRUTH[numbers.start : numbers.stop], roundoff=1e-7)


def test_what_is_neither_0_nor_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"event returned 0\.5: must be 0 or 1"):
        counted(lambda numbers: torch.full((len(numbers),), 0.5))
