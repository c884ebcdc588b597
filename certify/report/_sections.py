"""Sections of the pages: what is not covered, the smoother that a page is about, examples of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from certify._text import escaped
from certify.certificate import POLICIES
from certify.report._numbers import count
from certify.report._page import code, image, section
from certify.report.pictures import Pictures

_PLAIN = {"frozen": "A defence that sets its noise anew from the changed prompt. "}
COPY = (
    "<strong>This page is a copy for reading</strong>: it was written from the files without drawing anything, and who can "
    "change a file can change a page. What counts is the check."
)


def not_covered(policy: str, *, of_prompt: bool, images: bool, deployed: bool) -> str:
    """What no claim on the page says.

    Args:
        policy: of the covariance.
        of_prompt, images, deployed: whether the claims are about a prompt, its images, what is deployed.
    """
    items = [
        _PLAIN.get(policy, "") + escaped(POLICIES[policy]),
        "Changes larger than the radius, and any number that is not on this page.",
    ]
    if of_prompt:
        items.append(
            "Prompts with another number of tokens, and changes at positions without noise (begin, end, padding)."
        )
        if not images:
            items.append("The image: these claims are about what it is made from.")
    items.append(
        "Whether the output is harmless to begin with: a certificate says how far an attacker can move it, not where it is."
    )
    if deployed:
        items.append("A deployment whose noise is not fresh in every run, or not secret.")
    else:
        items.append("The few noisy copies that are deployed in place of the ideal smoother.")
    return section("What is not covered", f"<ul>{''.join(f'<li>{i}</li>' for i in items)}</ul>", "warn")


def smoother_facts(smoother: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """A smoother's settings and concepts, for `facts`."""
    if not smoother:
        return []
    names = ("sigma0", "k", "n", "aggregate", "use_global", "policy", "similarity", "special_tokens")
    said = ", ".join(f"{name} = {smoother[name]}" for name in names if smoother.get(name) is not None)
    rows = [("smoother", escaped(said))]
    for concept in smoother.get("concepts", ()):
        rows.append(
            (
                f"concept {escaped(concept['name'])}",
                f"{count(concept['pairs'])} prompt pairs, SHA-256 {code(concept['sha256'])}",
            )
        )
    return rows


def examples(pictures: Pictures) -> str:
    """The section with the images."""
    if pictures.sheet is not None:
        shown = (
            f'<figure class="sheet">{image(pictures.sheet, "Images: undefended above, defended below")}'
            "<figcaption>Above: undefended. Below: defended, from the same initial noise.</figcaption></figure>"
        )
    elif pictures.undefended:
        pairs = "".join(
            f"{image(u, f'Undefended image {i}')}{image(d, f'Defended image {i}')}"
            for i, (u, d) in enumerate(zip(pictures.undefended, pictures.defended, strict=True), start=1)
        )
        labels = "<span>undefended</span><span>defended</span>" * min(2, len(pictures.undefended))
        shown = f'<div class="pairs">{labels}{pairs}</div>'
    else:
        shown = ""
    note = f'<p class="note">{escaped(pictures.note)}</p>' if pictures.note else ""
    if not shown:
        return section("With and without the defence", note) if note else ""
    said = '<p class="note">Examples, not claims: no image here is certified.</p>'
    return section("With and without the defence", f"{shown}{note}{said}")
