"""The suite end to end on one prompt: every theorem is attacked, no true bound falls, false ones do, and the report says so."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from certify.bounds import METHODS, ROUTES
from certify.statements.ask import ask
from certify.world.judge import LABELS
from experiments.soundness import report, suite
from experiments.soundness.suite import Plan, Row, chosen, run, summary
from tests.statistical.trials import Trials

SMALL = Plan(prompts=1, rhos=(0.25, 1.0), n=2000, verify=390, percentiles=(0.5,), steps=4, draws=16, replicas=3, q=0.8)


@pytest.fixture(scope="module")
def plan(request: pytest.FixtureRequest) -> Plan:
    """One prompt; under `make trust` as many as give 2 000 verdicts."""
    return replace(SMALL, prompts=11) if request.config.pluginmanager.hasplugin("tests.statistical.trust") else SMALL


@pytest.fixture(scope="module")
def rows(plan) -> list[Row]:
    return run(plan)


def test_every_theorem_is_attacked(rows, plan):
    claims = {row.claim for row in rows if math.isfinite(row.bound)}
    for kind, method in METHODS:
        assert any(f"{method}, {kind}" in claim and "of K" not in claim for claim in claims), (kind, method)
    for kind, method in ROUTES:
        assert any(f"{method}, {kind} of K = 3" in claim for claim in claims), (kind, method)
    assert "T1 box, p = 0.5" in claims
    assert len(rows) == plan.family == plan.prompts * len(plan.statements()) * len(suite.attempts(plan))


@pytest.mark.statistical
def test_no_true_bound_is_violated_and_none_is_exceeded(rows, plan, trials: Trials):
    """A bound fails with probability at most α = 10⁻³, and a verdict errs at a level shared by all: none is expected."""
    trials.covers("attacked", sum(row.violated for row in rows), len(rows), plan.alpha, "prompts of the embedded model")
    assert not any(row.violated for row in rows)
    assert all(row.limit <= row.bound for row in rows)
    # T1 on a nearly linear output is nearly tight: an attack that stopped short would leave a large factor.
    (tight,) = [s for s in summary(rows) if s.claim == "T1 box, p = 0.5" and s.rho == 1.0]
    assert 1 < tight.typical < 1.6


@pytest.mark.statistical
def test_attacks_beat_the_noise(rows):
    """What is optimised for the median moves it further than what is optimised for one output's percentile."""
    t2 = [row for row in rows if row.claim.startswith("T2") and row.rho == 1.0]
    best = {
        aimed: max(row.estimate for row in t2 if row.aimed == aimed and row.target != "mean") for aimed in (True, False)
    }
    assert best[True] > 1.5 * best[False] > 0


@pytest.mark.statistical
def test_false_bounds_are_caught(monkeypatch, rows, plan, trials: Trials):
    """Control: bounds issued for ρ = ¼ and stated at ρ = 1, with the slack of each taken out first."""
    one = rows if plan == SMALL else run(SMALL)
    slack = {s.claim: s.power for s in summary(one) if s.rho == 1.0 and s.certified}

    def inflated(f, y, noise, statements, **options):
        found = []
        for bound in ask(f, y, noise, statements, **options):
            if bound.rho == 1.0 and hasattr(bound, "value") and math.isfinite(bound.value):
                bound = replace(bound, value=bound.value / (1.05 * slack[suite.claim_name(bound)]))
            found.append(bound)
        small = {suite.claim_name(b): b for b in found if b.rho == 0.25}
        return [
            replace(small[suite.claim_name(b)], rho=1.0) if b.rho == 1.0 and not hasattr(b, "value") else b
            for b in found
        ]

    monkeypatch.setattr(suite, "ask", inflated)
    verdicts = [row for row in run(SMALL) if row.rho == 1.0]
    caught = {row.claim for row in verdicts if row.violated}
    wrong = sum(row.violated for row in verdicts)
    trials.caught("attacked", "bounds without their slack, boxes of ρ = ¼ at ρ = 1", wrong, len(verdicts), SMALL.alpha)
    assert {claim for claim in slack if math.isfinite(slack[claim])} | {"T1 box, p = 0.5"} <= caught
    assert "T2 coordinatewise, median" in caught


def test_prompts_mean_all_shapes_by_their_own_word_and_by_others():
    rows = chosen(20)
    assert len({row["prompt"] for row in rows}) == 20
    assert {row["shape"] for row in rows} == set(LABELS["shape"]) - {"none"}
    assert {row["kind"] for row in rows} == {"named", "synonym"}
    with pytest.raises(ValueError, match="prompts = 1000: must be at most"):
        chosen(1000)


def test_the_summary_leaves_out_what_nothing_was_aimed_at():
    def row(claim: str, estimate: float, aimed: bool, case: str = "a") -> Row:
        return Row(
            case,
            1.0,
            claim,
            0,
            "median",
            "random",
            aimed,
            8.0,
            estimate,
            estimate / 2,
            8 / estimate,
            16 / estimate,
            False,
        )

    (line,) = summary([row("T2", 1.0, True), row("T2", 4.0, False), row("T2", 2.0, True, "b")])
    assert (line.typical, line.least, line.power, line.certified, line.verdicts) == (3.0, 2.0, 6.0, 2, 3)
    (line,) = summary([row("T1 box", 1.0, True), row("T1 box", 4.0, False)])
    assert line.typical == 8.0


def test_the_table(rows, plan):
    table = report.encoding_table(plan, rows)
    assert f"{2 * plan.prompts * len(suite.attempts(plan))} attempts over {plan.prompts} prompts" in table
    assert "**0 violations**" in table
    assert table.count("\n| T2 coordinatewise, median |") == 2


def test_the_command_writes_verdicts_and_returns_1_for_a_violation(monkeypatch, tmp_path, rows, capsys):
    broken = [replace(rows[0], violated=True), *rows[1:]]
    for found, code in ((rows, 0), (broken, 1)):
        monkeypatch.setattr(suite, "run", lambda plan, workers, progress, found=found: found)
        arguments = report_arguments("encoding", "--quick", "--out", str(tmp_path / str(code)))
        assert report.main(arguments) == code
    with (tmp_path / "1" / "encoding.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows)
    assert [row["violated"] for row in read[:2]] == ["True", "False"]
    assert "**1 violations**" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match=r"holds encoding.csv already"):
        report.main(arguments)


def report_arguments(*words: str) -> object:
    import argparse

    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return parser.parse_args(words)


def test_misuse_is_one_line():
    call = [sys.executable, "-m", "experiments", "soundness", "encoding", "--workers", "0"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == "error: workers = 0: must be a whole number >= 1"
