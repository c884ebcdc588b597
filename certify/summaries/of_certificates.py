"""Summaries of certificates and of checks, and what a certificate says, section by section, for terminal and page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from certify._text import confidence, shown, spelled
from certify.bounds.mse import MSEBound
from certify.certificate import Certificate, CheckReport, Claim, Verdict, words
from certify.certificate.words import NOT_COVERED, PLAIN, Style
from certify.summaries.summary import Section, Summary, Table, summary

__all__ = ["check_table", "curve_table", "sections"]

_NAMED = 3  # tokens, attack prompts and reasons that are named where room is scarce
_PREDICTIONS = ("noise prediction", "velocity prediction", "noise-prediction distance", "concept score")


@summary.register(Certificate)
def _of_certificate(certificate: Any) -> Summary:
    claims, record = certificate.claims, certificate.provenance
    main, abstained = certificate.main, sum(c.status != "certified" for c in claims)
    prompt = record.get("prompt")
    facts = [
        *([("prompt", f"“{prompt}”")] if isinstance(prompt, str) else []),
        ("all claims together", f"confidence {confidence(certificate.alpha)}"),
        ("claims made", f"{len(claims) - abstained} of {len(claims)}"),
        ("covariance policy", claims[0].policy),
    ]
    rows = [(words.named(c), shown(c.rho, "down"), words.value(c), c.theorem) for c in claims if not _on_curve(c)]
    if (curve := certificate.curve) is not None:
        known = [v for v in curve.values if math.isfinite(v)]
        ends = f"{shown(min(known), 'up', 4)} … {shown(max(known), 'up', 4)}" if known else "no bound"
        radii = f"{shown(curve.rhos[0], 'exact')} … {shown(curve.rhos[-1], 'exact')}"
        rows.append((f"curve, {curve.points[0].function}, {len(curve.rhos)} radii", radii, ends, curve.theorem))
    mark = ("no claim", "bad") if abstained == len(claims) else ("certified", "good")
    if 0 < abstained < len(claims):
        mark = (f"certified, but for {abstained} of {len(claims)} claims", "quiet")
    removal = record.get("yardstick")
    notes = [
        *certificate.notices,
        *([words.removed(removal, mention=record.get("concept_in_prompt"))] if removal else []),
        words.beside(certificate),
        words.indistinguishable(certificate),
        *[words.sentence(c) for c in claims if c.status != "certified" and c is not main][:_NAMED],
        f"Not covered. {NOT_COVERED[claims[0].policy]}",
    ]
    sentence = f"{main.sentence} {words.compared(certificate, main)}".strip()
    table = Table(("claim", "ρ", "bound", "proof"), rows, (3,))
    return Summary("certificate", sentence, mark, facts, tables=[table], notes=[note for note in notes if note])


@summary.register(CheckReport)
def _of_check(report: Any) -> Summary:
    checked = any(v.outcome in ("refuted", "not refuted") for v in report.verdicts)
    mark = ("not refuted", "good") if checked else ("nothing was tested", "quiet")
    notes = words.refuted(report)[:_NAMED]
    mark = ("refuted", "bad") if report.refuted else mark
    return Summary("check of a certificate", words.outcome(report), mark, tables=[check_table(report)], notes=notes)


@summary.register(Verdict)
def _of_verdict(verdict: Any) -> Summary:
    claim = verdict.claim
    detail = f": {verdict.detail}" if verdict.detail else ""
    tested = f", p = {words.p_value(verdict)}" if verdict.p_value is not None else ""
    sentence = f"The claim ({words.named(claim)}, ρ = {shown(claim.rho, 'down')}): {verdict.outcome}{tested}{detail}."
    return Summary("verdict on a claim", sentence, (verdict.outcome, _MOODS.get(verdict.outcome, "quiet")))


_MOODS = {"refuted": "bad", "not refuted": "good"}


def check_table(report: CheckReport, style: Style = PLAIN) -> Table:
    """The verdicts of a check."""
    rows = [
        (
            f"{words.named(v.claim, style)} ({v.claim.theorem})",
            style.number(v.claim.rho, "down"),
            words.p_value(v, style),
            style.strong(v.outcome, _MOODS[v.outcome]) if v.outcome in _MOODS else style.soft(v.outcome),
        )
        for v in report.verdicts
    ]
    return Table(("claim", "ρ", "p-value", "outcome"), rows, (3,))


def curve_table(points: Sequence[Claim | MSEBound], distance: float | None, style: Style = PLAIN) -> Table:
    """A bound of a squared distance at several radii, against the squared concept-removal distance D², where there is one."""
    rows = []
    for claim in points:
        if claim.value is None or claim.status != "certified":
            row = ["no bound", "", style.soft(style.name(claim.reason))]
        else:
            share = "" if distance is None else style.number(words.ratio(claim.value, distance), "up", 3)
            row = [style.number(claim.value, "up"), share, words.vacuous(claim.value, distance, style)]
        rows.append([style.number(claim.rho, "down"), *row])
    return Table(("ρ", "squared distance, at most", "" if distance is None else "× D²", ""), rows, (3,))


def sections(certificate: Certificate, style: Style = PLAIN, *, brief: bool = False) -> list[Section]:
    """What a certificate says besides its main claim: of encodings, noise predictions, images, prompts.

    Args:
        certificate: of a prompt or of any other function.
        style: how words are dressed.
        brief: tokens of which no substitution is covered are counted, and only a few attack prompts are named.
    """
    record, claims = certificate.provenance, [c for c in certificate.claims if not _on_curve(c)]
    of: dict[str, list[Claim]] = {}
    for claim in claims:
        of.setdefault(_about(claim), []).append(claim)

    def stated(kind: str) -> list[str]:
        return [words.stated(certificate, c, style) for c in of.get(kind, ()) if c is not certificate.main]

    removal, curve = record.get("yardstick"), certificate.curve
    said = stated("output")
    said += [words.removed(removal, style, record.get("concept_in_prompt"))] if removal else []
    found = [Section("how far can the output move?", said)]
    if curve is not None:
        together = words.together(curve.simultaneous, curve.alpha, curve.n, len(curve.rhos), style)
        notes = [note for note in (together, words.beside(certificate, style)) if note]
        level = words.removal(removal)
        table = curve_table(curve.points, level, style)
        found = [Section("how far can the output move?", said, table, notes, curve, level)]
    anybody = words.indistinguishable(certificate, style)
    found.append(Section("deployed", [*stated("deployed"), *([anybody] if anybody else [])]))
    predicted = [*stated("predictions"), *words.without_defence(certificate, style)]
    found.append(Section("noise prediction and concept score", predicted))
    found += [_of_event(certificate, claim, style) for claim in of.get("event", ())]
    found.append(_of_encoders(certificate, style))
    found.append(_of_coverage(certificate, style, brief))
    return [s for s in found if s.sentences or s.table]


def _on_curve(claim: Claim) -> bool:
    return claim.scope in ("pointwise", "simultaneous")


def _about(claim: Claim) -> str:
    if words.is_probability(claim):
        return "event"
    if claim.quantity == "deployed" or claim.function == "deployed distance":
        return "deployed"
    return "predictions" if claim.function in _PREDICTIONS else "output"


def _of_event(certificate: Certificate, claim: Claim, style: Style) -> Section:
    said, table, event = [words.stated(certificate, claim, style)], None, None
    notes, undefended = words.measured(certificate.provenance, style), certificate.provenance.get("undefended")
    if claim.status == "certified" and claim.scope == "stopped early":
        said.append("Nothing is said about other radii.")
    elif claim.status == "certified":
        event = certificate.event(claim)
        table = Table(("ρ", "at most"), words.rates(event, claim.rho, style))
        notes = [words.observed(event, style), *notes]
    level = float(undefended["rate"]) if undefended else None
    return Section("attack success rate", said, table, notes, event, level)


def _of_encoders(certificate: Certificate, style: Style) -> Section:
    """How an attacker shares his radius out over text encoders (T16), and what it covers in words."""
    about = certificate.provenance.get("pipeline") or {}
    return Section("several text encoders", words.of_encoders(about, style))


def _of_coverage(certificate: Certificate, style: Style, brief: bool) -> Section:
    """Which other tokens may stand in the place of one, and which of the attack prompts are covered."""
    record = certificate.provenance
    positions, prompts = record.get("coverage") or [], record.get("covered_prompts") or []
    rho = f"‖δ‖_Σ ≤ {style.number(positions[0]['rho'], 'down')}" if positions else "the radius"
    tokens = (record.get("token_noise") or {}).get("tokens")

    def name(p: Mapping[str, Any]) -> str:
        return spelled(tokens[p["position"]]) if tokens else f"position {words.count(p['position'])}"

    suppression, said, levels = words.coverage(certificate), [], record.get("levels")
    if levels is not None:  # the words of the concept first
        positions = sorted(positions, key=lambda p: -p["sigma"])
    for p in (p for p in positions if p["covered"] or not brief):
        fully = 0 < p["covered"] == p["comparable"]
        if levels is not None:
            said += words.of_level(name(p), p, record["smoother"]["n"], style) if p["enumerated"] else []
            said += [suppression.sentence(style, "whichever of them stands there")] if fully else []
            continue
        further = suppression.sentence(style) if fully else words.next_tokens(p.get("uncovered"), style)
        said.append(f"{words.covered_token(name(p), p['covered'], p['comparable'], style)} {further}".rstrip())
    others = [p for p in positions if not p["covered"]]
    if others and brief:
        near = [(p["nearest"], name(p)) for p in others if p.get("nearest") and p["nearest"]["distance"] is not None]
        said.append(words.none_covered(len(others), near, style))
    if levels is not None:
        said.append(words.level_set(levels, sum(not p["enumerated"] for p in positions), style))
    if (counted := record.get("covered_prompts_counted")) and counted["given"]:
        covered, given = words.count(counted["covered"]), words.count(counted["given"])
        said.append(f"Attack prompts given, and left out of the record: {given}, of which covered: {covered}.")
    said += [words.covered_prompts(prompts)] if prompts else []
    notes = [words.covered_prompt(p, style) for p in prompts[: _NAMED if brief else None]]
    title = f"what {rho} means in prompts" + ("" if levels is None else ", as deployed")
    return Section(title, said, notes=notes)
