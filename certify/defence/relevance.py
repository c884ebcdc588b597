"""Relevance in any pipeline: Algorithm 1 on texts, for each text encoder, combined over encoders by words.

A pipeline takes texts, not token ids: templates and tokenizers are its own. So what is compared here is the encoding of the
word's text, and that of the text without the characters of one of its tokens:

    sim_j^e = cos( T_e(word) − T_e(word without j),  Δ_e ),        Δ_e = mean over pairs of T_e(positive) − T_e(negative)

For a word of one token that is Algorithm 1 itself. `T_e` is what the pipeline's `encode_prompt` returns and encoder e writes,
its mean over positions (those that the pipeline masks left out), pooled outputs beside it: encodings of different lengths
are compared without being lined up.

Encoders may disagree on a word, and the attacker needs only one that lets it through. So over encoders the largest counts: a
token's relevance is the larger of its own and the largest that the same word, by its letters, has in any other encoder.

Scores depend on the word alone, not on the prompt; they are remembered, and rounded as in `certify.adaptive.relevance`. With
`alone` they are computed in a batch of the word's own, always the same one, so that not even the last digit depends on what
else was asked: the edge of a level may lie there (T17).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify.adaptive.concepts import Concept
from certify.adaptive.relevance import SCORE_DECIMALS, cosines
from certify.models.encoders import Layout, PipelineEncoder, Reading

__all__ = ["WordRelevance", "spelling"]

_ALONE = 16  # texts of one word together, whatever the batch size


class WordRelevance:
    """Relevance of words to concepts in every encoder of a pipeline.

    Args:
        encoder: the pipeline's text encoders.
        concepts: what to suppress.
        options: arguments of the pipeline's `__call__` that words are encoded with; prompts may be encoded with others.
        batch_size: texts in one call of the encoders.
        directions: Δ of every lookup, (concepts, features), where they are known already.
        alone: compute each word's scores by themselves.

    Raises:
        ValueError: directions of another pipeline.
    """

    def __init__(
        self,
        encoder: PipelineEncoder,
        concepts: Sequence[Concept],
        *,
        options: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        directions: Sequence[Tensor] | None = None,
        alone: bool = False,
    ) -> None:
        self.encoder, self.concepts, self.alone = encoder, tuple(concepts), alone
        self.batch_size = _validate.count("batch_size", batch_size)
        self.calls = encoder.calls(["a photo"], options)
        names = [lookup.encoder for call in self.calls for lookup in encoder.run(call)[1]]
        self._vocabularies = [encoder.vocabulary(name) for name in names]
        self.units = [unit for call in self.calls for unit in encoder.frame(call).units]
        self._scores: dict[tuple[int, tuple[str, ...]], Tensor] = {}
        self.directions = [d.double() for d in directions] if directions is not None else self._directions()
        if len(self.directions) != len(self.units) or any(len(d) != len(self.concepts) for d in self.directions):
            raise ValueError(
                f"directions are {len(self.directions)} tensors: must be {len(self.units)}, one a text encoder, with a row "
                f"for each of {len(self.concepts)} concepts"
            )
        tiny = torch.finfo(torch.float64).tiny
        self._unit = [d / d.norm(dim=1, keepdim=True).clamp_min(tiny) for d in self.directions]

    def features(self, texts: Sequence[str], batch_size: int | None = None) -> list[Tensor]:
        """What is compared of every text, for each lookup: (texts, features), float64 on the CPU."""
        together = self.batch_size if batch_size is None else batch_size
        found: list[list[Tensor]] = [[] for _ in self.units]
        part = 0
        for call in self.calls:
            frame = self.encoder.frame(call)
            size = 1 if frame.ragged else together
            for start in range(0, len(texts), size):
                chunk = list(texts[start : start + size])
                tree, lookups = self.encoder.run(call, chunk)
                reading = Reading(call, frame, tree, tuple(lookups), ())
                for i in range(len(frame.units)):
                    found[part + i].append(_features(reading, i, len(chunk)))
            part += len(frame.units)
        return [torch.cat(rows) for rows in found]

    def _directions(self) -> list[Tensor]:
        weights: list[Counter[str]] = []
        for concept in self.concepts:
            weights.append(Counter())
            for positive, negative in concept.pairs:
                weights[-1][positive] += 1
                weights[-1][negative] -= 1
        texts = [text for text in dict.fromkeys(t for w in weights for t in w) if any(w[text] for w in weights)]
        scale = torch.tensor(
            [[w[text] / len(c.pairs) for text in texts] for w, c in zip(weights, self.concepts, strict=True)],
            dtype=torch.float64,
        )
        return [scale @ rows for rows in self.features(texts)]

    def own(self, part: int, word: tuple[str, ...]) -> Tensor:
        """The scores of a word's tokens in one lookup: (tokens, concepts)."""
        return self._scores[part, word]

    def known(self) -> tuple[list[list[Any]], Tensor]:
        """Words whose scores are known, [lookup, tokens] each, and these scores, (all of their tokens, concepts)."""
        words = [[part, list(word)] for part, word in self._scores]
        return words, torch.cat([torch.zeros((0, len(self.concepts)), dtype=torch.float64), *self._scores.values()])

    def take(self, words: Sequence[Sequence[Any]], scores: Tensor) -> None:
        """Scores that `known` gave, so that nobody computes them anew.

        Raises:
            ValueError: there are not as many as the words have tokens.
        """
        sizes = [len(word) for _, word in words]
        if tuple(scores.shape) != (sum(sizes), len(self.concepts)):
            raise ValueError(f"scores have shape {tuple(scores.shape)}: must be {(sum(sizes), len(self.concepts))}")
        for (part, word), rows in zip(words, scores.double().split(sizes) if sizes else [], strict=True):
            self._scores[int(part), tuple(map(str, word))] = rows

    def look_up(self, words: Sequence[tuple[int, tuple[str, ...]]]) -> None:
        """Computes what is not known yet of (lookup, word), all together."""
        missing = [key for key in dict.fromkeys(words) if key not in self._scores]
        if not missing:
            return
        for words in [[key] for key in missing] if self.alone else [missing]:
            self._compute(words)

    def _compute(self, words: Sequence[tuple[int, tuple[str, ...]]]) -> None:
        texts = {key: self._texts(*key) for key in words}
        index = {text: i for i, text in enumerate(dict.fromkeys(t for row in texts.values() for t in row))}
        encoded = self.features(list(index), _ALONE if self.alone else None)
        for key, (whole, *rest) in texts.items():
            rows = encoded[key[0]]
            difference = rows[index[whole]] - rows[[index[text] for text in rest]]
            self._scores[key] = cosines(difference, self._unit[key[0]], rows[index[whole]].norm())

    def _texts(self, part: int, word: tuple[str, ...]) -> list[str]:
        """The word, and it without each of its tokens."""
        say = self._vocabularies[part].text
        return [say(word), *(say(_without(word, j)) for j in range(len(word)))]

    def scores(self, layouts: Sequence[Sequence[Layout]]) -> list[list[Tensor]]:
        """The scores of every position of prompts, encoders combined.

        Args:
            layouts: for every prompt, for every lookup.

        Returns:
            For each of them (tokens, concepts), rounded; NaN where there is no word.
        """
        self.look_up([(e, x.word(w)) for row in layouts for e, x in enumerate(row) for w in x.words])
        return [self._combined(row) for row in layouts]

    def _spelling(self, part: int, word: tuple[str, ...]) -> str:
        return spelling(self._vocabularies[part].text(word))

    def _combined(self, layouts: Sequence[Layout]) -> list[Tensor]:
        best: list[dict[str, Tensor]] = []
        for part, layout in enumerate(layouts):
            best.append({})
            for word in map(layout.word, layout.words):
                score = self.own(part, word).amax(dim=0)
                key = self._spelling(part, word)
                best[-1][key] = torch.maximum(score, best[-1].get(key, score))
        combined = []
        for part, layout in enumerate(layouts):
            scores = torch.full((len(layout.ids), len(self.concepts)), torch.nan, dtype=torch.float64)
            for start, stop in layout.words:
                word = layout.word((start, stop))
                own, key = self.own(part, word), self._spelling(part, word)
                for other, known in enumerate(best):
                    if other != part and key and key in known:
                        own = torch.maximum(own, known[key])
                scores[start:stop] = own
            combined.append(scores.round(decimals=SCORE_DECIMALS))
        return combined


