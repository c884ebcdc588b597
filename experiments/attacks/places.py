"""Places: prompts of which some tokens are free, many at once, differentiable in what stands there.

A layout is a list of token ids with None where an attack may choose. What it may choose are *words*, the ids that stand alone
(`tokens.typable`): with spaces between them they can be typed in every order. Pieces of words, which a search over the whole
vocabulary finds, often cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.models.text import PromptEncoder
from experiments.attacks.attack import readable
from experiments.attacks.tokens import typable

__all__ = ["Layout", "Places", "Words", "interleaved", "prefixed"]

Layout = Sequence[int | None]
"""Token ids between begin and end; None: free."""


@dataclass(frozen=True, eq=False)
class Words:
    """What a free place may hold.

    Attributes:
        ids: (words,) int64, on the CPU.
        table: (words, width), their embeddings, on the encoder's device.
    """

    ids: Tensor
    table: Tensor

    @classmethod
    def of(cls, encoder: PromptEncoder) -> Words:
        """All of them (`typable`)."""
        single = typable(encoder)
        with torch.no_grad():
            table = encoder.embeddings(single.to(encoder.device)).detach().clone()
        return cls(single, table)

    def nearest(self, soft: Tensor) -> Tensor:
        """The words of largest cosine, (…, width) → (…) indices into `ids`."""
        unit = torch.nn.functional.normalize(self.table, dim=1)
        return (torch.nn.functional.normalize(soft, dim=-1) @ unit.T).argmax(dim=-1)

    def random(self, shape: Sequence[int], source: torch.Generator) -> Tensor:
        """Uniform choices, as indices into `ids`, on the table's device."""
        return torch.randint(len(self.ids), tuple(shape), generator=source).to(self.table.device)


def prefixed(encoder: PromptEncoder, content: Sequence[int], count: int) -> list[int | None]:
    """`count` free places, then as many of the prompt's words, from the first on, as the context has room for."""
    layout: list[int | None] = [None] * count
    for word in _words(encoder, content):
        if len(layout) + len(word) > encoder.context_length - 2:
            break
        layout += word
    return layout


def interleaved(encoder: PromptEncoder, content: Sequence[int], every: int) -> list[int | None]:
    """A free place before the prompt and after every `every` of its tokens, or where the word ends that is cut by that;
    as many words, from the first on, as the context has room for."""
    layout: list[int | None] = [None]
    since = 0
    for word in _words(encoder, content):
        more: list[int | None] = [*word, None] if since + len(word) >= every else [*word]
        if len(layout) + len(more) > encoder.context_length - 2:
            break
        layout += more
        since = 0 if more[-1] is None else since + len(word)
    return layout


def _words(encoder: PromptEncoder, content: Sequence[int]) -> list[list[int]]:
    """The content, word by word."""
    tokenized = encoder.assemble(content)
    return [[int(i) for i in tokenized.ids[start:stop]] for start, stop in tokenized.words]


class Places:
    """Layouts as one batch. Rows may have different numbers of free places; what a row does not have is not looked at.

    Args:
        encoder: T.
        layouts: one a prompt.
        words: what the places may hold.

    Attributes:
        count: free places of the row that has most.
        ids: (b, tokens) int64, with some word in every free place: T reads of them only where the text ends.
        mask: (b, tokens), the attention mask where the encoder uses one.

    Raises:
        ValueError: there is no layout, one has no free place, or one does not fit into the context.
    """

    def __init__(self, encoder: PromptEncoder, layouts: Sequence[Layout], words: Words) -> None:
        if not layouts:
            raise ValueError("layouts is empty: must hold at least one layout")
        room = encoder.context_length - 2
        for number, layout in enumerate(layouts):
            if None not in layout:
                raise ValueError(f"layouts[{number}] has no free place: must have at least one")
            if len(layout) > room:
                free = sum(i is None for i in layout)
                raise ValueError(
                    f"layouts[{number}] has {len(layout)} tokens, {free} of them free: must have at most {room}; "
                    "choose fewer free places"
                )
        self.encoder, self.words, self.layouts = encoder, words, [list(layout) for layout in layouts]
        filler = int(words.ids[0])
        rows = [encoder.assemble([filler if i is None else i for i in layout]) for layout in layouts]
        self.ids = torch.stack([row.ids for row in rows])
        masks = [row.attention_mask for row in rows if row.attention_mask is not None]
        self.mask = torch.stack(masks) if masks else None
        where = [
            (row, place, position)
            for row, layout in enumerate(self.layouts)
            for place, position in enumerate(p for p, i in enumerate(layout, 1) if i is None)
        ]
        self._rows, self._places, self._positions = torch.tensor(where, device=encoder.device).T
        self.count = int(self._places.max()) + 1
        with torch.no_grad():
            self._fixed = torch.stack([encoder.embed(row) for row in rows])

    def __len__(self) -> int:
        return len(self.layouts)

    def free(self, row: int) -> int:
        """How many free places a row has."""
        return sum(i is None for i in self.layouts[row])

    def embedded(self, soft: Tensor, rows: Tensor | None = None) -> Tensor:
        """y of the prompts with `soft` in their free places, with its gradient.

        Args:
            soft: (b, count, width).
            rows: (r,) which rows to return; None: all.

        Returns:
            (b or r, tokens, width).
        """
        z = self._fixed.index_put((self._rows, self._positions), soft[self._rows, self._places])
        return z if rows is None else z[rows]

    def encode(self, soft: Tensor, rows: Tensor | None = None) -> Tensor:
        """T of them, with the graph. Arguments and shape as for `embedded`."""
        z = self.embedded(soft, rows)
        which = torch.arange(len(self)) if rows is None else rows.cpu()
        return self.encoder.encode_batch(
            self.ids[which], z, None if self.mask is None else self.mask[which], grad=soft.requires_grad
        )

    def content(self, row: int, words: Tensor) -> list[int]:
        """Token ids of one prompt with words in its free places: (count,) indices into the words."""
        given = iter(self.words.ids[words.cpu()].tolist())
        return [next(given) if i is None else i for i in self.layouts[row]]

    def text(self, row: int, words: Tensor) -> str | None:
        """One prompt as a text; None where the tokenizer would read the text as something else (`readable`)."""
        return readable(self.encoder, self.content(row, words))

    def texts(self, chosen: Tensor) -> list[str | None]:
        """All of them: (b, count) indices into the words."""
        return [self.text(row, words) for row, words in enumerate(chosen)]
