"""Adapters: what an attacker trains in place of a model's weights, low-rank additions to its maps or one token of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from certify.models import PromptEncoder
from experiments.sentences import filled

__all__ = ["LowRank", "Word", "low_rank"]


class LowRank(nn.Module):
    """W ↦ W + B A, A (rank, in) normal with standard deviation 1/rank, B (out, rank) zero at the start."""

    def __init__(self, weight: Tensor, rank: int, source: torch.Generator) -> None:
        super().__init__()
        out, inside = weight.shape
        drawn = torch.randn(rank, inside, generator=source) / rank
        self.a = nn.Parameter(drawn.to(weight.device, weight.dtype))
        self.b = nn.Parameter(torch.zeros(out, rank, device=weight.device, dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def low_rank(unet: Any, rank: int, source: torch.Generator) -> dict[str, nn.Parameter]:
    """Puts low-rank additions on the query, key, value and output maps of all attention, which alone train from now on.

    Returns:
        name → parameter, named as diffusers and peft do: `unet.….to_k.lora_A.weight`, `….lora_B.weight`. With the scale
        that they take where none is told (alpha = rank) they mean the same there.

    Raises:
        ValueError: the U-Net has no attention, or carries such additions already.
    """
    maps = {
        name: m
        for name, m in unet.named_modules()
        if isinstance(m, nn.Linear) and name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))
    }
    if not maps:
        raise ValueError(
            f"unet is a {type(unet).__name__}: has no maps named '….to_q', '….to_k', '….to_v', '….to_out.0'"
        )
    if any(parametrize.is_parametrized(m) for m in maps.values()):
        raise ValueError("unet carries low-rank additions already")
    unet.requires_grad_(False)
    additions: dict[str, nn.Parameter] = {}
    for name, module in maps.items():
        addition = LowRank(module.weight, rank, source)
        parametrize.register_parametrization(module, "weight", addition)
        # What torch adds begins in training mode, and a U-Net that generates images must not be in it.
        module.train(module.training)
        additions[f"unet.{name}.lora_A.weight"], additions[f"unet.{name}.lora_B.weight"] = addition.a, addition.b
    return additions


class Word:
    """A token of its own: one embedding, which takes the place of a phrase's tokens in every sentence.

    Args:
        encoder: the text encoder; it stays as it is.
        initial: the word that it starts from; of several tokens, at their mean.

    Attributes:
        vector: (width,), what is learned.
    """

    def __init__(self, encoder: PromptEncoder, initial: str) -> None:
        self.encoder, self.initial = encoder, initial
        self._ids = encoder.tokenize(initial).content
        if not self._ids:
            raise ValueError(f"initial = {initial!r}: must be a word")
        rows = encoder.embed(encoder.assemble(self._ids))[1 : 1 + len(self._ids)]
        self.vector = nn.Parameter(rows.mean(dim=0))
        encoder.text_encoder.requires_grad_(False)
        self._places: dict[str, tuple[Any, int]] = {}

    def encode(self, templates: Sequence[str]) -> Tensor:
        """Encodings (b, tokens, width) of sentences with the token in place of "{}", with the graph to its embedding."""
        tokenized, places = zip(*(self._place(t) for t in templates), strict=True)
        ids = torch.stack([t.ids for t in tokenized])
        masks = [t.attention_mask for t in tokenized if t.attention_mask is not None]
        z = torch.stack([self.encoder.embed(t) for t in tokenized])
        rows = torch.tensor(places, device=z.device)
        here = nn.functional.one_hot(rows.clamp(min=0), z.shape[1]).bool() & (rows >= 0)[:, None]
        z = torch.where(here[:, :, None], self.vector.to(z.dtype), z)
        return self.encoder.encode_batch(ids, z, torch.stack(masks) if masks else None, grad=torch.is_grad_enabled())

    def _place(self, template: str) -> tuple[Any, int]:
        """The tokenised sentence with one token in place of the phrase, and its position (−1: the sentence has none)."""
        if template not in self._places:
            if "{}" not in template:
                self._places[template] = self.encoder.tokenize(template), -1
            else:
                said, run = self.encoder.tokenize(filled(template, self.initial)).content, self._ids
                starts = [i for i in range(len(said) - len(run) + 1) if said[i : i + len(run)] == run]
                if len(starts) != 1:
                    raise ValueError(
                        f"initial = {self.initial!r}: must occur once in {filled(template, self.initial)!r}, "
                        f"occurs {len(starts)} times"
                    )
                first = starts[0]
                content = (*said[:first], run[-1], *said[first + len(run) :])
                self._places[template] = self.encoder.assemble(content, template), 1 + first
        return self._places[template]
