"""Two runs over the same rows, side by side: defence A against defence B, paired row by row.

Two runs pair if all that decides a row but the defence is the same: data, seed, draws, α, radius, tolerance, detector, sampler.
Model and smoother may differ, and something of them has to. Rows that only one of the two has done are left out and counted.

**What is compared.** Certificates hold each with its own 1 − α, and a difference of two bounds claims nothing about the
difference of what they bound. What is tested is which defence gets the better certificates on prompts like these, the rows
taken for independent draws from one population:

- a *share* (certified at ρ or not): McNemar's exact test, and an interval of the difference of the shares;
- a *number* (radius, bound, certified rate): the sign test, and an interval of the median difference.

Both tests are the same binomial one, of how many of the pairs that differ favour A; nothing is assumed about the
differences, and an abstention may count as infinite. The interval of the median lies between two order statistics. That of a
difference of shares comes from the two intervals of Clopper and Pearson, for pairs that favour A and for those that favour B,
each at half of what may fail. Both hold for any number of rows. Several measures are tested, and their p-values are not
corrected for that.

Reference: McNemar (1947); Conover, Practical Nonparametric Statistics, 3.4 (sign test), 3.5 (McNemar), 3.2 (interval).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from certify import _validate
from certify._records import Record
from certify.confidence.fixed_n import clopper_pearson, extreme_rank
from certify.datasets.classified import ClassifiedRun
from certify.datasets.records import RunRecord
from certify.statements.classify import right_radii

__all__ = ["Comparison", "Measure", "compare"]

LEVEL = 0.95

_FREE = ("version", "dtype", "device", "model", "smoother", "noise", "function", "save_certificates", "data")
"""What may differ between two runs that pair. Of the data, its name may."""

_SAME_DATA = ("rows", "sha256", "column", "inputs_sha256", "labels_sha256")


@dataclass(frozen=True)
class Measure(Record):
    """One thing that both runs say of every row.

    Attributes:
        name: what.
        better: "more" or "less": which of two values is the better.
        share: whether it is yes or no, so that `a` and `b` are shares; else they are means.
        pairs: rows that both say it of.
        a, b: share of these rows, or median over them.
        difference: of the shares, or the median of the differences, A less B; NaN where it is a difference of infinities.
        low, high: its interval, of the comparison's level; infinite where there are too few rows for one.
        favours_a, favours_b: rows where A, B is the better; the others are ties.
        p_value: two-sided, of "neither is more often the better"; 1 where all rows tie.
    """

    name: str
    better: str
    share: bool
    pairs: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    favours_a: int
    favours_b: int
    p_value: float


@dataclass(frozen=True)
class Comparison(Record):
    """Two runs, paired.

    Attributes:
        measures: what is compared.
        rows: a pair a row: the record of A and that of B.
        settings: those of A, and those of B.
        only_a, only_b: rows that the other run has not done.
        level: of the intervals.
        of_classes: whether the rows are inputs of a classifier.
        tolerances_differ: rows whose radius is for another tolerance in B: each prompt's own concept-removal distance.
    """

    measures: tuple[Measure, ...]
    rows: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...]
    settings: tuple[Mapping[str, Any], Mapping[str, Any]]
    only_a: int
    only_b: int
    level: float
    of_classes: bool
    tolerances_differ: int

    @property
    def differing(self) -> dict[str, tuple[Any, Any]]:
        """Settings in which the two differ: name → that of A, that of B. A smoother's by their own names."""
        a, b = ({**s, **dict(s.get("smoother") or {})} for s in self.settings)
        names = [n for n in dict.fromkeys((*a, *b)) if n not in ("smoother", "data", "save_certificates")]
        return {n: (a.get(n), b.get(n)) for n in names if a.get(n) != b.get(n)}


def compare(a: RunRecord, b: RunRecord, *, level: float = LEVEL) -> Comparison:
    """Pairs two runs over the same rows and compares them.

    Args:
        a, b: of `certify prompts`, or both of `certify classify`.
        level: of the intervals.

    Raises:
        ValueError: they do not pair, and why; or no row is done in both.
    """
    level = _validate.probability("level", level)
    _paired(a, b)
    left, right = ({row["row"]: row for row in run.rows} for run in (a, b))
    both = sorted(left.keys() & right.keys())
    if not both:
        raise ValueError("the runs do not pair: no row is done in both")
    for number in both:
        one, other = left[number], right[number]
        for name in ("prompt", "true"):
            if one.get(name) != other.get(name):
                raise ValueError(
                    f"the runs do not pair: row {number} has another {name if name != 'true' else 'label'}"
                )
    rows = tuple((left[number], right[number]) for number in both)
    values = _of_classes(a, b, both) if a.of_classes else _of_prompts(a.settings, rows)
    differ = 0 if a.of_classes else sum(x.get("tolerance") != y.get("tolerance") for x, y in rows if _done(x, y))
    return Comparison(
        tuple(_measure(*given, 1 - level) for given in values),
        rows,
        (a.settings, b.settings),
        len(left) - len(both),
        len(right) - len(both),
        level,
        a.of_classes,
        differ,
    )


def _done(*rows: Mapping[str, Any]) -> bool:
    return all(row["status"] != "refused" for row in rows)


