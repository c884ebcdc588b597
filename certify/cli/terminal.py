"""Terminal: certificates in words and tables, 80 columns wide. Printing only; what is printed is computed elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from certify import _files
from certify._text import EVENT_RHOS, duration, safely, spelled, truncation
from certify.progress import Bar

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother, TokenNoise
    from certify.certificate import Certificate, CheckReport, Claim
    from certify.sequential import Decision

__all__ = [
    "bar",
    "duration",
    "err",
    "out",
    "plain_token",
    "show_certificate",
    "show_checks",
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


def table(*columns: str) -> Table:
    """A borderless table: the first column and nameless ones to the left, the others to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold dim")
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 or column == "" else "right", no_wrap=column == "")
    return made


@contextmanager
def bar(what: str) -> Iterator[Bar]:
    """A progress bar, as a function of (done, total)."""
    shown = Bar(what)
    try:
        yield shown
    finally:
        shown.close()


def plain_token(token: str) -> str:
    """A token without the vocabulary's marks, on one line."""
    return _files.printable(spelled(token))


def show_truncation(record: Mapping[str, Any]) -> None:
    """That the prompt was cut, where it was."""
    cut = record.get("truncated")
    if cut:
        out.print(truncation(cut["tokens"], cut["kept"]))


def show_tokens(text: str, adaptive: AdaptiveMedianSmoother, private: bool = False) -> None:
    """Relevance and noise of every token of a prompt; of a private one without the tokens, since output is often kept."""
    record: TokenNoise = adaptive.relevance(text)
    spread = adaptive.encoder.embedding_spread
    rows = table("token", "relevance", "noise σ", "σ / spread", "")
    top = max(record.sigma)
    rest = []
    tokens = [f"position {i}" for i in range(len(record.tokens))] if private else record.tokens
    for token, kind, score, sigma in zip(tokens, record.kinds, record.relevance, record.sigma, strict=True):
        if score is None:
            rest.append((kind, sigma))
            continue
        blocks = "█" * max(1, round(14 * sigma / top)) if top else ""
        rows.add_row(
            escape(plain_token(token)), f"{score:+.3f}", f"{sigma:.4g}", f"{sigma / spread:.2f}", f"[cyan]{blocks}[/]"
        )
    out.print(rows)
    show_truncation(adaptive.encoder.tokenize(text).truncated)
    silent = sum(sigma == 0 for _, sigma in rest)
    names = ", ".join(concept.name for concept in adaptive.concepts)
    out.print(
        f"[dim]relevance to {escape(names)}; σ₀ = {adaptive.sigma0:.4g}, k = {adaptive.k:g}; "
        f"{silent} of {len(rest)} begin, end and padding positions carry no noise[/]"
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
        f"[bold]Confidence[/] 1 − {certificate.alpha:.3g} for all of it together; draws (seed "
        f"{certificate.provenance['seed']}): {', '.join(draws)}."
    )
    out.print(
        f"[bold]Distances[/] are ℓ2, sums over outputs, from the smoothed value of "
        f"{certificate.provenance['pilot']:,} separate pilot draws; those of ideal smoothed values squared."
    )
    show_not_covered(claims[0].policy, images=any(claim.quantity == "event" for claim in claims))


def show_decision(asked: str, decision: Decision) -> None:
    """An answer, and what it took."""
    answer = {"yes": "[bold green]Yes[/]", "no": "[bold red]No[/]", "undecided": "[bold]Undecided[/]"}[decision.decided]
    out.print(f"{escape(asked)}, for every ‖δ‖_Σ ≤ {decision.rho:g}? {answer}.")
    if decision.reason:
        out.print(escape(f"{decision.reason[0].upper()}{decision.reason[1:]}."))
    share = decision.saved / decision.maximum
    out.print(
        f"{decision.drawn:,} draws of at most {decision.maximum:,}: {share:.1%} saved ({decision.theorem}). Confidence "
        f"1 − {decision.alpha:g}, wherever drawing ended."
    )


