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

An adaptive noise that is to be certified without assumption reads embeddings, not words (T7): `scores_at` is the same
algorithm on rows of a matrix z ∈ R^(tokens × width). A text is then begin, some rows of z, end, padding, with begin, end and
padding from the encoder's own table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify import _validate
from certify.adaptive.concepts import SIMILARITIES, features
from certify.models.text import PromptEncoder, TokenizedPrompt

__all__ = ["SCORE_DECIMALS", "RelevanceScorer", "cosines"]

SCORE_DECIMALS = 4

# A difference this much smaller than the encoding itself is rounding: it points nowhere.
_NOTHING = 1e-6

# Encodings a batch where the last digit must not depend on the caller's batch size.
_ALONE = 64

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
        self._table: Tensor | None = None

    @property
    def directions(self) -> Tensor:
        """The concepts' directions at unit length, (concepts, tokens, width) or (concepts, width), float64."""
        if self.similarity == "end-of-text":
            return self._unit
        return self._unit.unflatten(1, (self.encoder.context_length, self.encoder.width))

    def use(self, table: Tensor) -> None:
        """From now on a word that is one entry of the vocabulary has the score that is given here, (entries, concepts).

        Everything else is computed in a batch of its own, whose size is fixed: its last digit does not depend on what else is
        asked for (T17).
        """
        self._table = table
        for memory in (self._local, self._global):
            memory.clear()

    def of_entries(self, entries: Sequence[int]) -> Tensor:
        """The scores of entries of the vocabulary, as words by themselves: (entries, concepts), rounded to `SCORE_DECIMALS`."""
        found = self._computed([(entry,) for entry in entries], _ALONE)
        return torch.cat([found[entry,] for entry in entries]).round(decimals=SCORE_DECIMALS)

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

    def scores_at(self, z: Tensor, side: TokenizedPrompt) -> Tensor:
        """The scores at token embeddings that no prompt need have: Algorithm 1 with rows of z in place of tokens.

        Equation
            `scores([prompt])` at z = y, up to the rounding of the encoder.

        Reference
            Han et al. (2025), Algorithm 1; THEORY T7.2.

        Args:
            z: (b, tokens, width). Rows at begin, end and padding are not looked at.
            side: positions and words; its token ids are not looked at.

        Returns:
            (b, tokens, concepts), float64 on the encoder's device, rounded to `SCORE_DECIMALS`; NaN outside of words. Nothing
            is remembered. A prompt of one-token words costs an encoding a word, with the global flag two and one more.

        Raises:
            ValueError: `z` has another shape.
        """
        encoder = self.encoder
        expected = (encoder.context_length, encoder.width)
        if z.ndim != 3 or tuple(z.shape[1:]) != expected:
            raise ValueError(f"z has shape {tuple(z.shape)}: must be (batch, {expected[0]}, {expected[1]})")
        z = z.to(encoder.device, encoder.dtype)
        result = torch.full((*z.shape[:2], len(self._unit)), torch.nan, dtype=torch.float64, device=z.device)
        if not side.words or not len(z):
            return result
        texts = _Texts(encoder, side, self.use_global)
        empty = features(encoder, [encoder.assemble(())], self.similarity, 1).flatten(1).to(z.device)
        group = max(1, self.batch_size // len(texts.rows))
        for start in range(0, len(z), group):
            encoded = self._encoded(z[start : start + group], texts)
            encoded = torch.cat([encoded, empty.expand(len(encoded), 1, -1)], dim=1)
            for context in texts.contexts:
                whole = encoded[:, context.whole, None]
                cosine = cosines(whole - encoded[:, context.without], self._unit, whole.norm(dim=-1, keepdim=True))
                target = result[start : start + group, context.positions]
                if context.glob:
                    cosine = torch.maximum(target, (target + cosine) / 2)
                result[start : start + group, context.positions] = cosine
        return result.round(decimals=SCORE_DECIMALS)

    def _encoded(self, z: Tensor, texts: _Texts) -> Tensor:
        """What is compared of every text made from every row of the batch: (b, texts, features), float64."""
        rows, ends = texts.rows.to(z.device), texts.ends.to(z.device)
        source = torch.cat([z, texts.table.expand(len(z), -1, -1)], dim=1)
        which = torch.arange(len(z) * len(rows), device=z.device)
        parts = []
        for chunk in which.split(self.batch_size):
            sample, text = chunk // len(rows), chunk % len(rows)
            mask = None if texts.masks is None else texts.masks[text.cpu()]
            out = self.encoder.encode_batch(texts.ids[text.cpu()], source[sample[:, None], rows[text]], mask)
            if self.similarity == "end-of-text":
                out = out[torch.arange(len(out), device=out.device), ends[text]]
            parts.append(out.double().flatten(1))
        return torch.cat(parts).unflatten(0, (len(z), len(rows)))

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
        found = {content: self._from_table(content, memory) for content in contents}
        missing = [content for content, scores in found.items() if scores is None]
        for group in self._groups(missing):
            for content, scores in self._computed(group, self.batch_size if self._table is None else _ALONE).items():
                found[content] = scores
                memory.put(content, scores)
        return {content: scores for content, scores in found.items() if scores is not None}

    def _from_table(self, content: _Content, memory: _Remembered) -> Tensor | None:
        table = self._table
        if table is not None and memory is self._local and len(content) == 1 and content[0] < len(table):
            return table[content[0]][None]
        return memory.get(content)

    def _groups(self, contents: Sequence[_Content]) -> Iterator[list[_Content]]:
        """Cuts the work where a batch is full, so that memory does not grow with the number of prompts."""
        if self._table is not None:
            yield from ([content] for content in contents)
            return
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

    def _computed(self, contents: Sequence[_Content], batch_size: int) -> dict[_Content, Tensor]:
        without = {c: [c[:j] + c[j + 1 :] for j in range(len(c))] for c in contents}
        rows = {text: None for c in contents for text in (c, *without[c])}
        index = {text: i for i, text in enumerate(rows)}
        encoded = features(
            self.encoder, [self.encoder.assemble(text) for text in rows], self.similarity, batch_size
        ).flatten(1)
        result = {}
        for c in contents:
            whole = encoded[index[c]]
            result[c] = cosines(whole - encoded[[index[text] for text in without[c]]], self._unit, whole.norm())
        return result


def cosines(difference: Tensor, unit: Tensor, scale: Tensor) -> Tensor:
    """(…, features), directions of unit length (concepts, features), size of the encodings behind them → (…, concepts).

    0 where the difference is rounding of these encodings, which points nowhere.
    """
    norm = difference.norm(dim=-1, keepdim=True)
    cosine = difference @ unit.to(difference.device).T / norm.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(norm > _NOTHING * scale, cosine.clamp(-1, 1), 0.0)


@dataclass(frozen=True)
class _Context:
    """A word, or the whole prompt: its positions, which text it is, and which texts are it without each of its tokens."""

    positions: slice
    whole: int
    without: list[int]
    glob: bool


class _Texts:
    """All texts that Algorithm 1 encodes for a prompt, as positions: which row of z, or of `table`, stands where.

    The empty text is the same for every z: it has no row and the index −1.

    Attributes:
        rows: (texts, tokens), indices into the rows of z followed by those of `table`.
        ids, masks, ends: of the texts, as far as their lengths determine them.
        table: (3, width), the embeddings of begin, end and padding.
        contexts: what to compare.
    """

    def __init__(self, encoder: PromptEncoder, side: TokenizedPrompt, use_global: bool) -> None:
        tokens = len(side.kinds)
        begin, end, padding = tokens, tokens + 1, tokens + 2
        index: dict[tuple[int, ...], int] = {}

        def text(positions: tuple[int, ...]) -> int:
            return index.setdefault(positions, len(index)) if positions else -1

        def context(start: int, stop: int, glob: bool) -> _Context:
            inside = tuple(range(start, stop))
            without = [text(tuple(i for i in inside if i != j)) for j in inside]
            return _Context(slice(start, stop), text(inside), without, glob)

        self.contexts = [context(start, stop, False) for start, stop in side.words]
        if use_global:
            self.contexts.append(context(side.words[0][0], side.words[-1][1], True))
        blank = [encoder.assemble((0,) * len(positions)) for positions in index]
        self.rows = torch.tensor(
            [[begin, *positions, end, *[padding] * (tokens - 2 - len(positions))] for positions in index]
        )
        self.ids = torch.stack([t.ids for t in blank])
        masks = [t.attention_mask for t in blank if t.attention_mask is not None]
        self.masks = torch.stack(masks) if masks else None
        self.ends = torch.tensor([t.end for t in blank])
        # The empty prompt is begin, end, padding; where the context holds no more than two tokens there is no padding.
        empty = encoder.embed(encoder.assemble(()))
        self.table = empty[[0, 1, min(2, tokens - 1)]]


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

    def clear(self) -> None:
        self._entries.clear()


def _word(prompt: TokenizedPrompt, span: tuple[int, int]) -> _Content:
    start, stop = span
    return tuple(int(i) for i in prompt.ids[start:stop])
