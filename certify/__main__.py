"""`certify` and `python -m certify`: where the command line starts; torchrun starts it here, too."""

from __future__ import annotations

import os
import signal
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Runs the command line. Importing what it needs takes seconds, in which Ctrl-C ends it at once and without a traceback."""
    before: Any = signal.getsignal(signal.SIGINT)
    watched = before is signal.default_int_handler  # a run in the background ignores it
    if watched:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from certify.cli import main as run

    if watched:
        signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
