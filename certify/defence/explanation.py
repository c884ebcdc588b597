"""Explanation: relevance and σ of every token of a prompt, in every text encoder of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from certify._records import Record
from certify._text import shown
from certify.adaptive.token_noise import TokenNoise

__all__ = ["Explanation"]

_HEAD = ("encoder", "token", "kind", "relevance", "concept", "σ", "σ / std")


@dataclass(frozen=True)
class Explanation(Record):
    """What `Defence.explain` returns: a table, in a terminal as in a notebook.

    Attributes:
        prompt: the prompt.
        encoders: the text encoder of every lookup of embeddings.
        units: the standard deviation of its token embeddings.
        noises: relevance and σ of every position.
    """

    prompt: str
    encoders: tuple[str, ...]
    units: tuple[float, ...]
    noises: tuple[TokenNoise, ...]

    @property
    def head(self) -> tuple[str, ...]:
        """What its columns are."""
        return _HEAD

    def rows(self, private: bool = False) -> list[tuple[str, ...]]:
        """A row a token of the prompt, and one for all positions of an encoder that carry no noise.

        Args:
            private: positions in the tokens' place.
        """
        rows: list[tuple[str, ...]] = []
        for name, unit, noise in zip(self.encoders, self.units, self.noises, strict=True):
            silent = 0
            for place, (token, kind, relevance, concept, sigma) in enumerate(
                zip(noise.tokens, noise.kinds, noise.relevance, noise.concept, noise.sigma, strict=True)
            ):
                if relevance is None and sigma == 0:
                    silent += 1
                    continue
                score = "" if relevance is None else shown(relevance, "near", 4, sign=True)
                ratio = shown(sigma / unit, "near", 3) if unit else ""
                rows.append(
                    (
                        name,
                        f"position {place}" if private else token,
                        kind,
                        score,
                        concept or "",
                        shown(sigma, "near", 4),
                        ratio,
                    )
                )
            if silent:
                rows.append((name, f"{silent} more", "template, begin, end, padding", "", "", "0", "0"))
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(row[i]) for row in [_HEAD, *rows]) for i in range(len(_HEAD))]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [_HEAD, *rows]
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in _HEAD)
        body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in self.rows())
        return f"<p>{escape(self.prompt)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
