"""The whole statistical suite and its table: `make trust`, or `python -m pytest -p tests.statistical.trust -m statistical`.

Loaded as a plugin it makes every trial repeat at least 2 000 times, gathers what the trials counted (from several processes,
too), prints one table of claim, nominal and measured rate, and with `--trust-page` writes it between the markers of a page.
The run fails, beyond any trial that did, if a claim was not measured, was measured too few times, or has no control.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from scipy.stats import beta

from tests.statistical.trials import CLAIMS, WHOLE, Row

BEGIN, END = "<!-- table: make trust -->", "<!-- end of table -->"


class Trust:
    """What one run of pytest gathers."""

    def __init__(self, page: Path | None) -> None:
        self.page, self.rows, self.failed = page, list[Row](), 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed += 1
        if report.when == "call":
            self.rows += [Row(**value) for name, value in report.user_properties if name == "trial"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):  # one of several processes: the first gathers
            return
        if lacking(self.rows) and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        terminalreporter.section("claims, nominal and measured")
        for line in terminal(self.rows):
            terminalreporter.write_line(line)
        missing = lacking(self.rows)
        for line in missing:
            terminalreporter.write_line(f"MISSING: {line}")
        if self.page is not None and not missing and not self.failed:
            write(self.page, markdown(self.rows))
            terminalreporter.write_line(f"written to {self.page}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trust-page", type=Path, help="a page whose table is replaced if everything passed")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Trust(config.getoption("--trust-page")), "trust table")


def lacking(rows: Sequence[Row]) -> list[str]:
    """What keeps the table from being whole."""
    found = []
    for claim in CLAIMS:
        trials = [row for row in rows if row.claim == claim and not row.control]
        if not trials:
            found.append(f"{claim}: not measured")
        found += [f"{claim}, {row.case}: {row.runs} runs, must be {WHOLE}" for row in trials if row.runs < WHOLE]
        if not any(row.claim == claim and row.control for row in rows):
            found.append(f"{claim}: no control")
    return found


def worst(rows: Iterable[Row]) -> Row:
    """The trial that came nearest to its nominal rate, or furthest beyond it."""
    return max(rows, key=lambda row: (row.failures / row.runs / row.nominal, row.case))


def percent(rate: float) -> str:
    return f"{100 * rate:.2f} %" if 0 < rate < 0.01 else f"{100 * rate:.1f} %"


def interval(row: Row) -> str:
    """Clopper and Pearson's 95 % limits of the rate."""
    low = beta.ppf(0.025, row.failures, row.runs - row.failures + 1) if row.failures else 0.0
    high = beta.ppf(0.975, row.failures + 1, row.runs - row.failures) if row.failures < row.runs else 1.0
    return f"{100 * low:.1f} … {100 * high:.1f} %"


def cell(text: str) -> str:
    """Words inside a table: |δ| is no border."""
    return text.replace("|", "\\|")


def grouped(rows: Sequence[Row]) -> Iterable[tuple[str, list[Row], list[Row]]]:
    for claim in CLAIMS:
        mine = [row for row in rows if row.claim == claim]
        yield claim, [row for row in mine if not row.control], [row for row in mine if row.control]


def terminal(rows: Sequence[Row]) -> Iterable[str]:
    """80 columns."""
    yield f"{'claim':<22}{'nominal':>8}{'measured':>10}  {'at its worst on':<26}{'cases':>5}{'caught':>7}"
    for claim, trials, controls in grouped(rows):
        if trials:
            row = worst(trials)
            yield (
                f"{claim:<22}{percent(row.nominal):>8}{percent(row.failures / row.runs):>10}  {row.case[:25]:<26}"
                f"{len(trials):>5}{len(controls):>7}"
            )


def markdown(rows: Sequence[Row]) -> str:
    """The table of the claims, and that of all trials."""
    lines = [
        "| Claim | Nominal | Measured, worst case | 95 % limits | Cases | Mistakes caught |",
        "|---|--:|---|--:|--:|---|",
    ]
    total = sum(row.runs for row in rows if not row.control)
    for claim, trials, controls in grouped(rows):
        row = worst(trials)
        rate = percent(row.failures / row.runs)
        caught = "; ".join(
            f"{cell(c.case)} ({percent(c.failures / c.runs)})" for c in sorted(controls, key=lambda c: c.case)
        )
        lines.append(
            f"| **{claim}**: {CLAIMS[claim]} | {percent(row.nominal)} | {rate} ({cell(row.case)}) | {interval(row)} | "
            f"{len(trials)} | {caught} |"
        )
    cases = sum(not row.control for row in rows)
    lines += ["", f"{cases} trials, {total:,} runs in all; {len(rows) - cases} mistakes, all caught.", ""]
    lines += ['<details markdown="1">', "<summary>Every trial</summary>", ""]
    lines += ["| Claim | Case | Runs | Failures | Measured | Nominal | Exact |", "|---|---|--:|--:|--:|--:|--:|"]
    for claim, trials, _ in grouped(rows):
        for row in sorted(trials, key=lambda row: row.case):
            exact = "" if row.exact is None else percent(row.exact)
            lines.append(
                f"| {claim} | {cell(row.case)} | {row.runs} | {row.failures} | {percent(row.failures / row.runs)} | "
                f"{percent(row.nominal)} | {exact} |"
            )
    return "\n".join([*lines, "", "</details>"])


def write(page: Path, table: str) -> None:
    """Puts a table between the markers of a page."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
