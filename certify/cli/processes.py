"""One command in several processes, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from certify.cli import terminal
from certify.cli.endings import loading


@contextmanager
def together() -> Iterator[None]:
    """Under torchrun several processes draw for one certificate; the first of them speaks and writes."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    with loading():
        from certify.montecarlo.processes import joined

    with joined() as processes:
        terminal.out.quiet = not processes.is_main
        yield


def rank() -> int:
    """Which of several processes this is; 0: the first, or the only one."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def one_process(what: str) -> None:
    """Refuses what several processes cannot do together."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"{what} needs a single process: WORLD_SIZE = {os.environ['WORLD_SIZE']}, must be 1 (no torchrun)"
        )
