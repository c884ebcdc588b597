"""The page of two runs, paired row by row: `comparison_page`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from certify._text import escaped
from certify.certificate import words
from certify.certificate.words import PAGE
from certify.datasets import Comparison, Measure
from certify.report._charts import Line, chart
from certify.report._page import code, document, facts, header, note, section, shows, status, table
from certify.report._sections import COPY
from certify.report.run import steps

__all__ = ["comparison_page", "verdict"]


def comparison_page(found: Comparison, *, names: tuple[str, str] = ("A", "B"), runs: tuple[str, str] = ("", "")) -> str:
    """Two runs over the same rows as a page.

    Args:
        found: of `certify.datasets.compare`.
        names: of the two, as the reader knows them: their folders.
        runs: their digests.

    Returns:
        An HTML document, for a file in UTF-8.

    Raises:
        ValueError: the records are damaged: they cannot be shown.
    """
    with shows(f"runs {names[0]!r} and {names[1]!r}"):
        return _page(found, names, runs)


def verdict(found: Comparison, measure: Measure, names: Sequence[str] = ("A", "B")) -> str:
    """What a measure comes to, in a sentence without markup."""
    if not measure.favours_a + measure.favours_b:
        return f"{measure.name}: A and B tie on all {measure.pairs:,} rows"
    small = measure.p_value <= 1 - found.level
    better = "A" if measure.favours_a > measure.favours_b else "B"
    said = f"{better} is the better" if small else "no difference is shown"
    return (
        f"{measure.name}: A is the better on {measure.favours_a:,} rows, B on {measure.favours_b:,}, of {measure.pairs:,}; "
        f"{said} (p = {measure.p_value:.2g})"
    )


def _page(found: Comparison, names: tuple[str, str], runs: tuple[str, str]) -> str:
    what = "inputs" if found.of_classes else "prompts"
    main = found.measures[0]
    title = str(found.settings[0]["data"]["name"] or "inputs of a classifier")
    left = f" {found.only_a:,} rows that only A has done, and {found.only_b:,} that only B has, are left out."
    apart = _difference(main).replace("points", "percentage points")
    headline = (
        f"Of {main.pairs:,} {what} {PAGE.percent(main.a, 'near')} are {escaped(main.name, isolate=False)} by A and "
        f"{PAGE.percent(main.b, 'near')} by B: a difference of {apart}, {_interval(main, found.level)}."
        + (left if found.only_a + found.only_b else "")
    )
    tiles = [
        ("only A certifies", f"{main.favours_a:,}"),
        ("only B certifies", f"{main.favours_b:,}"),
        ("McNemar’s exact p", PAGE.number(main.p_value, "near", 2)),
        ("level of each interval", PAGE.percent(found.level, "near")),
    ]
    reading = (
        "<p>Both runs certified the same rows from the same seeds, so rows are compared in pairs. A p-value is that of "
        "“neither is more often the better”: McNemar’s exact test for shares, the exact sign test for numbers. The interval of "
        "a share is one of the difference A − B of the shares; that of a number is one of the median difference. They speak of "
        "rows like these, drawn independently from one population, and are not corrected for being several.</p><p>What is "
        "compared are certificates: a better one is a stronger proof, and does not show by itself that the defence is "
        "stronger.</p>"
    )
    if found.tolerances_differ:
        reading += note(
            f"In {found.tolerances_differ:,} rows A and B have different tolerances, since each prompt’s own concept-removal "
            "distance is the tolerance: the radii there are for different questions."
        )
    legend = f"<p><b>A</b>: {escaped(names[0])}. <b>B</b>: {escaped(names[1])}.</p>"
    body = [
        header("Two runs, paired", title, headline, tiles, not found.of_classes),
        section("Which is which", legend + _differing(found)),
        section("What is compared", _measures(found) + reading),
        _curves(found),
        _rows(found),
        section("Where it comes from", _provenance(found, names, runs) + f"<p>{COPY}</p>"),
    ]
    return document(f"Compared: {title}", body)


def _difference(measure: Measure) -> str:
    return _number(measure.difference, sign=True) if not measure.share else _points(measure.difference)


def _points(value: float) -> str:
    return PAGE.exactly(value, f"{100 * value:+.4g}".replace("-", "−") + " points")


def _number(value: float, sign: bool = False) -> str:
    if math.isnan(value):
        return "not defined"
    said = PAGE.number(value, "near", 4)
    return said.replace(">", ">+", 1) if sign and value > 0 else said


def _interval(measure: Measure, level: float) -> str:
    if math.isinf(measure.low) and math.isinf(measure.high) and not measure.share:
        return "too few rows for an interval"
    low, high = (_points(v) if measure.share else _number(v, sign=True) for v in (measure.low, measure.high))
    return f"with a {PAGE.percent(level, 'near')} interval from {low} to {high}"


def _measures(found: Comparison) -> str:
    rows = []
    for m in found.measures:
        show = (lambda v: PAGE.percent(v, "near")) if m.share else _number
        interval = _interval(m, found.level).removeprefix(f"with a {PAGE.percent(found.level, 'near')} interval ")
        rows.append(
            [
                f"{escaped(m.name)}<br><small>{'share' if m.share else 'median'}; {m.better} is better</small>",
                show(m.a),
                show(m.b),
                _difference(m),
                interval,
                f"{m.favours_a:,}",
                f"{m.favours_b:,}",
                PAGE.number(m.p_value, "near", 2),
            ]
        )
    level = PAGE.percent(found.level, "near")
    head = ["measure", "A", "B", "difference", f"{level} interval", "A better", "B better", "p"]
    return table(head, rows, text=(4,))


def _curves(found: Comparison) -> str:
    if found.of_classes:
        return ""
    radii = [[float(row["radius"]) for row in side] for side in zip(*found.rows, strict=True)]
    if not any(0 < r < math.inf for side in radii for r in side):
        return ""
    edge = 1.05 * max(r for side in radii for r in side if r < math.inf)
    a, b = (steps(side, edge) for side in radii)
    drawn = chart(
        Line(a), "certified fraction", top=1.0, name="Certified fraction against radius", beside=Line(b, name="B")
    )
    legend = note("Solid: A. Dashed: B. The radius ρ is in units of each smoother’s own noise.")
    return section("Certified fraction against radius", f"<figure>{drawn}</figure>{legend}")


def _rows(found: Comparison) -> str:
    what = "input" if found.of_classes else "prompt"
    rows = []
    for a, b in found.rows:
        name = words.count(a["true"]) if found.of_classes else escaped(a.get("prompt", "left out"))
        key = "l2_radius" if found.of_classes else "radius"
        radii = [float(row[key]) for row in (a, b)]
        apart = 0.0 if radii[0] == radii[1] else radii[0] - radii[1]
        bounds = [] if found.of_classes else [_bound(a), _bound(b)]
        rows.append(
            [
                words.count(a["row"]),
                name,
                status(a["status"]),
                status(b["status"]),
                *(PAGE.number(r, "down") for r in radii),
                _number(apart, sign=True),
                *bounds,
            ]
        )
    bounds = [] if found.of_classes else ["bound of A", "bound of B"]
    head = ["#", "label" if found.of_classes else what, "A", "B", "radius of A", "radius of B", "A − B", *bounds]
    return section(f"Every {what}", table(head, rows, text=(1,), plain=(2, 3), wide=True))


def _bound(row: Mapping[str, Any]) -> str:
    return "none" if row.get("bound") is None else PAGE.number(row["bound"], "up")


def _differing(found: Comparison) -> str:
    rows = [[escaped(name), *(escaped(_short(value)) for value in values)] for name, values in found.differing.items()]
    return table(["what differs", "A", "B"], rows, text=(1, 2))


def _short(value: Any) -> str:
    return "none" if value is None else str(value)


def _provenance(found: Comparison, names: Sequence[str], runs: Sequence[str]) -> str:
    settings = found.settings[0]
    shared = ("rho", "tolerance", "alpha", "n", "seed", "statistics", "images", "detector", "steps", "guidance")
    data = settings["data"]
    digest = data.get("sha256") or data.get("inputs_sha256")
    rows = [
        ("data set", f"{escaped(data['name'] or 'not named')}, {words.count(data['rows'])} rows"),
        ("SHA-256 of the data", code(digest)),
        *(
            (f"run {letter}", f"{escaped(name)} {code(run)}")
            for letter, name, run in zip("AB", names, runs, strict=True)
        ),
        ("options of both", escaped(", ".join(f"{name} = {settings[name]}" for name in shared if name in settings))),
    ]
    return facts(rows)
