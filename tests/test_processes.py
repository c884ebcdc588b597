"""Processes that tests start see the environment of the moment, whatever was set when the first of them was started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import processes

SAYS = ("-n1", "-r1", "import os; print('seen:', os.environ.get('CERTIFY_OF_A_TEST'), os.getcwd())")


def said(folder: Path) -> str:
    ended = processes.forked("timeit", *SAYS, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return next(line for line in ended.stdout.splitlines() if line.startswith("seen: "))


def test_they_see_the_environment_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What forks them is started by the test that comes first, and may not hand that test's variables on to all others."""
    monkeypatch.setenv("CERTIFY_OF_A_TEST", "2")
    started = processes._server.__wrapped__()
    monkeypatch.setattr(processes, "_server", lambda: started)
    assert said(tmp_path) == f"seen: 2 {tmp_path}"
    monkeypatch.delenv("CERTIFY_OF_A_TEST")
    assert said(tmp_path) == f"seen: None {tmp_path}"
    monkeypatch.setenv("CERTIFY_OF_A_TEST", "3")
    assert said(tmp_path) == f"seen: 3 {tmp_path}"
