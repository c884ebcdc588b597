"""The page of a certificate: `certificate_page`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping

from certify._text import escaped, spelled
from certify.certificate import Certificate, Claim, words
from certify.certificate.words import PAGE
from certify.plots.colours import opacity, shares
from certify.report._charts import Line, chart
from certify.report._page import code, document, facts, header, section, shows, table
from certify.report._sections import COPY, examples, not_covered, smoother_facts
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
    made = sum(claim.status == "certified" for claim in certificate.claims)
    tiles = [
        ("confidence, all claims together", PAGE.confidence(certificate.alpha)),
        ("claims made", f"{made} of {len(certificate.claims)}"),
        ("covariance policy", escaped(certificate.claims[0].policy)),
    ]
    main = certificate.main
    tiles.insert(0, ("radius ρ of that sentence", PAGE.number(main.rho, "down")))
    body = [
        header("Robustness certificate", title, _headline(certificate, main), tiles, of_prompt),
        f'<p class="note">{words.truncation(cut["tokens"], cut["kept"])}</p>' if cut else "",
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


def _headline(certificate: Certificate, claim: Claim) -> str:
    said = words.sentence(claim, PAGE)
    if claim.status == "abstained":
        return said
    compared = words.compared(certificate, claim, PAGE)
    return f"{said} {compared}{' ' if compared else ''}{words.all_claims(certificate, PAGE)}."


def _short_list(certificate: Certificate, main: Claim) -> str:
    """The other claims that are no point of a curve, each in a sentence, and what they are compared with."""
    others = [c for c in certificate.claims if c is not main and c.scope not in ("pointwise", "simultaneous")]
    items = [f"<li>{words.sentence(c, PAGE)} {words.compared(certificate, c, PAGE)}</li>" for c in others]
    record = certificate.provenance
    stick = record.get("yardstick")
    note = f'<p class="note">{words.removed(stick, PAGE, record.get("concept_in_prompt"))}</p>' if stick else ""
    return section("Also claimed", f"<ul>{''.join(items)}</ul>{note}") if items else note


def _tokens(certificate: Certificate) -> str:
    noise = certificate.provenance["token_noise"]
    sigma, kinds, relevance = noise["sigma"], noise["kinds"], noise["relevance"]
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
            else f"{PAGE.number(s / spread, 'near', 2)} ×"
            if spread
            else f"σ {PAGE.number(s, 'near', 3)}"
        )
        score_text = "" if score is None else PAGE.number(score, "near", 2)
        chips.append(
            f'<span class="token{" joined" if joined else ""}"><b style="background:rgba(213,94,0,{opacity(share):.3f})">'
            f"{escaped(label)}</b><small>{below}</small><small>{score_text}</small></span>"
        )
    concepts = ", ".join(escaped(c["name"]) for c in (certificate.provenance.get("smoother") or {}).get("concepts", ()))
    unit = "in units of the standard deviation of token embeddings" if spread else "σ"
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
    distance = words.removal(stick)
    points = [(r, v) for r, v in zip(curve.rhos, curve.values, strict=True) if math.isfinite(v)]
    positive = [v for _, v in points if v > 0] + ([distance] if distance else [])
    log = bool(positive) and max(positive) > 50 * min(positive)
    picture = chart(
        [Line(points, dots=True, dashed=not curve.simultaneous)],
        "radius ρ",
        "squared distance, at most",
        log=log,
        level=None if distance is None else (distance, "squared concept-removal distance"),
        name="Bound against radius",
    )
    rows = []
    for claim in curve.points:
        at = PAGE.number(claim.rho, "down")
        if claim.status == "abstained":
            rows.append([at, "no bound", "", escaped(claim.reason)])
            continue
        bound = float(claim.value or 0.0)
        share = "" if distance is None else PAGE.number(words.ratio(bound, distance), "up", 3)
        rows.append([at, PAGE.number(bound, "up"), share, words.vacuous(bound, distance, PAGE)])
    said = words.together(curve.simultaneous, curve.alpha, curve.n, len(curve.points), PAGE)
    note = f'<p class="note">{said} {words.beside(certificate, PAGE)}</p>'
    head = ["ρ", "squared distance, at most", "× squared concept-removal distance" if distance else "", ""]
    return section("How far can the output move?", f"<figure>{picture}</figure>{table(head, rows)}{note}")


def _event_curve(certificate: Certificate, claim: Claim) -> str:
    heading = f"Attack success rate: {escaped(claim.function)}"
    if claim.status == "abstained":
        return section(heading, f"<p>{words.sentence(claim, PAGE)}</p>")
    if claim.scope == "stopped early":
        return section(heading, f"<p>{words.sentence(claim, PAGE)} Nothing is said about other radii.</p>")
    event, measured = certificate.event(claim), certificate.provenance.get("undefended")
    largest = max(1.0, claim.rho)
    points = [(largest * i / 100, event.at(largest * i / 100)) for i in range(101)]
    picture = chart(
        [Line(points)],
        "radius ρ",
        "probability, at most",
        top=1.0,
        level=(float(measured["rate"]), "measured without the defence") if measured else None,
        name="Certified attack success rate against radius",
    )
    note = " ".join([words.seen(event, PAGE), *words.measured(certificate.provenance, PAGE)])
    rows = table(["ρ", "probability, at most"], words.rates(event, claim.rho, PAGE))
    return section(heading, f'<figure>{picture}</figure>{rows}<p class="note">{note}</p>')


def _coverage(certificate: Certificate) -> str:
    record = certificate.provenance
    positions, prompts = record.get("coverage") or [], record.get("covered_prompts") or []
    counted = record.get("covered_prompts_counted") or {}
    if not positions and not prompts and not counted:
        return ""
    tokens = (record.get("token_noise") or {}).get("tokens")
    parts = []
    if positions:
        suppression = words.coverage(certificate)
        rows = []
        for p in positions:
            name = spelled(tokens[p["position"]]) if tokens else f"position {words.count(p['position'])}"
            said = words.covered_token(name, p["covered"], p["comparable"], PAGE)
            if 0 < p["covered"] == p["comparable"]:
                said += f" {suppression.sentence(PAGE)}"
            near = [words.reached(u["token"], u["distance"], PAGE) for u in (p.get("uncovered") or ())[:_NEAREST]]
            rows.append([f"“{escaped(name)}”", said, "; ".join(near)])
        rho = PAGE.number(positions[0]["rho"], "down")
        parts.append(f"<p>Which other tokens may stand in the place of one, with ‖δ‖_Σ ≤ {rho}?</p>")
        parts.append(table(["token", "covered", "next"], rows, text=(1, 2)))
    if prompts:
        rows = [
            [
                escaped(p["prompt"]),
                words.covered_prompt(p.get("distance"), bool(p["covered"]), str(p.get("reason")), PAGE)
                + words.cut_off(p.get("dropped")),
            ]
            for p in prompts
        ]
        parts.append(f"<p>{words.covered_prompts(prompts)}</p>{table(['attack prompt', ''], rows, text=(1,))}")
    if counted:
        covered, given = words.count(counted["covered"]), words.count(counted["given"])
        parts.append(f"<p>Attack prompts given, and left out of the record: {given}, of which covered: {covered}.</p>")
    return section("What the radius means in prompts", "".join(parts))


def _claims_table(certificate: Certificate) -> str:
    rows = []
    for place, claim in enumerate(certificate.claims, start=1):
        made = claim.status == "certified"
        state = "certified" if made else '<span class="bad">abstained</span>'
        rows.append(
            [
                str(place),
                f"{words.named(claim, PAGE)}<br><small>{words.details(claim, PAGE)}</small>"
                + ("" if made else f"<br>{escaped(claim.reason)}"),
                words.value(claim, PAGE),
                PAGE.number(claim.rho, "down"),
                "" if claim.q is None else PAGE.number(claim.q, "down"),
                PAGE.failure(claim.alpha),
                f"{claim.n:,}",
                escaped(words.proof(claim)),
                state,
            ]
        )
    head = ["#", "claim", "value", "ρ", "q", "α", "draws", "proof", "status"]
    note = (
        '<p class="note">α: probability that the draws behind the claim were so unlucky that it is false; all claims together '
        f"{PAGE.failure(certificate.alpha)}. q: probability over the noise of what is deployed. An abstention claims "
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
    compared = ""
    if "smoother" in record:
        compared = (
            "It computes again, and compares, what this page says of tokens and their noise, of the concept in the prompt, of "
            "the concept-removal distances, and of covered tokens and covered attack prompts. It does not compare rates "
            "measured on images, attack prompts left out of the record, or when, where and with which seed the certificate "
            "was made. "
        )
    return section(
        "How to check it again",
        f"<p>{how}</p><pre><code>{escaped(command, isolate=False)}</code></pre>"
        "<p>It compares the model’s SHA-256 with the one below, tests whether every value follows from the evidence on file, "
        f"and draws afresh to test the evidence. A true certificate is refuted with probability at most 10⁻⁶. {compared}"
        f"{COPY}</p>",
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
