"""Cards: a record as a sentence and a small table, as text and as HTML for notebooks.

A card says the claim in one sentence, then what it rests on. A record that claims nothing says so first, and why. What a card
shows of a tensor is its shape or its extremes, never its entries, and no list is longer than `ROWS`.

**HTML.** No script, no style sheet, nothing loaded: styles stand in the tags, take the notebook's own letters and colours, and
tint the background with transparent ones, so that a card can be read on light and dark paper, and without any style at all.
Names, prompts and tokens are escaped (`certify._text.escaped`).

A record shows itself through `certify._records.Shown`; what its card holds is said here, in `CARDS`, under its class's name.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from certify._records import brief
from certify._text import EVENT_RHOS, cleaned, confidence, escaped, percent, shown, spelled
from certify.certificate import POLICIES, claim_of
from certify.colours import opacity, shares

__all__ = ["CARDS", "Card", "Table", "as_html", "as_text", "card"]

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
        tints: for each row the share of `certify.colours`' scale behind its last column; empty: none.
        title: above it.
    """

    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    words: tuple[int, ...] = ()
    tints: Sequence[float | None] = ()
    title: str = ""


@dataclass(frozen=True)
class Card:
    """What is shown of a record, in plain words.

    Attributes:
        kind: what it is.
        sentence: what it says.
        mark: a word or two on its status, "" for none, and how it is tinted: "good", "bad" or "quiet".
        facts: name and value.
        tokens: text, words below it, and the share of the colour scale behind it.
        tables: below the facts.
        notes: sentences at the end.
        picture: draws a `certify.style.Picture`, where matplotlib is there.
    """

    kind: str
    sentence: str
    mark: tuple[str, str] = ("", "quiet")
    facts: Sequence[tuple[str, str]] = ()
    tokens: Sequence[tuple[str, str, float | None]] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    picture: Callable[[], Any] | None = None


def card(record: Any) -> Card:
    """The card of a record.

    Raises:
        TypeError: there is none for its class.
    """
    for kind in type(record).__mro__:
        found = CARDS.get(f"{kind.__module__}.{kind.__qualname__}")
        if found is not None:
            return found(record)
    raise TypeError(f"record is a {type(record).__name__}: there is no card for it in certify._cards.CARDS")


def as_text(record: Any) -> str:
    """The card of a record in plain words."""
    made = card(record)
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
    """The card of a record as a piece of a page."""
    made = card(record)
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
    if made.picture is not None:
        parts.append(_embedded(made.picture))
    return f'<div class="certify-card" style="max-width:52em;line-height:1.45;margin:.2em 0">{"".join(parts)}</div>'


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
    return f'<table class="certify-card" style="{style}"><tbody>{rows}</tbody></table>'


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


def _embedded(picture: Callable[[], Any]) -> str:
    if importlib.util.find_spec("matplotlib") is None:
        return ""
    file = io.BytesIO()
    picture().savefig(file, format="png")
    data = base64.b64encode(file.getvalue()).decode()
    style = "max-width:100%;width:24em;margin-top:.7em;border-radius:.3em"
    return f'<br><img alt="the same as a picture" style="{style}" src="data:image/png;base64,{data}">'


# Claims: results of draws, and what certificates keep of them


_KINDS = {
    "mse": "bound of a squared distance",
    "radius": "certified radius",
    "percentile": "box of percentiles",
    "deployed": "bound of the deployed output’s distance",
    "statistic": "limit of a statistic",
    "event": "bound of a probability",
}


def _of_result(result: Any) -> Card:
    """Of a bound: its claim, where its draws come from, and what else was considered."""
    claim, run = claim_of(result), result.run
    facts = [*_of_bound(claim), ("draws", f"{result.n:,}, seed {run.seed}{_pilot(run)}")]
    considered = getattr(result, "considered", {})
    if considered:
        what = "radii" if claim.quantity == "radius" else "values"
        listed = ", ".join(f"{name} {_near(value, 4)}" for name, value in considered.items())
        facts.append((f"guessed {what}", f"{listed}; from pilot draws, to choose the method"))
    facts.append(("noise", f"{brief(run.noise)} on {brief(run.y)}"))
    return Card(_KINDS[claim.quantity], _about_sizes(claim.sentence, run), _mark(claim), facts)


