"""A command, run in this process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

from certify import cli
from certify.cli import prompts, terminal


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs `certify …` in a fresh folder; returns (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["certify", *arguments])
        for name, stream in (("out", "stdout"), ("err", "stderr")):
            monkeypatch.setattr(terminal, name, terminal.Console(file=getattr(sys, stream), width=80, highlight=False))
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def without_figures():
    """What runs a command without its figures, which take longer than a small certificate. They are tested by themselves."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prompts, "_draw_figures", lambda *_: None)
            yield

    return context


@pytest.fixture
def no_figures(without_figures):
    """Commands of this test draw none."""
    with without_figures():
        yield
