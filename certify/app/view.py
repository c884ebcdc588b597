"""What is shown of a run, as HTML: tokens, images, curves, the claim. Snapshots in, strings out, what was typed escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from certify._text import confidence, duration, escaped, failure, percent, shown, spelled
from certify.certificate import Certificate, words
from certify.certificate.words import PAGE
from certify.report._charts import Line, chart
from certify.report._page import listed, note, table
from certify.report._sections import chips
from certify.summaries.of_certificates import sections

if TYPE_CHECKING:
    from certify.app.run import Snapshot
    from certify.app.subject import Known

__all__ = ["CSS", "claim", "comparison", "details", "framed", "images", "live", "status", "tokens"]

CSS = """
.certify{--paper:#fff;--ink:#1c1e21;--soft:#5b6068;--line:#dcdfe4;--tint:#f5f6f8;--blue:#0072b2;--orange:#b84f00;
color:var(--ink);font-size:1rem;line-height:1.5;overflow-wrap:anywhere}
.dark .certify{--paper:#15171a;--ink:#e6e8eb;--soft:#a9afb8;--line:#3a3f46;--tint:#23262b;--blue:#56b4e9;--orange:#f0914a}
.certify h3{margin:1.1rem 0 .4rem;font-size:1.05rem;font-weight:600;color:var(--ink)}
.certify h4{margin:.5rem 0 .1rem;font-size:.92rem;font-weight:600;color:var(--soft)}
.certify p,.certify li,.certify td,.certify th,.certify bdi,.certify data,.certify strong,.certify b{color:inherit}
.certify ul{margin:.2rem 0 .6rem;padding-left:1.2rem;list-style:disc}.certify li{margin:.25rem 0}
.certify .note,.certify small{color:var(--soft);font-size:.86rem}
.certify .claim{margin:.2rem 0;font-size:1.2rem;line-height:1.5;border-left:4px solid var(--blue);padding-left:.9rem}
.certify .error{margin:.2rem 0;border-left:4px solid var(--orange);padding-left:.9rem}
.certify .bad{color:var(--orange);font-weight:600}
.certify .bar{height:.5rem;border-radius:.25rem;background:var(--line);overflow:hidden;margin:.3rem 0}
.certify .bar span{display:block;height:100%;background:var(--blue)}
.certify .tokens{display:flex;flex-wrap:wrap;gap:.6rem .45rem;margin:.4rem 0}
.certify .token{display:inline-flex;flex-direction:column;align-items:center;max-width:100%}
.certify .token b{padding:.12rem .5rem;border-radius:6px;border:1px solid var(--line);font-weight:500;white-space:pre-wrap}
.certify .token.joined{margin-right:-.4rem}
.certify .token small{font-size:.75rem;line-height:1.35;font-variant-numeric:tabular-nums}
.certify .pairs{display:grid;grid-template-columns:repeat(4,minmax(0,9rem));gap:.5rem;align-items:start}
.certify .pairs span{color:var(--soft);font-size:.85rem}
.certify .pairs img{width:100%;height:auto;display:block;border-radius:4px;image-rendering:pixelated;margin:0}
.certify .charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:.4rem 1.4rem}
.certify figure{margin:.2rem 0}.certify svg{display:block;width:100%;max-width:40rem;height:auto}
.certify svg text{fill:var(--soft);font-size:12.5px}.certify .grid{stroke:var(--line)}.certify .axis{stroke:var(--soft)}
.certify .curve{fill:none;stroke:var(--blue);stroke-width:2.2;stroke-linejoin:round}
.certify .curve.dashed{stroke-dasharray:2 5}
.certify .beside{fill:none;stroke:var(--orange);stroke-width:1.6;stroke-dasharray:5 3}
.certify .dot{fill:var(--blue)}.certify .level{stroke:var(--orange);stroke-width:1.4;stroke-dasharray:6 4}
.certify svg .level-text{fill:var(--orange)}
.certify .scroll{overflow-x:auto}
.certify table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;border:0!important;margin:.3rem 0;
overflow-wrap:break-word}
.certify tr,.certify thead,.certify tbody{border:0!important;background:none!important}
.certify th{color:var(--soft);font-weight:600;text-align:left;vertical-align:bottom}
.certify th,.certify td{padding:.3rem .9rem .3rem 0!important;border:0!important;
border-bottom:1px solid var(--line)!important;background:none!important}
.certify td{vertical-align:top}.certify td,.certify th{overflow-wrap:break-word}.certify td *{overflow-wrap:inherit}
.certify th.num,.certify td.num{text-align:right;white-space:nowrap}
.certify .side td:first-child{min-width:7.5rem}.certify .side td.num{white-space:normal}
.certify code{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.92em}
.certify iframe{width:100%;height:80vh;border:1px solid var(--line);border-radius:8px;background:var(--paper)}
@media (max-width:36rem){.certify .pairs{grid-template-columns:repeat(2,minmax(0,1fr))}.certify svg text{font-size:15px}
.certify .pairs span:nth-of-type(n+3){display:none}.certify .claim{font-size:1.08rem}}
"""
"""The style sheet, light and dark; every rule begins with the class that `_block` gives."""


def _block(*parts: str) -> str:
    kept = "".join(part for part in parts if part)
    return f'<div class="certify">{kept}</div>' if kept else ""


def status(now: Snapshot, name: str = "") -> str:
    """What is being done, and how far it is; or what is wrong."""
    if now.error:
        return _block(f'<p class="error" role="alert">{escaped(now.error)}</p><p class="note">{escaped(now.stage)}</p>')
    before = f"{name}: " if name else ""
    said = f"{before}{now.stage}"
    bar = ""
    if not now.ended:
        said += f", {now.done:,} of {now.total:,}" if now.total else " …"
        share = now.done / now.total if now.total else 0.0
        bar = (
            f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * share:.0f}" '
            f'aria-label="{escaped(now.stage, isolate=False)}"><span style="width:{100 * share:.1f}%"></span></div>'
        )
    took = f" ({duration(now.seconds)})" if now.seconds >= 1 else ""
    return _block(f'<p class="note">{escaped(said + took)}</p>{bar}')


def tokens(known: Known | None) -> str:
    """The prompt's tokens in the colour of their noise, with noise and relevance below, for every text encoder."""
    if known is None:
        return ""
    several = len(known.encoders) > 1
    rows = ((f"<h4>{escaped(name)}</h4>" if several else "") + chips(encoder) for name, encoder in known.encoders)
    legend = (
        "Below each token: its noise σ, in standard deviations of token embeddings, and its relevance to "
        f"{escaped(known.concept)} (−1 to 1). The stronger the colour, the more noise."
    )
    unnamed = (
        "" if known.named else note("The prompt does not seem to name the concept: there is little of it to suppress.")
    )
    return _block("<h3>The prompt, coloured by noise</h3>", *rows, note(legend), unnamed)