def _about_sizes(sentence: str, run: Any) -> str:
    """A sentence about ‖δ‖_Σ, with what the noise at hand measures perturbations by."""
    return sentence.replace("‖δ‖_Σ", run.noise.size)


def _of_claim(claim: Any) -> Card:
    facts = [*_of_bound(claim), ("draws", f"{claim.n:,}"), ("covariance policy", claim.policy)]
    return Card(_KINDS[claim.quantity], claim.sentence, _mark(claim), facts, notes=(claim.not_covered,))


def _mark(claim: Any) -> tuple[str, str]:
    return ("certified", "good") if claim.status == "certified" else ("no claim", "bad")


def _of_bound(claim: Any) -> list[tuple[str, str]]:
    """What is said of every claim, be it one or not."""
    facts = []
    if claim.quantity != "percentile":
        facts.append((_NAMES[claim.quantity], _value(claim)))
    if claim.quantity != "radius":
        facts.append(("radius ρ", _near(claim.rho)))
    elif claim.tolerance is not None:
        facts.append(("tolerance", f"{_near(claim.tolerance)}, a squared distance"))
    if claim.q is not None:
        facts.append(("in how many runs", f"at least {percent(claim.q, 'down')}, over the deployment noise"))
    by = f"{claim.theorem}, {claim.method}"
    if claim.smoother not in ("none", "percentile"):
        by += f", for the {claim.smoother}"
    early = ", wherever drawing ended" if claim.scope == "stopped early" else ""
    if claim.status == "certified":
        facts.append(("confidence", f"{confidence(claim.alpha)} (α = {shown(claim.alpha, 'up', 3)}){early}"))
    facts.append(("by", by))
    facts.append(("about", _about(claim)))
    return facts


_NAMES = {
    "mse": "squared distance",
    "radius": "radius ρ",
    "deployed": "distance",
    "statistic": "statistic",
    "event": "probability",
}


def _about(claim: Any) -> str:
    words = claim.function if claim.outputs == 1 else f"{claim.function}: {claim.outputs:,} outputs"
    if claim.replicas is not None:
        words += f", {claim.replicas} noisy cop{'y' if claim.replicas == 1 else 'ies'}"
    if claim.reference == "population":
        words += "; from the smoothed value at the input itself"
    return words


def _value(claim: Any) -> str:
    if claim.status != "certified":
        return "none"
    if claim.quantity == "radius":
        return shown(claim.value, "down", 6)
    way = "down" if claim.side == "lower" else "up"
    number = percent(claim.value) if claim.quantity == "event" else shown(claim.value, way, 6)
    if claim.side == "two-sided" and claim.lower is not None:
        low = percent(claim.lower, "down") if claim.quantity == "event" else shown(claim.lower, "down", 6)
        return f"{low} … {number}"
    return f"at {'least' if claim.side == 'lower' else 'most'} {number}"


def _pilot(run: Any) -> str:
    return f"; {run.pilot:,} pilot draws before" if run.pilot else ""


def _near(value: float, digits: int = 6) -> str:
    return shown(float(value), "near", digits)


def _of_percentiles(result: Any) -> Card:
    made = _of_result(result)
    low, high = (t.detach().to("cpu", torch.float64).flatten() for t in (result.lower, result.upper))
    known = torch.isfinite(low) & torch.isfinite(high)
    widths = (high - low)[known]
    facts = list(made.facts)
    if len(widths):
        facts.insert(0, ("width of intervals", f"{_near(widths.min(), 4)} … {_near(widths.max(), 4)}"))
    if not bool(known.all()):
        facts.insert(0, ("without an interval", f"{int((~known).sum()):,} of {len(known):,} outputs"))
    tables = []
    if len(low) <= 8 and bool(known.any()):
        rows = [
            (str(i), shown(float(a), "down", 6), shown(float(b), "up", 6))
            for i, (a, b) in enumerate(zip(low, high, strict=True))
        ]
        tables.append(Table(("output", "at least", "at most"), rows))
    return Card(made.kind, made.sentence, made.mark, facts, tables=tables)


