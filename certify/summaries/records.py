"""Summaries: a record as a sentence and a small table, as text and as HTML for notebooks.

A summary says the claim in one sentence, then what it rests on. A record that claims nothing says so first, and why. What one
shows of a tensor is its shape or its extremes, never its entries, and no list is longer than `ROWS`.

**HTML.** No script, no style sheet, nothing loaded: styles stand in the tags, take the notebook's own letters and colours, and
tint the background with transparent ones, so that they can be read on light and dark paper, and without any style at all.
Names, prompts and tokens are escaped (`certify._text.escaped`).

A record shows itself through `certify._records.Shown`; what its summary holds is said here, under its class. Sentences about
claims are those of `certify.certificate.words`.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch

from certify._records import brief
from certify._text import cleaned, confidence, escaped, failure, percent, shown, spelled
from certify.adaptive.certification import Yardstick
from certify.adaptive.coverage import Neighbour, PositionCoverage, PromptCoverage
from certify.adaptive.memory import Issued
from certify.adaptive.token_noise import TokenNoise
from certify.bounds.copies import EventBound, StatisticBound
from certify.bounds.deployed_distance import DeployedBound
from certify.bounds.mse import BoundCurve, MSEBound
from certify.bounds.percentile import PercentileBounds
from certify.bounds.radius import CertifiedRadius
from certify.bounds.rates import RateOver
from certify.certificate import words
from certify.certificate.certificate import (
    Certificate,
    CheckReport,
    Claim,
    ClaimedCurve,
    ClaimedEvent,
    Verdict,
    claim_of,
)
from certify.certificate.words import NOT_COVERED
from certify.images.statistics import MeasuredRate
from certify.noise import CrossPolytope, Ellipsoid, GaussianNoise
from certify.plots.colours import opacity, shares
from certify.statements.decide import Decision
from certify.statements.plan import Plan
from certify.support import Support

__all__ = ["Summary", "Table", "as_html", "as_text", "summary"]

ROWS = 24
"""Rows of a table that are shown."""

_LETTERS = 600  # of a sentence or a cell
_REASONS = 3  # why a certificate's claims abstain, in words
_TINTS = {"good": "0,158,115,.25", "bad": "213,94,0,.30", "quiet": "127,127,127,.22"}
_LINE = "1px solid rgba(127,127,127,.3)"


@dataclass(frozen=True)
class Table:
    """Rows of words: the first column and those named in `words` stand to the left, numbers to the right.

    Attributes:
        head: names of the columns.
        rows: as many words each.
        words: columns, from 0, that hold words.
        tints: for each row the share of `certify.plots.colours`' scale behind its last column; empty: none.
        title: above it.
    """

    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    words: tuple[int, ...] = ()
    tints: Sequence[float | None] = ()
    title: str = ""


@dataclass(frozen=True)
class Summary:
    """What is shown of a record, in plain words.

    Attributes:
        kind: what it is.
        sentence: what it says.
        mark: a word or two on its status, "" for none, and how it is tinted: "good", "bad" or "quiet".
        facts: name and value.
        tokens: text, words below it, and the share of the colour scale behind it.
        tables: below the facts.
        notes: sentences at the end.
        figure: draws a `certify.plots.style.Picture`, where matplotlib is there.
    """

    kind: str
    sentence: str
    mark: tuple[str, str] = ("", "quiet")
    facts: Sequence[tuple[str, str]] = ()
    tokens: Sequence[tuple[str, str, float | None]] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    figure: Callable[[], Any] | None = None


@singledispatch
def summary(record: Any) -> Summary:
    """The summary of a record.

    Raises:
        TypeError: there is none for its class.
    """
    raise TypeError(f"record is a {type(record).__name__}: there is no summary of it in certify.summaries.records")


def as_text(record: Any) -> str:
    """The summary of a record in plain words."""
    made = summary(record)
    lines = [_cut(made.sentence)]
    if made.mark[0] not in ("certified", "no claim") and made.mark[0].lower() not in made.sentence.lower():
        lines[0] = f"{made.mark[0].capitalize()}. {lines[0]}"
    width = max((len(name) for name, _ in made.facts), default=0)
    lines += [f"  {name:<{width}}  {_cut(value)}" for name, value in made.facts]
    for table in made.tables:
        rows = [table.head, *([_cut(c) for c in row] for row in table.rows[:ROWS])]
        widths = [max(len(row[i]) for row in rows) for i in range(len(table.head))]
        left = {0, *table.words}
        if table.title:
            lines.append(f"  {table.title}")
        for row in rows:
            cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            lines.append(("  " + "  ".join(cells)).rstrip())
        if rest := len(table.rows) - ROWS:
            lines += [f"  … and {rest:,} more"] if rest > 0 else []
    return cleaned("\n".join([*lines, *made.notes]))


def as_html(record: Any) -> str:
    """The summary of a record as a piece of a page."""
    made = summary(record)
    badge = _badge(*made.mark) if made.mark[0] else ""
    rule = "rgba(213,94,0,.8)" if made.mark[1] == "bad" else "rgba(0,114,178,.8)"
    parts = [
        f'<div style="margin-bottom:.3em"><span style="opacity:.75">{_e(made.kind)}</span>{badge}</div>',
        f'<div style="border-left:3px solid {rule};padding-left:.7em">{_e(made.sentence)}</div>',
    ]
    if made.tokens:
        parts.append(f'<div style="margin-top:.6em;line-height:1.2">{"".join(map(_chip, made.tokens))}</div>')
    if made.facts:
        rows = "".join(f"<tr>{_cell(name, soft=True)}{_cell(value)}</tr>" for name, value in made.facts)
        parts.append(_html_table(rows))
    parts += [_as_rows(table) for table in made.tables]
    parts += [f'<div style="opacity:.75;margin-top:.5em">{_e(note)}</div>' for note in made.notes]
    if made.figure is not None:
        parts.append(_embedded(made.figure))
    return f'<div class="certify-summary" style="max-width:52em;line-height:1.45;margin:.2em 0">{"".join(parts)}</div>'


def _e(value: str) -> str:
    return escaped(_cut(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"


def _badge(words: str, mood: str) -> str:
    style = f"background:rgba({_TINTS[mood]});border-radius:.3em;padding:.05em .5em;margin-left:.7em;font-weight:600"
    return f'<span style="{style}">{_e(words)}</span>'


def _chip(token: tuple[str, str, float | None]) -> str:
    text, below, share = token
    tint = f"background:rgba(213,94,0,{opacity(share):.2f});border:{_LINE};border-radius:.35em;padding:.1em .45em"
    return (
        '<span style="display:inline-block;text-align:center;margin:0 .6em .35em 0;vertical-align:top">'
        f'<span style="display:inline-block;{tint}">{_e(text)}</span><br>'
        f'<span style="opacity:.75;font-size:.8em">{_e(below)}</span></span>'
    )


def _cell(text: str, *, tag: str = "td", number: bool = False, soft: bool = False, tint: str = "") -> str:
    style = f"text-align:{'right' if number else 'left'};vertical-align:top;padding:.15em .9em .15em 0;border-bottom:{_LINE}"
    # A tinted cell needs room on both of its sides.
    style += f";background:{tint};padding-left:.5em" if tint else ";background:none"
    style += ";white-space:nowrap" if number or soft else ""
    style += ";opacity:.75;font-weight:400" if soft else ""
    return f'<{tag} style="{style}">{_e(text)}</{tag}>'


def _html_table(rows: str) -> str:
    style = "border-collapse:collapse;margin:.6em 0 0;border:none;font-size:1em;font-variant-numeric:tabular-nums"
    return f'<table class="certify-summary" style="{style}"><tbody>{rows}</tbody></table>'


def _as_rows(table: Table) -> str:
    left = {0, *table.words}
    head = "".join(_cell(name, tag="th", number=i not in left, soft=True) for i, name in enumerate(table.head))
    rows = [f"<tr>{head}</tr>"]
    for k, row in enumerate(table.rows[:ROWS]):
        share = table.tints[k] if k < len(table.tints) else None
        tint = f"rgba(213,94,0,{opacity(share):.2f})" if share is not None else ""
        last = len(row) - 1
        cells = (_cell(c, number=i not in left, tint=tint if i == last else "") for i, c in enumerate(row))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    if len(table.rows) > ROWS:
        rows.append(f'<tr><td colspan="{len(table.head)}">… and {len(table.rows) - ROWS:,} more</td></tr>')
    title = f'<div style="margin-top:.6em">{_e(table.title)}</div>' if table.title else ""
    return title + _html_table("".join(rows))


def _embedded(figure: Callable[[], Any]) -> str:
    if importlib.util.find_spec("matplotlib") is None:
        return ""
    file = io.BytesIO()
    figure().savefig(file, format="png")
    data = base64.b64encode(file.getvalue()).decode()
    style = "max-width:100%;width:24em;margin-top:.7em;border-radius:.3em"
    return f'<br><img alt="the same as a figure" style="{style}" src="data:image/png;base64,{data}">'


# Claims: results of draws, and what certificates keep of them


@summary.register(MSEBound)
@summary.register(DeployedBound)
@summary.register(StatisticBound)
def _of_result(result: Any) -> Summary:
    """Of a bound: its claim, where its draws come from, and what else was considered."""
    claim, run = claim_of(result), result.run
    facts = [*_of_bound(claim), ("draws", f"{result.n:,}, seed {run.seed}{_pilot(run)}")]
    considered = getattr(result, "considered", {})
    if considered:
        what = "radii" if claim.quantity == "radius" else "values"
        listed = ", ".join(f"{name} {_near(value, 4)}" for name, value in considered.items())
        facts.append((f"guessed {what}", f"{listed}; from pilot draws, to choose the method"))
    facts.append(("noise", f"{brief(run.noise)} on {brief(run.y)}"))
    return Summary(
        f"claim: {words.named(claim)}", words.with_confidence(claim, size=run.noise.size), _mark(claim), facts
    )


@summary.register(Claim)
def _of_claim(claim: Any) -> Summary:
    facts = [*_of_bound(claim), ("draws", f"{claim.n:,}"), ("covariance policy", claim.policy)]
    return Summary(f"claim: {words.named(claim)}", claim.sentence, _mark(claim), facts, notes=(claim.not_covered,))


def _mark(claim: Any) -> tuple[str, str]:
    return ("certified", "good") if claim.status == "certified" else ("no claim", "bad")


def _of_bound(claim: Any) -> list[tuple[str, str]]:
    """What is said of every claim, be it one or not."""
    facts = [("value", words.value(claim))] if claim.quantity != "radius" else []
    facts.append(("radius ρ", shown(claim.rho, "down")))
    if claim.q is not None:
        facts.append(("probability q", f"{shown(claim.q, 'down')}, over the deployment noise"))
    if claim.status == "certified":
        early = ", wherever drawing ended" if claim.scope == "stopped early" else ""
        facts.append(("confidence", f"{confidence(claim.alpha)} (α = {failure(claim.alpha)}){early}"))
    facts.append(("proof", words.proof(claim)))
    if about := words.details(claim):
        facts.append(("about", about))
    return facts


def _pilot(run: Any) -> str:
    return f"; {run.pilot:,} pilot draws before" if run.pilot else ""


def _near(value: float, digits: int = 6) -> str:
    return shown(float(value), "near", digits)


@summary.register(PercentileBounds)
def _of_percentiles(result: Any) -> Summary:
    made = _of_result(result)
    low, high = (t.detach().to("cpu", torch.float64).flatten() for t in (result.lower, result.upper))
    known = torch.isfinite(low) & torch.isfinite(high)
    widths = (high - low)[known]
    facts = list(made.facts)
    if len(widths):
        facts.insert(
            0,
            ("width of intervals", f"{shown(float(widths.min()), 'down', 4)} … {shown(float(widths.max()), 'up', 4)}"),
        )
    if not bool(known.all()):
        facts.insert(0, ("without an interval", f"{int((~known).sum()):,} of {len(known):,} outputs"))
    tables = []
    if len(low) <= 8 and bool(known.any()):
        rows = [
            (str(i), shown(float(a), "down", 6), shown(float(b), "up", 6))
            for i, (a, b) in enumerate(zip(low, high, strict=True))
        ]
        tables.append(Table(("output", "at least", "at most"), rows))
    return Summary(made.kind, made.sentence, made.mark, facts, tables=tables)


@summary.register(CertifiedRadius)
def _of_radius(result: Any) -> Summary:
    made = _of_result(result)
    if result.status != "certified":
        return made
    facts = [*made.facts, *_sizes(result.ellipsoid)]
    return Summary(made.kind, made.sentence, made.mark, facts)


@summary.register(EventBound)
def _of_event(result: Any) -> Summary:
    made = _of_result(result)
    seen = ("seen", f"{result.successes:,} times in {result.n:,} draws without perturbation")
    return Summary(made.kind, made.sentence, made.mark, [seen, *made.facts], tables=[_rates(result, result.rho)])


@summary.register(ClaimedEvent)
def _of_claimed_event(event: Any) -> Summary:
    made = _of_claim(event.claim)
    return Summary(
        made.kind, made.sentence, made.mark, made.facts, tables=[_rates(event, event.claim.rho)], notes=made.notes
    )


def _rates(event: Any, rho: float) -> Table:
    return Table(("ρ", "at most"), words.rates(event, rho), title="at every radius at once, from the same count:")


@summary.register(BoundCurve)
@summary.register(ClaimedCurve)
def _of_curve(curve: Any) -> Summary:
    claims = [p if isinstance(p, Claim) else claim_of(p) for p in curve.points]
    first, silent = claims[0], sum(c.status != "certified" for c in claims)
    size = getattr(getattr(curve.points[0], "run", None), "noise", GaussianNoise(1.0)).size
    sentence = (
        f"For every perturbation δ with {size} ≤ ρ, the {first.smoother}-smoothed {words.without_article(first.function)} "
        f"stays within this squared distance of {words.reference(first)}. "
        f"{words.together(curve.simultaneous, curve.alpha, curve.n, len(claims))}"
    )
    rows = [
        (shown(c.rho, "down"), shown(float(c.value or 0.0), "up"), words.proof(c))
        if c.status == "certified"
        else (shown(c.rho, "down"), "no bound", c.reason)
        for c in claims
    ]
    mark = ("certified", "good") if not silent else (f"no bound at {silent} of {len(claims)} radii", "bad")

    def figure() -> Any:
        from certify import plots

        return plots.plot_curve(curve, width=3.4)

    return Summary("bound curve", sentence, mark, tables=[Table(("ρ", "at most", "proof"), rows, (2,))], figure=figure)


@summary.register(RateOver)
def _of_rate(rate: Any) -> Summary:
    facts = [
        (
            "seen",
            f"{rate.successes:,} times in {rate.n:,} draws, each at a prompt chosen at random, without perturbation",
        ),
        ("confidence", f"{confidence(rate.alpha)}, all radii at once"),
        ("proof", f"{words.proof(rate)}, {words.copies(rate.replicas)}"),
    ]
    rows = [
        (shown(r, "exact"), percent(rate.least(r), "down"), words.probability(rate.at(r)))
        for r in sorted({0.0, *rate.rhos})
    ]
    table = Table(("ρ", "at least", "at most"), rows)
    if not rate.two_sided:
        table = Table(("ρ", "at most"), [(rho, most) for rho, _, most in rows])
    certified = any(rate.at(r) < 1 for r in rate.rhos)
    mark = ("certified", "good") if certified else ("no bound at these radii", "bad")
    return Summary("bound of an average probability", words.capital(str(rate)), mark, facts, tables=[table])


@summary.register(MeasuredRate)
def _of_measured(rate: Any) -> Summary:
    facts = [
        (
            "interval",
            f"{percent(rate.lower, 'down')} … {percent(rate.upper, 'up')} at confidence {confidence(rate.alpha)}",
        )
    ]
    return Summary("measured rate", words.capital(str(rate)), ("not certified", "quiet"), facts)


@summary.register(Decision)
def _of_decision(decision: Any) -> Summary:
    sentence = f"{words.question(decision)} {decision.decided.capitalize()}."
    if decision.reason:
        sentence += f" {words.capital(decision.reason)}"
    if caveat := words.caveat(decision):
        sentence += f" {caveat}"
    saved = percent(decision.saved / decision.maximum, "down")
    facts = [
        ("draws", f"{decision.drawn:,} of at most {decision.maximum:,}: {saved} saved"),
        ("confidence", f"{confidence(decision.alpha)}, wherever drawing ended"),
        ("proof", words.proof(decision)),
    ]
    if decision.successes is not None:
        facts.append(("seen", words.tally(decision)))
    mood = {"yes": "good", "no": "bad"}.get(decision.decided, "quiet")
    return Summary("decision", sentence, (decision.decided, mood), facts)


@summary.register(Plan)
def _of_plan(plan: Any) -> Summary:
    facts = [("draws", f"{plan.n:,}"), ("radius ρ", shown(plan.rho, "down", 4)), ("outputs", f"{plan.outputs:,}")]
    facts += [("confidence", confidence(plan.alpha)), ("noisy copies", str(plan.replicas))]
    return Summary("plan", words.capital(str(plan)), facts=facts)


# Sets of perturbations, supports, yardsticks


@summary.register(Ellipsoid)
@summary.register(CrossPolytope)
def _of_region(region: Any) -> Summary:
    name = "an ellipsoid" if type(region).__name__ == "Ellipsoid" else "a cross-polytope"
    total = region.semi_axes.numel()
    sentence = (
        f"The certified set {{δ : ‖δ‖ ≤ {shown(region.rho, 'down', 6)}}}, in units of the noise: {name} over "
        f"{region.dimensions:,} of {total:,} coordinates."
    )
    if region.rho == 0:
        sentence = (
            f"Nothing but δ = 0 is certified: ρ = 0, over {region.dimensions:,} of {total:,} coordinates with noise."
        )
    return Summary("certified set", sentence, ("", "quiet"), _sizes(region))


def _sizes(region: Any) -> list[tuple[str, str]]:
    axes = region.semi_axes[region.semi_axes > 0]
    balls = ", ".join(
        f"{norm} {shown(ball, 'down', 4)}"
        for norm, ball in (("ℓ1", region.l1_ball), ("ℓ2", region.l2_ball), ("ℓ∞", region.linf_ball))
    )
    facts = [("largest balls inside", balls)]
    if len(axes):
        ends = f"{shown(float(axes.min()), 'down', 4)} … {shown(float(axes.max()), 'down', 4)}"
        facts.append(("semi-axes", f"{ends} along {region.dimensions:,} coordinates with noise"))
        facts.append(("ball of equal volume", f"{shown(region.proxy_radius, 'down', 4)}, an ℓ2 radius"))
    return facts


@summary.register(Support)
def _of_support(support: Any) -> Summary:
    low, high = float(support.lower.min()), float(support.upper.max())
    sentence = f"Every value of the function lies in [{shown(low, 'down', 4)}, {shown(high, 'up', 4)}]"
    facts = [("limits", f"{brief(support.lower)} each; known without a draw")]
    if support.gain is not None:
        width = support.gain.numel()
        sentence += f", and every row of {width:,} in an ellipsoid"
        ends = f"{_near(support.gain.min(), 4)} … {_near(support.gain.max(), 4)}"
        facts.append(("ellipsoid", f"Σ ((h − β)/γ)² ≤ {width:,} with |γ| in {ends}"))
    return Summary("a-priori support", f"{sentence}.", facts=facts)


@summary.register(Yardstick)
def _of_yardstick(stick: Any) -> Summary:
    sentence = words.removed({"distance": stick.distance, "word": stick.word})
    return Summary("concept-removal distance", sentence, ("measured, not certified", "quiet"))


# Prompts and tokens


@summary.register(TokenNoise)
def _of_token_noise(noise: Any) -> Summary:
    words = [i for i, kind in enumerate(noise.kinds) if kind == "word"]
    named = ", ".join(dict.fromkeys(c for c in noise.concept if c))
    rows = noise.rows()
    tints = shares([noise.sigma[i] for i in range(len(rows))], log=True)
    most = max(words, key=lambda i: noise.relevance[i] or 0.0) if words else None
    sentence = f"Noise σ for {len(words)} word tokens, by their relevance to {named or 'the concept'}"
    if most is not None:
        sentence += f"; most for “{spelled(noise.tokens[most])}”: {_near(noise.sigma[most], 4)}"
    table = Table(("token", "kind", "relevance", "concept", "σ"), rows, (1, 3), tints)
    return Summary("noise of a prompt’s tokens", f"{sentence}.", tokens=_chips(noise, words), tables=[table])


def _chips(noise: Any, positions: Iterable[int]) -> list[tuple[str, str, float | None]]:
    tints = shares(list(noise.sigma), log=True)
    return [(spelled(noise.tokens[i]), f"σ {_near(noise.sigma[i], 3)}", tints[i]) for i in positions]


@summary.register(PositionCoverage)
def _of_position(position: Any) -> Summary:
    sentence = words.covered_token(spelled(position.token), position.covered, position.comparable)
    mark = ("partly covered", "quiet") if position.covered else ("not covered", "bad")
    if position.fully_covered:
        mark = ("fully covered", "good")
    facts = [("radius ρ", shown(position.rho, "down")), ("noise σ", _near(position.sigma, 4))]
    if position.nearest is not None:
        facts.append(("nearest token", words.reached(position.nearest.token, position.nearest.distance)))
    if position.farthest is not None:
        facts.append(("all are covered at", f"ρ = {shown(position.farthest, 'up', 4)}"))
    if position.uncovered:
        facts.append(
            ("not covered, nearest first", ", ".join(words.reached(u.token, u.distance) for u in position.uncovered))
        )
    return Summary("what a radius covers at one token", sentence, mark, facts)


@summary.register(Neighbour)
def _of_neighbour(neighbour: Any) -> Summary:
    return Summary("a token of the vocabulary", f"{words.reached(neighbour.token, neighbour.distance)}.")


@summary.register(PromptCoverage)
def _of_prompt_coverage(found: Any) -> Summary:
    said = words.covered_prompt(found.distance, found.covered, found.reason)
    mark = ("covered", "good") if found.covered else ("not covered", "bad")
    return Summary("another prompt", f"“{found.prompt}” is {said}.", mark)


@summary.register(Issued)
def _of_issued(issued: Any) -> Summary:
    if issued.rho == 0:
        sentence = "Nothing may be claimed here: there is no room beside the regions that are stored."
        return Summary("claim of a memory", sentence, (issued.status, "bad"))
    sentence = f"Up to ρ = {shown(issued.rho, 'down', 6)} every query is smoothed with the noise of one region."
    facts = [("radius asked for", f"ρ = {shown(issued.asked, 'exact')}"), ("noise", brief(issued.noise))]
    return Summary("claim of a memory", sentence, (issued.status, "good"), facts)


# Certificates and checks


@summary.register(Certificate)
def _of_certificate(certificate: Any) -> Summary:
    claims, record = certificate.claims, certificate.provenance
    main, silent = certificate.main, sum(c.status != "certified" for c in certificate.claims)
    prompt = record.get("prompt")
    facts = [("prompt", f"“{prompt}”")] if isinstance(prompt, str) else []
    facts += [
        ("all claims together", f"confidence {confidence(certificate.alpha)}"),
        ("claims made", f"{len(claims) - silent} of {len(claims)}"),
        ("covariance policy", claims[0].policy),
    ]
    single = [c for c in claims if c.scope not in ("pointwise", "simultaneous")]
    rows = [_claim_row(c) for c in single]
    curve = certificate.curve
    if curve is not None:
        known = [v for v in curve.values if math.isfinite(v)]
        ends = f"{shown(min(known), 'up', 4)} … {shown(max(known), 'up', 4)}" if known else "no bound"
        radii = f"{shown(curve.rhos[0], 'exact')} … {shown(curve.rhos[-1], 'exact')}"
        rows.append((f"curve, {curve.points[0].function}, {len(curve.rhos)} radii", radii, ends, curve.theorem))
    table = Table(("claim", "ρ", "bound", "proof"), rows, (3,))
    mark = ("no claim", "bad") if silent == len(claims) else ("certified", "good")
    if 0 < silent < len(claims):
        mark = (f"certified, but for {silent} of {len(claims)} claims", "quiet")
    reasons = [words.sentence(c) for c in claims if c.status != "certified" and c is not main]
    compared, beside = words.compared(certificate, main), words.beside(certificate)
    stick = record.get("yardstick")
    notes = [
        *certificate.notices,
        *([words.removed(stick, mention=record.get("concept_in_prompt"))] if stick else []),
        *([beside] if beside else []),
        *reasons[:_REASONS],
    ]
    notes.append(f"Not covered. {NOT_COVERED[claims[0].policy]}")
    sentence = f"{main.sentence} {compared}".strip()
    return Summary("certificate", sentence, mark, facts, tables=[table], notes=notes)


def _claim_row(claim: Any) -> tuple[str, ...]:
    return (words.named(claim), shown(claim.rho, "down"), words.value(claim), claim.theorem)


@summary.register(CheckReport)
def _of_check(report: Any) -> Summary:
    refuted, checked = report.refuted, any(v.outcome in ("refuted", "not refuted") for v in report.verdicts)
    rows = [(words.named(v.claim), shown(v.claim.rho, "down"), words.p_value(v), v.outcome) for v in report.verdicts]
    mark = ("refuted", "bad") if refuted else ("not refuted", "good") if checked else ("nothing was tested", "quiet")
    table = Table(("claim", "ρ", "p-value", "outcome"), rows, (3,))
    notes = [f"{words.named(v.claim)}: {v.detail}" for v in report.verdicts if v.outcome == "refuted"]
    return Summary("check of a certificate", words.outcome(report), mark, tables=[table], notes=notes[:_REASONS])


@summary.register(Verdict)
def _of_verdict(verdict: Any) -> Summary:
    claim = verdict.claim
    detail = f": {verdict.detail}" if verdict.detail else ""
    tested = f", p = {words.p_value(verdict)}" if verdict.p_value is not None else ""
    sentence = f"The claim ({words.named(claim)}, ρ = {shown(claim.rho, 'down')}): {verdict.outcome}{tested}{detail}."
    mood = {"refuted": "bad", "not refuted": "good"}.get(verdict.outcome, "quiet")
    return Summary("verdict on a claim", sentence, (verdict.outcome, mood))