def show_not_covered(policy: str, *, images: bool = False, deployed: bool = True) -> None:
    """What a claim does not say."""
    from certify.certificate import POLICIES

    further = ["another number of tokens", "positions without noise"]
    if not deployed:
        further.append("the few draws that are deployed in place of the ideal smoother")
    if not images:
        further.append("the image")
    out.print(
        f"[bold yellow]Not covered.[/] {POLICIES[policy]} Nor is {', '.join(further[:-1])} or {further[-1]} covered."
        + (" What is said about the deployed smoother takes its noise to be fresh and secret." if deployed else "")
    )


def show_curve(rhos: tuple[float, ...], values: tuple[float, ...], distance: float) -> None:
    """A bound at several radii, against a yardstick."""
    rows = table("ρ", "bound", "× yardstick", "")
    for rho, value in zip(rhos, values, strict=True):
        if not math.isfinite(value):
            rows.add_row(f"{rho:g}", "none", "", "[dim]too few draws[/]")
            continue
        rows.add_row(
            f"{rho:g}",
            safely(value, "up", ".5g"),
            safely(_ratio(value, distance), "up", ".3g"),
            _vacuous(value, distance),
        )
    out.print(rows)


def show_checks(report: CheckReport) -> None:
    """The verdicts of a check."""
    rows = table("claim", "ρ", "p-value", "outcome")
    for verdict in report.verdicts:
        name = f"{verdict.claim.quantity}, {verdict.claim.function} ({verdict.claim.theorem})"
        colour = {"refuted": "bold red", "not refuted": "green"}.get(verdict.outcome, "dim")
        rows.add_row(
            _plain(name),
            f"{verdict.claim.rho:.4g}",
            f"{verdict.p_value:.3g}",
            f"[{colour}]{verdict.outcome}[/]",
        )
    out.print(rows)
    for verdict in report.verdicts:
        if verdict.outcome == "refuted":
            out.print(f"[red]{verdict.claim.quantity} at ρ = {verdict.claim.rho:.4g}: {_plain(verdict.detail)}[/]")


def _show_encoding(certificate: Certificate) -> None:
    stick = certificate.provenance["yardstick"]
    distance = stick["distance"]
    single = next(claim for claim in certificate.claims if claim.scope == "single" and claim.quantity == "mse")
    if single.status == "abstained":
        out.print(f"[bold]No bound.[/] {escape(single.reason)}.")
    else:
        value = safely(float(single.value or 0), "up", ".5g")
        out.print(
            f"For [bold]every[/] perturbation δ of the token embeddings with [bold]‖δ‖_Σ ≤ {single.rho:g}[/], the "
            f"{single.smoother}-smoothed encoding stays within squared distance [bold]{value}[/] of "
            f"{_reference(single)} [dim]({single.theorem}, {single.method})[/]."
        )
        word = f" “{escape(stick['word'])}”" if stick.get("word") else " its most relevant word"
        out.print(
            f"Yardstick: without{word} the encoding is {distance:.5g} away. The bound is "
            f"{_against(float(single.value or 0.0), distance)}."
        )
    for claim in certificate.claims:
        if claim.quantity == "radius" and claim.status == "abstained":
            out.print(f"No radius keeps it within that distance: {escape(claim.reason)}.")
        elif claim.quantity == "radius":
            within = safely(float(claim.tolerance or 0), "up", ".5g")
            out.print(f"It stays within {within} for every ‖δ‖_Σ ≤ [bold]{safely(claim.rho, 'down', '.4f')}[/].")
    points = certificate.curve
    if points is not None:
        show_curve(points.rhos, points.values, distance)