def _of_radius(result: Any) -> Card:
    made = _of_result(result)
    if result.status != "certified":
        return made
    facts = [*made.facts, *_sizes(result.ellipsoid)]
    return Card(made.kind, made.sentence, made.mark, facts)


def _of_event(result: Any) -> Card:
    made = _of_result(result)
    seen = ("seen", f"{result.successes:,} times in {result.n:,} draws without perturbation")
    return Card(made.kind, made.sentence, made.mark, [seen, *made.facts], tables=[_rates(result, result.rho)])


def _of_claimed_event(event: Any) -> Card:
    made = _of_claim(event.claim)
    return Card(
        made.kind, made.sentence, made.mark, made.facts, tables=[_rates(event, event.claim.rho)], notes=made.notes
    )


def _rates(event: Any, rho: float) -> Table:
    radii = sorted({*EVENT_RHOS, rho})
    rows = [(_near(r, 4), _probability(event.at(r))) for r in radii]
    return Table(("ρ", "at most"), rows, title="at every radius at once, from the same count:")


def _probability(value: float) -> str:
    return percent(value) if value < 1 else "no bound"


def _of_curve(curve: Any) -> Card:
    claims = [p if hasattr(p, "sentence") else claim_of(p) for p in curve.points]
    first, silent = claims[0], sum(c.status != "certified" for c in claims)
    to = "the smoothed value at the input itself" if first.reference == "population" else "its reference"
    together = (
        f"all {len(claims)} radii at once with confidence {confidence(curve.alpha)}"
        if curve.simultaneous
        else f"each radius by itself with confidence {confidence(curve.alpha)}"
    )
    sentence = (
        f"For every perturbation with ‖δ‖_Σ ≤ ρ the {first.smoother}-smoothed {first.function} stays within this squared "
        f"distance of {to}: {together} over n = {curve.n:,} draws."
    )
    if hasattr(curve.points[0], "run"):
        sentence = _about_sizes(sentence, curve.points[0].run)
    rows = [
        (_near(c.rho, 4), shown(float(c.value), "up", 6), f"{c.theorem}, {c.method}")
        if c.status == "certified" and c.value is not None
        else (_near(c.rho, 4), "no bound", c.reason)
        for c in claims
    ]
    mark = ("certified", "good") if not silent else (f"no bound at {silent} of {len(claims)} radii", "bad")

    def picture() -> Any:
        from certify import plots

        return plots.plot_curve(curve, width=3.4)

    return Card("bound curve", sentence, mark, tables=[Table(("ρ", "at most", "by"), rows, (2,))], picture=picture)


def _of_rate(rate: Any) -> Card:
    facts = [
        (
            "seen",
            f"{rate.successes:,} times in {rate.n:,} draws, each at a prompt chosen at random, without perturbation",
        ),
        ("confidence", f"{confidence(rate.alpha)}, all radii at once"),
        ("by", f"{rate.theorem}, {rate.method}, {rate.replicas} noisy cop{'y' if rate.replicas == 1 else 'ies'}"),
    ]
    rows = [(_near(r, 4), percent(rate.least(r), "down"), _probability(rate.at(r))) for r in sorted({0.0, *rate.rhos})]
    table = Table(("ρ", "at least", "at most"), rows)
    if not rate.two_sided:
        table = Table(("ρ", "at most"), [(rho, most) for rho, _, most in rows])
    certified = any(rate.at(r) < 1 for r in rate.rhos)
    mark = ("certified", "good") if certified else ("no bound at these radii", "bad")
    return Card("bound of an average probability", _sentence(str(rate)), mark, facts, tables=[table])


