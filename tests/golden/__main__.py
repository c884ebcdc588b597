"""`python -m tests.golden [CASE]… [--check] [--exact] [--folder FOLDER]`: writes golden files anew where results differ."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from tests.golden.cases import CASES, MODEL, resumed
from tests.golden.compare import RELATIVE, differences, text

__all__ = ["BEGINS", "CHECKPOINTS", "FILES", "compared", "goes_on", "made", "main", "tolerance"]

BEGINS = 0.8
"""Of the draws are in each committed checkpoint, at least."""

FILES = Path(__file__).parent / "files"
CHECKPOINTS = Path(__file__).parent / "checkpoints"


def tolerance(case: str) -> float:
    """How far numbers of a case may be apart on two machines. Under "mse" stand limits of eigenvalues, whose ninth digit is the
    processor's."""
    return 2e-3 if case in MODEL else 20 * RELATIVE if case == "mse" else RELATIVE


def made(case: str) -> object:
    """What a case gives now, as JSON values."""
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(text(CASES[case](Path(folder))))


def compared(case: str, data: object, folder: Path = FILES, exact: bool = False) -> list[str]:
    """What differs from a golden file."""
    file = folder / f"{case}.json"
    if not file.is_file():
        return [f"{file.name}: is not there"]
    old = json.loads(file.read_text(encoding="utf-8"))
    return list(differences(old, data, 0.0 if exact else tolerance(case)))


class Killed(Exception):
    """Ends a run in the middle."""


def killed(kind: str, folder: Path) -> None:
    """Leaves the checkpoint of a run that was stopped a little after its half."""

    def told(done: int, total: int) -> None:
        if done > 0.85 * total:
            raise Killed

    try:
        resumed(kind, folder, told)
    except Killed:
        return
    raise AssertionError(f"{kind}: was not stopped")


def goes_on(kind: str, checkpoints: Path = CHECKPOINTS) -> tuple[object, float]:
    """What a run gives that goes on from a committed checkpoint, and how much of it was drawn when it was first heard of."""
    heard: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(checkpoints / kind, folder, dirs_exist_ok=True)
        data = resumed(kind, Path(folder), lambda done, total: heard.append(done / total))
    return json.loads(text(data)), heard[0]


def checked_checkpoint(kind: str, write: bool) -> list[str]:
    """What is wrong with a committed checkpoint, which is made anew then."""
    lines = ["is not there"]
    if (CHECKPOINTS / kind).is_dir():
        try:
            data, began = goes_on(kind)
            lines = compared(f"resumed-{kind}", data)
            if began < BEGINS:
                lines.append(f"is not gone on from: the run was heard of at {began:.0%}")
        except (OSError, ValueError) as error:
            lines = [f"{type(error).__name__}: {error}"]
    if lines and write:
        shutil.rmtree(CHECKPOINTS / kind, ignore_errors=True)
        killed(kind, CHECKPOINTS / kind)
        for lock in CHECKPOINTS.rglob("lock"):
            lock.unlink()
    return lines


def main(arguments: list[str]) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)}; none: all")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; the exit code is 1 where something differs"
    )
    parser.add_argument("--exact", action="store_true", help="to the last digit: for two runs on one machine")
    parser.add_argument("--folder", type=Path, default=FILES, help="where the files are; else those that are committed")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = False
    for case in given.cases or CASES:
        data = made(case)
        lines = compared(case, data, given.folder, given.exact)
        print(f"{case}: {f'{len(lines)} differences' if lines else 'the same'}", *lines[:20], sep="\n  ", flush=True)
        found = found or bool(lines)
        if lines and not given.check:
            given.folder.mkdir(parents=True, exist_ok=True)
            (given.folder / f"{case}.json").write_text(text(data), encoding="utf-8")
        kind = case.removeprefix("resumed-")
        if kind != case and given.folder == FILES:
            lines = checked_checkpoint(kind, write=not given.check)
            print(f"checkpoint of {kind}: {'does not do' if lines else 'goes on'}", *lines, sep="\n  ", flush=True)
            found = found or bool(lines)
    return int(found and given.check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
