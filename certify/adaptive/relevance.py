"""Relevance: how much a token speaks for a concept, between −1 and 1.

What a token contributes is the difference that removing it makes to the encoding, its *differential embedding*. Taken
within its word alone (local) it is not blurred by the rest of the prompt; taken within the whole prompt (global) it
sees what the context makes of it. For the tokens j of every word of a prompt y (Algorithm 1):

    Δ_loc^j = T(word) − T(word without j)          sim_loc^j = cos(Δ_loc^j, Δ_tgt)
    Δ_glb^j = T(y)    − T(y without j)             sim_glb^j = cos(Δ_glb^j, Δ_tgt)

    sim^j = sim_loc^j,   with the global flag:  max( sim_loc^j, (sim_loc^j + sim_glb^j)/2 ).

Each of these texts is encoded with begin, end and padding of its own. A one-token word without its token is the empty
prompt. Several concepts: the scores of each, combined by their maximum where one number is needed.

Words repeat between prompts and their local scores do not depend on the prompt, so they are remembered. Scores are
rounded to four decimals: an encoder's last bits depend on what else was in the batch, and Σ must not.

Begin, end and padding have no score (NaN).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from certify import _validate
from certify.adaptive.concepts import SIMILARITIES, features
from certify.models.text import PromptEncoder, TokenizedPrompt

__all__ = ["SCORE_DECIMALS", "RelevanceScorer"]

SCORE_DECIMALS = 4

# A difference this much smaller than the encoding itself is rounding: it points nowhere.
_NOTHING = 1e-6

_Content = tuple[int, ...]


class RelevanceScorer:
    """Token-level relevance scores of prompts to one or more concepts.

    Reference
        Han et al. (2025), section 3.4 and Algorithm 1.

    Args:
        encoder: T.
        directions: Δ_tgt of every concept, stacked: (concepts, tokens, width), or (concepts, width) for "end-of-text".
        similarity: "flattened": cosine over all positions and dimensions of an encoding; "end-of-text": over the vector
            at each encoding's own end-of-text position (removing a token moves it). The paper does not say; flattened is
            the literal reading of the cosine of two encodings.
        use_global: the flag of Algorithm 1.
        batch_size: encodings a batch.
        cache_size: words, and prompts under the global flag, whose scores are remembered; the least recently used goes
            first. Keys are token ids: a remembered score presumes the encoder unchanged.

    Raises:
        ValueError: an option is unknown, or `directions` has the wrong shape.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        directions: Tensor,
        *,
        similarity: str = "flattened",
        use_global: bool = False,
        batch_size: int = 64,
        cache_size: int = 16_384,
    ) -> None:
        self.encoder = encoder
        self.similarity = _validate.choice("similarity", similarity, SIMILARITIES)
        self.use_global = bool(use_global)
        self.batch_size = _validate.count("batch_size", batch_size)
        tail = (encoder.context_length, encoder.width) if similarity == "flattened" else (encoder.width,)
        if directions.ndim != 1 + len(tail) or tuple(directions.shape[1:]) != tail or not len(directions):
            raise ValueError(
                f"directions has shape {tuple(directions.shape)}: must be (concepts, {', '.join(map(str, tail))})"
            )
        unit = directions.to("cpu", torch.float64).flatten(1)
        norm = unit.norm(dim=1, keepdim=True)
        self._unit = torch.where(norm > 0, unit / norm.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        self._local = _Remembered(_validate.count("cache_size", cache_size))
        self._global = _Remembered(cache_size)

    def scores(self, prompts: Sequence[TokenizedPrompt]) -> list[Tensor]:
        """The scores of every prompt.

        Args:
            prompts: tokenised prompts. What is not remembered is encoded, for all of them together, in batches.

        Returns:
            For every prompt (tokens, concepts), float64, rounded to `SCORE_DECIMALS`; NaN at begin, end and padding.
        """
        words = {_word(p, span): None for p in prompts for span in p.words}
        local = self._looked_up(words, self._local)
        whole = self._looked_up({p.content: None for p in prompts if p.words}, self._global) if self.use_global else {}
        return [self._combined(p, local, whole) for p in prompts]

    def _combined(
        self, prompt: TokenizedPrompt, local: dict[_Content, Tensor], whole: dict[_Content, Tensor]
    ) -> Tensor:
        scores = torch.full((len(prompt.tokens), len(self._unit)), torch.nan, dtype=torch.float64)
        for start, stop in prompt.words:
            scores[start:stop] = local[_word(prompt, (start, stop))]
        if whole and prompt.words:
            span = slice(prompt.words[0][0], prompt.words[-1][1])
            scores[span] = torch.maximum(scores[span], (scores[span] + whole[prompt.content]) / 2)
        return scores.round(decimals=SCORE_DECIMALS)

    def _looked_up(self, contents: dict[_Content, None], memory: _Remembered) -> dict[_Content, Tensor]:
        """cos(T(content) − T(content without j), Δ) for every j of every content: (len(content), concepts) each."""
        found = {content: memory.get(content) for content in contents}
        missing = [content for content, scores in found.items() if scores is None]
        for group in self._groups(missing):
            for content, scores in self._computed(group).items():
                found[content] = scores
                memory.put(content, scores)
        return {content: scores for content, scores in found.items() if scores is not None}

    def _groups(self, contents: Sequence[_Content]) -> Iterator[list[_Content]]:
        """Cuts the work where a batch is full, so that memory does not grow with the number of prompts."""
        group: list[_Content] = []
        rows = 1
        for content in contents:
            if group and rows + len(content) + 1 > self.batch_size:
                yield group
                group, rows = [], 1
            group.append(content)
            rows += len(content) + 1
        if group:
            yield group

    def _computed(self, contents: Sequence[_Content]) -> dict[_Content, Tensor]:
        without = {c: [c[:j] + c[j + 1 :] for j in range(len(c))] for c in contents}
        rows = {text: None for c in contents for text in (c, *without[c])}
        index = {text: i for i, text in enumerate(rows)}
        encoded = features(
            self.encoder, [self.encoder.assemble(text) for text in rows], self.similarity, self.batch_size
        ).flatten(1)
        result = {}
        for c in contents:
            whole = encoded[index[c]]
            result[c] = self._cosine(whole - encoded[[index[text] for text in without[c]]], float(whole.norm()))
        return result

    def _cosine(self, difference: Tensor, scale: float) -> Tensor:
        norm = difference.norm(dim=1, keepdim=True)
        cosine = difference @ self._unit.T / norm.clamp_min(torch.finfo(torch.float64).tiny)
        return torch.where(norm > _NOTHING * scale, cosine.clamp(-1, 1), 0.0)


class _Remembered:
    """A dictionary that forgets the least recently used."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[_Content, Tensor] = OrderedDict()

    def get(self, content: _Content) -> Tensor | None:
        scores = self._entries.get(content)
        if scores is not None:
            self._entries.move_to_end(content)
        return scores

    def put(self, content: _Content, scores: Tensor) -> None:
        self._entries[content] = scores
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


def _word(prompt: TokenizedPrompt, span: tuple[int, int]) -> _Content:
    start, stop = span
    return tuple(int(i) for i in prompt.ids[start:stop])
