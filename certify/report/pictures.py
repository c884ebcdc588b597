"""Images with and without the defence, for the page of a certificate."""

from __future__ import annotations

from dataclasses import dataclass

from certify._records import Record
from certify._text import escaped
from certify.report._page import image, section

__all__ = ["Pictures"]


@dataclass(frozen=True)
class Pictures(Record):
    """Images for a page, PNG files as bytes.

    Attributes:
        undefended, defended: as many of one as of the other; the i-th of both start from the same noise. Or
        sheet: one picture, undefended images above and defended ones below.
        note: where they come from, in words.
    """

    undefended: tuple[bytes, ...] = ()
    defended: tuple[bytes, ...] = ()
    sheet: bytes | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.undefended) != len(self.defended):
            raise ValueError(
                f"undefended, defended have {len(self.undefended)}, {len(self.defended)} images: must be as many"
            )


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
