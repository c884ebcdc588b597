"""The page of a certificate: `certificate_page`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from certify._text import EVENT_RHOS, escaped, spelled, truncation
from certify.certificate import Certificate, Claim
from certify.colours import opacity, shares
from certify.report._charts import Line, chart
from certify.report._numbers import confidence, copies, count, number, percentage, real
from certify.report._page import code, document, facts, header, section, shows, table
from certify.report._sections import COPY, examples, not_covered, smoother_facts
from certify.report._words import claimed_value, details, headline, sentence, subject, yardstick
from certify.report.pictures import Pictures

__all__ = ["certificate_page"]

_NEAREST = 3  # uncovered tokens that are named


def certificate_page(
    certificate: Certificate,
    *,
    folder: str = "FOLDER",
    digests: Mapping[str, str] | None = None,
    pictures: Pictures | None = None,
) -> str:
    """A certificate as a page.

    Args:
        certificate: of a prompt (`certify prompt`), or any other; what its provenance does not hold is left out.
        folder: where it lies, as the reader is to type it in order to check it again.
        digests: SHA-256 of its files, by name.
        pictures: images with and without the defence; None: none.

    Returns:
        An HTML document, for a file in UTF-8.

    Raises:
        ValueError: its provenance is damaged: it cannot be shown.
    """
    with shows(f"certificate in {folder!r}"):
        return _certificate_page(certificate, folder, digests or {}, pictures)


def _certificate_page(
    certificate: Certificate, folder: str, digests: Mapping[str, str], pictures: Pictures | None
) -> str:
    record = certificate.provenance
    prompt = record.get("prompt")
    of_prompt, cut = "smoother" in record, record.get("truncated")
    title = str(prompt) if prompt else "a prompt left out of the record" if of_prompt else "a function"
    event = next((c for c in certificate.claims if c.quantity == "event"), None)
    silent = sum(claim.status == "abstained" for claim in certificate.claims)
    tiles = [
        ("confidence, all claims together", confidence(certificate.alpha)),
        ("claims made", f"{len(certificate.claims) - silent} of {len(certificate.claims)}"),
        ("covariance policy", escaped(certificate.claims[0].policy)),
    ]
    main = certificate.main
    tiles.insert(0, ("radius ρ of that sentence", number(main.rho, "near")))
    body = [
        header("Robustness certificate", title, headline(certificate, main), tiles, of_prompt),
        f'<p class="note">{truncation(cut["tokens"], cut["kept"])}</p>' if cut else "",
        _notices(certificate),
        _short_list(certificate, main),
        not_covered(
            certificate.claims[0].policy,
            of_prompt=of_prompt,
            images=event is not None,
            deployed=any(c.replicas is not None for c in certificate.claims),
        ),
        _tokens(certificate) if "token_noise" in record else "",
        _bound_curve(certificate),
        _event_curve(certificate, event) if event is not None else "",
        _coverage(certificate),
        examples(pictures) if pictures is not None else "",
        _claims_table(certificate),
        _check_certificate(certificate, folder),
        _provenance(certificate, digests),
    ]
    return document(f"Certificate: {title}", body)


def _notices(certificate: Certificate) -> str:
    """What a reader must know before any number."""
    said = "".join(f"<li>{escaped(notice)}</li>" for notice in certificate.notices)
    return section("Notice", f"<ul>{said}</ul>", "warn") if said else ""


def _short_list(certificate: Certificate, main: Claim) -> str:
    """The other claims that are no point of a curve, each in a sentence for people."""
    items = []
    for claim in certificate.claims:
        if claim is main or claim.scope in ("pointwise", "simultaneous"):
            continue
        items.append(sentence(certificate, claim))
    if not items:
        return ""
    return section("Also claimed", f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>{yardstick(certificate)}")


def _tokens(certificate: Certificate) -> str:
    noise = certificate.provenance["token_noise"]
    sigma, kinds, relevance = [real(s) for s in noise["sigma"]], noise["kinds"], noise["relevance"]
    names = noise.get("tokens") or [f"#{i}" for i in range(len(sigma))]
    if not len(sigma) == len(kinds) == len(relevance) == len(names):
        raise ValueError("the token noise has lists of different lengths")
    spread = certificate.provenance.get("token_spread")
    chips, hidden = [], 0
    for name, kind, score, s, share in zip(names, kinds, relevance, sigma, shares(sigma, log=True), strict=True):
        if kind == "padding" and s == 0:
            hidden += 1
            continue
        label = spelled(name) or " "
        joined = kind == "word" and "tokens" in noise and not str(name).endswith("</w>")
        below = (
            "no noise"
            if s <= 0
            else f"{number(s / real(spread), 'near', 2)} ×"
            if spread
            else f"σ {number(s, 'near', 3)}"
        )
        score_text = "" if score is None else f"{number(score, 'near', 2, sign=True)}"
        chips.append(
            f'<span class="token{" joined" if joined else ""}"><b style="background:rgba(213,94,0,{opacity(share):.3f})">'
            f"{escaped(label)}</b><small>{below}</small><small>{score_text}</small></span>"
        )
    concepts = ", ".join(escaped(c["name"]) for c in (certificate.provenance.get("smoother") or {}).get("concepts", ()))
    unit = "in units of the usual spread of token embeddings" if spread else "σ"
    legend = (
        f'<p class="note">Below each token: its noise, {unit}, and its relevance to {concepts or "the concept"} (−1 to 1). The '
        "stronger the colour, the more noise (on a logarithmic scale), and the larger the changes of that token."
        + (f" {hidden} padding positions carry no noise." if hidden else "")
        + "</p>"
    )
    return section("The prompt, coloured by noise", f'<p class="tokens">{"".join(chips)}</p>{legend}')


def _bound_curve(certificate: Certificate) -> str:
    curve = certificate.curve
    if curve is None:
        return ""
    stick = certificate.provenance.get("yardstick")
    distance = real(stick["distance"]) if stick else None
    points = [(r, v) for r, v in zip(curve.rhos, curve.values, strict=True) if math.isfinite(v)]
    positive = [v for _, v in points if v > 0] + ([distance] if distance else [])
    log = bool(positive) and max(positive) > 50 * min(positive)
    picture = chart(
        [Line(points, dots=True, dashed=not curve.simultaneous)],
        "size ρ of the change",
        "bound (squared distance)",
        log=log,
        level=None if distance is None else (distance, "leaving out the word"),
        name="Bound against radius",
    )
    rows = []
    for claim in curve.points:
        if claim.status == "abstained":
            rows.append([number(claim.rho, "near"), "none", "", f"abstained: {escaped(claim.reason)}"])
            continue
        value = real(claim.value)
        ratio = number(value / distance) if distance else ""
        vacuous = '<span class="bad">vacuous</span>' if distance is not None and value > distance else ""
        rows.append([number(claim.rho, "near"), number(value), ratio, vacuous])
    kind = "All points hold at once" if curve.simultaneous else "Each point holds by itself, not all at once"
    note = f'<p class="note">{kind}, with {confidence(curve.alpha)} confidence, n = {curve.n:,}.</p>'
    head = ["size ρ", "at most", "× yardstick" if distance else "", ""]
    return section("How far can the output move?", f"<figure>{picture}</figure>{table(head, rows)}{note}")


def _event_curve(certificate: Certificate, claim: Claim) -> str:
    heading = f"Attack success rate: {escaped(claim.function)}"
    if claim.status == "abstained":
        return section(heading, f"<p>No bound: {escaped(claim.reason)}.</p>")
    if claim.scope == "stopped early":
        return section(heading, f"<p>{sentence(certificate, claim)} Nothing is said about other radii.</p>")
    event, measured = certificate.event(claim), certificate.provenance.get("undefended")
    rate = None if not measured else real(measured["rate"])
    largest = max(1.0, claim.rho)
    points = [(largest * i / 100, event.at(largest * i / 100)) for i in range(101)]
    picture = chart(
        [Line(points)],
        "size ρ of the change",
        "probability, at most",
        top=1.0,
        level=None if rate is None else (rate, "measured without the defence"),
        name="Certified attack success rate against radius",
    )
    rows = [[number(rho, "near"), percentage(event.at(rho))] for rho in sorted({*EVENT_RHOS, claim.rho})]
    half = event.radius(0.5)
    note = (
        f"Seen in {event.successes:,} of {event.n:,} images without an attack, {copies(event.replicas)} an image. All radii "
        f"hold at once, with {confidence(claim.alpha)} confidence. "
    )
    note += (
        f"The rate stays below one half up to ρ = {number(half, 'down')}."
        if half > 0
        else "It is not below one half at any radius."
    )
    if measured:
        note += (
            f" Without the defence, measured and not certified: {percentage(rate, 'near')} ({count(measured['successes'])} of "
            f"{count(measured['n'])} images)."
        )
    chance = certificate.provenance.get("without_word")
    if chance:
        note += (
            f" The prompt without its most relevant word: {percentage(chance['rate'], 'near')}; a washed-out word leaves about "
            "that."
        )
    return section(heading, f'<figure>{picture}</figure>{table(["size ρ", "at most"], rows)}<p class="note">{note}</p>')


def _coverage(certificate: Certificate) -> str:
    record = certificate.provenance
    positions, prompts = record.get("coverage") or [], record.get("covered_prompts") or []
    counted = record.get("covered_prompts_counted") or {}
    if not positions and not prompts and not counted:
        return ""
    tokens = (record.get("token_noise") or {}).get("tokens")
    parts = []
    if positions:
        rows = []
        for p in positions:
            named = _token(tokens[p["position"]]) if tokens else f"position {count(p['position'])}"
            covered = f"{count(p['covered'])} of {count(p['comparable'])}"
            state = "<strong>washed out</strong>" if p["washed_out"] else "in part" if p["covered"] else "none"
            near = [
                f"{_token(u['token'])} at {number(u['distance'], 'near')}"
                for u in (p.get("uncovered") or ())[:_NEAREST]
            ]
            rows.append([named, state, covered, "; ".join(near)])
        rho = number(positions[0]["rho"], "near")
        parts.append(
            f"<p>Which other tokens may stand in the place of one, as a change of size at most {rho}? A token is "
            "<strong>washed out</strong> where all of them may: whatever stands there, the smoothed output is the same up to "
            "the bound.</p>"
        )
        parts.append(table(["token", "covered", "substitutes", "nearest not covered, at size"], rows, text=(3,)))
    if prompts:
        rows = [
            [
                escaped(p["prompt"]),
                "covered" if p["covered"] else "not covered",
                "" if p.get("distance") is None else number(p["distance"], "near"),
                escaped(p.get("reason") or "")
                + (f" (its last {count(p['dropped'])} tokens are cut off)" if p.get("dropped") else ""),
            ]
            for p in prompts
        ]
        inside = sum(bool(p["covered"]) for p in prompts)
        parts.append(
            f"<p>Of {len(prompts):,} attack prompts given, {inside:,} {'is' if inside == 1 else 'are'} covered.</p>"
        )
        parts.append(table(["attack prompt", "", "at size", "reason"], rows, text=(3,), plain=(1,)))
    if counted:
        covered, given = count(counted["covered"]), count(counted["given"])
        parts.append(f"<p>Attack prompts given, and left out of the record: {given}, of which covered: {covered}.</p>")
    return section("What the radius means in prompts", "".join(parts))


def _token(value: Any) -> str:
    return f"“{escaped(spelled(value))}”"


def _claims_table(certificate: Certificate) -> str:
    rows = []
    for place, claim in enumerate(certificate.claims, start=1):
        made = claim.status == "certified"
        state = "certified" if made else '<span class="bad">abstained</span>'
        rows.append(
            [
                str(place),
                f"{subject(claim)}<br><small>{escaped(', '.join(details(claim)))}</small>"
                + ("" if made else f"<br>{escaped(claim.reason)}"),
                claimed_value(claim),
                number(claim.rho, "near"),
                "" if claim.q is None else number(claim.q, "near"),
                number(claim.alpha, "near", 3),
                f"{claim.n:,}",
                escaped(f"{claim.theorem}, {claim.method}"),
                state,
            ]
        )
    head = ["#", "claim", "value", "ρ", "q", "α", "draws", "proof", "status"]
    note = (
        '<p class="note">α: probability that the draws behind the claim were so unlucky that it is false; all claims together '
        f"{number(certificate.alpha, 'near', 3)}. q: probability over the noise of what is deployed. An abstention claims "
        "nothing, and is no sign of weakness.</p>"
    )
    return section("Every claim", table(head, rows, text=(1, 7), wide=True, plain=(8,)) + note)


def _check_certificate(certificate: Certificate, folder: str) -> str:
    record = certificate.provenance
    functions = {claim.function for claim in certificate.claims}
    if "smoother" not in record and (len(functions) > 1 or record.get("prompt") is None):
        command = f"certify.Certificate.load({folder!r}).check(f, y, seed=1)"
        how = (
            "In Python, with the function f (a mapping of names to functions where there are several) and the input y:"
        )
    else:
        hidden = "" if record.get("prompt") else " --prompt …"
        command = f"certify check {shlex.quote(folder)}{hidden}"
        how = "With the files that this page was made from, and the model:"
    return section(
        "How to check it again",
        f"<p>{how}</p><pre><code>{escaped(command, isolate=False)}</code></pre>"
        "<p>It compares the model’s SHA-256 with the one below, tests whether every value follows from the evidence on file, "
        f"and draws afresh to test the evidence. A true certificate is refuted with probability at most 10⁻⁶. {COPY}</p>",
    )


def _provenance(certificate: Certificate, digests: Mapping[str, str]) -> str:
    record = certificate.provenance
    model = record.get("model") or {}
    source = record.get("source") or {}
    rows = [
        ("made", escaped(record.get("created", "not on record"))),
        ("seed", escaped(record.get("seed", "not on record"))),
        ("pilot draws", escaped(record.get("pilot", "not on record"))),
        ("computed in", escaped(f"{record.get('dtype', '?')} on {record.get('device', '?')}")),
        (
            "model",
            escaped(source.get("model") or ("embedded" if "model" in source else model.get("kind", "not on record"))),
        ),
    ]
    rows += [
        (name.replace("_", " "), escaped(source[name]))
        for name in ("unet", "text_encoder", "variant")
        if source.get(name)
    ]
    rows += [
        (
            f"{escaped(name.replace('_', ' '))}, overlay",
            escaped(f"{o.get('kind')}: {o.get('tensors')} of {o.get('of')} tensors"),
        )
        for name, o in (model.get("overlays") or {}).items()
    ]
    rows += [(f"SHA-256 of {escaped(name)}", code(value)) for name, value in (model.get("sha256") or {}).items()]
    if not model.get("sha256"):
        rows.append(("SHA-256 of the model", "none: the certificate is about a plain callable"))
    if record.get("input_sha256"):
        rows.append(("SHA-256 of the input", code(record["input_sha256"])))
    rows += [(f"SHA-256 of {escaped(name)}", code(value)) for name, value in digests.items()]
    rows += smoother_facts(record.get("smoother"))
    rows += [("versions", escaped(", ".join(f"{k} {v}" for k, v in (record.get("versions") or {}).items())))]
    return section("Where it comes from", facts(rows))
