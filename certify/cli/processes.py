"""One command in several processes, as torchrun starts them: drawing together, or each with rows of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from certify._workers import Worker, own_device
from certify.cli import terminal
from certify.cli.endings import loading

SHARED = ("prompts", "classify")
"""Commands whose processes share rows out through the folder of the run, and need no network."""


@contextmanager
def together(command: str = "") -> Iterator[None]:
    """Several processes draw for one certificate, or share the rows of a run out; the first of them speaks.

    Args:
        command: its name: those in `SHARED` do the second.
    """
    worker = Worker.current()
    if worker.alone:
        yield
        return
    quiet, terminal.out.quiet = terminal.out.quiet, not worker.is_main
    try:
        if command in SHARED:
            with loading():
                own_device()
            yield
            return
        with loading():
            from certify.montecarlo.processes import joined

        with joined():
            yield
    finally:
        terminal.out.quiet = quiet


def rank() -> int:
    """Which of several processes this is; 0: the first, or the only one."""
    return Worker.current().rank


def one_process(what: str) -> None:
    """Refuses what several processes cannot do together."""
    count = Worker.current().count
    if count > 1:
        raise ValueError(f"{what} needs a single process: WORLD_SIZE = {count}, must be 1 (no torchrun)")