def _of_measured(rate: Any) -> Card:
    facts = [
        ("interval", f"{percent(rate.lower, 'down')} … {percent(rate.upper)} at confidence {confidence(rate.alpha)}")
    ]
    return Card("measured rate", _sentence(str(rate)), ("not certified", "quiet"), facts)


def _of_decision(decision: Any) -> Card:
    name, often = decision.run.function, percent(decision.q or 0.0, "down")
    asked = {
        "event": f"Is the probability that the {name} at most {_near(decision.limit)}",
        "statistic": f"Does the {name} keep to its threshold in at least {often} of runs",
        "mse": f"Does the smoothed {name} stay within squared distance {_near(decision.limit)} of its reference",
    }[decision.quantity]
    sentence = f"{asked}, for every {decision.run.noise.size} ≤ {decision.rho:g}? {decision.decided.capitalize()}."
    if decision.reason:
        sentence += f" {_sentence(decision.reason)}"
    saved = percent(decision.saved / decision.maximum, "down")
    facts = [
        ("draws", f"{decision.drawn:,} of at most {decision.maximum:,}: {saved} saved"),
        ("confidence", f"{confidence(decision.alpha)}, wherever drawing ended"),
        ("by", f"{decision.theorem}, {decision.method}"),
    ]
    if decision.successes is not None:
        facts.append(("seen", f"{decision.successes:,} times in {decision.n:,} draws without perturbation"))
    mood = {"yes": "good", "no": "bad"}.get(decision.decided, "quiet")
    return Card("decision", sentence, (decision.decided, mood), facts)


def _of_plan(plan: Any) -> Card:
    facts = [("draws", f"{plan.n:,}"), ("radius ρ", shown(plan.rho, "down", 4)), ("outputs", f"{plan.outputs:,}")]
    facts += [("confidence", confidence(plan.alpha)), ("noisy copies", str(plan.replicas))]
    return Card("plan", _sentence(str(plan)), facts=facts)


# Sets of perturbations, supports, yardsticks


def _of_region(region: Any) -> Card:
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
    return Card("certified set", sentence, ("", "quiet"), _sizes(region))


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


def _of_support(support: Any) -> Card:
    low, high = float(support.lower.min()), float(support.upper.max())
    sentence = f"Every value of the function lies in [{shown(low, 'down', 4)}, {shown(high, 'up', 4)}]"
    facts = [("limits", f"{brief(support.lower)} each; known without a draw")]
    if support.gain is not None:
        width = support.gain.numel()
        sentence += f", and every row of {width:,} in an ellipsoid"
        ends = f"{_near(support.gain.min(), 4)} … {_near(support.gain.max(), 4)}"
        facts.append(("ellipsoid", f"Σ ((h − β)/γ)² ≤ {width:,} with |γ| in {ends}"))
    return Card("a-priori support", f"{sentence}.", facts=facts)


def _of_yardstick(stick: Any) -> Card:
    sentence = f"Without “{stick.word}” the prompt’s encoding is a squared distance of {_near(stick.distance)} away."
    return Card("yardstick", sentence, ("measured, not certified", "quiet"), notes=("A bound above it says little.",))


# Prompts and tokens


def _of_token_noise(noise: Any) -> Card:
    words = [i for i, kind in enumerate(noise.kinds) if kind == "word"]
    named = ", ".join(dict.fromkeys(c for c in noise.concept if c))
    rows = noise.rows()
    tints = shares([noise.sigma[i] for i in range(len(rows))], log=True)
    most = max(words, key=lambda i: noise.relevance[i] or 0.0) if words else None
    sentence = f"Noise σ for {len(words)} word tokens, by their relevance to {named or 'the concept'}"
    if most is not None:
        sentence += f"; most for “{spelled(noise.tokens[most])}”: {_near(noise.sigma[most], 4)}"
    table = Table(("token", "kind", "relevance", "concept", "σ"), rows, (1, 3), tints)
    return Card("noise of a prompt’s tokens", f"{sentence}.", tokens=_chips(noise, words), tables=[table])


