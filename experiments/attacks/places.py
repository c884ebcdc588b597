"""Places: prompts of which some tokens are free, many at once, differentiable in what stands there.

A layout is a list of token ids with None where an attack may choose. What it may choose are *words*: tokens that end a word
and that the tokenizer gives back for their own text. Words with spaces between them tokenise to themselves, so a choice can
be typed; pieces of words, which a search over the whole vocabulary finds, often cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.models.text import END_OF_WORD, PromptEncoder
from experiments.attacks.attack import readable

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
        """All words of a tokenizer.

        Raises:
            ValueError: it has none.
        """
        tokenizer = encoder.tokenizer
        special = set(tokenizer.all_special_ids)
        ended = sorted(i for token, i in tokenizer.get_vocab().items() if token.endswith(END_OF_WORD))
        ids = [int(i) for i in ended if i not in special]
        texts = [tokenizer.decode([i], clean_up_tokenization_spaces=False).strip() for i in ids]
        again = tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"] if texts else []
        kept = torch.tensor([i for i, row in zip(ids, again, strict=True) if list(row[1:-1]) == [i]], dtype=torch.int64)
        if not len(kept):
            raise ValueError(f"tokenizer has no token that ends in {END_OF_WORD!r} and is given back for its own text")
        with torch.no_grad():
            table = encoder.embeddings(kept.to(encoder.device)).detach().clone()
        return cls(kept, table)

    def nearest(self, soft: Tensor) -> Tensor:
        """The words of largest cosine, (…, width) → (…) indices into `ids`."""
        unit = torch.nn.functional.normalize(self.table, dim=1)
        return (torch.nn.functional.normalize(soft, dim=-1) @ unit.T).argmax(dim=-1)

    def random(self, shape: Sequence[int], source: torch.Generator) -> Tensor:
        """Uniform choices, as indices into `ids`, on the table's device."""
        return torch.randint(len(self.ids), tuple(shape), generator=source).to(self.table.device)


def prefixed(content: Sequence[int], count: int) -> list[int | None]:
    """`count` free places, then the prompt."""
    return [*[None] * count, *content]


def interleaved(encoder: PromptEncoder, content: Sequence[int], every: int) -> list[int | None]:
    """A free place before the prompt and after every `every` of its tokens, or where the word ends that is cut by that."""
    tokens = encoder.tokenizer.convert_ids_to_tokens([int(i) for i in content])
    layout: list[int | None] = [None]
    since = 0
    for i, token in zip(content, tokens, strict=True):
        layout.append(int(i))
        since += 1
        if since >= every and token.endswith(END_OF_WORD):
            layout.append(None)
            since = 0
    return layout


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
                    "choose fewer free places, or shorter prompts"
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

    def contents(self, chosen: Tensor) -> list[list[int]]:
        """Token ids of the prompts with chosen words: (b, count) indices into the words → one list a prompt."""
        filled = []
        for layout, row in zip(self.layouts, self.words.ids[chosen.cpu()].tolist(), strict=True):
            given = iter(row)
            filled.append([next(given) if i is None else i for i in layout])
        return filled

    def texts(self, chosen: Tensor) -> list[str | None]:
        """The prompts as texts; None where the tokenizer would read the text as something else (`readable`)."""
        return [readable(self.encoder, content) for content in self.contents(chosen)]
