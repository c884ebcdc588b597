"""Coverage in several encoders (T9): which other words, and which other prompts, a radius around a prompt covers.

Another prompt with as many tokens in *every* tokenizer moves y by the differences of its token embeddings, in every encoder at
once, so at radius ρ it is covered iff

    Σ_e Σ_i ‖e(x)_i^e − y_i^e‖² / σ_i^{e 2}  ≤  ρ²:

one word costs the sum over encoders. Templates and padding must stay, positions without noise too, and special tokens are no
words: text encoders look where they stand. What a prompt's encoding depends on beside its embeddings is not left to such rules:
a prompt that is said to be covered has been encoded both ways, by itself and as y's tokens with its embeddings, and came out
alike.

Under the policy "frozen" a claim is about the smoother with the noise of y. Under "levels" (T17) it is about the smoother as
deployed, and covers a prompt only where that gets the very Σ of y, in every encoder: relevance is computed for it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify._records import Record
from certify._text import shown
from certify.adaptive.coverage import DEFAULT_NEAREST, Neighbour, PromptCoverage
from certify.defence.problem import JointProblem
from certify.models.encoders import Vocabulary

__all__ = ["WordCoverage", "covered_prompts", "covered_words"]

_SAFE = 1 + 1e-12  # a distance must be below ρ by more than its own rounding
_LEVELS = 64  # of the nearest words the level is computed, under "levels"
_ALIKE = 1e-4  # of the largest entry: two ways to compute an encoding


@dataclass(frozen=True)
class WordCoverage(Record):
    """What a radius covers in the place of one word of a prompt.

    Attributes:
        word: what stands there.
        rho: the radius.
        comparable: other words that every tokenizer makes one token of, as of this one.
        covered: those of them within ρ.
        farthest: ρ at which all of them are covered; None: at no ρ, or there are none.
        nearest: the nearest of them, whether covered or not, with the ρ that covers it.
        levels: under "levels", of how many words, the nearest first, the level was computed: `comparable` are those of them
            that are on the word's own level; others are not said to be covered. None: of none, the policy is "frozen".
    """

    word: str
    rho: float
    comparable: int
    covered: int
    farthest: float | None
    nearest: tuple[Neighbour, ...]
    levels: int | None = None

    @property
    def fully_covered(self) -> bool:
        """Whether every comparable word is covered."""
        return 0 < self.comparable == self.covered

    def to_dict(self, private: bool = False) -> dict[str, Any]:
        """Plain JSON values; of a private prompt without words."""
        found = {**asdict(self), "nearest": [asdict(one) for one in self.nearest], "fully_covered": self.fully_covered}
        left_out = ("word", "nearest") if private else () if self.levels is not None else ("levels",)
        return {k: v for k, v in found.items() if k not in left_out}


def covered_words(problem: JointProblem, rho: float, *, nearest: int = DEFAULT_NEAREST) -> list[WordCoverage]:
    """For every word that is one token in every encoder: how many other such words are covered in its place.

    Equation
        w is covered in the place of v  iff  Σ_e ‖e_w^e − e_v^e‖² / σ_v^{e 2} ≤ ρ²

    Reference
        THEORY T9, T16.

    Args:
        problem: the prompt (`safe.problem("…")`).
        rho: radius of the claim, > 0.
        nearest: how many of the nearest to name.

    Returns:
        A `WordCoverage` each, in the order of the prompt. Words of several tokens have none: `covered_prompts` decides about
        any prompt.

    Raises:
        ValueError: rho is out of range.
    """
    rho, nearest = _validate.positive("rho", rho), _validate.count("nearest", nearest, minimum=0)
    books, layouts = problem.vocabularies, problem.layouts
    singles = [[(a, x.texts[a]) for a, b in x.words if b == a + 1] for x in layouts]
    if not all(singles):
        return []
    found: list[WordCoverage] = []
    for _, text in singles[0]:
        # The same word in every encoder; where it stands there twice, the first of them.
        places = [next((i for i, (_, t) in enumerate(s) if _same(t, text)), None) for s in singles]
        if any(place is None for place in places) or any(_same(f.word, text) for f in found):
            continue
        at = [single[int(place)][0] for single, place in zip(singles, places, strict=True)]  # type: ignore[arg-type]
        tables = [_entries(book, x.tokens[i]) for book, x, i in zip(books, layouts, at, strict=True)]
        cased = [any(t != t.lower() for t in table) for table in tables]
        first = cased.index(True) if True in cased else 0
        words = [w for w in tables[first] if not _same(w, text)]
        ids = [[t.get(w if c else w.lower()) for w in words] for t, c in zip(tables, cased, strict=True)]
        kept = [k for k in range(len(words)) if all(row[k] is not None for row in ids)]
        squares = torch.zeros(len(kept), dtype=torch.float64)
        for part, (i, row) in enumerate(zip(at, ids, strict=True)):
            squares += problem.squared(part, i, [int(row[k]) for k in kept])  # type: ignore[arg-type]
        order, levels = squares.argsort(stable=True).tolist(), None
        if problem.smoother.policy == "levels":
            own, levels = [noise.sigma for noise in problem.token_noise], min(_LEVELS, len(order))
            put = [[(i, int(row[kept[k]])) for i, row in zip(at, ids, strict=True)] for k in order[:levels]]
            order = [k for k, there in zip(order, put, strict=False) if problem.sigma_with(there) == own]
        distances = squares[order].sqrt()
        inside = int((distances * _SAFE <= rho).sum())
        far = float(distances.max()) if len(order) else math.inf
        near = tuple(Neighbour(words[kept[k]], _finite(float(squares[k].sqrt()))) for k in order[:nearest])
        found.append(WordCoverage(text, rho, len(order), inside, _finite(far), near, levels))
    return found


def covered_prompts(problem: JointProblem, prompts: Sequence[str], rho: float) -> list[PromptCoverage]:
    """Which of a list of prompts a claim around a problem's prompt covers.

    Reference
        THEORY T9, T16.

    Args:
        problem: the prompt (`safe.problem("…")`).
        prompts: attacks, say.
        rho: radius of the claim, > 0.

    Returns:
        One `PromptCoverage` for each, in order; `changed` are positions of the first text encoder.

    Raises:
        ValueError, TypeError: rho is out of range, or a prompt is not a string.
    """
    rho = _validate.positive("rho", rho)
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"prompts = {prompts!r}: must be a list of prompts")
    return [_compared(problem, prompt, rho) for prompt in prompts]


def _compared(problem: JointProblem, prompt: str, rho: float) -> PromptCoverage:
    def not_covered(reason: str, distance: float | None = None, changed: tuple[int, ...] = ()) -> PromptCoverage:
        return PromptCoverage(prompt, False, distance, changed, reason)

    try:
        others = problem.reread(prompt)
    except ValueError as error:
        return not_covered(str(error))
    changed: list[tuple[int, ...]] = []
    there = [row for reading in others for row in reading.layouts[0]]
    for part, (mine, other) in enumerate(zip(problem.layouts, there, strict=True)):
        if mine.kinds != other.kinds or len(mine.ids) != len(other.ids):
            words = [sum(kind == "word" for kind in x.kinds) for x in (other, mine)]
            return not_covered(
                f"another length in {mine.encoder}: {words[0]} tokens, must have {words[1]} and the same template"
            )
        changed.append(tuple(i for i, (a, b) in enumerate(zip(mine.ids, other.ids, strict=True)) if a != b))
        still = [i for i in changed[-1] if problem.token_noise[part].sigma[i] == 0]
        special = [i for i in changed[-1] if {mine.ids[i], other.ids[i]} & problem.vocabularies[part].alone]
        if still or special:
            at = (still or special)[0]
            why = "without noise" if still else "to or from a special token"
            return not_covered(f"changes a position {why} in {mine.encoder}, to {other.tokens[at]!r}")
    if problem.smoother.policy == "levels":
        noises = [noise for rows in problem.smoother.noise(others) for noise in rows[0]]
        pairs = list(zip(problem.token_noise, noises, strict=True))
        differ = [i for i, (a, b) in enumerate(pairs) if a.sigma != b.sigma]
        if differ:
            part = differ[0]
            where = next(i for i, (a, b) in enumerate(zip(*(n.sigma for n in pairs[part]), strict=True)) if a != b)
            mine, token = problem.layouts[part], there[part].tokens[where]
            return not_covered(
                f"another level in {mine.encoder}, at {token!r}: gets another Σ as deployed", None, changed[0]
            )
    z = torch.cat([x.embeddings[0].flatten().to(problem.y) for reading in others for x in reading.lookups])
    distance = problem.noise.norm(z.double() - problem.y.double())
    if not distance * _SAFE <= rho:
        return not_covered(
            f"distance {shown(distance, 'up')} > ρ = {shown(rho, 'down')}", _finite(distance), changed[0]
        )
    for reading, alone, rows in zip(problem.readings, others, problem.rows(z[None]), strict=True):
        for slot, (made,) in zip(reading.frame.slots, rows, strict=True):
            own = slot.rows(alone.tree, 1)[0]
            near = made.shape == own.shape and bool(
                ((made.double() - own.double()).abs() <= _ALIKE * float(own.abs().max())).all()
            )
            if not near:
                return not_covered("its encoding depends on more than its token embeddings", distance, changed[0])
    return PromptCoverage(prompt, True, distance, changed[0], "")


def _same(one: str, other: str) -> bool:
    return one.strip().lower() == other.strip().lower()


@functools.lru_cache(maxsize=32)
def _entries(book: Vocabulary, like: str) -> dict[str, int]:
    """Words that are one token of a vocabulary, with the marks of a token: text → id."""
    marks = ("▁", "Ġ", "##")
    mark = next((m for m in marks if like.startswith(m)), "")
    end = "</w>" if like.endswith("</w>") else ""
    found: dict[str, int] = {}
    for token, i in sorted(book.tokenizer.get_vocab().items(), key=lambda entry: entry[1]):
        fits = token.startswith(mark) if mark else not token.startswith(marks)
        if i in book.alone or not fits or not token.endswith(end) or len(token) <= len(mark) + len(end):
            continue
        text = book.text([token])
        if text and "�" not in text:
            found.setdefault(text, int(i))
    # An entry that the tokenizer makes of no text stands in no prompt: its word, typed, is several tokens.
    made: set[tuple[str, int]] = set()
    for before in ("", " ") if mark else ("",):
        typed = [before + text.strip() for text in found]
        ids = book.tokenizer(typed, add_special_tokens=False)["input_ids"] if typed else []
        made |= {(text, row[0]) for text, row in zip(found, ids, strict=True) if len(row) == 1}
    return {text: i for text, i in found.items() if (text, i) in made}


def _finite(value: float | Tensor) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
