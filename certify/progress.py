"""Progress: how far a long call is, where somebody is looking.

Every function that draws takes `progress`: a function of (done, total) that is called after every batch, or True for a bar of
this module. In a notebook the bar is an output that changes in place, needs no widgets, and stays when it is full; in a
terminal it is a line of the error stream, erased when it is full. Where nobody is looking (a file, a pipe, a test, all
processes but the first) it is nothing at all.

>>> seen = []
>>> report = as_progress(lambda done, total: seen.append((done, total)))
>>> report(1, 2), seen
(None, [(1, 2)])
>>> as_progress(None) is None and as_progress(False) is None
True
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from certify._text import duration, escaped
from certify._workers import Worker

__all__ = ["Bar", "as_progress"]

_EVERY = 0.1  # seconds between two redraws of a bar
_PATIENCE = 1.0  # before it says how long it is going to take
_WIDTH = 28

Screen = Callable[[float, str], None]
"""Shows a share in [0, 1] and words on it; a share of 1 is the last."""


class Bar:
    """A progress bar, as a function of (done, total).

    Args:
        what: the words before it.
    """

    def __init__(self, what: str = "") -> None:
        self.what = what
        self._screen = _screen(what)
        self._shown, self._done = -math.inf, 0
        self._start: tuple[float, int] | None = None  # when, and how much was done by then

    def __call__(self, done: int, total: int) -> None:
        if self._screen is None:
            return
        now = time.monotonic()
        if self._start is None or done < self._done:  # the first call, or the first of another pass
            self._start, self._shown = (now, done), -math.inf
        self._done = done
        if done < total and now - self._shown < _EVERY:
            return
        self._shown = now
        since, before = self._start
        words = f"{done:,} of {total:,}"
        if before < done < total and now - since > _PATIENCE:
            words += f", about {duration((now - since) * (total - done) / (done - before))} left"
        self._screen(done / total if total else 1.0, words)

    def close(self) -> None:
        """Takes the bar off a terminal where it did not get full."""
        if isinstance(self._screen, _Terminal):
            self._screen.erase()


def as_progress(progress: Callable[[int, int], None] | bool | None) -> Callable[[int, int], None] | None:
    """What `progress` stands for: True is a new `Bar`, None and False are nothing, a function is itself.

    Raises:
        TypeError: it is something else.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        return Bar()
    if not callable(progress):
        raise TypeError(f"progress = {progress!r}: must be True, or a function of (done, total)")
    return progress


def _screen(what: str) -> Screen | None:
    """Where a bar can be seen; None: nowhere."""
    from certify.montecarlo.processes import Processes

    if Processes.current().rank or Worker.current().rank:
        return None
    if _in_notebook():
        return _Notebook(what)
    return _Terminal(what) if sys.stderr is not None and sys.stderr.isatty() else None


def _in_notebook() -> bool:
    # Whoever runs in a notebook has IPython loaded, and its shell a kernel.
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class _Notebook:
    """An output of the cell that is replaced by the next one."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._output: Any = None  # IPython.display.DisplayHandle

    def __call__(self, share: float, words: str) -> None:
        data = {"text/plain": f"{self.what} {words}".strip(), "text/html": self._html(share, words)}
        if self._output is None:
            ipython: Any = sys.modules["IPython"]
            self._output = ipython.display.display(data, raw=True, display_id=True)
        else:
            self._output.update(data, raw=True)

    def _html(self, share: float, words: str) -> str:
        groove = "display:inline-block;width:14em;height:.45em;margin:0 .7em .1em 0;border-radius:.25em"
        bar = f"height:100%;width:{100 * share:.1f}%;border-radius:.25em;background:rgb(0,114,178)"
        before = f'<span style="margin-right:.7em">{escaped(self.what)}</span>' if self.what else ""
        return (
            f'<div class="certify-summary">{before}<span style="{groove};background:rgba(127,127,127,.3)">'
            f'<span style="display:block;{bar}"></span></span>'
            f'<span style="opacity:.75">{escaped(words)}</span></div>'
        )


class _Terminal:
    """A line of the error stream. It ends with the cursor at its beginning: whatever is written next replaces it."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __call__(self, share: float, words: str) -> None:
        if share >= 1:
            self.erase()
            return
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        try:
            "━─".encode(encoding)
            done, rest = "━─"
        except UnicodeEncodeError:
            done, rest = "#."
        full = int(_WIDTH * share)
        line = f"{self.what} {done * full}{rest * (_WIDTH - full)} {words}".strip()
        line = line[: shutil.get_terminal_size().columns - 1].encode(encoding, "replace").decode(encoding)
        self._write(f"\r\x1b[K{line}\r")

    def erase(self) -> None:
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
