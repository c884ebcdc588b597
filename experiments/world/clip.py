"""The small CLIP: a text tower that the denoiser will be conditioned on, and an image tower that scores captions.

The text tower is a `CLIPTextModel`. Both towers are trained contrastively on (image, caption) pairs; linear read-outs
beside the contrastive head tell, from every position at or after the end of the text, which attributes the caption told
(and which it left open), so that a word's meaning is a direction shared by all prompts, long or short. Concept directions
and relevance scores live on that.

A word of several tokens means nothing without any one of them, except for a stem that is a word itself ("wheel" in
"pinwheel"): captions with a token torn out are shown with the shape left open.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.world.towers import WIDTH, ImageTower
from experiments.world import language, scenes

__all__ = ["ReadOut", "batch_of_captions", "build_text_tower", "torn", "train"]

_CLASSES = tuple(map(len, scenes.VALUES.values()))


class ReadOut(nn.Module):
    """Linear read-outs of the attributes: one class more than values for what is left open."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, k + 1) for k in _CLASSES)

    def loss(self, h: Tensor, told: Tensor, weight: Tensor) -> Tensor:
        """Mean cross-entropy: h (b, positions, width), told (b, 5) with −1 for open, weight (b, positions)."""
        total = h.new_zeros(())
        for i, (head, k) in enumerate(zip(self.heads, _CLASSES, strict=True)):
            target = torch.where(told[:, i] < 0, k, told[:, i])
            target = target[:, None].expand(h.shape[:2])
            each = F.cross_entropy(head(h).flatten(0, 1), target.flatten(), reduction="none").view(h.shape[:2])
            total = total + (each * weight).sum() / weight.sum()
        return total


def build_text_tower(tokenizer: Any, width: int = WIDTH, layers: int = 2) -> Any:
    """A new text tower (`CLIPTextModel`) with as many positions as the tokenizer has."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def torn(
    ids: Sequence[int], tokens: Sequence[str], noun: tuple[int, int], rng: random.Random
) -> tuple[list[int], bool]:
    """A caption's ids with one token of its noun left out, and whether the noun still means its shape.

    Args:
        ids: with begin and end.
        tokens: their spellings.
        noun: the positions (start, stop) of the noun.
        rng: chooses the token.
    """
    start, stop = noun
    victim = rng.randrange(start, stop)
    last = tokens[stop - 1].replace("</w>", "")
    stem = last in {*scenes.SHAPES, *(w for many in language.SYNONYMS.values() for w in many)}
    return [*ids[:victim], *ids[victim + 1 :]], stem and victim != stop - 1


def noun_place(tokens: Sequence[str], noun: str) -> tuple[int, int] | None:
    """Where a noun stands in a list of tokens."""
    start, word = 0, ""
    for i, token in enumerate(tokens):
        word += token
        if token.endswith("</w>") or token.startswith("<|"):
            if word == noun + "</w>":
                return start, i + 1
            start, word = i + 1, ""
    return None


def _strange(text: str, rng: random.Random) -> str:
    """A caption with a meaningless word put in somewhere."""
    words = text.split()
    made = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 4)))
    words.insert(rng.randint(0, len(words)), made)
    return " ".join(words)


def batch_of_captions(
    rows: Sequence[Sequence[int]], tokenizer: Any, rng: random.Random, *, tear: bool = True
) -> tuple[Tensor, Tensor]:
    """ids (b, positions) and what they tell (b, 5) for a batch of scenes; with some words torn, and some strange ones."""
    end = tokenizer.eos_token_id
    captions = [language.caption(row, rng) for row in rows]
    texts = [_strange(c.text, rng) if tear and len(c.text) < 45 and rng.random() < 0.1 else c.text for c in captions]
    out = torch.full((len(rows), language.CONTEXT), end, dtype=torch.long)
    told = torch.tensor([c.told for c in captions])
    for i, (c, ids) in enumerate(zip(captions, tokenizer(texts, truncation=True).input_ids, strict=True)):
        roll = rng.random()
        if roll < 0.02:
            ids, told[i] = [ids[0], end], torch.tensor([-1] * 5)
        elif tear and c.kind != "neutral" and roll < 0.3:
            tokens = tokenizer.convert_ids_to_tokens(ids)
            place = noun_place(tokens, c.noun)
            if place is not None and (place[1] - place[0] > 1 or roll < 0.06):
                ids, keeps = torn(ids, tokens, place, rng)
                if not keeps:
                    told[i, 0] = -1
        out[i, : len(ids)] = torch.tensor(ids)
    return out, told


def train(
    folder: Path, tokenizer_folder: Path, *, steps: int, seed: int = 0, batch: int = 192, rate: float = 2e-3
) -> None:
    """Trains both towers and saves `text_encoder/` and `image_tower.safetensors`."""
    from safetensors.torch import save_file
    from transformers import CLIPTokenizer

    torch.manual_seed(seed)
    rng, source = random.Random(seed), torch.Generator().manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    text, image, read, seen = build_text_tower(tokenizer), ImageTower(), ReadOut(WIDTH), ReadOut(WIDTH)
    project, scale = image.project, nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    parts = nn.ModuleList([text, image, read, seen]).train()
    table = text.get_input_embeddings().weight
    rest = [p for p in parts.parameters() if p is not table]
    optimiser = torch.optim.AdamW(
        [
            {"params": rest, "weight_decay": 0.01},
            {"params": [table], "weight_decay": 0.05},
            {"params": [scale], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.98),
    )
    pool = scenes.sample_scenes(12288, source)
    images = scenes.render(pool, source)
    start, step = time.monotonic(), 0
    while (part := step / steps) < 1:
        lr = rate * min(1.0, step / 100) * (0.5 + 0.5 * math.cos(math.pi * part))
        for group in optimiser.param_groups:
            group["lr"] = max(lr, 2e-5)
        if step and step % 150 == 0:  # a sixth of the pool anew
            rows = torch.randint(len(pool), (2048,), generator=source)
            pool[rows] = scenes.sample_scenes(2048, source)
            images[rows] = scenes.render(pool[rows], source)
        rows = torch.randint(len(pool), (batch,), generator=source)
        ids, told = batch_of_captions(pool[rows].tolist(), tokenizer, rng)
        h = text(input_ids=ids).last_hidden_state
        end = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        after = (torch.arange(ids.shape[1])[None] >= end[:, None]).float()
        t = F.normalize(project(h[torch.arange(batch), end]), dim=1)
        v = image(images[rows])
        logits = scale.clamp(max=4.6).exp() * v @ t.T
        target = torch.arange(batch)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        loss = (
            contrast
            + 0.5 * read.loss(h, told, after)
            + 0.3 * seen.loss(8 * v[:, None], pool[rows], torch.ones(batch, 1))
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            print(
                f"step {step} {time.monotonic() - start:.0f} s loss {loss.item():.3f} contrast {contrast.item():.3f}",
                flush=True,
            )
    parts.eval()
    text.save_pretrained(folder / "text_encoder")
    save_file({k: p.contiguous() for k, p in image.state_dict().items()}, folder / "image_tower.safetensors")
    print(f"done: {step} steps", flush=True)
