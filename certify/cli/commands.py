"""The app: its commands in the order of the help, and how a run of it ends."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Annotated

import typer
from rich.markup import escape

from certify import _files
from certify.cli import terminal
from certify.cli.app import app as page
from certify.cli.bounds import curve, decide, plan, radius
from certify.cli.certificates import check, plot, report
from certify.cli.classifiers import classify
from certify.cli.endings import CODES, FAULT, INTERRUPTED, MISUSE, TERMINATED, Command, Misuse
from certify.cli.generation import concepts, generate
from certify.cli.processes import together
from certify.cli.prompts import prompt, prompts
from certify.cli.schemas import schema
from certify.cli.scripts import for_scripts

__all__ = ["app", "main"]


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What a smoothed text-to-image model is proven to withstand.",
    epilog=CODES,
)
for command in (
    prompt,
    prompts,
    classify,
    radius,
    curve,
    decide,
    plan,
    check,
    report,
    plot,
    generate,
    concepts,
    schema,
    page,
):
    app.command(cls=Command)(for_scripts(command))


def _show_version(asked: bool) -> None:
    if asked:
        from certify import __version__

        typer.echo(f"certify {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@functools.cache
def commands() -> Callable[[], None]:
    """What `app` says, as it runs: reading it takes longer than most that is refused, and once a process is enough."""
    return typer.main.get_command(app)


def main() -> None:
    """Runs the command line. `certify.cli.endings` says how it may end.

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
        with together(next((word for word in sys.argv[1:] if not word.startswith("-")), "")):
            commands()()
    except SystemExit as end:
        sys.exit(TERMINATED if terminated else end.code)
    except KeyboardInterrupt:
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    except (Misuse, ValueError, TypeError, OSError, MemoryError) as error:
        if os.environ.get("CERTIFY_TRACEBACK"):
            raise
        said = _files.printable(str(error)) or "there is not enough memory"
        terminal.err.print(f"[bold red]error:[/] {escape(said)}", soft_wrap=True)
        sys.exit(MISUSE)
    except Exception:
        traceback.print_exc()
        sys.exit(FAULT)
    finally:
        # CPython remembers an interrupt that broke off an `eval`, by which annotations are read, and at its end kills the
        # process by SIGINT, whatever the exit code. The next `eval` that succeeds makes it forget.
        eval("None")
        if here:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