def images(now: Snapshot) -> str:
    """Undefended and defended images in pairs."""
    undefended, defended = now.pairs
    if not undefended:
        return ""
    shown_ = "".join(
        f"{_image(u, f'Undefended image {i}')}{_image(d, f'Defended image {i}')}"
        for i, (u, d) in enumerate(zip(undefended, defended, strict=True), start=1)
    )
    labels = "<span>undefended</span><span>defended</span>" * len(undefended)
    said = note("Both of a pair start from the same initial noise. Examples, not claims.")
    return _block(f'<h3>Without and with the defence</h3><div class="pairs">{labels}{shown_}</div>{said}')


def _image(data: bytes, alternative: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/png;base64,{encoded}" alt="{escaped(alternative, isolate=False)}">'


def live(now: Snapshot, alpha: float) -> str:
    """Before the end: the curves as they are until now, which hold at any time."""
    if now.certificate is not None or now.error or (not now.looks and now.count is None):
        return ""
    figures = []
    if now.looks:
        last = now.looks[-1]
        points = [(r, v) for r, v in zip(last.rhos, last.values, strict=True) if math.isfinite(v)]
        removal = None if now.known is None else now.known.removal
        figures.append(
            "<figure>"
            + _curve(Line(points, dots=True), removal)
            + note(f"Squared distance of the smoothed encoding, at most; after {last.n:,} draws.")
            + "</figure>"
        )
    if now.count is not None:
        count = now.count
        line = Line(list(zip(count.rhos, count.values, strict=True)))
        drawn = chart(line, "probability, at most", top=1.0, name="Attack success rate against radius, until now")
        said = (
            f"Attack success rate; {count.successes:,} of {count.n:,} images show the concept, so that without an attack it "
            f"is at most {percent(count.limit, 'up')}."
        )
        figures.append(f"<figure>{drawn}{note(said)}</figure>")
    ended = "When the run was stopped" if now.ended else "Until now"
    return _block(
        f'<h3>{ended}</h3><div class="charts">{"".join(figures)}</div>',
        note(
            "Anytime-valid: whenever you look or stop, all that is shown here holds at once with confidence "
            f"{confidence(alpha)}. It is no part of the certificate, which comes at the end. To run again with "
            "another seed until it looks better is a choice that no confidence covers."
        ),
    )


def _curve(line: Line, level: float | None, beside: Line | None = None) -> str:
    values = [v for _, v in [*line.points, *(beside.points if beside else ())]]
    positive = [v for v in [*values, level or 0.0] if v > 0]
    log = bool(positive) and max(positive) > 50 * min(positive)
    return chart(
        line,
        "squared distance, at most",
        log=log,
        top=None if log else max(values, default=1.0) or 1.0,
        level=None if level is None else (level, "squared concept-removal distance"),
        beside=beside,
        name="Bound against radius",
    )


def claim(certificate: Certificate | None) -> str:
    """The main claim in one sentence, and how sure all of them are."""
    if certificate is None:
        return ""
    main = certificate.main
    said = words.stated(certificate, main, PAGE)
    if main.status == "certified":
        said += f" {words.all_claims(certificate, PAGE)}."
    notices = listed(map(escaped, certificate.notices)) if certificate.notices else ""
    return _block(f'<h3>What is certified</h3><p class="claim">{said}</p>{notices}')


def details(certificate: Certificate | None) -> str:
    """Every section of the certificate: bounds, rates, covered substitutions, and what is not covered."""
    if certificate is None:
        return ""
    parts = []
    for found in sections(certificate, PAGE):
        body = [listed(found.sentences)] if found.sentences else []
        if found.drawn is not None:
            body.append(f"<figure>{_drawn(found)}</figure>")
        if found.table is not None:
            body.append(table(found.table.head, found.table.rows, plain=found.table.words))
        body += map(note, found.notes)
        parts.append(f"<h3>{found.title[:1].upper()}{found.title[1:]}</h3>{''.join(body)}")
    left = (escaped(f"{item[:1].upper()}{item[1:].removesuffix('.')}.") for item in words.left_out(certificate))
    return _block(*parts, f"<h3>What is not covered</h3>{listed(left)}")


def _drawn(found: Any) -> str:
    if hasattr(found.drawn, "rhos"):
        points = [(r, v) for r, v in zip(found.drawn.rhos, found.drawn.values, strict=True) if math.isfinite(v)]
        return _curve(Line(points, dots=True), found.level)
    radii = [max(1.0, found.drawn.claim.rho) * i / 100 for i in range(101)]
    level = None if found.level is None else (found.level, "measured without the defence")
    line = Line([(r, found.drawn.at(r)) for r in radii])
    return chart(
        line, "probability, at most", top=1.0, level=level, name="Certified attack success rate against radius"
    )


def comparison(names: Sequence[str], runs: Sequence[Snapshot]) -> str:
    """Two settings side by side: settings, claims, one figure with both curves, tokens and images of each."""
    ready = [(name, now) for name, now in zip(names, runs, strict=True) if now.certificate is not None]
    if len(ready) < len(runs):
        return _block(*(tokens(now.known) + images(now) for now in runs))
    certificates = [now.certificate for _, now in ready if now.certificate is not None]
    rows: dict[str, list[str]] = {}
    for place, certificate in enumerate(certificates):
        for c in certificate.claims:
            if c.scope in ("pointwise", "simultaneous"):
                continue
            at = "" if c.quantity == "radius" else f", ρ = {shown(c.rho, 'exact')}"
            rows.setdefault(f"{words.named(c, PAGE)}{at}", ["–"] * len(runs))[place] = words.value(c, PAGE)
    rows["failure probability α"] = [failure(c.alpha) for c in certificates]
    letters = [name.partition(":")[0] for name in names]
    rows = {"setting": [escaped(name.partition(": ")[2]) for name in names], **rows}
    cells = f'<div class="side">{table(("", *map(escaped, letters)), [[name, *values] for name, values in rows.items()])}</div>'
    curves = [c.curve for c in certificates]
    drawn = ""
    if all(curve is not None for curve in curves):
        lines = [
            Line([(r, v) for r, v in zip(curve.rhos, curve.values, strict=True) if math.isfinite(v)])
            for curve in curves
            if curve is not None
        ]
        if all(line.points for line in lines):
            first, other = lines
            drawn = f"<figure>{_curve(Line(first.points, dots=True), None, other)}</figure>" + note(
                f"Solid, with dots: {escaped(letters[0])}. Dashed: {escaped(letters[1])}."
            )
    said = note(
        "Each certificate holds by itself with its own confidence; both at once with the sum of their failure probabilities. "
        "To take the better of the two is to ask for that sum. Distances are compared with each setting’s own reference."
    )
    each = "".join(
        f"<h3>{escaped(name)}</h3>{claim(now.certificate)}{tokens(now.known)}{images(now)}" for name, now in ready
    )
    return _block(f"<h3>Side by side</h3>{cells}{drawn}{said}{each}")


def framed(page: str, title: str) -> str:
    """A page of `certify report` inside this one: nothing in it runs, and nothing of it reaches this page's style."""
    inside = page.replace("&", "&amp;").replace('"', "&quot;")
    return _block(f'<iframe sandbox="" srcdoc="{inside}" title="{escaped(spelled(title), isolate=False)}"></iframe>')
