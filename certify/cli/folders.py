"""Where results go: folders below runs/, checkpoints in them, files that are not to be written over."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.text import Text

from certify import _files
from certify._workers import Worker
from certify.cli import terminal
from certify.cli.processes import rank
from certify.cli.scripts import answer

if TYPE_CHECKING:
    from certify.adaptive import PreparedPrompt
    from certify.certificate import Certificate
    from certify.datasets import Results
    from certify.datasets.results import Rows
    from certify.montecarlo import Progress, RunFolder
    from certify.montecarlo.checkpoint import Checkpoint
    from certify.plots.style import StyledFigure


_LOG = logging.getLogger(__name__)

_Run = TypeVar("_Run")

FILES = ("certificate.json", "tensors.safetensors", "noise.png", "curve.png", "rate.png", "levels.png")
DRAWINGS = (".png", ".svg", ".pdf")


def certificate_folder(folder: Path | None, text: str, private: bool) -> Path:
    """Where a certificate goes: the folder given, if it holds none of our files yet, else a new one below runs/.

    A folder with a checkpoint is that of a run that is not over: the same run resumes there, another one goes beside it.
    """
    if folder is None:
        first = below_runs("private" if private else slug(text))
        return next(path for path in numbered(first) if not path.exists() or (path / "checkpoint").is_dir())
    _files.no_file("out", folder)
    if (folder / "checkpoint").is_dir():
        return folder
    if any((folder / name).exists() for name in FILES):
        raise FileExistsError(f"out = {str(folder)!r}: holds a certificate already; choose another folder")
    return folder


def a_folder(name: str, path: Path) -> None:
    """Refuses the path of a folder to write into that is a file, or where nothing can be written."""
    _files.no_file(name, path)
    writable(name, path)


def there(name: str, path: Path) -> None:
    """Refuses the path of a folder to read that is not there."""
    if not path.is_dir():
        raise FileNotFoundError(f"{name} = {str(path)!r}: must be an existing folder")


def a_drawing(name: str, path: Path) -> None:
    """Refuses the path of a figure that cannot be written, or has another ending than figures have."""
    new_file(name, path, DRAWINGS)


def below_runs(name: str) -> Path:
    """The path of a result for which none was given, below runs/, in which files can be written."""
    writable("--out", Path("runs"))
    return Path("runs") / name


def writable(name: str, path: Path) -> None:
    """Refuses a folder, which need not be there yet, in which nothing can be written: tries to."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".certify-", dir=there):
            pass
    except OSError as error:
        said = error.strerror or str(error)
        raise PermissionError(f"{name} = {str(path)!r}: must be where files can be written ({said})") from error


def agreed(choose: Callable[[], Path]) -> Path:
    """A path that the first of several processes chooses for all."""
    from certify.montecarlo.processes import Processes

    processes = Processes.current()
    if processes.count == 1:
        return choose()
    if not processes.is_main:
        return Path(os.fsdecode(processes.broadcast(b"", 0)))
    chosen = choose()
    processes.broadcast(os.fsencode(chosen), 0)
    return chosen


def saved(certificate: Certificate, folder: Path) -> Path:
    """Saves a certificate into a folder, and returns it; where another one has come to lie there, into one beside it.

    A run that was killed after this wrote the same certificate.
    """
    from certify import Certificate

    if any((folder / name).exists() for name in FILES):
        try:
            there = Certificate.load(folder)
            same = (
                there.claims == certificate.claims and there.provenance.get("model") == certificate.provenance["model"]
            )
        except (OSError, ValueError):
            same = False
        if not same:
            folder = unused(folder)
    return certificate.save(folder, overwrite=True)


@contextmanager
def run_folder(folder: Path, fresh: bool = False) -> Iterator[RunFolder]:
    """The folder for a run's checkpoints, below that for its results; says what is there, and what is kept if it is stopped."""
    from certify.montecarlo import RunFolder
    from certify.montecarlo.checkpoint import CheckpointError

    def resuming(path: Path) -> None:
        _LOG.info("resumes from %s", path)
        terminal.out.print(Text(f"draws of an earlier start: {path}/", style="dim"), soft_wrap=True)

    # Every process has draws of its own to keep.
    draws = RunFolder(folder / (f"checkpoint-{rank()}" if rank() else "checkpoint"), fresh=fresh, resuming=resuming)
    try:
        yield draws
    except CheckpointError as error:
        raise ValueError(f"{error}, give --fresh, or another --out") from error
    except KeyboardInterrupt:
        if draws.holds_draws:
            terminal.out.print(Text(f"Stopped. What was drawn is kept in {draws.path}/"), soft_wrap=True)
            terminal.out.print("The same command resumes from there. Nothing is claimed yet.")
        else:
            _tidy(folder)
            terminal.out.print("Stopped before anything was drawn. Nothing is claimed.")
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno not in _files.FULL or not draws.holds_draws:
            raise
        said = error.strerror if error.filename is None else f"{error.strerror}: {error.filename!r}"
        raise OSError(
            f"{said}. What was drawn is kept in {draws.path}/: when there is room the same command resumes from there"
        ) from error
    except BaseException:
        _tidy(folder)
        raise


