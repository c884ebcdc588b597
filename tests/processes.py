"""Real processes that start at once: forked from one that has the libraries loaded, which takes a new one ten seconds.

`forked` runs a module as `python -m` would, with a working folder, an environment, and a process id of its own, to which
signals can be sent. What is about the start itself (how light an import is, Ctrl-C during it) needs `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Ended", "forked"]

ROOT = Path(__file__).parents[1]

Ended = subprocess.CompletedProcess[str]

_ALWAYS = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def forked(module: str, *arguments: str, cwd: Path | str, env: Mapping[str, str] | None = None) -> Ended:
    """Runs a module in a fresh process until it ends; `returncode` is −s where the signal s ended it.

    Args:
        module: as after `python -m`.
        cwd: its working folder.
        env: variables that differ from this process's, as those are now.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [str(Path(folder) / name) for name in ("stdout", "stderr")]
        environment = {**os.environ, **_ALWAYS, **(env or {})}
        wanted = {"module": module, "arguments": arguments, "cwd": str(cwd), "env": environment, "streams": streams}
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(wanted) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return Ended([module, *arguments], code, *(Path(stream).read_text() for stream in streams))


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.processes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **_ALWAYS},
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait()


def _serve() -> None:
    """Forks a process for each line that is read, and writes how it ended."""
    import statsmodels.stats.proportion  # noqa: F401

    from certify.models import load_pipeline

    load_pipeline()  # the rest of what is imported late
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(wanted)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _become(wanted: dict[str, Any]) -> None:
    """Turns this process into the one that is wanted; does not return."""
    for number, stream in enumerate(wanted["streams"], 1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.argv = [wanted["module"], *wanted["arguments"]]
    # A suite that was started in the background ignores Ctrl-C, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    code = 70
    try:
        runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
