"""Sections of the pages: what is not covered, the smoother that a page is about, examples of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from certify._text import escaped
from certify.certificate import words
from certify.report._page import code, image, section
from certify.report.pictures import Pictures

COPY = (
    "<strong>This page is a copy for reading</strong>: it was written from the files without drawing anything, and who can "
    "change a file can change a page. What counts is the check."
)


def not_covered(policy: str, *, of_prompt: bool, images: bool, deployed: bool) -> str:
    """What no claim on the page says: as `certify.certificate.words.not_covered`, in a section."""
    items = words.not_covered(policy, of_prompt=of_prompt, images=images, deployed=deployed)
    said = [escaped(f"{item[:1].upper()}{item[1:].removesuffix('.')}.") for item in items]
    return section("What is not covered", f"<ul>{''.join(f'<li>{item}</li>' for item in said)}</ul>", "warn")


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
                f"{words.count(concept['pairs'])} prompt pairs, SHA-256 {code(concept['sha256'])}",
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
