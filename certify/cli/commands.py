"""The app: its commands in the order of the help, and how a run of it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading

import typer
from rich.markup import escape

from certify import _files
from certify.cli import terminal
from certify.cli.bounds import curve, decide, plan, radius
from certify.cli.certificates import check, plot, report
from certify.cli.generation import concepts, generate
from certify.cli.processes import together
from certify.cli.prompts import prompt, prompts

__all__ = ["app", "main"]


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="What a smoothed text-to-image model is proven to withstand.",
)
for command in (prompt, prompts, radius, curve, decide, plan, check, report, plot, generate, concepts):
    app.command()(command)


def main() -> None:
    """Runs the command line.

    Misuse prints one line and exits with 2. Ctrl-C exits with 130 and SIGTERM with 143; what was drawn until then is kept,
    and nothing is claimed.
    """
    terminated = False

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()  # elsewhere signals cannot be handled
    before = signal.signal(signal.SIGTERM, terminate) if here else None
    try:
        with together():
            app()
    except SystemExit:
        if terminated:
            sys.exit(128 + signal.SIGTERM)
        raise
    except (ValueError, TypeError, OSError, MemoryError) as error:
        if os.environ.get("CERTIFY_TRACEBACK"):
            raise
        said = _files.printable(str(error)) or "there is not enough memory"
        terminal.err.print(f"[bold red]error:[/] {escape(said)}", soft_wrap=True)
        sys.exit(2)
    finally:
        if here:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
