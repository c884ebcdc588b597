"""Terminal: certificates in tables, 80 columns wide. Printing only: the words are those of `certify.certificate.words`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from certify import _files
from certify._text import duration, shown, spelled
from certify.certificate import words
from certify.progress import Bar

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother, TokenNoise
    from certify.adaptive.checking import OnRecord
    from certify.certificate import Certificate, CheckReport, Claim
    from certify.statements.decide import Decision

__all__ = [
    "MARKUP",
    "bar",
    "duration",
    "err",
    "out",
    "plain_token",
    "show_certificate",
    "show_checks",
    "show_compared",
    "show_curve",
    "show_decision",
    "show_not_covered",
    "show_tokens",
    "show_truncation",
    "table",
]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_QUOTED = 3
"""Prompts, and uncovered tokens, that are named."""


class _Markup(words.Style):
    """Sentences for a terminal: no markup and no control characters in words of others."""

    def name(self, text: Any) -> str:
        return escape(_files.printable(str(text)))

    def strong(self, text: str, mood: str = "") -> str:
        return (
            f"[bold {colour}]{text}[/]" if (colour := {"good": "green", "bad": "red"}.get(mood)) else f"[bold]{text}[/]"
        )


MARKUP = _Markup()


def table(*columns: str) -> Table:
    """A borderless table: the first column and nameless ones to the left, the others to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold dim")
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 or column == "" else "right", no_wrap=column == "")
    return made


@contextmanager
def bar(what: str) -> Iterator[Bar]:
    """A progress bar, as a function of (done, total)."""
    made = Bar(what)
    try:
        yield made
    finally:
        made.close()


def plain_token(token: str) -> str:
    """A token without the vocabulary's marks, on one line."""
    return _files.printable(spelled(token))


def show_truncation(record: Mapping[str, Any]) -> None:
    """That the prompt was cut, where it was."""
    cut = record.get("truncated")
    if cut:
        out.print(words.truncation(cut["tokens"], cut["kept"]))


def show_tokens(text: str, adaptive: AdaptiveMedianSmoother, private: bool = False) -> None:
    """Relevance and noise of every token of a prompt; of a private one without the tokens, since output is often kept."""
    record: TokenNoise = adaptive.relevance(text)
    spread = adaptive.encoder.embedding_spread
    rows = table("token", "relevance", "noise σ", "σ / std", "")
    top = max(record.sigma)
    rest = []
    tokens = [f"position {i}" for i in range(len(record.tokens))] if private else record.tokens
    for token, kind, score, sigma in zip(tokens, record.kinds, record.relevance, record.sigma, strict=True):
        if score is None:
            rest.append((kind, sigma))
            continue
        blocks = "█" * max(1, round(14 * sigma / top)) if top else ""
        rows.add_row(
            escape(plain_token(token)),
            shown(score, "near", 3, sign=True),
            shown(sigma, "near", 4),
            shown(sigma / spread, "near", 3),
            f"[cyan]{blocks}[/]",
        )
    out.print(rows)
    show_truncation(adaptive.encoder.tokenize(text).truncated)
    unnoised = sum(sigma == 0 for _, sigma in rest)
    names = ", ".join(concept.name for concept in adaptive.concepts)
    out.print(
        f"[dim]relevance to {escape(names)}; σ₀ = {shown(adaptive.sigma0, 'near', 4)}, k = {shown(adaptive.k, 'exact')}; "
        f"std: of the token embeddings; {unnoised} of {len(rest)} begin, end and padding positions carry no noise[/]"
    )
    if notice := adaptive.mention(text).notice:
        out.print(f"[bold yellow]Notice.[/] {escape(notice)}")


def show_overlays(model: Any) -> None:
    """What was laid over a pipeline's or an encoder's parts: over how much of each, and what of a file was not used."""
    from certify.models import overlay_on

    parts = [part for name in ("unet", "text_encoder") if (part := getattr(model, name, None)) is not None]
    overlays = [over for part in parts if (over := overlay_on(part)) is not None]
    used = {"unet": "U-Net", "text_encoder": "text encoder"}
    for over in overlays:
        out.print(
            Text(f"{used[over.part]}: {over.counted} ({_files.printable(over.source)})", style="dim"), soft_wrap=True
        )
        elsewhere = [used[other.part] for other in overlays if other.source == over.source]
        for part, count in over.others.items():
            if part not in elsewhere:
                option = next((f"--{name.replace('_', '-')}" for name, words in used.items() if words == part), None)
                advice = f"; {option} takes the same file" if option else ""
                out.print(Text(f"  not applied: {count:,} tensors of the {part} in it{advice}"), soft_wrap=True)


