"""Progress bars: where somebody is looking they move, elsewhere they are nothing."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import certify
from certify import progress
from certify.progress import Bar, as_progress
from certify.statements.ask import MSE, ask

Y = torch.zeros(2)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass as told."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def seen_by_a_reader(written: str) -> str:
    """The line of a terminal after what was written: a return goes to its start, ESC[K wipes what is right of the cursor."""
    line, column = "", 0
    for piece in written.replace("\x1b[K", "\x00"):
        if piece == "\r":
            column = 0
        elif piece == "\x00":
            line = line[:column]
        else:
            line, column = line[:column] + piece + line[column + 1 :], column + 1
    return line


def test_a_terminal_shows_share_count_and_time_left_and_is_left_clean(monkeypatch, clock):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = Bar("drawing")
    bar(0, 2000)
    assert seen_by_a_reader(screen.getvalue()) == f"drawing {'─' * 28} 0 of 2,000"
    clock.now += 2
    bar(500, 2000)
    assert seen_by_a_reader(screen.getvalue()) == f"drawing {'━' * 7}{'─' * 21} 500 of 2,000, about 6 s left"
    clock.now += 0.05
    bar(600, 2000)  # too soon for another redraw
    assert "600" not in screen.getvalue()
    assert seen_by_a_reader(screen.getvalue() + "Traceback")[:9] == "Traceback"
    bar(2000, 2000)
    assert seen_by_a_reader(screen.getvalue()) == ""


def test_what_a_checkpoint_had_is_not_counted_as_speed(monkeypatch, clock):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = Bar()
    bar(900, 1000)
    clock.now += 2
    bar(910, 1000)
    assert "about 18 s left" in screen.getvalue()


def test_a_bar_that_is_closed_is_gone(monkeypatch, clock):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = Bar()
    bar(1, 10)
    assert seen_by_a_reader(screen.getvalue())
    bar.close()
    assert seen_by_a_reader(screen.getvalue()) == ""


def test_letters_that_a_terminal_lacks_are_replaced(monkeypatch, clock):
    screen = Terminal()
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    monkeypatch.setattr(sys, "stderr", screen)
    Bar("σ")(1, 2)
    assert screen.getvalue().isascii()
    assert seen_by_a_reader(screen.getvalue()) == f"? {'#' * 14}{'.' * 14} 1 of 2"


class Notebook:
    """What a bar uses of IPython in a kernel: outputs that are replaced."""

    def __init__(self, monkeypatch) -> None:
        self.outputs: list[dict[str, str]] = []
        shell = SimpleNamespace(kernel=object())
        display = SimpleNamespace(display=self.display)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=display))

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        self.outputs.append(data)
        place = len(self.outputs) - 1

        def update(data: dict[str, str], *, raw: bool) -> None:
            self.outputs[place] = data

        return SimpleNamespace(update=update)


def test_a_notebook_has_one_output_that_is_replaced(monkeypatch, clock):
    page = Notebook(monkeypatch)
    bar = Bar("<b>")
    bar(0, 4)
    clock.now += 1
    bar(1, 4)
    assert [o["text/plain"] for o in page.outputs] == ["<b> 1 of 4"]
    assert "width:25.0%" in page.outputs[0]["text/html"]
    bar(4, 4)
    assert [o["text/plain"] for o in page.outputs] == ["<b> 4 of 4"]
    assert "<b>" not in page.outputs[0]["text/html"]
    bar.close()
    assert len(page.outputs) == 1


def test_nobody_looking_nothing_written(monkeypatch, capsys):
    Bar("drawing")(1, 2)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    Bar("drawing")(1, 2)
    monkeypatch.setattr(sys, "stderr", None)
    Bar("drawing")(1, 2)
    assert capsys.readouterr().out == ""


def test_other_processes_than_the_first_show_nothing(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("certify.montecarlo.processes.Processes.current", lambda: SimpleNamespace(rank=1))
    Bar("drawing")(1, 2)
    assert screen.getvalue() == ""


def test_what_progress_may_be():
    assert as_progress(None) is None
    assert as_progress(False) is None
    assert isinstance(as_progress(True), Bar)
    assert as_progress(print) is print
    with pytest.raises(TypeError, match="progress = 'yes': must be True"):
        as_progress("yes")


def event(z):
    return z.mean(dim=(1, 2)) > 1


def kept() -> certify.Certificate:
    return certify.Certificate.of(certify.mse_bound(torch.sin, Y, 0.5, rho=1.0, n=600))


CALLS = {
    "ask": lambda **how: ask(torch.sin, Y, 0.5, [MSE(1.0)], n=600, **how),
    "percentile_bounds": lambda **how: certify.percentile_bounds(torch.sin, Y, 0.5, rho=1.0, n=600, **how),
    "statistic_bound": lambda **how: certify.statistic_bound(
        lambda z: z.mean(dim=(1, 2)), Y, 0.5, rho=0.1, n=600, **how
    ),
    "event_bound": lambda **how: certify.event_bound(event, Y, 0.5, rho=0.1, n=600, **how),
    "event_rate_over": lambda **how: certify.event_rate_over([event], [Y], 0.5, rhos=[0.1], n=600, **how),
    "decide_event": lambda **how: certify.decide_event(event, Y, 0.5, target=0.5, rho=0.1, n=600, **how),
    "decide_mse": lambda **how: certify.decide_mse(torch.sin, Y, 0.5, tolerance=1.0, rho=0.1, n=600, **how),
    "check": lambda **how: kept().check(torch.sin, Y, **how),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_functions_that_draw_take_true_or_a_function(call, monkeypatch):
    screen, seen = Terminal(), []
    call(progress=lambda done, total: seen.append((done, total)))
    assert seen
    assert all(0 < done <= total for done, total in seen)
    monkeypatch.setattr(sys, "stderr", screen)
    call(progress=True)
    assert " of " in screen.getvalue()
    with pytest.raises(TypeError, match="progress = 3"):
        call(progress=3)
