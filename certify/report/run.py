"""The page of a run over a data set: `run_page`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from certify._text import escaped
from certify.certificate import words
from certify.certificate.words import PAGE
from certify.datasets import (
    FRACTION_RHOS,
    ClassifiedRun,
    RowOptions,
    RunRecord,
    certified_fraction,
    class_summary,
    length_unit,
    summary,
)
from certify.report._charts import Line, chart
from certify.report._page import code, document, facts, header, note, section, shows, status, table
from certify.report._sections import (
    COPY,
    claim_cells,
    claims_table,
    digest_facts,
    images_of,
    not_covered,
    smoother_facts,
)
from certify.report.examples import ExampleImages
from certify.statements.classify import right_radii

__all__ = ["run_page"]


def run_page(
    run: RunRecord,
    *,
    folder: str = "FOLDER",
    digests: Mapping[str, str] | None = None,
    examples: Mapping[int, ExampleImages] | None = None,
) -> str:
    """A run over a data set as a page.

    Args:
        run: what `RunRecord.load` returned.
        folder: where it lies, as the reader is to type it.
        digests: SHA-256 of its files, by name.
        examples: images of its prompts with and without the defence, by the numbers of their rows; None: none.

    Returns:
        An HTML document, for a file in UTF-8.

    Raises:
        ValueError: its records or settings are damaged: they cannot be shown.
    """
    with shows(f"run in {folder!r}"):
        return (
            _class_page(run, folder, digests or {})
            if run.of_classes
            else _run_page(run, folder, digests or {}, examples or {})
        )


def _run_page(run: RunRecord, folder: str, digests: Mapping[str, str], examples: Mapping[int, ExampleImages]) -> str:
    settings, rows = run.settings, run.rows
    options = RowOptions(**{f.name: settings[f.name] for f in fields(RowOptions)})
    total, data = summary(rows, options), settings["data"]
    radii = [float(row["radius"]) for row in rows]
    policy = str(settings["smoother"]["policy"])
    within = words.tolerance(options.tolerance, PAGE)
    reached = sum(r >= options.rho for r in radii)
    deployed = any(other.get("q") is not None for row in rows for other in row.get("others", ()))
    left = ""
    if len(rows) != data["rows"]:
        left = f" The run is not over, or was limited: {len(rows):,} of {words.count(data['rows'])} prompts are done."
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
    confidence = (
        f"{words.each_prompt(options.alpha, total['expected_wrong'], PAGE)} {total['abstained']:,} prompts have no certified "
        f"radius and {total['refused']:,} were refused; they count with radius 0."
        + (f" {total['truncated']:,} did not fit into the context and were cut." if total["truncated"] else "")
    )
    body = [
        header("Certified data set", str(data["name"]), headline, tiles),
        section("How to read the confidence", f"<p>{confidence}</p>"),
        not_covered(words.not_covered(policy, of_prompt=True, images=bool(options.images), deployed=deployed)),
        _fractions(radii, {*FRACTION_RHOS, options.rho}, "certified fraction", "prompts"),
        _rates(run),
        _cards(run, folder, examples),
        _prompts_table(run),
        _others_table(run),
        _check_run(run, folder),
        _run_provenance(run, digests),
    ]
    return document(f"Certified data set: {data['name']}", body)


def _class_page(run: RunRecord, folder: str, digests: Mapping[str, str]) -> str:
    settings, classified = run.settings, ClassifiedRun.of(run)
    total, data = class_summary(classified), settings["data"]
    radii = [radius or 0.0 for radius in right_radii(classified.decisions, classified.labels, "rho")]
    right, inputs = total["right"], len(radii)
    name = str(data["name"] or "inputs of a classifier")
    left = ""
    if inputs != data["rows"]:
        left = f" The run is not over, or was limited: {inputs:,} of {words.count(data['rows'])} inputs are done."
    headline = (
        f"{right:,} of {inputs:,} inputs ({PAGE.percent(right / inputs, 'down')}) are certified with the right class: for "
        "every perturbation up to the radius of an input more than half of all its noisy copies are given that class, "
        f"each with confidence {PAGE.confidence(settings['alpha'])}.{left}"
    )
    tiles = [
        ("rightly certified", f"{right:,} of {inputs:,}"),
        ("abstained", f"{total['abstained']:,}"),
        ("average radius ρ", PAGE.number(float(total["average_certified_radius"]), "down")),
        ("confidence, each input", PAGE.confidence(settings["alpha"])),
    ]
    confidence = (
        f"{words.each_prompt(settings['alpha'], total['expected_wrong'], PAGE, what='input')} {total['abstained']:,} inputs "
        f"abstain and {total['certified'] - right:,} are certified with another class than their label; they count as wrong at "
        "every radius."
    )
    again = (
        "<p>The same <code>certify classify</code> command with the settings below, into another folder, gives the same "
        "answers on the same kind of device; <code>certify.classify</code> with the seed of its line does so for one "
        f"input.</p><p>{COPY}</p>"
    )
    body = [
        header("Certified data set", name, headline, tiles),
        section("How to read the confidence", f"<p>{confidence}</p>"),
        not_covered(list(words.NOT_COVERED_BY_CLASSES)),
        _fractions(radii, FRACTION_RHOS, "certified accuracy", "inputs", length_unit(settings["noise"])),
        _inputs_table(classified),
        section("How to check it again", again),
        _class_provenance(run, digests),
    ]
    return document(f"Certified data set: {name}", body)


def _inputs_table(run: ClassifiedRun) -> str:
    rows = [
        [
            words.count(row.row),
            words.count(row.true),
            "abstains" if row.label is None else words.count(row.label),
            status(row.status),
            PAGE.number(row.rho, "down"),
            PAGE.number(row.radius, "down"),
            f"{words.count(row.successes)} of {words.count(row.n)}",
            escaped(row.reason),
        ]
        for row in run.decisions
    ]
    head = ["#", "label", "certified class", "status", "radius ρ", "ℓ2 radius", "draws of its class", "reason"]
    return section("Every input", table(head, rows, text=(7,), wide=True, plain=(3,)))


def _class_provenance(run: RunRecord, digests: Mapping[str, str]) -> str:
    settings, data = run.settings, run.settings["data"]
    noise = settings["noise"]
    rows = [
        ("data set", f"{escaped(data['name'] or 'not named')}, {words.count(data['rows'])} inputs"),
        ("SHA-256 of the inputs", code(data["inputs_sha256"])),
        ("SHA-256 of the labels", code(data["labels_sha256"])),
        ("run", code(run.run)),
        ("noise", escaped(f"{noise['kind']}({'a scale a coordinate' if noise['value'] is None else noise['value']})")),
        ("seed", escaped(settings["seed"])),
        ("draws an input", f"{words.count(settings['n'])}, after {words.count(settings['n0'])} pilot draws"),
        ("computed in", escaped(f"{settings['dtype']} on {settings['device']}")),
        ("version", escaped(f"certify {settings['version']}")),
        *digest_facts({} if settings["model"] is None else {"the classifier": settings["model"]}),
        *digest_facts(digests),
    ]
    names = ("alpha", "stop_at", "classes", "function", "policy")
    rows.append(("options", escaped(", ".join(f"{name} = {settings[name]}" for name in names))))
    return section("Where it comes from", facts(rows))


def steps(radii: Sequence[float], edge: float) -> list[tuple[float, float]]:
    """The corners of the share of rows with at least a radius, as a line over the radius up to `edge`."""
    points, before = [], 0.0
    for corner in [*sorted({r for r in radii if 0 < r < edge}), edge]:
        reached = sum(r >= corner for r in radii) / len(radii)
        points += [(before, reached), (corner, reached)]
        before = corner
    return points


def _fractions(radii: Sequence[float], rhos: Collection[float], share: str, of: str, unit: float | None = None) -> str:
    """The share of rows with at least a radius, against the radius, and in a table; `unit`: how long ρ = 1 is, if known."""
    finite = [r for r in radii if 0 < r < math.inf]
    title = share.capitalize()
    drawn = chart(
        Line(steps(radii, 1.05 * max(finite) if finite else 1.0)), share, top=1.0, name=f"{title} against radius"
    )
    rows = []
    for at in sorted(rhos):
        count = sum(r >= at for r in radii)
        fraction = PAGE.percent(certified_fraction(radii, at), "down")
        length = [] if unit is None else [PAGE.number(unit * at, "down")]
        rows.append([PAGE.number(at, "exact"), *length, fraction, f"{count:,}"])
        if not count:  # behind the first radius that nothing reaches there is nothing to read
            break
    head = ["radius ρ", *([] if unit is None else ["length"]), share.split()[-1], of]
    return section(f"{title} against radius", f"<figure>{drawn}</figure>{table(head, rows)}")


def _rates(run: RunRecord) -> str:
    """Certified rates, on average over the prompts."""
    found: dict[tuple[str, float], list[float]] = {}
    for row in run.rows:
        for claim in _events(row):
            values = found.setdefault((str(claim["function"]), float(claim["rho"])), [])
            if claim["status"] == "certified":
                values.append(float(claim["value"]))
    total = len(run.rows)
    rows = [
        [
            escaped(function),
            PAGE.number(rho, "down"),
            f"{len(values):,} of {total:,}",
            PAGE.percent((sum(values) + total - len(values)) / total, "up"),
            PAGE.percent(max(values), "up") if len(values) == total else PAGE.percent(1.0, "up"),
        ]
        for (function, rho), values in found.items()
    ]
    if not rows:
        return ""
    legend = (
        "Each prompt has a bound of its own; this is their mean, and their largest. A prompt without one counts with "
        "100 %. Where all the bounds hold, the rate itself, averaged over these prompts, is at most their mean."
    )
    head = ["event", "ρ", "prompts with a bound", "mean bound", "largest bound"]
    return section("Certified rates", table(head, rows) + note(legend))


def _events(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [claim for claim in row.get("others", ()) if claim["quantity"] == "event"]


def _cards(run: RunRecord, folder: str, examples: Mapping[int, ExampleImages]) -> str:
    """Every prompt with its images and its rate, where there are images."""
    if not examples:
        return ""
    cards = []
    for row in run.rows:
        number = row["row"]
        said = [
            f"{escaped(claim['function'])}: "
            + (
                f"at most {PAGE.strong(PAGE.percent(claim['value'], 'up'))} at ρ = {PAGE.number(claim['rho'], 'down')}, "
                f"with confidence {PAGE.confidence(claim['alpha'])}"
                if claim["status"] == "certified"
                else f"{status(claim['status'])} at ρ = {PAGE.number(claim['rho'], 'down')}"
            )
            for claim in _events(row)
        ]
        radius = float(row["radius"])
        said.append(f"radius {PAGE.strong(PAGE.number(radius, 'down'))}" if radius > 0 else status(row["status"]))
        where = run.certificates.get(number)
        kept = "" if where is None else f"<br>{code(Path(folder) / where)}"
        pictures = images_of(examples[number]) if number in examples else note("no images")
        prompt = escaped(row["prompt"]) if "prompt" in row else "a prompt left out"
        cards.append(
            f"<article><h3>{words.count(number)}. {prompt}</h3>{pictures}<p>{'<br>'.join(said)}{kept}</p></article>"
        )
    shown = f'<div class="cards">{"".join(cards)}</div>'
    legend = note(
        "On the left, or above: undefended. On the right, or below: defended, from the same initial noise. Examples, not "
        "claims: no image here is certified."
    )
    return section("Prompts with and without the defence", shown + legend)


def _prompts_table(run: RunRecord) -> str:
    rows = []
    for row in run.rows:
        bound, distance = row.get("bound"), words.removal(row.get("yardstick"))
        rows.append(
            [
                words.count(row["row"]),
                escaped(row["prompt"]) if "prompt" in row else "left out",
                status(row["status"]),
                PAGE.number(float(row["radius"]), "down"),
                "" if row.get("tolerance") is None else PAGE.number(row["tolerance"], "up"),
                "none" if bound is None else f"{PAGE.number(bound, 'up')} {words.vacuous(bound, distance, PAGE)}",
                "" if distance is None else PAGE.number(distance, "near"),
                escaped(row.get("reason") or ""),
            ]
        )
    at = f"bound at ρ = {PAGE.number(run.settings['rho'], 'exact')}"
    head = ["#", "prompt", "status", "radius ρ", "within", at, "squared concept-removal distance", "reason"]
    return section("Every prompt", table(head, rows, text=(1, 7), wide=True, plain=(2,)))


_UNSAID: Mapping[str, Any] = {"side": "upper", "scope": "single", "lower": None, "value": None, "q": None, "unit": ""}
"""What a row leaves out of a claim."""


def _others_table(run: RunRecord) -> str:
    others = [(row["row"], other) for row in run.rows for other in row.get("others", ())]
    rows = []
    for row, other in others:
        claim: Any = SimpleNamespace(**{**_UNSAID, **other})
        rows.append([words.count(row), words.named(claim, PAGE), *claim_cells(claim)])
    return section("The other claims of each prompt", claims_table(rows)) if rows else ""


def _check_run(run: RunRecord, folder: str) -> str:
    if run.certificates:
        hidden = " --prompt …" if run.settings.get("private") else ""
        lines = [
            f"certify check {shlex.quote(str(Path(folder) / where))}{hidden}" for where in run.certificates.values()
        ]
        commands = escaped("\n".join(lines), isolate=False)
        how = f"<p>Row by row, with the files and the model:</p><pre><code>{commands}</code></pre>"
    else:
        how = (
            "<p>The certificates were not kept (<code>--save-certificates</code>). The same <code>certify prompts</code> "
            "command with the settings below, into another folder, gives the same claims on the same kind of device; "
            "<code>certify prompt</code> certifies a single row anew.</p>"
        )
    return section("How to check it again", f"{how}<p>{COPY}</p>")


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
    rows += digest_facts(model if isinstance(model, Mapping) else {"the model": model})
    rows += [*digest_facts(digests), *smoother_facts(settings["smoother"])]
    names = ("rho", "tolerance", "alpha", "statistics", "images", "detector", "steps", "guidance", "private")
    rows.append(("options", escaped(", ".join(f"{name} = {settings[name]}" for name in names))))
    return section("Where it comes from", facts(rows))
