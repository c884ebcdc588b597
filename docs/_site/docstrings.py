"""How docstrings become Markdown: doctests are shown as code, and the label of a theorem links to its page.

What a package exports is shown where it is defined, not a second time in the package.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from pymdownx.slugs import slugify

THEORY = Path(__file__).resolve().parents[1] / "theory"
_SPAN = re.compile(r"(`[^`]*`)")
_NAMES = re.compile(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)+): ")
_LABEL = re.compile(r"(?:THEORY )?(?<![\w\[])(T\d+)\b(?!\])")


def anchors(folder: Path = THEORY) -> dict[str, str]:
    """Label of a theorem → anchor of its page, the first where there are several."""
    found: dict[str, str] = {}
    slug = slugify(case="lower")
    for page in sorted(folder.glob("t*.md")):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        found.setdefault(re.split(r"\W", title)[0], slug(title, "-"))
    return found


def as_markdown(text: str, pages: dict[str, str]) -> str:
    """The docstring with its doctests fenced and its labels linked."""
    lines: list[str] = []
    doctest = formula = False
    before = ""
    for line in text.splitlines():
        bare = line.lstrip()
        indent = line[: len(line) - len(bare)]
        if bare.startswith(">>>") and not doctest:
            doctest, fence = True, indent
            lines += [fence + "```pycon"] if not before.strip() else ["", fence + "```pycon"]
        if doctest and not bare:
            doctest = False
            lines.append(fence + "```")
        # "lower, upper: …" documents two things; a plain space would make the parser read the second one as a type.
        line = _NAMES.sub(lambda m: m[0].replace(", ", ",\N{NO-BREAK SPACE}"), line)
        formula = bool(bare) and len(indent) >= 4 and (formula or not before.strip())
        lines.append(line if doctest or formula else _linked(line, pages))
        before = line
    return "\n".join([*lines, fence + "```"] if doctest else lines)


def _linked(line: str, pages: dict[str, str]) -> str:
    parts = _SPAN.split(line)
    parts[::2] = [_LABEL.sub(lambda m: f"[{m[1]}][{pages.get(m[1], m[1])}]", part) for part in parts[::2]]
    return "".join(parts)


class Docstrings(griffe.Extension):
    """Rewrites every docstring once the package has been read."""

    def __init__(self) -> None:
        self.pages = anchors()

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.is_module and obj.exports:
            obj.exports = [name for name in obj.exports if name in obj.members and not obj.members[name].is_alias]
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, self.pages)
