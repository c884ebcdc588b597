"""Sections of the pages: what is not covered, the smoother that a page is about, examples of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from certify._text import escaped
from certify.certificate import words
from certify.certificate.tokens import Tokens
from certify.certificate.words import PAGE
from certify.plots.colours import opacity
from certify.report._page import code, image, listed, note, section, status, table
from certify.report.examples import ExampleImages
from certify.summaries.of_prompts import tokens_shown

COPY = (
    "<strong>This page is a copy for reading</strong>: it was written from the files without drawing anything, and who can "
    "change a file can change a page. What counts is the check."
)


def not_covered(items: Iterable[str]) -> str:
    """What no claim on the page says, as `certify.certificate.words.not_covered` says it, in a section."""
    said = (escaped(f"{item[:1].upper()}{item[1:].removesuffix('.')}.") for item in items)
    return section("What is not covered", listed(said), "warn")


def claim_cells(claim: Any) -> list[str]:
    """What `claims_table` says of a claim, behind its number and its name."""
    return [
        words.value(claim, PAGE),
        PAGE.number(claim.rho, "down"),
        "" if claim.q is None else PAGE.number(claim.q, "down"),
        PAGE.failure(claim.alpha),
        words.count(claim.n),
        escaped(words.proof(claim)),
        status(claim.status),
    ]


def chips(tokens: Tokens) -> str:
    """A prompt's tokens in the colour of their noise, with noise and relevance below each."""
    said = []
    for token in tokens_shown(tokens, PAGE):
        below = "".join(f"<small>{line}</small>" for line in token.below)
        tint = f"background:rgba(213,94,0,{opacity(token.share):.3f})"
        kind = "token joined" if token.joined else "token"
        said.append(f'<span class="{kind}"><b style="{tint}">{token.text}</b>{below}</span>')
    return f'<p class="tokens">{"".join(said)}</p>'


def claims_table(rows: Sequence[Sequence[str]]) -> str:
    """Claims, a line each: number, name, and their cells."""
    head = ("#", "claim", "value", "ρ", "q", "α", "draws", "proof", "status")
    return table(head, rows, text=(1, 7), wide=True, plain=(8,))


def digest_facts(digests: Mapping[str, Any]) -> list[tuple[str, str]]:
    """SHA-256 by name, for `facts`."""
    return [(f"SHA-256 of {escaped(name)}", code(value)) for name, value in digests.items()]


def smoother_facts(smoother: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """A smoother's settings and concepts, for `facts`."""
    if not smoother:
        return []
    names = ("sigma0", "k", "n", "aggregate", "use_global", "policy", "similarity", "special_tokens")
    said = ", ".join(f"{name} = {smoother[name]}" for name in names if smoother.get(name) is not None)
    rows = [("smoother", escaped(said))]
    for concept in smoother.get("concepts", ()):
        pairs = f"{words.count(concept['pairs'])} prompt pairs, SHA-256 {code(concept['sha256'])}"
        rows.append((f"concept {escaped(concept['name'])}", pairs))
    return rows


def images_of(examples: ExampleImages) -> str:
    """The images themselves; "": there are none."""
    if examples.sheet is not None:
        return (
            f'<figure class="sheet">{image(examples.sheet, "Images: undefended above, defended below")}'
            "<figcaption>Above: undefended. Below: defended, from the same initial noise.</figcaption></figure>"
        )
    if not examples.undefended:
        return ""
    pairs = "".join(
        f"{image(u, f'Undefended image {i}')}{image(d, f'Defended image {i}')}"
        for i, (u, d) in enumerate(zip(examples.undefended, examples.defended, strict=True), start=1)
    )
    labels = "<span>undefended</span><span>defended</span>" * min(2, len(examples.undefended))
    return f'<div class="pairs">{labels}{pairs}</div>'


def example_images(examples: ExampleImages) -> str:
    """The section with the images."""
    shown = images_of(examples)
    noted = note(escaped(examples.note)) if examples.note else ""
    if shown:
        noted += note("Examples, not claims: no image here is certified.")
    return section("With and without the defence", shown + noted) if shown or noted else ""