def show_certificate(certificate: Certificate) -> None:
    """The claims of a prompt's certificate, part by part: encoding, what is deployed, noise prediction, image, prompts."""
    out.print()
    out.rule("[bold]certificate[/]", align="left", style="dim")
    show_truncation(certificate.provenance)
    if certificate.private:
        from certify.certificate.certificate import PRIVATE

        out.print(f"[bold yellow]Notice.[/] {PRIVATE}")
    _show_encoding(certificate)
    _show_deployed(certificate)
    _show_predictions(certificate)
    _show_event(certificate)
    _show_coverage(certificate)
    claims, smoother = certificate.claims, certificate.provenance["smoother"]
    if smoother["sharing"] in ("sigma", "input"):
        out.print(
            "[dim]Ideal smoothed values are those of draws that share nothing; the deployed ones share "
            f"{'σ' if smoother['sharing'] == 'sigma' else 'one noisy copy of the prompt'}.[/]"
        )
    draws = dict.fromkeys(f"n = {claim.n:,} {_object(claim)}" for claim in claims)
    out.print()
    out.print(
        f"{words.all_claims(certificate, MARKUP)}; draws (seed {certificate.provenance['seed']}): {', '.join(draws)}."
    )
    out.print(
        f"[bold]Distances[/] are ℓ2, sums over outputs. The [bold]reference[/] is the smoothed value of "
        f"{certificate.provenance['pilot']:,} separate pilot draws."
    )
    images = any(claim.quantity == "event" for claim in claims)
    show_not_covered(claims[0].policy, images=images, deployed=any(c.replicas is not None for c in claims))


def show_decision(decision: Decision) -> None:
    """An answer, and what it took."""
    mood = {"yes": "good", "no": "bad"}.get(decision.decided, "")
    out.print(f"{words.question(decision, MARKUP)} {MARKUP.strong(decision.decided.capitalize(), mood)}.")
    if decision.reason:
        out.print(MARKUP.name(words.capital(decision.reason)))
    if caveat := words.caveat(decision, MARKUP):
        out.print(caveat)
    out.print(words.effort(decision, MARKUP))


def show_not_covered(policy: str, *, images: bool = False, deployed: bool = True) -> None:
    """What a claim does not say."""
    first, *others = words.not_covered(policy, of_prompt=True, images=images, deployed=deployed)
    out.print(f"[bold yellow]Not covered.[/] {first} Nor do the claims cover {'; '.join(others)}.")


def show_curve(rhos: Sequence[float], values: Sequence[float], distance: float) -> None:
    """A bound of a squared distance at several radii, against the squared concept-removal distance D²."""
    rows = table("ρ", "squared distance, at most", "× D²", "")
    for rho, bound in zip(rhos, values, strict=True):
        at = MARKUP.number(rho, "down")
        if not math.isfinite(bound):
            rows.add_row(at, "no bound", "", "[dim]too few draws[/]")
            continue
        share = MARKUP.number(words.ratio(bound, distance), "up", 3)
        rows.add_row(at, MARKUP.number(bound, "up"), share, words.vacuous(bound, distance, MARKUP))
    out.print(rows)


def show_checks(report: CheckReport) -> None:
    """The verdicts of a check."""
    rows = table("claim", "ρ", "p-value", "outcome")
    for verdict in report.verdicts:
        mood = {"refuted": "bad", "not refuted": "good"}.get(verdict.outcome, "")
        outcome = MARKUP.strong(verdict.outcome, mood) if mood else f"[dim]{verdict.outcome}[/]"
        name = f"{words.named(verdict.claim, MARKUP)} ({verdict.claim.theorem})"
        rows.add_row(name, MARKUP.number(verdict.claim.rho, "down"), words.p_value(verdict, MARKUP), outcome)
    out.print(rows)
    for verdict in report.verdicts:
        if verdict.outcome == "refuted":
            out.print(f"[red]{words.named(verdict.claim, MARKUP)}: {MARKUP.name(verdict.detail)}[/]")


def show_compared(statements: Sequence[OnRecord]) -> None:
    """What of a record was compared with the model, and what was not."""
    for one in (one for one in statements if one.outcome == "differs"):
        out.print(f"[red]refuted: {one.name}: {MARKUP.name(one.detail)}[/]")
    for outcome, title in (("same", "As on record, computed again"), ("not checked", "On record and not checked")):
        found = [f"{one.name} ({MARKUP.name(one.detail)})" for one in statements if one.outcome == outcome]
        if found:
            out.print(f"[dim]{title}: {'; '.join(found)}.[/]")


def _show_encoding(certificate: Certificate) -> None:
    stick = certificate.provenance["yardstick"]
    single = next(claim for claim in certificate.claims if claim.scope == "single" and claim.quantity == "mse")
    _print_claim(certificate, single)
    for claim in certificate.claims:
        if claim.quantity == "radius":
            _print_claim(certificate, claim)
    out.print(
        words.removed(stick, MARKUP, certificate.provenance.get("concept_in_prompt")).replace(
            "distance:", "distance D:", 1
        )
    )
    curve = certificate.curve
    if curve is not None:
        out.print()
        show_curve(curve.rhos, curve.values, stick["distance"])
        out.print(f"[dim]{words.together(curve.simultaneous, curve.alpha, curve.n, len(curve.rhos), MARKUP)}[/]")
        if note := words.beside(certificate, MARKUP):
            out.print(f"[dim]{note}[/]")


