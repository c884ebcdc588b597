"""Images with and without the defence, for the page of a certificate."""

from __future__ import annotations

from dataclasses import dataclass

from certify._records import Record

__all__ = ["ExampleImages"]


@dataclass(frozen=True)
class ExampleImages(Record):
    """Images for a page, PNG files as bytes.

    Attributes:
        undefended, defended: as many of one as of the other; the i-th of both start from the same noise. Or
        sheet: one image, undefended images above and defended ones below.
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