def _chips(noise: Any, positions: Iterable[int]) -> list[tuple[str, str, float | None]]:
    tints = shares(list(noise.sigma), log=True)
    return [(spelled(noise.tokens[i]), f"σ {_near(noise.sigma[i], 3)}", tints[i]) for i in positions]


def _of_position(position: Any) -> Card:
    token = f"“{spelled(position.token)}”"
    if position.washed_out:
        sentence = (
            f"{token} is provably washed out: put any of the other {position.comparable:,} tokens there, and the smoothed "
            "output is the same up to the bound."
        )
        mark = ("washed out", "good")
    elif position.covered:
        sentence = f"At {token} {position.covered:,} of {position.comparable:,} tokens are covered."
        mark = ("partly covered", "quiet")
    else:
        sentence, mark = f"At {token} no substitution is covered.", ("not covered", "bad")
    facts = [("radius ρ", _near(position.rho)), ("noise σ", _near(position.sigma, 4))]
    if position.nearest is not None:
        facts.append(("nearest token", _reached(position.nearest)))
    if position.farthest is not None:
        facts.append(("all are covered at", f"ρ = {shown(position.farthest, 'up', 4)}"))
    if position.uncovered:
        facts.append(("not covered, nearest first", ", ".join(map(_reached, position.uncovered))))
    return Card("what a radius covers at one token", sentence, mark, facts)


def _of_neighbour(neighbour: Any) -> Card:
    return Card("a token of the vocabulary", f"{_reached(neighbour)}.")


def _reached(neighbour: Any) -> str:
    at = "at no ρ" if neighbour.distance is None else f"at ρ = {shown(neighbour.distance, 'up', 4)}"
    return f"“{spelled(neighbour.token)}” {at}"


def _of_prompt_coverage(found: Any) -> Card:
    size = "" if found.distance is None else f", ‖δ‖_Σ = {_near(found.distance, 4)} away"
    if found.covered:
        return Card("another prompt", f"“{found.prompt}” is covered{size}.", ("covered", "good"))
    return Card("another prompt", f"“{found.prompt}” is not covered: {found.reason}.", ("not covered", "bad"))


def _of_issued(issued: Any) -> Card:
    if issued.rho == 0:
        sentence = "Nothing may be claimed here: there is no room beside the regions that are stored."
        return Card("claim of a memory", sentence, (issued.status, "bad"))
    sentence = f"Up to ρ = {shown(issued.rho, 'down', 6)} every query is smoothed with the noise of one region."
    facts = [("asked", f"ρ = {_near(issued.asked)}"), ("noise", brief(issued.noise))]
    return Card("claim of a memory", sentence, (issued.status, "good"), facts)


# Certificates and checks


def _of_certificate(certificate: Any) -> Card:
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
        radii = f"{_near(curve.rhos[0], 4)} … {_near(curve.rhos[-1], 4)}"
        rows.append((f"curve, {curve.points[0].function}, {len(curve.rhos)} radii", radii, ends, curve.theorem))
    table = Table(("claim", "ρ", "bound", "by"), rows, (3,))
    mark = ("no claim", "bad") if silent == len(claims) else ("certified", "good")
    if 0 < silent < len(claims):
        mark = (f"certified, but for {silent} of {len(claims)} claims", "quiet")
    reasons = dict.fromkeys(f"No claim about the {c.function}: {c.reason}." for c in claims if c.status != "certified")
    notes = [*certificate.notices, *list(reasons)[:_REASONS], f"Not covered. {POLICIES[claims[0].policy]}"]
    return Card("certificate", main.sentence, mark, facts, tables=[table], notes=notes)


