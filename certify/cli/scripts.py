"""For scripts: what every command takes besides its own options, and the one JSON value that it answers with.

`--json` prints that value and nothing else on the output stream, `--quiet` nothing at all; errors go to the error stream, and
the exit code says how the command ended. `--config`, or a `certify.toml` in the current folder, gives options their values;
what is typed goes before. `--log-level` writes the log of `certify` to the error stream.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from certify.cli import checks, terminal
from certify.cli.checks import option
from certify.cli.processes import rank

__all__ = ["answer", "for_scripts"]

_LOG = logging.getLogger("certify")
_LEVELS = ("debug", "info", "warning", "error")

Json = Annotated[bool, option("Print the result as JSON, and nothing else.", None, "--json")]
Quiet = Annotated[bool, option("Print nothing but errors.", None, "--quiet")]
Config = Annotated[
    Path | None,
    option(
        "TOML file that gives options their values.", checks.a_file, "--config", shown="certify.toml, if there is one"
    ),
]
LogLevel = Annotated[
    str | None,
    option("Log to the error stream: debug, info, warning or error.", checks.choice(lambda: _LEVELS), shown="no log"),
]

_answers: list[Any] = []  # of the command that runs


def answer(value: Any) -> None:
    """Sets what `--json` prints: JSON values, infinities and all, text that is JSON, or a function that makes it."""
    _answers[:] = [value]


def _as_json(value: Any) -> str:
    from certify.certificate.schema import encoded

    if callable(value):
        value = value()
    text: str = (
        value if isinstance(value, str) else json.dumps(encoded(value), indent=2, ensure_ascii=False, allow_nan=False)
    )
    return text


def for_scripts(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that all have."""
    own = inspect.signature(command, eval_str=True)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in (
            ("as_json", Json, False),
            ("quiet", Quiet, False),
            ("config", Config, None),
            ("log_level", LogLevel, None),
        )
    ]

    @functools.wraps(command)
    def run(*, as_json: bool, quiet: bool, config: Path | None, log_level: str | None, **given: Any) -> None:
        if as_json and quiet:
            raise ValueError("--json = True and --quiet = True: must be only one of the two")
        _answers.clear()
        with _log(command.__name__, log_level), terminal.hushed(as_json or quiet, bars=not quiet):
            try:
                command(**given)
            finally:
                if as_json and _answers and rank() == 0:
                    sys.stdout.write(_as_json(_answers[0]) + "\n")

    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {q.name: q.annotation for q in (*own.parameters.values(), *shared)} | {"return": None}
    return run


@contextmanager
def _log(command: str, level: str | None) -> Iterator[None]:
    """Writes the log of `certify` to the error stream, if a level was asked for."""
    if level is None:
        yield
        return
    from certify import __version__

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = _LOG.level
    _LOG.addHandler(handler)
    _LOG.setLevel(level.upper())
    started = time.perf_counter()
    _LOG.info("certify %s: %s begins", __version__, command)
    try:
        yield
    except typer.Exit as end:
        _LOG.info("%s ends after %.1f s with exit code %d", command, time.perf_counter() - started, end.exit_code)
        raise
    except BaseException as error:
        _LOG.error("%s ends after %.1f s: %s", command, time.perf_counter() - started, type(error).__name__)
        raise
    else:
        _LOG.info("%s ends after %.1f s", command, time.perf_counter() - started)
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(before)
