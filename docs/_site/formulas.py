"""Formulas of the pages as MathML, made when the site is built: the reader's browser needs no script and no font of ours.

Pages write LaTeX as GitHub reads it: `$…$` within a sentence, ``$`…` $`` (without the space) where Markdown would take a
letter of the formula for its own, and a block ```` ```math ```` for a displayed one, numbered by a `\\tag{1}` at its end. What
is no LaTeX that math-core knows is an error of the build.
"""

from __future__ import annotations

import functools
import html
import re
import xml.etree.ElementTree as ET
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from math_core import LatexError, LatexToMathML

RELATIONS = frozenset("=≤≥<>≠≈≔≲⪯∈↦→∼:⊂")
SUMS = frozenset("+−")
"""What a formula within a sentence may be broken before where the line ends: a relation, or a sum in a long piece."""

SHORT, LONG = 8, 16
"""Letters of the shortest piece, and of one that may be broken within a sum."""

# Chromium sets the bars of accents so low that they touch the letter, and an E with one looks like an E without.
_OVER = re.compile(r'<mover accent="true">(<mi>[^<]*</mi>)<mo stretchy="false">\u00af')
_UNDER = re.compile(r'<munder accentunder="true">(<mi>[^<]*</mi>)<mo stretchy="true">\u0332')
_AFTER = r"((?:[.,;:!?)]|-(?=\w)\w+)*)"
_TAG = re.compile(r"\s*\\tag\{(.*?)\}\s*$")


@functools.cache
def mathml(latex: str, display: bool = False) -> str:
    """The formula as a `<math>` element.

    Raises:
        ValueError: the formula cannot be read.
    """
    try:
        made: str = _converter().convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        reason = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().splitlines()[0]
        raise ValueError(f"formula {latex!r}: {reason}") from error
    made = made.replace("&ApplyFunction;", "\u2061")
    made = _OVER.sub(r'<mover>\1<mo stretchy="false">' + "\u00af", made)
    return _UNDER.sub(r'<munder>\1<mo stretchy="false">_', made)


@functools.cache
def _converter() -> Any:
    return LatexToMathML()


def inline(latex: str) -> str:
    """A formula in running text: a `<math>` for each piece between places where the line may break."""
    root = ET.fromstring(mathml(latex))
    pieces, depth, left = [ET.Element("math")], 0, len(_text(root))
    for part in root:
        sign, before = _text(part) if part.tag == "mo" and depth == 0 else "", len(_text(pieces[-1]))
        least = SHORT if sign in RELATIONS else LONG if sign in SUMS else None
        if least is not None and before >= least and left >= SHORT:
            pieces.append(ET.Element("math"))
        for mark in part.iter("mo"):
            form, text = mark.get("form"), _text(mark)
            depth += (text in "([{⟨⌊" or form == "prefix") - (text in ")]}⟩⌋" or form == "postfix")
        left -= len(_text(part))
        pieces[-1].append(part)
    return "<wbr>".join(ET.tostring(piece, encoding="unicode", short_empty_elements=False) for piece in pieces)


def _text(element: ET.Element) -> str:
    return "".join(element.itertext()).strip()


def displayed(latex: str) -> str:
    """A formula on lines of its own, with its number beside it; a long one scrolls within the column."""
    number = _TAG.search(latex)
    formula = mathml(_TAG.sub("", latex), display=True)
    beside = f'<span class="number">({html.escape(number[1])})</span>' if number else ""
    return f'<div class="formula"><div>{formula}</div>{beside}</div>'


def fence(source: str, *_: Any, **__: Any) -> str:
    """The block ```` ```math ````, for pymdownx.superfences."""
    return displayed(source.strip())


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:
        formula, after = inline(m[1].strip()), m[2]
        if after:  # a comma does not begin a line
            head, wbr, last = formula.rpartition("<wbr>")
            formula = f'{head}{wbr}<span class="whole">{last}{html.escape(after)}</span>'
        return self.md.htmlStash.store(formula), m.start(0), m.end(0)


class Formulas(Extension):
    """`$…$` and its form for difficult letters."""

    def extendMarkdown(self, md: Markdown) -> None:
        # Code, of priority 190, goes before the plain form and after the quoted one.
        md.inlinePatterns.register(_Inline(r"\$`([^`]+)`\$" + _AFTER, md), "formula-quoted", 195)
        md.inlinePatterns.register(
            _Inline(r"(?<![\\$\w])\$(?![\s`$])([^$`]+?)(?<![\s\\])\$(?![\d$])" + _AFTER, md), "formula", 185
        )


def on_config(config: Any) -> Any:
    """Adds formulas to what Markdown reads."""
    config.markdown_extensions.append(Formulas())
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "formula", "format": fence})
    return config
