"""Does a prompt name the concept at all? Where it does not, there is little to suppress, and a certificate says little.

A prompt's relevance to a concept is the largest of its tokens'. How large it is where the concept is named, and where it is
not, the concept's own pairs tell: half of them name it, and their negatives, which differ by not naming it, are full of
unrelated words. The threshold lies halfway between the two,

    t = ½ ( median of the relevance of the positives + median of the relevance of the negatives ),

so that a prompt counts as one that names the concept where it is nearer to the positives than to the negatives. It
is the model's and the concept's own: no cosine means the same in two text encoders.

Measured on the embedded model, its ten concepts and held-out prompts: t is .49 to .63 with the vector at end-of-text (flattened
.48 to .56). Of 598 pairs of a prompt and a concept that it names none falls below; of 4 202 that it does not name 29 (24) lie
above, all for words that are spelt or mean nearly alike ("crossroads", "asterisk", "pennant"). The "d" of "dinosaur", at .44
the most relevant token of "a photo of a purple dinosaur" to "circle", lies below. For the concepts of Stable Diffusion
nothing could be measured where this was developed. It is a notice, never a reason to refuse: what is proven is as true
without the concept's word.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch

from certify._records import Record
from certify.adaptive.concepts import Concept
from certify.adaptive.relevance import RelevanceScorer
from certify.certificate.certificate import not_named

__all__ = ["Mention", "mention_of", "thresholds"]


@dataclass(frozen=True)
class Mention(Record):
    """How near a prompt comes to naming a concept: the nearest of several.

    Attributes:
        concept: its name.
        relevance: of the prompt's most relevant token.
        threshold: from which on a prompt counts as one that names it.
    """

    concept: str
    relevance: float
    threshold: float

    @property
    def named(self) -> bool:
        """Whether the prompt names the concept."""
        return self.relevance >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """For a certificate's record: plain JSON values."""
        return {"named": self.named, "concept": self.concept, "relevance": self.relevance, "threshold": self.threshold}

    @property
    def notice(self) -> str:
        """What a reader must know, in words; "" where the prompt names the concept."""
        return "" if self.named else not_named(self.concept, self.relevance, self.threshold)


def thresholds(scorer: RelevanceScorer, concepts: tuple[Concept, ...]) -> tuple[float, ...]:
    """From which relevance on a prompt counts as one that names the concept, a number a concept."""
    found = []
    for index, concept in enumerate(concepts):
        middles = []
        for side in zip(*concept.pairs, strict=True):
            scores = scorer.scores([scorer.encoder.tokenize(prompt) for prompt in side])
            middles.append(statistics.median(_largest(rows[:, index]) for rows in scores))
        found.append(sum(middles) / 2)
    return tuple(found)


def mention_of(scores: torch.Tensor, concepts: tuple[Concept, ...], least: tuple[float, ...]) -> Mention:
    """Of a prompt with these scores, (tokens, concepts), the concept that it comes nearest to naming."""
    found = [Mention(concept.name, _largest(scores[:, i]), least[i]) for i, concept in enumerate(concepts)]
    return max(found, key=lambda mention: mention.relevance - mention.threshold)


def _largest(scores: torch.Tensor) -> float:
    known = scores[~scores.isnan()]
    return float(known.max()) if known.numel() else 0.0  # without a word nothing speaks for the concept
