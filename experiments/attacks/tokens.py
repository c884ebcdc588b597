"""Tokens: what the attacks on the text encoder share. Which ids can be typed, and encodings of rows of ids.

A search over token ids may end at a row that no text gives: the tokenizer joins pieces, and cuts words, in its own way.
The searches here use only ids that stand alone, those whose own text, typed by itself, is cut into just that id (whole
words and single signs). With a space between any two they can be typed in every order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from certify.models.text import PromptEncoder, TokenizedPrompt
from experiments.attacks.attack import Victim, readable

__all__ = [
    "before",
    "cut",
    "encodings",
    "first_readable",
    "framed",
    "last_rows",
    "read",
    "room",
    "several",
    "sides",
    "single",
    "typable",
]


def before(victim: Victim) -> PromptEncoder:
    """The text encoder before erasing, whose encodings are the goals: the victim's own where that was left as it is."""
    return victim.encoder if victim.reference is None else victim.reference.encoder


def typable(encoder: PromptEncoder, banned: Iterable[str] = ()) -> Tensor:
    """The ids that stand alone: (v,) int64, ascending.

    Args:
        encoder: whose vocabulary.
        banned: texts; an id whose text contains one of them, whatever the case, is left out.

    Raises:
        ValueError: none is left.
    """
    tokenizer, words = encoder.tokenizer, [text.casefold() for text in banned]
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special]
    texts = [
        text.strip()
        for text in tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
        # (Batched: a vocabulary of 49 408 takes a second.)
    ]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    alone = [
        i
        for i, text, back in zip(ids, texts, rows, strict=True)
        if text and list(back) == [i] and not any(word in text.casefold() for word in words)
    ]
    if not alone:
        raise ValueError(f"banned = {tuple(words)!r}: leaves no token that can be typed")
    return torch.tensor(alone)


def single(encoder: PromptEncoder, signs: str) -> Tensor:
    """Ids of those signs that are one token each, without repetition, in their order: (v,) int64."""
    rows = encoder.tokenizer(list(signs), add_special_tokens=False)["input_ids"]
    alone = set(typable(encoder).tolist())
    return torch.tensor(list(dict.fromkeys(row[0] for row in rows if len(row) == 1 and row[0] in alone)))


def several(name: str, words: Any) -> None:
    """Refuses what is not a tuple of words, one text among them, or an empty word."""
    if isinstance(words, str) or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"{name} = {words!r}: must be a tuple of words, none of them empty")


def room(encoder: PromptEncoder, length: int) -> int:
    """`length`, or what fits between begin and end if that is less."""
    return min(length, encoder.context_length - 2)


def cut(encoder: PromptEncoder, prompt: str) -> TokenizedPrompt:
    """A prompt as a pipeline reads it: what does not fit into the context is cut off at the end."""
    return encoder.tokenize(prompt, truncate=True)


def framed(encoder: PromptEncoder, content: Tensor) -> Tensor:
    """Rows of content (b, k), each with its begin, end and padding: (b, tokens)."""
    frame = encoder.assemble([0] * content.shape[1]).ids.expand(len(content), -1).clone()
    frame[:, 1 : content.shape[1] + 1] = content
    return frame


def encodings(
    encoder: PromptEncoder, ids: Tensor, z: Tensor | None = None, *, batch: int = 512, grad: bool = False
) -> Tensor:
    """T at rows of ids (b, tokens): (b, tokens, width) float32, at most `batch` rows at a time.

    Args:
        encoder: T.
        ids: begin, content, end, padding.
        z: (b, tokens, width), in place of the ids' own embeddings.
        batch: rows at a time.
        grad: keep the graph.
    """
    mask = None
    if encoder.uses_attention_mask:
        # Content holds no end token: the first one ends the prompt, those after it pad.
        end = encoder.assemble([]).ids[1]
        after = (ids == end).long().cumsum(dim=1)
        mask = ((after == 0) | ((after == 1) & (ids == end))).long()
    parts = [
        encoder.encode_batch(
            ids[i : i + batch],
            None if z is None else z[i : i + batch],
            None if mask is None else mask[i : i + batch],
            grad=grad,
        )
        for i in range(0, len(ids), batch)
    ]
    return torch.cat(parts).float()


def read(encoder: PromptEncoder, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
    """T of prompts as a pipeline reads them (`cut`), (b, tokens, width), and where each ends."""
    tokenized = [cut(encoder, prompt) for prompt in prompts]
    return encodings(encoder, torch.stack([t.ids for t in tokenized])), [t.end for t in tokenized]


def sides(encoder: PromptEncoder, pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """T of the prompts with the concept, and of those without it: (pairs, tokens, width) each."""
    having, lacking = zip(*pairs, strict=True)
    return read(encoder, having)[0], read(encoder, lacking)[0]


def last_rows(encoded: Tensor, ends: Sequence[int] | Tensor) -> Tensor:
    """The row at each prompt's end token, what CLIP pools: (b, width)."""
    return encoded[torch.arange(len(encoded)), torch.as_tensor(ends)]


def first_readable(encoder: PromptEncoder, rows: Tensor) -> tuple[int, str]:
    """The first of some rows of content (b, k) that can be typed, and its text.

    Raises:
        ValueError: none can.
    """
    for index, row in enumerate(rows):
        text = readable(encoder, row)
        if text is not None:
            return index, text
    raise ValueError(f"none of {len(rows)} rows of tokens can be typed")