@contextmanager
def resumable(folder: Path, prompt: PreparedPrompt, decides: dict[str, Any], fresh: bool) -> Iterator[Checkpoint]:
    """The checkpoint of a command that draws once; removed when what follows the draws is done, too."""
    from certify.adaptive.certification import run_of_prompt
    from certify.adaptive.plan import EMBEDDING
    from certify.certificate import ModelRecord

    with run_folder(folder, fresh) as draws:
        run = run_of_prompt(prompt, ModelRecord.of(prompt.adaptive.encoder.text_encoder), decides)
        with draws.open(run):
            yield draws.checkpoint(EMBEDDING)
            draws.remove()
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Removes a folder of ours, and runs/, if nothing is in them. A link is somebody's, wherever it leads."""
    for path in (folder, Path("runs")):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def results_folder(first: Path, decides: dict[str, Any], fresh: bool, *, named: bool) -> Path:
    """The folder of a run over a data set: the one that was named; else the first that is free, or is this run's, which resumes
    there; to begin anew, the first that is free.
    """
    from certify import datasets

    if fresh:
        if not Worker.current().alone:
            raise ValueError("--fresh = True: must be left out with several processes; name a new folder with --out")
        return unused(first)
    wanted = json.loads(json.dumps(decides))
    return first if named else next(f for f in numbered(first) if _begins(f) or datasets.settings_of(f) == wanted)


@contextmanager
def data_set_run(
    folder: Path,
    decides: dict[str, Any],
    data: Rows,
    *,
    asked: int,
    rows: str,
    ahead: Callable[[Collection[int]], None],
    certify: Callable[[Results, Progress], _Run],
) -> Iterator[tuple[Results, _Run]]:
    """A run over a data set, begun or resumed: what is ahead is said first, and what is kept if it is stopped.

    Args:
        folder, decides, data: of `certify.datasets.Results`.
        asked: how many rows, from the first.
        rows: what they are called.
        ahead: says what is left after these rows; it may refuse.
        certify: certifies the rows that are left; returns all of them.
    """
    from certify import datasets

    begun = datasets.settings_of(folder) is not None
    if not begun:  # a run that is refused leaves nothing
        ahead(())
    with datasets.Results(folder, decides, data, worker=Worker.current()) as results:
        there = {record["row"] for record in results.done if record["row"] <= asked}
        if there:
            terminal.out.print(f"{len(there):,} of {asked:,} {rows} are done already; going on.")
        if begun and len(there) < asked:
            ahead(there)
        try:
            with terminal.bar("certifying") as tick:
                run = certify(results, tick)
        except KeyboardInterrupt:
            terminal.out.print(
                f"Stopped: {len(results.done):,} of {asked:,} {rows} are kept. The same command resumes from there."
            )
            raise typer.Exit(130) from None
        yield results, run


def _begins(folder: Path) -> bool:
    """Whether a run can begin in a folder, or another process has just made it to begin the same one."""
    return not folder.exists() or (folder.is_dir() and all(f.name.startswith(".settings") for f in folder.iterdir()))


def write_figure(figure: StyledFigure, path: Path, private: bool = False) -> None:
    """Writes a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    _files.write(path, buffer.getvalue(), owner_only=private)


def write_summary(results: Results, total: dict[str, Any], draw: Callable[[], StyledFigure], name: str) -> None:
    """Writes the figure of a run over a data set, and then its summary; of several processes the first that gets there."""
    folder, private = results.folder, bool(results.settings.get("private"))
    text = json.dumps({"run": results.run, **total}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / "summary.json"
    there = path.exists() and path.read_text(encoding="utf-8") == text and (folder / name).exists()
    if results.worker.alone or not there:
        write_figure(draw(), folder / name, private)
        _files.write(path, text, owner_only=private)
    answer(text.rstrip("\n"))


def new_file(name: str, path: Path, suffixes: tuple[str, ...], *, force: bool | None = None) -> Path:
    """The path of a file to write, checked before any work is done for it.

    Args:
        name, path, suffixes: of the option, as given, and what it may end in.
        force: whether an existing file may be overwritten; None: the command has no such option.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{name} = {str(path)!r}: must end in {' or '.join(suffixes)}")
    if path.is_dir() or (path.exists() and not force):
        or_force = "" if force is None else " or give --force"
        raise FileExistsError(
            f"{name} = {str(path)!r}: must be a new file; it exists already, choose another name{or_force}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{name} = {str(path)!r}: must be in an existing folder; {str(path.parent)!r} does not exist"
        )
    writable(name, path.parent)
    return path


def unused(path: Path) -> Path:
    """The path, or the first with a number added to its name that is not there yet."""
    return next(candidate for candidate in numbered(path) if not candidate.exists())


def numbered(path: Path) -> Iterator[Path]:
    """The path, and the same with -2, -3, … added to its name."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def slug(text: str) -> str:
    """Words as a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "prompt"
