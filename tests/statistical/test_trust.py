"""The table of `make trust`: what it says of given trials, and what keeps it from being whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.statistical.trials import CLAIMS, WHOLE, Row, Trials
from tests.statistical.trust import BEGIN, END, lacking, markdown, terminal, worst, write

ROWS = [
    row
    for claim in CLAIMS
    for row in (
        Row(claim, "a step", WHOLE, 20, 0.1),
        Row(claim, "a rather long name of a case", WHOLE, 150, 0.1, 0.08),
        Row(claim, "one rank too few", 100, 60, 0.1, None, True),
    )
]


def test_the_worst_case_is_nearest_to_nominal():
    loose, tight = Row("best", "loose", 2000, 190, 0.1), Row("best", "tight", 2000, 99, 0.05)
    assert worst([loose, tight]) is tight


def test_nothing_is_lacking():
    assert lacking(ROWS) == []


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (lambda row: row.claim == "T6 ball", "T6 ball: not measured"),
        (lambda row: row.claim == "T6 ball" and row.control, "T6 ball: no control"),
    ],
)
def test_what_is_lacking_is_named(drop, message):
    assert message in lacking([row for row in ROWS if not drop(row)])


def test_too_few_runs_are_named():
    assert lacking([*ROWS, Row("best", "quick", 300, 1, 0.1)]) == ["best, quick: 300 runs, must be 2000"]


def test_the_terminal_has_80_columns_and_a_line_a_claim():
    lines = list(terminal(ROWS))
    assert len(lines) == 1 + len(CLAIMS)
    assert max(map(len, lines)) <= 80
    assert "7.5 %" in lines[1]


def test_the_page_is_changed_between_its_markers_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nearlier figures\n{END}\n\nafter\n")
    for _ in range(2):
        write(page, markdown(ROWS))
        text = page.read_text()
        assert text.startswith("before\n\n" + BEGIN)
        assert text.endswith(END + "\n\nafter\n")
        assert "earlier figures" not in text
        assert text.count("one rank too few (60.0 %)") == len(CLAIMS)
        assert "| 7.5 % (a rather long name of a case) | 6.4 … 8.7 % | 2 |" in text


def test_the_page_has_a_line_for_every_claim():
    text = (Path(__file__).parents[2] / "docs" / "trust.md").read_text()
    for claim, sentence in CLAIMS.items():
        assert f"| **{claim}**: {sentence} |" in text, "run `make trust`"


def test_trials_are_kept_before_they_are_judged():
    kept = []
    trials = Trials(True, lambda name, value: kept.append(value))
    assert trials.runs(30) == WHOLE
    assert Trials(False, lambda *_: None).runs(30) == 30
    with pytest.raises(AssertionError, match=r"T1 box, a case: 60 of 400 runs failed, α = 0\.05"):
        trials.covers("T1 box", 60, 400, 0.05, "a case")
    with pytest.raises(AssertionError, match=r"exactly 0\.0500"):
        trials.covers("T1 box", 0, 400, 0.05, "a case", exact=0.05)
    with pytest.raises(AssertionError, match="went unnoticed, 20 of 400"):
        trials.caught("T1 box", "a mistake", 20, 400, 0.05)
    assert [row["failures"] for row in kept] == [60, 0, 20]
    with pytest.raises(ValueError, match="claim = 'T99': must be one of"):
        trials.covers("T99", 0, 400, 0.05)
