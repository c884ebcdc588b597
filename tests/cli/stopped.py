"""`certify …` as a process that sends itself a signal: at a moment of its own work, however slow or loaded the machine is.

    python -m tests.cli.stopped SIGNAL FILES FUNCTION=COUNT … -- ARGUMENT …

The functions (`certify.montecarlo.checkpoint:Checkpoint.save`) are waited for in turn, each for so many calls. The signal
comes in the last call of the last one: at its end, or with FILES > 0 at so many operations on files in it, if it has so many.
"""

from __future__ import annotations

import functools
import importlib
import operator
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.processes import forked

SAVE = "certify.montecarlo.checkpoint:Checkpoint.save"
"""Called after every batch of draws. The first call of a pass always writes."""


def stopped(how: int, moments: dict[str, int], *arguments: str, cwd: Path, files: int = 0) -> tuple[int, str, str]:
    """Runs a command until the moment; returns how the process ended, its output and its errors."""
    waited = [f"{function}={count}" for function, count in moments.items()]
    done = forked(
        "tests.cli.stopped",
        *(str(int(how)), str(files), *waited, "--", *arguments),
        cwd=cwd,
        env={"PYTHONWARNINGS": "error", "CERTIFY_SAVE_EVERY": "0"},
    )
    return done.returncode, done.stdout, done.stderr


class _Moments:
    """Counts calls, and sends the signal."""

    def __init__(self, how: int, files: int, waited: list[str]) -> None:
        self.how, self.files, self.inside = how, files, False
        self.left: list[tuple[str, int]] = []
        for item in waited:
            function, _, count = item.partition("=")
            self.left.append((function, int(count)))
            module, _, path = function.partition(":")
            *owners, name = path.split(".")
            owner = operator.attrgetter(".".join(owners))(importlib.import_module(module))
            setattr(owner, name, self.counted(function, getattr(owner, name)))
        sys.addaudithook(self.seen)

    def counted(self, function: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def call(*given: Any, **options: Any) -> Any:
            if not self.left or self.left[0][0] != function:
                return plain(*given, **options)
            _, count = self.left[0]
            self.inside = (count, len(self.left)) == (1, 1)
            result = plain(*given, **options)
            if self.inside:
                self.send()
            self.left[:1] = [(function, count - 1)] if count > 1 else []
            return result

        return call

    def seen(self, event: str, _: tuple[Any, ...]) -> None:
        if self.inside and self.files and event in ("open", "os.rename", "os.remove", "os.mkdir"):
            self.files -= 1
            if not self.files:
                self.send()

    def send(self) -> None:
        self.inside = False
        os.kill(os.getpid(), self.how)


if __name__ == "__main__":
    at = sys.argv.index("--")
    _, how, files, *waited = sys.argv[:at]
    sys.argv = ["certify", *sys.argv[at + 1 :]]
    _Moments(int(how), int(files), waited)
    runpy.run_module("certify", run_name="__main__")
