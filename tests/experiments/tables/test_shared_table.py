"""A table that two processes measure together is the table of one, also if one of them is killed. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TABLE = ("table", "4", "--quick", "--count", "2", "--images", "130", "--chance", "4", "--noise-seeds", "1", "--out")

pytestmark = pytest.mark.slow


def started(place: Path, out: str, rank: int = 0, count: int = 1) -> subprocess.Popen[str]:
    more = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", *TABLE, out],
        cwd=place,
        env={**os.environ, **more, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def cells(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*.json"))}


def test_two_processes_measure_the_table_of_one_and_so_does_one_of_two(tmp_path):
    said = ended(started(tmp_path, "one"))
    assert "Local and global relevance" in said
    alone = cells(tmp_path / "one" / "cells")
    assert len(alone) >= 10

    both = [started(tmp_path, "two", rank, 2) for rank in (0, 1)]
    printed = [ended(process) for process in both]
    assert [said.count("written:") for said in printed] == [1, 0]
    assert cells(tmp_path / "two" / "cells") == alone
    assert (tmp_path / "two/pages/4.csv").read_bytes() == (tmp_path / "one/pages/4.csv").read_bytes()

    first, lost = (started(tmp_path, "three", rank, 2) for rank in (0, 1))
    assert lost.stderr is not None
    for line in lost.stderr:  # it has claimed a result, and is at it
        if "asr:" in line:
            break
    lost.send_signal(signal.SIGKILL)
    lost.communicate()
    ended(first)
    assert cells(tmp_path / "three" / "cells") == alone
    assert (tmp_path / "three/pages/4.csv").read_bytes() == (tmp_path / "one/pages/4.csv").read_bytes()
