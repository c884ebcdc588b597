"""A claim as a badge: one line of SVG, for a README or a model card, that says the same as the page's first sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from certify._text import cleaned, escaped
from certify.certificate import Certificate, Claim, words
from certify.datasets import ClassifiedRun, RunRecord, certified_fraction
from certify.statements.classify import right_radii

__all__ = ["badge"]

_SIZE, _PAD, _HIGH = 11, 7, 20  # px
_MOST = 48
"""Letters of the name of an event or a function; a longer one is cut."""

_CERTIFIED, _NOTHING, _LABEL = "#00639b", "#6b6f76", "#3a3d42"
"""White letters have a contrast of at least 4.5 to 1 on each."""


def badge(record: Certificate | RunRecord) -> str:
    """The headline of a certificate as a badge; of a run, the certified fraction at its radius, or the certified accuracy.

    What is certified stands on blue, rounded in the safe direction; an abstention on grey, and says so. The title, which
    screen readers read and a pointer shows, is the whole sentence, with the confidence.
    """
    return _of_certificate(record) if isinstance(record, Certificate) else _of_run(record)


def _of_certificate(certificate: Certificate) -> str:
    claim = certificate.headline
    if claim.status != "certified":
        return _badge("certify", "nothing certified", words.sentence(claim), good=False)
    said = _value(claim)
    title = f"{words.sentence(claim)} {words.all_claims(certificate)}."
    return _badge(_short(claim.function), f"{said} at ρ = {words.PLAIN.number(claim.rho, 'down', 3)}", title)


def _value(claim: Claim) -> str:
    if claim.quantity in ("radius", "class", "percentile"):
        return "certified"
    show = words.PLAIN.percent if words.is_probability(claim) else words.PLAIN.number
    if claim.side == "lower":
        return f"≥ {show(claim.value, 'down')}"
    return f"≤ {show(claim.value, 'up')}"


def _of_run(run: RunRecord) -> str:
    if run.of_classes:
        made = ClassifiedRun.of(run)
        radii: Sequence[float] = [r or 0.0 for r in right_radii(made.decisions, made.labels, "rho")]
        share, what, at = sum(r > 0 for r in radii) / len(radii), "certified accuracy", ""
        title = f"{sum(r > 0 for r in radii):,} of {len(radii):,} inputs are certified with the right class"
    else:
        radii, rho = [float(row["radius"]) for row in run.rows], float(run.settings["rho"])
        share, what = certified_fraction(radii, rho), "certified prompts"
        at = f" at ρ = {words.PLAIN.number(rho, 'down', 3)}"
        title = (
            f"For {sum(r >= rho for r in radii):,} of {len(radii):,} prompts the certified radius is at least {rho:g}"
        )
    confidence = words.PLAIN.confidence(run.settings["alpha"])
    text = f"{words.PLAIN.percent(share, 'down')} of {len(radii):,}{at}"
    return _badge(what, text, f"{title}, each with confidence {confidence}.", good=share > 0)


def _short(name: str) -> str:
    plain = " ".join(cleaned(name).split())
    return plain if len(plain) <= _MOST else f"{plain[: _MOST - 1].rstrip()}…"


def _badge(left: str, right: str, title: str, good: bool = True) -> str:
    """Two fields with a text each. Every text has its width fixed, so that it fits whatever font draws it."""
    from certify.plots.style import plain, text_width

    def wide(text: str) -> int:
        return max(1, round(text_width(plain(text), _SIZE) * 72))

    texts = [(text, wide(text)) for text in (left, right)]
    first, second = (width + 2 * _PAD for _, width in texts)
    total = first + second
    mark = hashlib.sha256(f"{left} {right} {title}".encode(errors="replace")).hexdigest()[:8]  # a page may hold several
    said = escaped(" ".join(cleaned(title).split()), isolate=False)
    drawn = "".join(
        f'<text x="{start + _PAD}" y="14" textLength="{width}" lengthAdjust="spacingAndGlyphs">'
        f"{escaped(text, isolate=False)}</text>"
        for start, (text, width) in zip((0, first), texts, strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{_HIGH}" viewBox="0 0 {total} {_HIGH}" '
        f'role="img" aria-labelledby="said-{mark}"><title id="said-{mark}">{said}</title>'
        f'<clipPath id="round-{mark}"><rect width="{total}" height="{_HIGH}" rx="4"/></clipPath>'
        f'<g clip-path="url(#round-{mark})"><rect width="{first}" height="{_HIGH}" fill="{_LABEL}"/>'
        f'<rect x="{first}" width="{second}" height="{_HIGH}" fill="{_CERTIFIED if good else _NOTHING}"/></g>'
        f'<g fill="#fff" font-family="DejaVu Sans,Verdana,Geneva,sans-serif" font-size="{_SIZE}">{drawn}</g></svg>\n'
    )
