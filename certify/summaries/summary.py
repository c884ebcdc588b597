"""What is shown of a record, before anything is formatted: facts, tables, sections, and the summary that they make up.

Words in it are dressed by a `certify.certificate.words.Style`, plain by default. Renderers decide on format alone: text.py,
html.py, the terminal of the command line, the pages of `certify.report`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple

__all__ = ["Section", "Summary", "Table", "Token", "summary"]


@dataclass(frozen=True)
class Table:
    """Rows of words: the first column and those named in `words` stand to the left, numbers to the right.

    Attributes:
        head: names of the columns.
        rows: as many words each.
        words: columns, from 0, that hold words.
        tints: for each row the share of `certify.plots.colours`' scale behind its last column; empty: none.
        title: above it.
    """

    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    words: tuple[int, ...] = ()
    tints: Sequence[float | None] = ()
    title: str = ""


@dataclass(frozen=True)
class Section:
    """What a certificate says of one object.

    Attributes:
        title: in small letters.
        sentences: what is claimed, and what it is compared with.
        table: values at several radii.
        notes: how sure they are, and what was measured beside.
        drawn: the `ClaimedCurve` or `ClaimedEvent` that a figure of this section draws.
        level: what it is compared with there: the squared concept-removal distance, the rate without the defence.
    """

    title: str
    sentences: Sequence[str]
    table: Table | None = None
    notes: Sequence[str] = ()
    drawn: Any = None
    level: float | None = None


class Token(NamedTuple):
    """A token of a prompt: its text, the words below it, its share of the colour scale, and whether its word goes on."""

    text: str
    below: tuple[str, ...]
    share: float | None
    joined: bool = False


@dataclass(frozen=True)
class Summary:
    """What is shown of a record, in plain words.

    Attributes:
        kind: what it is.
        sentence: what it says.
        mark: a word or two on its status, "" for none, and how it is tinted: "good", "bad" or "quiet".
        facts: name and value.
        tokens: of a prompt.
        tables: below the facts.
        notes: sentences at the end.
        figure: draws a `certify.plots.style.StyledFigure`, where matplotlib is there.
    """

    kind: str
    sentence: str
    mark: tuple[str, str] = ("", "quiet")
    facts: Sequence[tuple[str, str]] = ()
    tokens: Sequence[Token] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    figure: Callable[[], Any] | None = None


@singledispatch
def summary(record: Any) -> Summary:
    """The summary of a record.

    Raises:
        TypeError: its class has none.
    """
    raise TypeError(f"record is a {type(record).__name__}: there is no summary of it in certify.summaries")
