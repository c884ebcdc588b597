"""A summary as a piece of HTML, for notebooks.

No script, no style sheet, nothing loaded: styles stand in the tags, take the notebook's own letters and colours, and tint the
background with transparent ones, so that they can be read on light and dark paper, and without any style at all. Names,
prompts and tokens are escaped (`certify._text.escaped`).
"""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Callable
from typing import Any

from certify._text import escaped
from certify.plots.colours import opacity
from certify.summaries.summary import Table, Token, summary
from certify.summaries.text import ROWS, cut

__all__ = ["as_html"]

_TINTS = {"good": "0,158,115,.25", "bad": "213,94,0,.30", "quiet": "127,127,127,.22"}
_LINE = "1px solid rgba(127,127,127,.3)"


def as_html(record: Any) -> str:
    """The summary of a record as a piece of a page."""
    made = summary(record)
    word, mood = made.mark
    kind = _tag("span", "opacity:.75", _e(made.kind))
    if word:
        style = (
            f"background:rgba({_TINTS[mood]});border-radius:.3em;padding:.05em .5em;margin-left:.7em;font-weight:600"
        )
        kind += _tag("span", style, _e(word))
    rule = "rgba(213,94,0,.8)" if mood == "bad" else "rgba(0,114,178,.8)"
    parts = [
        _tag("div", "margin-bottom:.3em", kind),
        _tag("div", f"border-left:3px solid {rule};padding-left:.7em", _e(made.sentence)),
    ]
    if made.tokens:
        parts.append(_tag("div", "margin-top:.6em;line-height:1.2", "".join(map(_token, made.tokens))))
    if made.facts:
        parts.append(_table(f"<tr>{_cell(name, soft=True)}{_cell(value)}</tr>" for name, value in made.facts))
    parts += map(_as_rows, made.tables)
    parts += (_tag("div", "opacity:.75;margin-top:.5em", _e(note)) for note in made.notes)
    if made.figure is not None and importlib.util.find_spec("matplotlib") is not None:
        parts.append(_embedded(made.figure))
    return f'<div class="certify-summary" style="max-width:52em;line-height:1.45;margin:.2em 0">{"".join(parts)}</div>'


def _e(value: str) -> str:
    return escaped(cut(value))


def _tag(name: str, style: str, content: str) -> str:
    return f'<{name} style="{style}">{content}</{name}>'


def _token(token: Token) -> str:
    tint = f"background:rgba(213,94,0,{opacity(token.share):.2f});border:{_LINE};border-radius:.35em;padding:.1em .45em"
    below = "<br>".join(_tag("span", "opacity:.75;font-size:.8em", _e(words)) for words in token.below)
    text = _tag("span", f"display:inline-block;{tint}", _e(token.text))
    style = (
        f"display:inline-block;text-align:center;margin:0 {0 if token.joined else '.6em'} .35em 0;vertical-align:top"
    )
    return _tag("span", style, f"{text}<br>{below}")


def _cell(text: str, *, tag: str = "td", number: bool = False, soft: bool = False, tint: str = "") -> str:
    style = f"text-align:{'right' if number else 'left'};vertical-align:top;padding:.15em .9em .15em 0;border-bottom:{_LINE}"
    # A tinted cell needs room on both of its sides.
    style += f";background:{tint};padding-left:.5em" if tint else ";background:none"
    style += ";white-space:nowrap" if number or soft else ""
    style += ";opacity:.75;font-weight:400" if soft else ""
    return _tag(tag, style, _e(text))


def _table(rows: Any) -> str:
    style = "border-collapse:collapse;margin:.6em 0 0;border:none;font-size:1em;font-variant-numeric:tabular-nums"
    return f'<table class="certify-summary" style="{style}"><tbody>{"".join(rows)}</tbody></table>'


def _as_rows(table: Table) -> str:
    left, last = {0, *table.words}, len(table.head) - 1
    head = (_cell(name, tag="th", number=i not in left, soft=True) for i, name in enumerate(table.head))
    rows = [f"<tr>{''.join(head)}</tr>"]
    for k, row in enumerate(table.rows[:ROWS]):
        share = table.tints[k] if k < len(table.tints) else None
        tint = f"rgba(213,94,0,{opacity(share):.2f})" if share is not None else ""
        cells = (_cell(c, number=i not in left, tint=tint if i == last else "") for i, c in enumerate(row))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    if len(table.rows) > ROWS:
        rows.append(f'<tr><td colspan="{len(table.head)}">… and {len(table.rows) - ROWS:,} more</td></tr>')
    return (_tag("div", "margin-top:.6em", _e(table.title)) if table.title else "") + _table(rows)


def _embedded(figure: Callable[[], Any]) -> str:
    file = io.BytesIO()
    figure().savefig(file, format="png")
    data = base64.b64encode(file.getvalue()).decode()
    style = "max-width:100%;width:24em;margin-top:.7em;border-radius:.3em"
    return f'<br><img alt="the same as a figure" style="{style}" src="data:image/png;base64,{data}">'
