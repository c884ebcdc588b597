"""Readings: one call of `encode_prompt`, and what stands at each position of the prompts in each encoder."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certify._records import Record
from certify.models.encoders.embeddings import Lookup
from certify.models.encoders.outputs import Slot, leaves
from certify.models.encoders.words import Vocabulary

__all__ = [
    "PROMPT_ARGUMENT",
    "EncodeCall",
    "Frame",
    "Layout",
    "Reading",
    "is_own",
    "layout_of",
    "own_prompt",
    "plain_prompt",
    "without_padding",
]


PROMPT_ARGUMENT = re.compile(r"prompt(_\d+)?")


@dataclass(frozen=True, eq=False)
class EncodeCall(Record):
    """One call of `encode_prompt` that a pipeline makes for its prompt.

    Attributes:
        arguments: as the pipeline passes them, by name.
    """

    arguments: Mapping[str, Any]

    @property
    def prompts(self) -> list[str]:
        """The prompts, a row each."""
        value = self.arguments["prompt"]
        return [str(value)] if isinstance(value, str) else [str(text) for text in value]

    def of(self, texts: Sequence[str]) -> EncodeCall:
        """The same call for other prompts, for every encoder."""
        given = {n: list(texts) for n, v in self.arguments.items() if PROMPT_ARGUMENT.fullmatch(n) and v is not None}
        without = {n: None for n in self.arguments if n.startswith("negative_")}
        return EncodeCall({**self.arguments, **without, **given})

    def same(self, other: EncodeCall) -> bool:
        """Whether it has the arguments of another one; tensors and other objects must be the same ones."""
        a, b = self.arguments, other.arguments
        return a.keys() == b.keys() and all(
            a[name] is b[name] or (_is_plain(a[name]) and _is_plain(b[name]) and a[name] == b[name]) for name in a
        )

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """What of it is the same for other prompts."""
        return tuple(
            (name, repr(value))
            for name, value in sorted(self.arguments.items())
            if not PROMPT_ARGUMENT.fullmatch(name) and not name.startswith("negative_")
        )


@dataclass(frozen=True)
class Layout(Record):
    """What stands at each position of one prompt in one encoder.

    Attributes:
        encoder: the text encoder's name among the pipeline's components.
        ids, tokens: one an entry a position.
        kinds: "template", "word" or "padding".
        words: (start, stop) of every word.
        texts: what every token of a word says; "" elsewhere.
    """

    encoder: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    kinds: tuple[str, ...]
    words: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]

    def word(self, span: tuple[int, int]) -> tuple[str, ...]:
        """The tokens of a word."""
        return self.tokens[slice(*span)]


@dataclass(frozen=True, eq=False)
class Frame(Record):
    """What is the same for all prompts of calls with the same other arguments.

    Attributes:
        slots: the places in what `encode_prompt` returns that follow the embeddings.
        empty: for each lookup the ids of the empty prompt, without padding.
        units: for each lookup the standard deviation of the module's embeddings.
        ragged: whether a prompt's encoding depends on what else is in its batch: padded to the longest.
    """

    slots: tuple[Slot, ...]
    empty: tuple[tuple[int, ...], ...]
    units: tuple[float, ...]
    ragged: bool

    @functools.cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Lookups in groups whose outputs no other group can move (T16): one each, unless their boxes overlap."""
        groups: list[set[int]] = [{part} for part in range(len(self.units))]
        for slot in self.slots:
            known = [(part, box) for part, box in enumerate(slot.boxes) if box is not None]
            for i, (part, box) in enumerate(known):
                for other, further in known[i + 1 :]:
                    if all(a < d and c < b for (a, b), (c, d) in zip(box, further, strict=True)):
                        joined = next(g for g in groups if part in g) | next(g for g in groups if other in g)
                        groups = [g for g in groups if not g & joined] + [joined]
        return tuple(tuple(sorted(group)) for group in sorted(groups, key=min))


@dataclass(frozen=True, eq=False)
class Reading(Record):
    """Prompts as one call of `encode_prompt` reads them.

    Attributes:
        call, frame: the call, and what is known of its kind.
        tree: what it returns without noise, for the prompt's branch alone.
        lookups: embeddings of every lookup: (prompts, tokens, width).
        layouts: for each prompt, for each lookup.
    """

    call: EncodeCall
    frame: Frame
    tree: Any
    lookups: tuple[Lookup, ...]
    layouts: tuple[tuple[Layout, ...], ...]

    def masks(self, slot: Slot) -> Tensor | None:
        """(prompts, tokens), False at positions that the pipeline itself masks in this slot; None: it masks none of them."""
        if slot.axis != 0:
            return None
        value = self.tree
        for key in slot.path:
            value = value[key]
        if value.ndim != 3:
            return None
        for _, leaf in leaves(self.tree):
            if isinstance(leaf, Tensor) and tuple(leaf.shape) == tuple(value.shape[:2]):
                wanted = leaf != 0
                if bool((leaf == wanted.to(leaf.dtype)).all()):
                    return wanted.cpu()
        return None


def _is_plain(value: Any) -> bool:
    """Whether a value can be compared by `==`, whatever is in it."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (str, int, float, bool, torch.device, torch.dtype, type(None)))


def without_padding(ids: Sequence[int], padding: int | None) -> tuple[list[int], int]:
    """Ids without padding at either end, and where they begin."""
    first, last = 0, len(ids)
    while padding is not None and last > first and ids[last - 1] == padding:
        last -= 1
    while padding is not None and first < last and ids[first] == padding:
        first += 1
    return list(ids[first:last]), first


def layout_of(encoder: str, ids: list[int], empty: Sequence[int], vocabulary: Vocabulary) -> Layout:
    """What stands where: the prompt is what the empty prompt does not have."""
    bare, start = without_padding(ids, vocabulary.padding)
    before = _common(bare, empty)
    after = _common(bare[before:][::-1], empty[before:][::-1])
    begin, end = start + before, start + len(bare) - after
    kinds = ["padding"] * start + ["template"] * before + ["word"] * (end - begin)
    kinds += ["template"] * after + ["padding"] * (len(ids) - len(kinds) - after)
    content = ids[begin:end]
    words = tuple((begin + a, begin + b) for a, b in vocabulary.words(content))
    tokens = vocabulary.tokens(ids)
    texts = [vocabulary.text([token]) if kind == "word" else "" for token, kind in zip(tokens, kinds, strict=True)]
    return Layout(encoder, tuple(ids), tokens, tuple(kinds), words, tuple(texts))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many entries two lists begin alike with."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


class OwnPrompt(str):
    """The user's own prompt, recognised wherever the pipeline hands it on."""

    __slots__ = ()


def own_prompt(value: Any) -> Any:
    """A prompt, or a list of them, that `is_own` recognises."""
    return OwnPrompt(value) if isinstance(value, str) else [OwnPrompt(text) for text in value]


def is_own(value: Any) -> bool:
    """Whether it is the user's own prompt, as `own_prompt` marked it."""
    return isinstance(value, OwnPrompt) or (isinstance(value, list) and bool(value) and all(map(is_own, value)))


def plain_prompt(value: Any) -> Any:
    """A prompt, or a list of them, without the mark."""
    if isinstance(value, str):
        return str(value)
    return [plain_prompt(entry) for entry in value] if isinstance(value, list) else value
