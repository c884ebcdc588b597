"""Settings shared by all tests: hypothesis profiles, and one thread for torch.

Profiles of the property suite (`HYPOTHESIS_PROFILE`):

dev        15 examples a law, other ones in each run. Where there is no other wish.
ci         15 examples a law, the same in each run: a red build is a change of the code and not of the dice. Chosen where the
           environment has `CI`.
thorough   300 examples a law, other ones in each run, and what reproduces a failure is printed. A quarter of an hour for
           `tests/laws`.

Laws that are asked of every method in turn take a third of that for each (`tests/laws/built.py`).
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.statistical.trials import Trials

# How long an example takes, or its making, is up to the machine and what else runs on it: it fails no test.
ANY_MACHINE: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=15, **ANY_MACHINE)
settings.register_profile("ci", max_examples=15, derandomize=True, **ANY_MACHINE)
settings.register_profile("thorough", max_examples=300, print_blob=True, **ANY_MACHINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small tensors: threads only cost time, and sums in another order would change the last digit."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Tables of levels of tests, and of processes that tests start, are nobody else's."""
    before = os.environ.get("CERTIFY_CACHE")
    os.environ["CERTIFY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("CERTIFY_CACHE")
    if before is not None:
        os.environ["CERTIFY_CACHE"] = before


LONG = 300.0
"""Seconds of a run that says at its end where they went."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time of a long run went: the files that took most of it, over all processes, and their slowest tests."""
    files, slowest = Counter[str](), dict[str, tuple[float, str]]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                file, _, name = report.nodeid.partition("::")
                files[file] += report.duration
                slowest[file] = max(slowest.get(file, (0.0, "")), (report.duration, name))
    total = sum(files.values())
    if total < LONG:
        return
    terminalreporter.section(f"where {total:.0f} s went: seconds of a file, and of its slowest test")
    for file, seconds in files.most_common(12):
        most, name = slowest[file]
        terminalreporter.write_line(f"{seconds:5.0f}  {file}  {most:.0f}  {name}"[:120])


@pytest.fixture
def trials(request: pytest.FixtureRequest, record_property) -> Trials:
    """Few repetitions in everyday tests, at least 2 000 under `make trust`, which loads tests/statistical/trust.py."""
    return Trials(request.config.pluginmanager.hasplugin("tests.statistical.trust"), record_property)
