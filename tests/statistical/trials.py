"""Trials: what a statistical test measures, tests and leaves on the record.

A trial runs a procedure R times on fresh draws (seeds 0 … R − 1, so each outcome repeats exactly) and counts the runs in
which its *joint* statement is false, from a truth that is known.

    H0: the failure probability is at most α.    Rejected if P[Bin(R, α) ≥ failures] < 1e-4, the false-alarm rate.

Where the failure probability is known exactly, H0 that it is that number is tested too, on both sides: a procedure that is
far too cautious fails as well. A *control* puts one classical mistake into the library and goes through the same test; there
H0 must be rejected. The table that `make trust` prints has a line for each claim, with its worst case and its controls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binom

__all__ = ["CLAIMS", "FALSE_ALARM", "WHOLE", "Row", "Trials", "not_exactly", "too_many"]

FALSE_ALARM = 1e-4
WHOLE = 2000  # runs of every trial in `make trust`

CLAIMS = {
    "T1 box": "every output's percentile lies in the box, everywhere in the ellipsoid",
    "T2 distance": "the smoothed median moves no further, output by output",
    "T2 curve": "a simultaneous curve holds at all its radii at once",
    "T2 pointwise curve": "a pointwise curve holds at each of its radii",
    "T3 radius": "within the certified radius the smoothed median stays within the tolerance, after a search",
    "T3 decided event": 'a decision about an event, made as soon as possible ("yes" and "no")',
    "T3 decided distance": 'a decision about a distance, made as soon as possible ("yes")',
    "T3 decision, limits": "a decision about an event, its bound and the limits that come with it, all at once",
    "T3 decided statistic": 'a decision about a statistic, made as soon as possible ("yes" and "no")',
    "T4 limits": "all limits of ‖f − c‖ behind the layer cake, at once",
    "T4 distance": "the smoothed median moves no further, whatever the dimension",
    "T5 statistic": "a statistic of K noisy copies keeps to its limit with probability q",
    "T5 event": "an event of K noisy copies has at most this probability",
    "T5 rate": "over prompts drawn from a set the event has at most this rate",
    "T5 deployed": "the deployed mean or median of K draws stays within R with probability q, by groups of draws",
    "T6 order statistics": "the deployed median stays within R with probability q, output by output",
    "T6 ball": "the deployed median stays within R with probability q, whatever the dimension",
    "T7 noise, then adapt": "a smoother that adapts to noisy tokens: its percentiles lie in the box",
    "T11 moment": "the limit of the largest second moment",
    "T11 center offset": "the limit of the distance between reference and mean",
    "T11 distance": "the smoothed mean moves no further",
    "T12 distance": "the smoothed median moves no further, by the spectrum",
    "T13 box": "uniform noise: every output's percentile lies in the box, for every perturbation of so large an ℓ1 size",
    "T13 radius": "uniform noise: within the certified radius the median stays within the tolerance, after a search",
    "T13 event": "uniform noise: an event of K noisy copies has at most this probability",
    "T14 limits": "all limits of means of functions of g, from which every radius follows, at once",
    "T14 bound": "the mean of a bounded statistic of K noisy copies is at most this",
    "T15 power": "a test of level .05 finds a perturbation with at most this probability, whatever it looks at",
    "T16 allocation": "several blocks of outputs that share one radius move no further together",
    "T17 as deployed": "at every prompt that is covered the adaptive smoother as deployed keeps to the bound",
    "best": "a bound and a deployed bound whose methods were chosen on pilot draws",
    "check": "a true certificate is not refuted",
    "verdict": "a true bound is not declared violated",
    "attacked": "every bound of T1–T12 on a text encoder, under optimised perturbations: verdicts of violation",
}


def too_many(failures: int, runs: int, alpha: float) -> bool:
    """Whether H0: failure probability ≤ α is rejected, at a false-alarm rate of 1e-4."""
    return float(binom.sf(failures - 1, runs, alpha)) < FALSE_ALARM


def not_exactly(failures: int, runs: int, rate: float) -> bool:
    """Whether H0: failure probability = rate is rejected on either side, at a false-alarm rate of 1e-4."""
    tail = min(binom.sf(failures - 1, runs, rate), binom.cdf(failures, runs, rate))
    return float(tail) < FALSE_ALARM / 2


@dataclass(frozen=True)
class Row:
    """One trial on the record.

    Attributes:
        claim: a key of `CLAIMS`.
        case: on what, or which mistake.
        runs, failures: repetitions, and those in which the statement was false.
        nominal: the rate that the statement allows.
        exact: the rate that it ought to have, where that is known.
        control: whether a mistake was put in, so that H0 had to be rejected.
    """

    claim: str
    case: str
    runs: int
    failures: int
    nominal: float
    exact: float | None = None
    control: bool = False


class Trials:
    """What a test gets from the fixture `trials`: how many runs to make, and where to leave what it counted."""

    def __init__(self, whole: bool, record: Callable[[str, Any], None]) -> None:
        self.whole, self._record = whole, record

    def runs(self, quick: int, whole: int = WHOLE) -> int:
        """Repetitions: `quick` of them in the everyday tests, at least `whole` in `make trust`.

        A mistake that shows in nearly every run is caught by a few: 5 of 5 reject α = .1, 25 of 50 do so by far.
        """
        return max(quick, whole) if self.whole else quick

    def covers(
        self, claim: str, failures: int, runs: int, alpha: float, case: str = "", exact: float | None = None
    ) -> None:
        """H0: the failure probability is at most α (and is `exact`, where given). Fails the test if it is rejected."""
        self._keep(Row(claim, case, runs, int(failures), alpha, exact))
        assert not too_many(failures, runs, alpha), f"{claim}, {case}: {failures} of {runs} runs failed, α = {alpha}"
        if exact is not None:
            assert not not_exactly(failures, runs, exact), f"{claim}, {case}: {failures} of {runs}, exactly {exact:.4f}"

    def caught(self, claim: str, mistake: str, failures: int, runs: int, alpha: float) -> None:
        """The same H0 with a mistake in the library. Fails the test if it is not rejected."""
        self._keep(Row(claim, mistake, runs, int(failures), alpha, None, True))
        assert too_many(failures, runs, alpha), f"{claim}: {mistake} went unnoticed, {failures} of {runs} runs failed"

    def _keep(self, row: Row) -> None:
        if row.claim not in CLAIMS:
            raise ValueError(f"claim = {row.claim!r}: must be one of {', '.join(CLAIMS)}")
        self._record("trial", asdict(row))
