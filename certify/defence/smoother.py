"""Smoother of a pipeline: noise on the token embeddings of all of its text encoders, and the median of what it encodes.

Σ is block-diagonal over encoders. A word's σ grows with its relevance, in units of each encoder's own embeddings; template,
begin and padding carry no noise:

    σ_j^e = s_e min( σ₀ exp(k · sim_j), σ_max ),        h = median( T(y + G_1), …, T(y + G_n) )

with s_e the standard deviation of encoder e's token embeddings where they enter it. Policy "frozen" (T7): what is claimed is
about the smoother with Σ fixed at the prompt. Policy "levels" (T17): σ is rounded up to levels in every encoder, and what is
claimed is about the smoother as deployed, at every prompt with as many tokens in every tokenizer that gets the same Σ.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from certify import _validate
from certify._text import shown
from certify.adaptive.concepts import Concept
from certify.adaptive.frozen import DEFAULT_DRAWS
from certify.adaptive.levels import LEVELS_WITHIN, levels_ratio
from certify.adaptive.policies import SMOOTHERS
from certify.adaptive.smoother import DEFAULT_K, DEFAULT_SIGMA0_RELATIVE
from certify.adaptive.token_noise import SigmaRule, TokenNoise
from certify.defence.problem import JointProblem
from certify.defence.relevance import WordRelevance
from certify.models.encoders import Layout, PipelineEncoder, Reading

__all__ = ["PipelineOptions", "PipelineSmoother"]


class PipelineOptions(TypedDict, total=False):
    """The options of `PipelineSmoother`, which explains them."""

    sigma0_relative: float
    k: float
    n: int
    smoother: str
    sigma_max_relative: float | None
    policy: str
    gamma: float | None
    batch_size: int
    call: Mapping[str, Any] | None


class PipelineSmoother:
    """The adaptive smoother for a pipeline with any text encoders.

    `AdaptiveMedianSmoother` is that of one CLIP text encoder, whose token ids it assembles itself: removing a token from a
    prompt, global relevance and noise that adapts all need that. This one has texts alone to go by.

    Args:
        encoder: the pipeline's text encoders.
        concepts: what to suppress.
        sigma0_relative: σ₀ in standard deviations of each encoder's token embeddings, ≥ 0; 0: no noise at all.
        k: how fast noise grows with relevance, ≥ 0.
        n: noisy encodings a prompt.
        smoother: "median" or "mean" of them.
        sigma_max_relative: cap on σ in that unit; None: 2·√(2·width) of each encoder, at which replacing a token costs about ½.
        policy: "frozen", or "levels": σ rounded up to σ₀ γ^(j/8), and to σ₀ γ^j where a substitution can be covered
            (`certify.adaptive.levels`).
        gamma: γ, for "levels", > 1; None: 2.
        batch_size: rows in one call of the text encoders.
        call: arguments of the pipeline's `__call__` that all prompts are encoded with, unless a call says otherwise.
        directions: of the concepts, where they are known already.

    Raises:
        ValueError, TypeError: an option out of range.
    """

    def __init__(
        self,
        encoder: PipelineEncoder,
        concepts: Sequence[Concept],
        *,
        sigma0_relative: float = DEFAULT_SIGMA0_RELATIVE,
        k: float = DEFAULT_K,
        n: int = DEFAULT_DRAWS,
        smoother: str = "median",
        sigma_max_relative: float | None = None,
        policy: str = "frozen",
        gamma: float | None = None,
        batch_size: int = 16,
        call: Mapping[str, Any] | None = None,
        directions: Sequence[Tensor] | None = None,
    ) -> None:
        self.encoder, self.concepts = encoder, tuple(concepts)
        self.sigma0 = _validate.not_negative("sigma0_relative", sigma0_relative)
        self.k, self.n = _validate.not_negative("k", k), _validate.count("n", n)
        self.smoother = _validate.choice("smoother", smoother, SMOOTHERS)
        self.batch_size = _validate.count("batch_size", batch_size)
        cap = sigma_max_relative
        self.sigma_max = None if cap is None else _validate.positive("sigma_max_relative", cap)
        if self.sigma_max is not None and self.sigma_max < self.sigma0:
            raise ValueError(f"sigma_max_relative = {cap!r}: must be at least sigma0_relative = {self.sigma0!r}")
        self.policy = _validate.choice("policy", policy, ("frozen", "levels"))
        self.gamma = levels_ratio(self.policy, gamma)
        levels = self.gamma is not None
        if levels and self.sigma0 == 0:
            raise ValueError(f"sigma0_relative = {sigma0_relative!r}: must be > 0 with policy = 'levels'")
        self.call = dict(call or {})
        self.relevance = WordRelevance(
            encoder, self.concepts, options=self.call, batch_size=batch_size, directions=directions, alone=levels
        )

    def __repr__(self) -> str:
        names = ", ".join(concept.name for concept in self.concepts)
        return (
            f"PipelineSmoother([{names}], {self.smoother}, σ₀={shown(self.sigma0, 'near', 4)} std, "
            f"k={shown(self.k, 'exact')}, n={self.n}, {self.encoder!r})"
        )

    def settings(self) -> dict[str, Any]:
        """Everything that determines Σ and the encoding, beside the models: plain JSON values."""
        return {
            "concepts": [{"name": c.name, "pairs": len(c.pairs), "sha256": c.sha256} for c in self.concepts],
            "sigma0_relative": self.sigma0,
            "k": self.k,
            "n": self.n,
            "aggregate": self.smoother,
            "sigma_max_relative": self.sigma_max,
            "policy": self.policy,
            **({} if self.gamma is None else {"gamma": self.gamma}),
        }

    def noise(self, readings: Sequence[Reading]) -> list[list[tuple[TokenNoise, ...]]]:
        """Relevance and σ of every position.

        Args:
            readings: the same prompts, as every call of `encode_prompt` reads them.

        Returns:
            For each reading, for each prompt, for each lookup.
        """
        rows = [
            [layout for part in parts for layout in part] for parts in zip(*(r.layouts for r in readings), strict=True)
        ]
        scores = self.relevance.scores(rows)
        found: list[list[tuple[TokenNoise, ...]]] = []
        first = 0
        for reading in readings:
            here = slice(first, first + len(reading.lookups))
            found.append(
                [self.token_noise(reading, row[here], score[here]) for row, score in zip(rows, scores, strict=True)]
            )
            first = here.stop
        return found

    def token_noise(
        self, reading: Reading, layouts: Sequence[Layout], scores: Sequence[Tensor]
    ) -> tuple[TokenNoise, ...]:
        """The noise of one prompt with these scores, for each lookup of a reading."""
        names = [concept.name for concept in self.concepts]
        found: list[TokenNoise] = []
        for layout, score, lookup, unit in zip(layouts, scores, reading.lookups, reading.frame.units, strict=True):
            reach = math.sqrt(2 * lookup.embeddings.shape[-1])
            cap = 2 * reach if self.sigma_max is None else self.sigma_max
            levels = {} if self.gamma is None else {"gamma": self.gamma, "coarse_from": reach / LEVELS_WITHIN}
            rule = SigmaRule(self.sigma0, self.k, max(cap, self.sigma0), "none", **levels)
            best, which = score.max(dim=1)
            relevance = [float(s) if kind == "word" else None for s, kind in zip(best, layout.kinds, strict=True)]
            sigma = tuple(0.0 if r is None else unit * rule.word(r) for r in relevance)
            concept = [None if r is None else names[int(i)] for r, i in zip(relevance, which, strict=True)]
            found.append(TokenNoise(layout.tokens, layout.kinds, tuple(relevance), tuple(concept), sigma))
        return tuple(found)

    @functools.cached_property
    def thresholds(self) -> tuple[float, ...]:
        """From which relevance on a prompt counts as one that names the concept, a number a concept (`adaptive.mention`)."""
        found: list[float] = []
        for index, concept in enumerate(self.concepts):
            middles = []
            for side in zip(*concept.pairs, strict=True):
                rows: list[list[Layout]] = []
                for start in range(0, len(side), self.batch_size):
                    texts = list(side[start : start + self.batch_size])
                    readings = [self.encoder.read(call.of(texts)) for call in self.relevance.calls]
                    rows += [
                        [x for part in parts for x in part]
                        for parts in zip(*(r.layouts for r in readings), strict=True)
                    ]
                largest = []
                for scores in self.relevance.scores(rows):
                    known = torch.cat([score[:, index][~score[:, index].isnan()] for score in scores])
                    largest.append(float(known.max()) if len(known) else 0.0)
                middles.append(statistics.median(largest))
            found.append(sum(middles) / 2)
        return tuple(found)

    def problem(self, prompt: str, **call: Any) -> JointProblem:
        """A prompt as what a bound takes.

        Args:
            prompt: one prompt.
            call: arguments of the pipeline's `__call__` that decide how it is encoded (`max_sequence_length`, …).

        Raises:
            TypeError, ValueError: it is no text, or carries no noise.
        """
        if not isinstance(prompt, str):
            raise TypeError(f"prompt = {prompt!r}: must be a string")
        readings = tuple(map(self.encoder.read, self.encoder.calls([prompt], {**self.call, **call})))
        noises = [noise for rows in self.noise(readings) for noise in rows[0]]
        return JointProblem.of(self, readings, tuple(noises))