def _show_deployed(certificate: Certificate) -> None:
    claims = [c for c in certificate.claims if c.quantity == "deployed" or c.function == "deployed distance"]
    if not claims:
        return
    first, distance = claims[0], math.sqrt(certificate.provenance["yardstick"]["distance"])
    draws = certificate.provenance["smoother"]["n"]
    _section(f"deployed: the {certificate.provenance['smoother']['aggregate']} of {draws} draws")
    out.print(
        f"With probability at least {first.q:g} over its noise, its distance (not squared) from the reference is at most"
    )
    rows = table("ρ", "distance", "× yardstick", "")
    for claim in claims:
        if claim.status == "abstained":
            rows.add_row(f"{claim.rho:g}", "none", "", "[dim]too few draws[/]")
            continue
        value = float(claim.value or 0.0)
        note = _vacuous(value, distance) or f"[dim]{claim.theorem}, {claim.method}[/]"
        rows.add_row(f"{claim.rho:g}", safely(value, "up", ".4g"), safely(_ratio(value, distance), "up", ".3g"), note)
    out.print(rows)


def _show_predictions(certificate: Certificate) -> None:
    stick = certificate.provenance.get("noise_prediction_yardstick")
    ideal, deployed, score = (
        next((c for c in certificate.claims if c.function == name), None)
        for name in ("noise prediction", "noise-prediction distance", "concept score")
    )
    if not (ideal or deployed or score):
        return
    _section("noise prediction and concept score")
    points = len(certificate.tensors.get("trajectory.t", ()))
    at = f", mean over {points} points of the sampler's trajectory" if points else ""
    if deployed is not None:
        out.print(
            f"With probability at least {deployed.q:g}, what the deployed encoding changes in the conditional noise prediction "
            f"(squared distance{at}) is {_at_most(deployed, stick)}, for ‖δ‖_Σ ≤ {deployed.rho:g}."
        )
    if ideal is not None:
        out.print(
            f"The ideal median over noise predictions stays within squared distance {_at_most(ideal, stick, '')}, for "
            f"‖δ‖_Σ ≤ {ideal.rho:g}."
        )
    if stick is not None:
        out.print(f"Yardstick: without the concept's word the prediction changes by {stick:.4g}.")
    if score is not None:
        plain = certificate.provenance.get("concept_score_plain")
        beside = "" if plain is None else f" The prompt's plain encoding has {plain:.3f}."
        out.print(
            f"Its concept score is {_at_most(score, None)} with probability at least {score.q:g}, for "
            f"‖δ‖_Σ ≤ {score.rho:g}.{beside}"
        )


def _show_event(certificate: Certificate) -> None:
    claim = next((c for c in certificate.claims if c.quantity == "event"), None)
    if claim is None:
        return
    _section(f"attack success rate: “{escape(claim.function)}”")
    if claim.status == "abstained":
        out.print(f"No bound: {escape(claim.reason)}.")
    else:
        event = certificate.event(claim)
        rows = table("ρ", "at most")
        for rho in sorted({*EVENT_RHOS, claim.rho}):
            rate = event.at(rho)
            rows.add_row(f"{rho:g}", safely(rate, "up", ".3f") if rate <= 0.999 else "[dim]1[/]")
        out.print(rows)
        half = event.radius(0.5)
        below = (
            f"The rate stays below one half up to ρ = {safely(half, 'down', '.3f')}"
            if half > 0
            else "It is not below one half at any ρ"
        )
        copies = f"{event.replicas} noisy cop{'y' if event.replicas == 1 else 'ies'} an image"
        out.print(
            f"{below}. [dim]Seen in {event.successes} of {event.n:,} images at ρ = 0; {copies} (T5); all radii at once.[/]"
        )
    measured, chance = (certificate.provenance.get(name) for name in ("undefended", "without_word"))
    if measured:
        out.print(
            f"Without the defence [bold]measured[/], not certified: {measured['rate']:.3f} "
            f"({measured['successes']} of {measured['n']:,} images)."
        )
    if chance:
        out.print(
            f"[dim]The prompt without its most relevant word: {chance['rate']:.3f} ({chance['successes']} of "
            f"{chance['n']:,}). A washed-out word leaves about that.[/]"
        )


