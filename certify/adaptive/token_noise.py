"""Token noise: σ of every position of a prompt, from its relevance; as a record and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify._records import Shown
from certify._text import shown
from certify.models.text import TokenizedPrompt
from certify.noise import GaussianNoise

__all__ = ["SPECIAL_TOKENS", "SigmaRule", "TokenNoise"]

SPECIAL_TOKENS = ("none", "tail", "base")
"""Noise at tokens without a relevance: nowhere; σ₀ at the end token and the padding; σ₀ at the begin token, too."""

_NOISED = {"none": (), "tail": ("end", "padding"), "base": ("begin", "end", "padding")}
_LARGEST = 700.0  # exp of more overflows float64
_FINE = 8  # steps of a level where no substitution could be covered
_ON_GRID = 1e-9  # of a level: libraries differ in the last digit of a logarithm


@dataclass(frozen=True)
class TokenNoise(Shown):
    """What every position of a prompt gets. All tuples have one entry a position.

    Attributes:
        tokens: the vocabulary's spelling.
        kinds: "begin", "word", "end" or "padding".
        relevance: the largest similarity to any of the concepts; None at positions that are not words.
        concept: the concept that it is the similarity to; None likewise.
        sigma: standard deviation of the noise, in the unit of the token embeddings.
    """

    tokens: tuple[str, ...]
    kinds: tuple[str, ...]
    relevance: tuple[float | None, ...]
    concept: tuple[str | None, ...]
    sigma: tuple[float, ...]

    @property
    def column(self) -> Tensor:
        """σ as a tensor that broadcasts to the prompt's embeddings: (tokens, 1), float64 on the CPU."""
        return torch.tensor(self.sigma, dtype=torch.float64)[:, None]

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Token, kind, relevance, concept and σ in words, a row a position; padding is one row, the last."""
        rows = [
            (
                token,
                kind,
                "" if score is None else shown(score, "near", 4, sign=True),
                name or "",
                shown(sigma, "near", 4),
            )
            for token, kind, score, name, sigma in zip(
                self.tokens, self.kinds, self.relevance, self.concept, self.sigma, strict=True
            )
            if kind != "padding"
        ]
        if "padding" in self.kinds:
            first = self.kinds.index("padding")
            rows.append((f"{len(self.kinds) - first} more", "padding", "", "", shown(self.sigma[first], "near", 4)))
        return rows

    def __str__(self) -> str:
        head, rows = ("token", "kind", "relevance", "concept", "σ"), self.rows()
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
        )


@dataclass(frozen=True)
class SigmaRule:
    """σ as a function of relevance, and of nothing else.

    Equation
        σ = min( σ₀ exp(k · relevance), σ_max ) at words; σ₀ or 0 at begin, end and padding.

        With levels the exponential is first rounded up to σ₀ γ^(j/8), j an integer, and from `coarse_from` on to a j that is a
        multiple of 8 (THEORY T17).

    Reference
        Han et al. (2025), section 3.4.

    Attributes:
        sigma0, k, sigma_max: σ₀, k, σ_max.
        special_tokens: one of `SPECIAL_TOKENS`.
        sigma_min: σ of the first noise at words, for "noise-then-adapt"; None: there is one noise.
        gamma: γ, ratio of neighbouring levels, for "levels"; None: σ is not rounded.
        coarse_from: σ from which on levels are that far apart.
    """

    sigma0: float
    k: float
    sigma_max: float
    special_tokens: str
    sigma_min: float | None = None
    gamma: float | None = None
    coarse_from: float = 0.0

    def level(self, relevance: float) -> int:
        """j of the level σ₀ γ^(j/8) at a word's token; at σ_max that of σ_max. A σ on the grid, up to rounding, stays there."""
        if self.gamma is None:
            raise RuntimeError("gamma is None: there are no levels")
        step, highest = math.log(self.gamma) / _FINE, math.log(self.sigma_max / self.sigma0)
        j = math.ceil(min(self.k * relevance, highest) / step - _ON_GRID)
        return -(-j // _FINE) * _FINE if self.sigma0 * math.exp(min(j * step, _LARGEST)) >= self.coarse_from else j

    def word(self, relevance: float) -> float:
        """σ at a word's token."""
        exponent = self.k * relevance
        if self.gamma is not None:
            exponent = self.level(relevance) * math.log(self.gamma) / _FINE
        return self.sigma_max if exponent > _LARGEST else min(self.sigma0 * math.exp(exponent), self.sigma_max)

    def special(self, kind: str) -> float:
        """σ at begin, end or padding."""
        return self.sigma0 if kind in _NOISED[self.special_tokens] else 0.0

    def at(self, scores: Tensor) -> Tensor:
        """σ beyond the first noise: scores (b, tokens, concepts), NaN outside of words → (b, tokens, 1), float64."""
        best = scores.amax(dim=2, keepdim=True)
        sigma = (self.sigma0 * (self.k * best).clamp_max(_LARGEST).exp()).clamp_max(self.sigma_max)
        return torch.where(best.isnan(), 0.0, sigma)  # there all of the noise is in the first step

    def first_step(self, kinds: Sequence[str]) -> GaussianNoise:
        """The first noise of "noise-then-adapt": σ_min at words, which no relevance enters."""
        sigma = [self.sigma_min if kind == "word" else self.special(kind) for kind in kinds]
        return GaussianNoise(torch.tensor(sigma, dtype=torch.float64)[:, None])

    def of(self, prompt: TokenizedPrompt, scores: Tensor, concepts: Sequence[str]) -> TokenNoise:
        """The noise of a prompt with these scores, (tokens, concepts), to concepts of these names."""
        best, which = scores.max(dim=1)
        relevance = [float(s) if kind == "word" else None for s, kind in zip(best, prompt.kinds, strict=True)]
        sigma = [
            self.special(kind) if score is None else self.word(score)
            for score, kind in zip(relevance, prompt.kinds, strict=True)
        ]
        names = [None if score is None else concepts[int(i)] for score, i in zip(relevance, which, strict=True)]
        return TokenNoise(prompt.tokens, prompt.kinds, tuple(relevance), tuple(names), tuple(sigma))
