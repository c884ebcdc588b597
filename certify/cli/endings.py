"""How a run ends: its exit code, and the one line of an error, in the words of the command line."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from certify.cli.checks import typed
from certify.cli.configuration import configured

__all__ = ["CODES", "DONE", "FAULT", "INTERRUPTED", "MISUSE", "NO", "NO_ANSWER", "TERMINATED", "Command", "Misuse"]

DONE, NO, MISUSE, NO_ANSWER, FAULT = 0, 1, 2, 3, 70
INTERRUPTED, CUT_OFF, TERMINATED = 130, 141, 143

CODES = """Exit codes:

0: done; where a question was asked, yes (decide) or not refuted (check)

1: no (decide), refuted (check)

2: an option or a file is wrong, or there is no room; nothing was claimed

3: no answer: undecided, nothing could be checked, no claim could be made

70: a fault of this program

130, 143: stopped by Ctrl-C or SIGTERM
"""

_ELSEWHERE = {
    "source": "model",
    "concepts": "concept",
    "prompt": "text",
    "target": "rate",
    "folder": "regions",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
}
"""What the library calls an option of the command line."""

_NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|(?<![-\w])(\w+)(?=(?:\[\d+\])? = )|^(\w+)(?=:| is | has | holds )")


class Misuse(Exception):
    """What is wrong, in the words of the command line."""


@contextmanager
def loading() -> Iterator[None]:
    """While libraries are loaded, which takes seconds, Ctrl-C and SIGTERM end the program at once.

    What breaks off an import may come out of it as any error, or not at all.
    """
    codes = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
    before = {which: signal.getsignal(which) for which in codes}
    watched = [which for which, how in before.items() if callable(how)]  # a run in the background ignores Ctrl-C
    if threading.current_thread() is not threading.main_thread():  # elsewhere signals cannot be handled
        watched = []
    for which in watched:
        signal.signal(which, lambda number, _: os._exit(codes[signal.Signals(number)]))
    try:
        yield
    finally:
        for which in watched:
            signal.signal(which, before[which])


class Command(TyperCommand):
    """A command whose errors name options as they are typed, whatever the library calls them."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """Reads the options. Of what is no number the value is named, too."""
        given = list(args)
        try:
            file = _given(["--config"], given)
            extra["default_map"] = configured(None if file is None else Path(file), str(self.name), self.params)
            with loading():
                return super().make_context(info_name, args, *more, **extra)
        except typer.BadParameter as error:
            param = getattr(error, "param", None)
            kind = next((kind for word, kind in _NUMBERS.items() if word in str(error.message)), None)
            value = None if param is None else _given(param.opts, given)
            if value is None and param is not None:
                value = extra.get("default_map", {}).get(param.name)
            if kind is None or value is None:
                raise
            raise Misuse(f"{typed(param)} = {value!r}: must be {kind}") from error

    def invoke(self, ctx: Any) -> Any:
        """Runs it."""
        with loading():
            importlib.import_module("certify.adaptive")  # and what it needs: nearly every command does
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # who reads the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(CUT_OFF) from None
        except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
            said = _said(error)
            if said is None or os.environ.get("CERTIFY_TRACEBACK"):
                raise
            raise Misuse(self.in_options(said)) from error

    def in_options(self, said: str) -> str:
        """A message with the names of options for those of arguments."""
        names: dict[str, str] = {}
        for param in self.params:
            names |= dict.fromkeys((str(param.name), typed(param).lstrip("-").replace("-", "_")), typed(param))
        for other, name in _ELSEWHERE.items():
            if name in names:
                names.setdefault(other, names[name])

        def named(found: re.Match[str]) -> str:
            return names.get(found[1] or found[2], found[0])

        return _NAMES.sub(named, said)


_NUMBERS = {"integer": "a whole number", "number": "a number", "float": "a number"}
"""What the parser calls a number, in any version, and what we call it."""


def _given(names: list[str], arguments: list[str]) -> str | None:
    """What an option was given, the last time."""
    found = None
    for i, argument in enumerate(arguments):
        name, equal, value = argument.partition("=")
        if name in names:
            found = value if equal else next(iter(arguments[i + 1 :]), None)
    return found


def _said(error: Exception) -> str | None:
    """What a user can do something about; None for anything else."""
    if isinstance(error, (RuntimeError, MemoryError)):
        import torch

        full = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        return "there is not enough memory; a smaller --batch-size needs less" if full else None
    return str(error) or type(error).__name__
