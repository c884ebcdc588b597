"""The page of a run over a data set: `run_page`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from certify._text import escaped
from certify.certificate import words
from certify.certificate.words import PAGE
from certify.datasets import FRACTION_RHOS, RowOptions, RunRecord, certified_fraction, summary
from certify.report._charts import Line, chart
from certify.report._page import code, document, facts, header, section, shows, table
from certify.report._sections import COPY, not_covered, smoother_facts

__all__ = ["run_page"]


def run_page(run: RunRecord, *, folder: str = "FOLDER", digests: Mapping[str, str] | None = None) -> str:
    """A run over a data set as a page.

    Args:
        run: what `RunRecord.load` returned.
        folder: where it lies, as the reader is to type it.
        digests: SHA-256 of its files, by name.

    Returns:
        An HTML document, for a file in UTF-8.

    Raises:
        ValueError: its records or settings are damaged: they cannot be shown.
    """
    with shows(f"run in {folder!r}"):
        return _run_page(run, folder, digests or {})


def _run_page(run: RunRecord, folder: str, digests: Mapping[str, str]) -> str:
    settings, rows = run.settings, run.rows
    options = RowOptions(**{f.name: settings[f.name] for f in fields(RowOptions)})
    total, data = summary(rows, options), settings["data"]
    radii = [float(row["radius"]) for row in rows]
    policy = str(settings["smoother"]["policy"])
    within = words.tolerance(options.tolerance, PAGE)
    reached = sum(r >= options.rho for r in radii)
    over = len(rows) == data["rows"]
    left = (
        ""
        if over
        else f" The run is not over, or was limited: {len(rows):,} of {words.count(data['rows'])} prompts are done."
    )
    headline = (
        f"For {reached:,} of {len(rows):,} prompts ({PAGE.percent(reached / len(rows), 'down')}) and every perturbation δ with "
        f"‖δ‖_Σ ≤ {PAGE.number(options.rho, 'down')}, the smoothed text encoding stays within {within} of its reference, each "
        f"with confidence {PAGE.confidence(options.alpha)}.{left}"
    )
    tiles = [
        ("have a certified radius", f"{total['certified']:,} of {len(rows):,}"),
        ("average radius", PAGE.number(sum(radii) / len(radii), "down")),
        ("median radius", PAGE.number(sorted(radii)[(len(radii) - 1) // 2], "down")),
        ("confidence, each prompt", PAGE.confidence(options.alpha)),
    ]
    body = [
        header("Certified data set", str(data["name"]), headline, tiles),
        section(
            "How to read the confidence",
            f"<p>{words.each_prompt(options.alpha, total['expected_wrong'], PAGE)} {total['abstained']:,} prompts have no "
            f"certified radius and {total['refused']:,} were refused; they count with radius 0."
            + (f" {total['truncated']:,} did not fit into the context and were cut." if total["truncated"] else "")
            + "</p>",
        ),
        not_covered(
            policy,
            of_prompt=True,
            images=bool(options.images),
            deployed=any(other.get("q") is not None for row in rows for other in row.get("others", ())),
        ),
        _fractions(radii, options.rho, len(rows)),
        _prompts_table(run),
        _others_table(run),
        _check_run(run, folder),
        _run_provenance(run, digests),
    ]
    return document(f"Certified data set: {data['name']}", body)


def _fractions(radii: Sequence[float], rho: float, prompts: int) -> str:
    finite = [r for r in radii if 0 < r < math.inf]
    edge = 1.05 * max(finite) if finite else 1.0
    corners = sorted(set(finite))
    points, before = [(0.0, sum(r > 0 for r in radii) / prompts)], 0.0
    for corner in corners:
        share = sum(r >= corner for r in radii) / prompts
        points += [(before, share), (corner, share)]
        before = corner
    last = sum(r > before for r in radii) / prompts
    points += [(before, last), (edge, last)]
    picture = chart([Line(points)], "radius ρ", "certified fraction", top=1.0, name="Certified fraction against radius")
    rows = [
        [
            PAGE.number(at, "exact"),
            PAGE.percent(certified_fraction(radii, at), "down"),
            f"{sum(r >= at for r in radii):,}",
        ]
        for at in sorted({*FRACTION_RHOS, rho})
    ]
    # Behind the first radius that nothing reaches there is nothing to read.
    stop = next(
        (i for i, (at, _, _) in enumerate(rows) if not any(r >= sorted({*FRACTION_RHOS, rho})[i] for r in radii)),
        len(rows),
    )
    return section(
        "Certified fraction against radius",
        f"<figure>{picture}</figure>{table(['radius ρ', 'fraction', 'prompts'], rows[: stop + 1])}",
    )


def _prompts_table(run: RunRecord) -> str:
    rows = []
    for row in run.rows:
        state = (
            escaped(row["status"])
            if row["status"] == "certified"
            else f'<span class="bad">{escaped(row["status"])}</span>'
        )
        bound = row.get("bound")
        stick = words.removal(row.get("yardstick"))
        vacuous = "" if bound is None else words.vacuous(bound, stick, PAGE)
        rows.append(
            [
                words.count(row["row"]),
                escaped(row["prompt"]) if "prompt" in row else "left out",
                state,
                PAGE.number(float(row["radius"]), "down"),
                "" if row.get("tolerance") is None else PAGE.number(row["tolerance"], "up"),
                "none" if bound is None else f"{PAGE.number(bound, 'up')} {vacuous}",
                "" if stick is None else PAGE.number(stick, "near"),
                escaped(row.get("reason") or ""),
            ]
        )
    at = f"bound at ρ = {PAGE.number(run.settings['rho'], 'exact')}"
    head = ["#", "prompt", "status", "radius ρ", "within", at, "squared concept-removal distance", "reason"]
    return section("Every prompt", table(head, rows, text=(1, 7), wide=True, plain=(2,)))


def _others_table(run: RunRecord) -> str:
    rows = []
    for row in run.rows:
        for other in row.get("others", ()):
            value = other.get("value")
            certified = other["status"] == "certified"
            way = "down" if other["quantity"] == "radius" else "up"
            shown = "none" if not certified else "an interval each" if value is None else PAGE.number(float(value), way)
            rows.append(
                [
                    words.count(row["row"]),
                    f"{escaped(other['function'])} <small>{escaped(other['quantity'])}</small>",
                    shown,
                    PAGE.number(other["rho"], "down"),
                    "" if other.get("q") is None else PAGE.number(other["q"], "down"),
                    PAGE.failure(other["alpha"]),
                    words.count(other["n"]),
                    escaped(f"{other['theorem']}, {other['method']}"),
                    "certified" if certified else '<span class="bad">abstained</span>',
                ]
            )
    if not rows:
        return ""
    head = ["#", "about", "at most", "ρ", "q", "α", "draws", "proof", "status"]
    return section("The other claims of each prompt", table(head, rows, text=(1, 7), wide=True, plain=(8,)))


def _check_run(run: RunRecord, folder: str) -> str:
    parts = []
    if run.kept:
        hidden = " --prompt …" if run.settings.get("private") else ""
        lines = [f"certify check {shlex.quote(str(Path(folder) / where))}{hidden}" for where in run.kept.values()]
        listed = "\n".join(lines)
        parts.append(
            f"<p>Row by row, with the files and the model:</p><pre><code>{escaped(listed, isolate=False)}</code></pre>"
        )
    else:
        parts.append(
            "<p>The certificates were not kept (<code>--save-certificates</code>). The same <code>certify prompts</code> "
            "command with the settings below, into another folder, gives the same claims on the same kind of device; "
            "<code>certify prompt</code> certifies a single row anew.</p>"
        )
    parts.append(f"<p>{COPY}</p>")
    return section("How to check it again", "".join(parts))


def _run_provenance(run: RunRecord, digests: Mapping[str, str]) -> str:
    settings = run.settings
    data, model = settings["data"], settings["model"]
    rows = [
        ("data set", f"{escaped(data['name'])}, {words.count(data['rows'])} prompts"),
        *([("column of prompts", escaped(data["column"]))] if data.get("column") else []),
        ("SHA-256 of the data", "left out" if data["sha256"] is None else code(data["sha256"])),
        ("run", code(run.run)),
        ("seed", escaped(settings["seed"])),
        ("draws a prompt", words.count(settings["n"])),
        ("computed in", escaped(f"{settings['dtype']} on {settings['device']}")),
        ("version", escaped(f"certify {settings['version']}")),
    ]
    parts = model.items() if isinstance(model, Mapping) else [("the model", model)]
    rows += [(f"SHA-256 of {escaped(name)}", code(value)) for name, value in parts]
    rows += [(f"SHA-256 of {escaped(name)}", code(value)) for name, value in digests.items()]
    rows += smoother_facts(settings["smoother"])
    names = ("rho", "tolerance", "alpha", "statistics", "images", "detector", "steps", "guidance", "private")
    rows.append(("options", escaped(", ".join(f"{name} = {settings[name]}" for name in names))))
    return section("Where it comes from", facts(rows))
