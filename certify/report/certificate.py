"""The page of a certificate: `certificate_page`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from certify._text import escaped
from certify.bounds.indistinguishability import Indistinguishability
from certify.certificate import Certificate, ClaimedCurve, words
from certify.certificate.tokens import Tokens, tokens_by_encoder, tokens_of
from certify.certificate.words import PAGE
from certify.report._charts import Line, chart
from certify.report._page import code, document, facts, header, listed, note, section, shows, table
from certify.report._sections import (
    COPY,
    chips,
    claim_cells,
    claims_table,
    digest_facts,
    example_images,
    not_covered,
    smoother_facts,
)
from certify.report.examples import ExampleImages
from certify.summaries import Section
from certify.summaries.of_certificates import sections

__all__ = ["certificate_page"]


def certificate_page(
    certificate: Certificate,
    *,
    folder: str = "FOLDER",
    digests: Mapping[str, str] | None = None,
    examples: ExampleImages | None = None,
) -> str:
    """A certificate as a page.

    Args:
        certificate: of a prompt (`certify prompt`), or any other; what its provenance does not hold is left out.
        folder: where it lies, as the reader is to type it in order to check it again.
        digests: SHA-256 of its files, by name.
        examples: images with and without the defence; None: none.

    Returns:
        An HTML document, for a file in UTF-8.

    Raises:
        ValueError: its provenance is damaged: it cannot be shown.
    """
    with shows(f"certificate in {folder!r}"):
        return _certificate_page(certificate, folder, digests or {}, examples)


def _certificate_page(
    certificate: Certificate, folder: str, digests: Mapping[str, str], examples: ExampleImages | None
) -> str:
    record, claims, main = certificate.provenance, certificate.claims, certificate.headline
    prompt = record.get("prompt")
    of_prompt, cut = "smoother" in record, record.get("truncated")
    title = str(prompt) if prompt else "a prompt left out of the record" if of_prompt else "a function"
    tiles = [
        ("radius ρ of that sentence", PAGE.number(main.rho, "down")),
        ("confidence, all claims together", PAGE.confidence(certificate.alpha)),
        ("claims made", f"{sum(claim.status == 'certified' for claim in claims)} of {len(claims)}"),
        ("covariance policy", escaped(claims[0].policy)),
    ]
    headline = words.stated(certificate, main, PAGE)
    if main.status == "certified":
        beside = words.measured({"undefended": record.get("undefended")}, PAGE) if words.is_probability(main) else []
        headline = " ".join([headline, *beside, f"{words.all_claims(certificate, PAGE)}."])
    body = [
        header("Robustness certificate", title, headline, tiles, of_prompt),
        note(words.truncation(cut["tokens"], cut["kept"])) if cut else "",
        section("Notice", listed(map(escaped, certificate.notices)), "warn") if certificate.notices else "",
        not_covered(words.left_out(certificate)),
        _smoothed(certificate),
        _tokens(certificate),
        *(_section(found) for found in sections(certificate, PAGE)),
        example_images(examples) if examples is not None else "",
        _claims_table(certificate),
        _check_certificate(certificate, folder),
        _provenance(certificate, digests),
    ]
    return document(f"Certificate: {title}", body)


def _smoothed(certificate: Certificate) -> str:
    """The bound of the smoothed output, where the page opens with another claim."""
    main = certificate.main
    if main is certificate.headline or main.status != "certified":
        return ""
    return section("The smoothed output", f"<p>{words.stated(certificate, main, PAGE)}</p>")


def _tokens(certificate: Certificate) -> str:
    found = tokens_of(certificate)
    if found is not None:
        return section("The prompt, coloured by noise", _chips(found))
    each = tokens_by_encoder(certificate)
    shown = [f"<h3>{escaped(name)}</h3>{_chips(tokens)}" for name, tokens in each]
    return section("The prompt in every text encoder, coloured by noise", "".join(shown)) if each else ""


def _chips(found: Tokens) -> str:
    unit = "in units of the standard deviation of token embeddings" if found.std else "σ"
    hidden = len(found.names) - len(found.shown)
    legend = (
        f"Below each token: its noise, {unit}, and its relevance to {escaped(found.concept)} (−1 to 1). The stronger the "
        "colour, the more noise (on a logarithmic scale), and the larger the changes of that token."
        + (f" {hidden} padding positions carry no noise." if hidden else "")
    )
    return f"{chips(found)}{note(legend)}"


def _section(found: Section) -> str:
    parts = [listed(found.sentences)] if found.sentences else []
    if found.drawn is not None:
        draw = _curve_chart if isinstance(found.drawn, ClaimedCurve) else _rate_chart
        parts.append(f"<figure>{draw(found)}</figure>")
    if found.table is not None:
        parts.append(table(found.table.head, found.table.rows, plain=found.table.words))
    return section(f"{found.title[:1].upper()}{found.title[1:]}", "".join([*parts, *map(note, found.notes)]))


def _curve_chart(found: Section) -> str:
    curve, level = found.drawn, found.level
    points = [(r, v) for r, v in zip(curve.rhos, curve.values, strict=True) if math.isfinite(v)]
    positive = [v for v in [*(v for _, v in points), level or 0.0] if v > 0]
    return chart(
        Line(points, dots=True, dashed=not curve.simultaneous),
        found.table.head[1] if found.table else "",
        log=bool(positive) and max(positive) > 50 * min(positive),
        level=None if level is None else (level, "squared concept-removal distance"),
        name="Bound against radius",
    )


def _rate_chart(found: Section) -> str:
    event, level = found.drawn, found.level
    largest = max(1.0, event.claim.rho)
    radii = [largest * i / 100 for i in range(101)]
    return chart(
        Line([(r, event.at(r)) for r in radii]),
        "probability, at most",
        top=1.0,
        level=None if level is None else (level, "measured without the defence"),
        beside=Line(
            [(r, Indistinguishability(r, event.replicas).total_variation) for r in radii],
            name="what any test can tell (T15)",
        ),
        name="Certified attack success rate against radius",
    )


def _claims_table(certificate: Certificate) -> str:
    rows = []
    for place, claim in enumerate(certificate.claims, start=1):
        reason = "" if claim.status == "certified" else f"<br>{escaped(claim.reason)}"
        name = f"{words.named(claim, PAGE)}<br><small>{words.details(claim, PAGE)}</small>{reason}"
        rows.append([str(place), name, *claim_cells(claim)])
    legend = (
        "α: probability that the draws behind the claim were so unlucky that it is false; all claims together "
        f"{PAGE.failure(certificate.alpha)}. q: probability over the noise of what is deployed. An abstention claims "
        "nothing, and is no sign of weakness."
    )
    return section("Every claim", claims_table(rows) + note(legend))


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
    if "pipeline" in record:
        compared = (
            "It computes again, and compares, what this page says of tokens and their noise in every text encoder, of the "
            "concept in the prompt and its removal, of how the radius is shared out, and of covered words and prompts. "
        )
    elif "smoother" in record:
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
    record: Mapping[str, Any] = certificate.provenance
    model, source = record.get("model") or {}, record.get("source") or {}
    on_record = (("made", "created"), ("seed", "seed"), ("pilot draws", "pilot"))
    own = "embedded" if "model" in source else model.get("kind", "not on record")
    rows = [
        *((name, escaped(record.get(key, "not on record"))) for name, key in on_record),
        ("computed in", escaped(f"{record.get('dtype', '?')} on {record.get('device', '?')}")),
        ("model", escaped(source.get("model") or own)),
    ]
    for name in ("unet", "text_encoder", "variant"):
        rows += [(name.replace("_", " "), escaped(source[name]))] if source.get(name) else []
    for name, over in (model.get("overlays") or {}).items():
        said = f"{over.get('kind')}: {over.get('tensors')} of {over.get('of')} tensors"
        rows.append((f"{escaped(name.replace('_', ' '))}, overlay", escaped(said)))
    rows += digest_facts(model.get("sha256") or {})
    if not model.get("sha256"):
        rows.append(("SHA-256 of the model", "none: the certificate is about a plain callable"))
    if record.get("input_sha256"):
        rows.append(("SHA-256 of the input", code(record["input_sha256"])))
    rows += [*digest_facts(digests), *smoother_facts(record.get("smoother"))]
    rows.append(("versions", escaped(", ".join(f"{k} {v}" for k, v in (record.get("versions") or {}).items()))))
    return section("Where it comes from", facts(rows))
