"""What every page is made of: the document with its style, its header, sections, tables, lists of facts, images.

Strings in, strings out. What comes from a file is to be escaped before it is put into one of these; titles that `header` and
`document` take, and an image's description, they escape themselves.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from certify._text import escaped
from certify.report._style import STYLE


def document(title: str, body: Sequence[str]) -> str:
    """The whole page: it has no script and loads nothing; its content security policy forbids both."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{escaped(title, isolate=False)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n<footer>Numbers are rounded in the safe direction: upper bounds up, radii down. Written by "
        "<code>certify report</code>; this page loads nothing and runs nothing.</footer>\n</main></body></html>\n"
    )


def header(kind: str, title: str, sentence: str, tiles: Sequence[tuple[str, str]], of_prompt: bool = True) -> str:
    """What is claimed, in a sentence, and the numbers beside it (`tiles`: name, value)."""
    about = (
        "‖δ‖_Σ is the size of a perturbation in units of the noise: one token alone may move by ρ times its σ, "
        "several together by correspondingly less. How the change was found does not matter. Confidence is about "
        "the random draws that the certificate was computed from, not about prompts or attackers."
        if of_prompt
        else "‖δ‖_Σ is the size of a perturbation in units of the noise, coordinate by coordinate."
    )
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    return (
        f'<header><p class="kind">{kind}</p><h1>{escaped(title)}</h1><p class="claim">{sentence}</p>'
        f'<dl class="tiles">{shown}</dl>{note(about)}</header>'
    )


def section(title: str, content: str, style: str = "") -> str:
    """A section under its heading; `style`: its class."""
    kind = f' class="{style}"' if style else ""
    return f"<section{kind}><h2>{title}</h2>{content}</section>"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Sequence[int] = (),
    plain: Sequence[int] = (),
    wide: bool = False,
) -> str:
    """A table; its first column, sentences (`text`) and single words (`plain`) stand to the left, numbers to the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = [
            "" if i == 0 or i in plain else ' class="words"' if i in text else ' class="num"' for i in range(len(row))
        ]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table{" class=wide" if wide else ""}><thead><tr>{cells(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def note(text: str) -> str:
    """Small print."""
    return f'<p class="note">{text}</p>'


def listed(items: Iterable[str]) -> str:
    """Sentences below one another."""
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def status(of: str) -> str:
    """Of a claim or a prompt: everything but "certified" stands out."""
    return escaped(of) if of == "certified" else f'<span class="bad">{escaped(of)}</span>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, a line each."""
    return f'<dl class="facts">{"".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)}</dl>'


def code(value: Any) -> str:
    """A digest or a name, letter by letter."""
    return f"<code>{escaped(value)}</code>"


def image(data: bytes, alternative: str) -> str:
    """A PNG file, inside the page."""
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/png;base64,{encoded}" alt="{escaped(alternative, isolate=False)}">'


@contextmanager
def shows(what: str) -> Iterator[None]:
    """Says of a record that cannot be shown whose it is: files may hold anything."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, ValueError) as error:
        raise ValueError(f"{what}: what it has on record cannot be shown ({error!r})") from error