def spelling(word: str) -> str:
    """A word's letters and digits, by which encoders agree on it.

    >>> spelling("Starfish,")
    'starfish'
    """
    return "".join(c for c in word.lower() if c.isalnum())


def _without(word: Sequence[str], j: int) -> tuple[str, ...]:
    return (*word[:j], *word[j + 1 :])


def _features(reading: Reading, part: int, count: int) -> Tensor:
    """(count, features): what one lookup writes, its mean over positions; pooled outputs as they are."""
    found = []
    for slot in reading.frame.slots:
        box = slot.boxes[part]
        if box is None:
            continue
        masks = reading.masks(slot)
        rows: list[Tensor] = []
        for i, row in enumerate(slot.rows(reading.tree, count)):
            inside = row[tuple(slice(a, min(b, s)) for (a, b), s in zip(box, row.shape, strict=True))].double().cpu()
            if inside.ndim > 1:
                inside = inside.flatten(0, -2)
                if masks is not None and row.ndim == 2:
                    kept = masks[i][box[0][0] : min(box[0][1], len(row))]
                    inside = inside[kept] if bool(kept.any()) else inside
                inside = inside.mean(dim=0)
            rows.append(inside)
        found.append(torch.stack(rows))
    if not found:  # an encoder that nothing returned depends on
        return torch.zeros((count, 1), dtype=torch.float64)
    return torch.cat(found, dim=1)