def _claim_row(claim: Any) -> tuple[str, ...]:
    bound = _value(claim) if claim.quantity != "percentile" else "an interval each"
    name = f"{_KINDS[claim.quantity]}, {claim.function}"
    return (name, shown(claim.rho, "down", 4), bound if claim.status == "certified" else "no claim", claim.theorem)


def _of_check(report: Any) -> Card:
    refuted = sum(v.outcome == "refuted" for v in report.verdicts)
    checked = sum(v.outcome in ("refuted", "not refuted") for v in report.verdicts)
    sentence = (
        f"{report.n:,} fresh draws refute {refuted or 'none'} of the {checked} claims that were tested, at level "
        f"{report.level:g} over all of them together."
    )
    rows = [
        (f"{v.claim.quantity}, {v.claim.function}", shown(v.claim.rho, "down", 4), f"{v.p_value:.3g}", v.outcome)
        for v in report.verdicts
    ]
    mark = ("refuted", "bad") if refuted else ("not refuted", "good") if checked else ("nothing was tested", "quiet")
    note = "Not refuted is no proof: fresh draws did not contradict a claim, no more."
    table = Table(("claim", "ρ", "p-value", "outcome"), rows, (3,))
    return Card("check of a certificate", sentence, mark, tables=[table], notes=() if refuted else (note,))


def _of_verdict(verdict: Any) -> Card:
    claim = verdict.claim
    detail = f": {verdict.detail}" if verdict.detail else ""
    where = f"{claim.function}, ρ = {shown(claim.rho, 'down', 4)}"
    sentence = f"The {_KINDS[claim.quantity]} ({where}) is {verdict.outcome}, p = {verdict.p_value:.3g}{detail}."
    if verdict.outcome == "nothing claimed":
        sentence = f"No {_KINDS[claim.quantity]} ({where}) was claimed{detail}."
    mood = {"refuted": "bad", "not refuted": "good"}.get(verdict.outcome, "quiet")
    return Card("verdict on a claim", sentence, (verdict.outcome, mood))


def _sentence(text: str) -> str:
    """With a capital, unless it begins with the name of a number, and a full stop."""
    first = text[:1] if text[1:2] == " " else text[:1].upper()
    return f"{first}{text[1:]}{'' if text.endswith('.') else '.'}"


CARDS: dict[str, Callable[[Any], Card]] = {
    "certify.bounds.percentile.PercentileBounds": _of_percentiles,
    "certify.bounds.mse.MSEBound": _of_result,
    "certify.bounds.mse.BoundCurve": _of_curve,
    "certify.bounds.radius.CertifiedRadius": _of_radius,
    "certify.bounds.routes.DeployedBound": _of_result,
    "certify.bounds.deployed.StatisticBound": _of_result,
    "certify.bounds.deployed.EventBound": _of_event,
    "certify.bounds.rates.RateOver": _of_rate,
    "certify.sequential.Decision": _of_decision,
    "certify.confidence.Plan": _of_plan,
    "certify.downstream.MeasuredRate": _of_measured,
    "certify.ellipsoid.Ellipsoid": _of_region,
    "certify.uniform.CrossPolytope": _of_region,
    "certify.support.Support": _of_support,
    "certify.certificate.Claim": _of_claim,
    "certify.certificate.ClaimedCurve": _of_curve,
    "certify.certificate.ClaimedEvent": _of_claimed_event,
    "certify.certificate.Certificate": _of_certificate,
    "certify.certificate.CheckReport": _of_check,
    "certify.certificate.Verdict": _of_verdict,
    "certify.adaptive.token_noise.TokenNoise": _of_token_noise,
    "certify.adaptive.certification.Yardstick": _of_yardstick,
    "certify.adaptive.memory.Issued": _of_issued,
    "certify.adaptive.coverage.Neighbour": _of_neighbour,
    "certify.adaptive.coverage.PositionCoverage": _of_position,
    "certify.adaptive.coverage.PromptCoverage": _of_prompt_coverage,
}
"""A class, by its full name, → what its card holds."""
