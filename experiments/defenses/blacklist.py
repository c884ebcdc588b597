"""Blacklist: words of a list are dropped from the prompt. It costs nothing, and knows nothing that it was not told.

A word is a run of letters and digits, compared by its case-folded, compatibility-normalised form ("CIRCLE", "Circle",
"ｃｉｒｃｌｅ"), and whole: "circles" and "encircled" stay. A phrase of the list is dropped where its words follow one another
with nothing but spaces and hyphens between.

Reference: the customary baseline (Wu et al. 2024, Han et al. 2025 compare with it). Known: whole words, case-folded.
Ours: the list is the erased concept's own words; a file adds synonyms; what stands around a dropped word stays as it was.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

from certify import _files
from experiments.defenses.defense import Defense, DefenseOptions

__all__ = ["Blacklist", "Settings", "dropped", "read_words"]

_WORD = re.compile(r"[^\W_]+")
_BETWEEN = re.compile(r"[\s\-‐-―]*")


@dataclass(frozen=True)
class Settings:
    """Options of the blacklist.

    Attributes:
        words: words and phrases to drop beside those of the concept.
        file: a text file with further ones, one a line; empty lines and lines that begin with # do not count.
    """

    words: tuple[str, ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        given: object = self.words
        if isinstance(given, str):
            raise TypeError(f"words = {given!r}: must be a list of words")


def read_words(path: str | Path) -> tuple[str, ...]:
    """The words and phrases of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no words.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"file = {str(path)!r}: no such file; looked for {file.absolute()}")
    try:
        lines = [line.strip() for _, line in _files.lines(_files.read_text(file))]
    except ValueError as error:
        raise ValueError(f"file = {str(path)!r}, {error}") from None
    phrases = tuple(line for line in lines if not line.startswith("#"))
    if not phrases:
        raise ValueError(f"file = {str(path)!r}: has no words")
    return phrases


def dropped(prompt: str, phrases: Sequence[str]) -> str:
    """The prompt without these words and phrases; the longest phrase that begins at a word goes first.

    >>> dropped("a photo of a red Circle, on a circles background", ["circle"])
    'a photo of a red, on a circles background'
    """
    listed = sorted({_key(p) for p in phrases} - {()}, key=len, reverse=True)
    words = list(_WORD.finditer(prompt))
    keys = [_folded(w.group()) for w in words]
    remaining, start, i = "", 0, 0
    while i < len(words):
        count = next(
            (len(k) for k in listed if tuple(keys[i : i + len(k)]) == k and _together(prompt, words, i, len(k))), 0
        )
        if count:
            before = prompt[start : words[i].start()]
            start = words[i + count - 1].end()
            remaining += before.rstrip()
        i += count or 1
    return (remaining + prompt[start:]).strip() if start else prompt


class Blacklist(Defense):
    """Drops the concept's words from the prompt."""

    name = "blacklist"

    def __init__(self, pipe: Any, **options: Unpack[DefenseOptions]) -> None:
        super().__init__(pipe, **options)
        more = read_words(self.settings.file) if self.settings.file else ()
        own = () if self.concept is None else self.concept.erase
        self.words = tuple(dict.fromkeys((*own, *self.settings.words, *more)))
        if not any(_key(word) for word in self.words):
            raise ValueError(f"words = {self.words!r}: must hold a word; give a concept, words or a file")

    @classmethod
    def published(cls) -> Settings:
        return Settings()

    def rewritten(self, prompts: Sequence[str]) -> list[str]:
        return [dropped(prompt, self.words) for prompt in prompts]

    def described(self) -> dict[str, Any]:
        return {**asdict(self.settings), "words": list(self.words)}


def _folded(word: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())


def _key(phrase: str) -> tuple[str, ...]:
    return tuple(_folded(word) for word in _WORD.findall(phrase))


def _together(prompt: str, words: Sequence[re.Match[str]], first: int, count: int) -> bool:
    gaps = zip(words[first : first + count - 1], words[first + 1 : first + count], strict=True)
    return all(_BETWEEN.fullmatch(prompt[left.end() : right.start()]) for left, right in gaps)
