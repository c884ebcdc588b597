"""Token noise: what every position of a prompt gets, as a record and as a table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify._records import Shown
from certify._text import shown

__all__ = ["TokenNoise"]


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