def _show_deployed(certificate: Certificate) -> None:
    for claim in _first(
        certificate, lambda c: c.quantity == "deployed" or c.function == "deployed distance", "deployed"
    ):
        _print_claim(certificate, claim)


def _show_predictions(certificate: Certificate) -> None:
    names = ("noise prediction", "noise-prediction distance", "concept score")
    record, points = certificate.provenance, len(certificate.tensors.get("trajectory.t", ()))
    for claim in _first(certificate, lambda c: c.function in names, "noise prediction and concept score"):
        stick = record.get("noise_prediction_yardstick") if claim.function != "concept score" else None
        _print_claim(certificate, claim)
        if stick is not None and claim.status == "certified":
            out.print(f"The bound is {words.against(float(claim.value or 0.0), stick, MARKUP)} of noise predictions.")
    if (stick := record.get("noise_prediction_yardstick")) is not None:
        over = f" (mean over {points} points of the sampler's trajectory)" if points else ""
        named = (record.get("concept_in_prompt") or {}).get("named", True)
        word = "the concept's word" if named else "the prompt's most relevant word"
        change = MARKUP.number(stick, "near", 4)
        out.print(f"Without {word} the prediction changes by {change}, squared{over}.")
    if (plain := record.get("concept_score_plain")) is not None:
        out.print(f"The prompt's plain encoding has the concept score {MARKUP.number(plain, 'near', 3)}.")


def _show_event(certificate: Certificate) -> None:
    for claim in _first(certificate, lambda c: c.quantity == "event", "attack success rate"):
        _print_claim(certificate, claim)
        if claim.status == "certified":
            event = certificate.event(claim)
            rows = table("ρ", "at most")
            for row in words.rates(event, claim.rho, MARKUP):
                rows.add_row(*row)
            out.print(rows)
            out.print(words.seen(event, MARKUP))
        for said in words.measured(certificate.provenance, MARKUP):
            out.print(f"[dim]{said}[/]")


def _show_coverage(certificate: Certificate) -> None:
    positions = certificate.provenance.get("coverage") or []
    if not positions:
        return
    _section(f"what ‖δ‖_Σ ≤ {MARKUP.number(positions[0]['rho'], 'down')} means in prompts")
    tokens = certificate.provenance["token_noise"].get("tokens")

    def name(position: Any) -> str:
        return plain_token(tokens[position["position"]]) if tokens else f"position {position['position']}"

    suppression = words.coverage(certificate)
    for p in (p for p in positions if p["covered"]):
        said = words.covered_token(name(p), p["covered"], p["comparable"], MARKUP)
        if p["covered"] == p["comparable"]:
            said += f" {suppression.sentence(MARKUP)}"
        elif p.get("uncovered"):
            said += f" Next: {', '.join(words.reached(u['token'], u['distance'], MARKUP) for u in p['uncovered'][:_QUOTED])}."
        out.print(said)
    others = [p for p in positions if not p["covered"]]
    if others:
        text = f"At {len(others)} other token{'s' if len(others) > 1 else ''} no substitution is covered"
        near = [p for p in others if p.get("nearest") and p["nearest"]["distance"] is not None]
        if near:
            p = min(near, key=lambda p: p["nearest"]["distance"])
            nearest = words.reached(p["nearest"]["token"], p["nearest"]["distance"], MARKUP)
            text += f"; nearest: {nearest}, in place of “{escape(name(p))}”"
        out.print(f"{text}.")
    prompts = certificate.provenance.get("covered_prompts") or []
    counted = certificate.provenance.get("covered_prompts_counted") or {}
    if counted.get("given"):
        out.print(f"Attack prompts given: {counted['given']}, of which covered: {counted['covered']}.")
    if prompts:
        out.print(words.covered_prompts(prompts))
        for p in prompts[:_QUOTED]:
            said = words.covered_prompt(p["distance"], p["covered"], p["reason"], MARKUP)
            out.print(f"  [dim]{MARKUP.name(p['prompt'])}: {said}{words.cut_off(p.get('dropped'))}[/]")


def _print_claim(certificate: Certificate, claim: Claim) -> None:
    proof = "" if claim.status == "abstained" else f" [dim]({MARKUP.name(words.proof(claim))})[/]"
    said = f"{words.sentence(claim, MARKUP).removesuffix('.')}{proof}."
    out.print(f"{said} {words.compared(certificate, claim, MARKUP)}".strip())


def _first(certificate: Certificate, which: Callable[[Claim], bool], title: str) -> list[Claim]:
    """The claims of one kind, below a title where there are any."""
    found = [claim for claim in certificate.claims if which(claim)]
    if found:
        _section(title)
    return found


def _section(title: str) -> None:
    out.print()
    out.print(f"[bold]{title}[/]")


def _object(claim: Claim) -> str:
    return {"event": "images", "statistic": "values of each statistic"}.get(claim.quantity, f"{claim.function}s")