def _paired(a: RunRecord, b: RunRecord) -> None:
    """Refuses two runs that differ in more than the defence."""

    def refuse(why: str) -> None:
        raise ValueError(f"the runs do not pair: {why}")

    if a.settings.get("format") != b.settings.get("format"):
        refuse(f"one is of the format {a.settings.get('format')!r}, the other {b.settings.get('format')!r}")
    for name, run in (("the first", a), ("the second", b)):
        if run.settings.get("private"):
            refuse(f"{name} is private, and leaves out what its prompts are")
    data = [dict(run.settings["data"]) for run in (a, b)]
    for name in _SAME_DATA:
        if data[0].get(name) != data[1].get(name):
            refuse(f"they are about other data ({name} = {data[0].get(name)!r} and {data[1].get(name)!r})")
    for name in dict.fromkeys((*a.settings, *b.settings)):
        one, other = a.settings.get(name), b.settings.get(name)
        if name not in _FREE and one != other:
            refuse(f"{name} = {one!r} and {other!r}, must be the same")
    if a.run == b.run:
        refuse("they are of the same settings, so that there is nothing to compare")


_Given = tuple[str, str, bool, list[float], list[float]]


def _of_prompts(
    settings: Mapping[str, Any], rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> list[_Given]:
    rho, (a, b) = float(settings["rho"]), zip(*rows, strict=True)
    radii = [float(row["radius"]) for row in a], [float(row["radius"]) for row in b]
    reached = [float(r >= rho) for r in radii[0]], [float(r >= rho) for r in radii[1]]
    bounds = [_value(row.get("bound"), math.inf) for row in a], [_value(row.get("bound"), math.inf) for row in b]
    found: list[_Given] = [
        (f"certified at ρ = {rho:g}", "more", True, *reached),
        ("certified radius", "more", False, *radii),
        (f"bound at ρ = {rho:g}", "less", False, *bounds),
    ]
    for key in dict.fromkeys(key for pair in rows for row in pair for key in _others(row)):
        # A prompt that is refused, or whose draws did not suffice, has the trivial value.
        trivial = 1.0 if key[1] in ("event", "mean") else math.inf
        pairs = tuple([_value(_others(row).get(key), trivial) for row in side] for side in (a, b))
        about, quantity, at, q = key
        name = f"{_KINDS.get(quantity, quantity)} of “{about}” at ρ = {at:g}" + ("" if q is None else f", q = {q:g}")
        found.append((name, "less", False, pairs[0], pairs[1]))
    return found


_KINDS = {"event": "certified rate", "deployed": "distance bound", "statistic": "quantile bound", "mean": "mean bound"}


def _others(row: Mapping[str, Any]) -> dict[tuple[str, str, float, float | None], Any]:
    """A row's claims besides the bound and the radius, by what they are about. Curves and percentiles are not compared."""
    return {
        (str(c["function"]), str(c["quantity"]), float(c["rho"]), c.get("q")): c.get("value")
        if c["status"] == "certified"
        else None
        for c in row.get("others", ())
        if c["quantity"] in _KINDS
    }


def _of_classes(a: RunRecord, b: RunRecord, rows: Sequence[int]) -> list[_Given]:
    wanted = set(rows)

    def radii(run: RunRecord) -> list[float]:
        of = [decision for decision in ClassifiedRun.of(run).decisions if decision.row in wanted]
        return [radius or 0.0 for radius in right_radii(of, [decision.true for decision in of], "radius")]

    of_a, of_b = radii(a), radii(b)
    return [
        ("rightly certified", "more", True, [float(r > 0) for r in of_a], [float(r > 0) for r in of_b]),
        ("ℓ2 radius", "more", False, of_a, of_b),
    ]


def _value(value: Any, otherwise: float) -> float:
    return otherwise if value is None else float(value)


def _measure(name: str, better: str, share: bool, a: list[float], b: list[float], alpha: float) -> Measure:
    from scipy import stats

    # Two infinities tie.
    apart = sorted(0.0 if x == y else x - y for x, y in zip(a, b, strict=True))
    n, up, down = len(apart), sum(d > 0 for d in apart), sum(d < 0 for d in apart)
    p_value = float(stats.binomtest(up, up + down).pvalue) if up + down else 1.0
    if share:
        difference = (up - down) / n
        of_up, of_down = ([clopper_pearson(k, n, alpha / 4, side) for side in ("lower", "upper")] for k in (up, down))
        low, high = max(-1.0, of_up[0] - of_down[1]), min(1.0, of_up[1] - of_down[0])
    else:
        middle = apart[(n - 1) // 2], apart[n // 2]
        difference = middle[0] if middle[0] == middle[1] else sum(middle) / 2  # NaN between −∞ and ∞
        rank = extreme_rank(n, 0.5, alpha / 2)
        low, high = (apart[rank - 1], apart[n - rank]) if rank else (-math.inf, math.inf)
    favours = (up, down) if better == "more" else (down, up)
    of_a, of_b = ((sum(side) / n if share else median(side)) for side in (a, b))
    return Measure(name, better, share, n, of_a, of_b, difference, low, high, *favours, p_value)
