"""Sentences with a place in them, and phrases in sentences: text alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["IDLE", "concept_pattern", "filled", "renamed"]

IDLE = (r", in the style of \{\}", r" in the style of \{\}", r" in \{\} style", r"\{\}'s ", r", \{\}")
"""Patterns of what in a sentence only serves a phrase, "{}"."""


def concept_pattern(phrases: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the phrases as whole words, whatever the case."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, phrases))})(?!\w)", re.IGNORECASE)


def renamed(prompt: str, phrases: Sequence[str], word: str) -> str:
    """The prompt with `word` in the place of every phrase, articles agreeing; "" for the word: the prompt as it is."""
    if not word:
        return prompt
    for match in reversed(list(concept_pattern(phrases).finditer(prompt))):
        before, after = prompt[: match.start()], prompt[match.end() :]
        if "{}" not in before + after:
            prompt = filled(f"{before}{{}}{after}", word)
    return prompt


def filled(template: str, phrase: str, idle: Sequence[str] = IDLE) -> str:
    """The sentence with a phrase in its place. Where the phrase is empty, what only served it goes as well ("in …
    style", a comma), and an article agrees with what follows it."""
    if not phrase:
        for around in idle:
            template = re.sub(around, "{}", template)
    before, after = template.split("{}")
    follows = (phrase + after).split()
    words = before.split()
    if words and follows and words[-1] in ("a", "an") and before.endswith(" "):
        words[-1] = "an" if follows[0][0].lower() in "aeiou" else "a"
        before = " ".join(words) + " "
    text = " ".join(f"{before}{phrase}{after}".split())
    return text if phrase else text.removeprefix(", ")