def _show_coverage(certificate: Certificate) -> None:
    positions = certificate.provenance.get("coverage") or []
    if not positions:
        return
    rho = positions[0]["rho"]
    _section(f"what ‖δ‖_Σ ≤ {rho:g} means in prompts")
    tokens = certificate.provenance["token_noise"].get("tokens")

    def name(position: Mapping[str, Any]) -> str:
        return (
            f"“{escape(plain_token(tokens[position['position']]))}”" if tokens else f"position {position['position']}"
        )

    washed = [p for p in positions if p["washed_out"]]
    partly = [p for p in positions if p["covered"] and not p["washed_out"]]
    for p in washed:
        out.print(
            f"{name(p)} is provably [bold]washed out[/]: put any of the other {p['comparable']:,} tokens there, and the "
            "smoothed output is the same up to the bound."
        )
    for p in partly:
        farther = [escape(plain_token(u["token"])) for u in p.get("uncovered", ())[:_QUOTED]]
        beyond = f"; the nearest that are not: {', '.join(farther)}" if farther else ""
        out.print(f"At {name(p)} {p['covered']:,} of {p['comparable']:,} tokens are covered{beyond}.")
    others = [p for p in positions if not p["covered"]]
    reach = [(p["nearest"]["distance"], p) for p in others if p.get("nearest") and p["nearest"]["distance"] is not None]
    if others:
        text = f"At {len(others)} other word{'s' if len(others) > 1 else ''} no substitution is covered"
        if reach:
            least, p = min(reach, key=lambda pair: pair[0])
            text += (
                f"; the nearest, “{escape(plain_token(p['nearest']['token']))}” for {name(p)}, is at ρ = {least:.3g}"
            )
        out.print(text + ".")
    prompts = certificate.provenance.get("covered_prompts") or []
    counted = certificate.provenance.get("covered_prompts_counted") or {}
    if counted.get("given"):
        out.print(f"Attack prompts given: {counted['given']}, of which covered: {counted['covered']}.")
    if prompts:
        covered = [p for p in prompts if p["covered"]]
        out.print(
            f"Of {len(prompts)} attack prompts given {len(covered)} {'is' if len(covered) == 1 else 'are'} covered."
        )
        for p in prompts[:_QUOTED]:
            said = f"covered, at ρ = {p['distance']:.3g}" if p["covered"] else f"not covered: {p['reason']}"
            said += f"; its last {p['dropped']} tokens are cut off" if p.get("dropped") else ""
            out.print(f"  [dim]{_plain(p['prompt'])}: {_plain(said)}[/]")


def _section(title: str) -> None:
    out.print()
    out.print(f"[bold]{title}[/]")


def _object(claim: Claim) -> str:
    return {"event": "images", "statistic": "values of each statistic"}.get(claim.quantity, f"{claim.function}s")


def _reference(claim: Claim) -> str:
    return "its value at the prompt" if claim.reference == "population" else "its reference"


def _at_most(claim: Claim, stick: float | None, word: str = "at most ") -> str:
    if claim.status == "abstained":
        return f"not bounded ({escape(claim.reason)})"
    value = float(claim.value or 0.0)
    against = "" if stick is None else f", {_against(value, stick)}"
    return f"{word}[bold]{safely(value, 'up', '.4g')}[/]{against} [dim]({claim.theorem})[/]"


def _plain(text: str) -> str:
    """Text of a file: no markup, no control characters."""
    return escape(_files.printable(text))


def _ratio(value: float, distance: float) -> float:
    return value / distance if distance > 0 else math.inf


def _against(value: float, distance: float) -> str:
    share = _ratio(value, distance)
    shown = safely(share, "up", ".3g")
    return f"[bold red]vacuous[/]: {shown} × the yardstick" if share > 1 else f"[bold green]{shown} × the yardstick[/]"


def _vacuous(value: float, distance: float) -> str:
    return "[red]vacuous[/]" if _ratio(value, distance) > 1 else ""
