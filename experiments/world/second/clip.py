"""The second world's CLIP: a text tower with graded meanings, frozen before the denoiser, and its image tower.

Both are trained contrastively on (image, caption) pairs, beside linear read-outs of what the image *shows* from positions
at and after the end of the text. The best guess of what is shown, given the caption, is its probability: so "birthday" points
towards "hat" as far as birthdays have hats, and a word that says nothing points nowhere.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.world.towers import ImageTower
from experiments.world.clip import build_text_tower
from experiments.world.second import language, scenes
from experiments.world.training import Run

__all__ = ["COLUMNS", "WIDTH", "ReadOut", "encode_captions", "ends", "train"]

WIDTH = 96
COLUMNS = 2
"""Strips that the image tower and the judge pool apart."""

SHORTER = 44
"""Positions of most steps of the training; nine captions in ten fit."""


class ReadOut(nn.Module):
    """Linear heads for everything that can be seen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(values)) for values in scenes.VALUES.values())

    def loss(self, h: Tensor, shown: Tensor) -> Tensor:
        """Sum over the heads of the mean cross-entropy: h (b, positions, width), shown (b, columns of a scene).

        The decor's colour counts only where there is a decor.
        """
        total = h.new_zeros(())
        for i, (name, head) in enumerate(zip(scenes.VALUES, self.heads, strict=True)):
            target = shown[:, i].clone()
            if name == "decor":
                target[shown[:, i - 1] == 0] = -100
            each = target[:, None].expand(h.shape[:2])
            total = total + F.cross_entropy(head(h).flatten(0, 1), each.flatten())
        return total


def encode_captions(rows: Tensor, tokenizer: Any, rng: random.Random, *, empty: float = 0.03) -> Tensor:
    """Token ids (b, 77) of a fresh caption of each scene.

    Args:
        rows: scenes.
        tokenizer: of the text tower.
        rng: the only source of randomness.
        empty: share of empty captions, among scenes that show no concept and tell nothing.
    """
    quiet = (rows[:, len(scenes.VALUES) :] < 0).all(dim=1).tolist()
    share = empty / max(sum(quiet) / max(len(quiet), 1), 1e-6)
    texts = [
        "" if still and rng.random() < share else language.caption(row, rng).text
        for row, still in zip(rows.tolist(), quiet, strict=True)
    ]
    ids = tokenizer(texts, padding="max_length", max_length=language.CONTEXT, truncation=True, return_tensors="pt")
    return ids.input_ids


def ends(ids: Tensor, tokenizer: Any) -> Tensor:
    """Positions (b,) of the end of the text."""
    return (ids == tokenizer.eos_token_id).int().argmax(dim=1)


def _unrelated_words(
    text: Any, tokenizer: Any, rng: random.Random, source: torch.Generator, positions: int, count: int = 64
) -> tuple[Tensor, Tensor]:
    """Encodings (count, 2, width) of unrelated words that stand alone, and scenes that show no concept.

    Each of a thousand words stands alone too rarely in captions to be known for meaning nothing there: from the empty text,
    which is known well, all of them would point towards whatever a word may mean, a hat for one.
    """
    shown = scenes.sample_scenes(count, source, told=False)
    words = [rng.choice(kind) for kind in rng.choices(list(language.lexicon().values()), k=count)]
    ids = tokenizer(words, padding="max_length", max_length=positions, truncation=True, return_tensors="pt").input_ids
    h, end = text(input_ids=ids).last_hidden_state, ends(ids, tokenizer)
    at = torch.arange(count)
    later = end + (torch.rand(count, generator=source) * (ids.shape[1] - end)).long()
    return torch.stack([h[at, end], h[at, later]], dim=1), shown


def train(
    folder: Path, tokenizer_folder: Path, *, steps: int, seed: int = 0, batch: int = 128, rate: float = 2e-3
) -> None:
    """Trains both towers; saves `text_encoder/` and `image_tower.safetensors` in `folder`. A run that was stopped goes on."""
    from safetensors.torch import save_file
    from transformers import CLIPTokenizer

    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    text = build_text_tower(tokenizer, WIDTH, layers=3)
    image = ImageTower(WIDTH, COLUMNS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    read, seen, scale = ReadOut(WIDTH), ReadOut(WIDTH), nn.ParameterList([torch.tensor(math.log(1 / 0.07))])
    parts = {"text": text, "image": image, "read": read, "seen": seen, "scale": scale}
    table = text.get_input_embeddings().weight
    rest = [p for part in parts.values() for p in part.parameters() if p is not table]
    groups = [{"params": rest, "weight_decay": 0.01}, {"params": [table], "weight_decay": 0.05}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    for part in parts.values():
        part.train()
    run = Run(folder / "state.safetensors", parts, optimiser, steps=steps, rate=rate)
    source = torch.Generator().manual_seed(1_000_003 * seed + run.step)
    rng = random.Random(f"{seed} {run.step}")
    pool = scenes.sample_scenes(12288, source)
    images = scenes.render(pool, source)
    for step in run:
        if step and step % 100 == 0:  # a sixth of the pool anew
            new = torch.randint(len(pool), (2048,), generator=source)
            pool[new] = scenes.sample_scenes(2048, source)
            images[new] = scenes.render(pool[new], source)
        chosen = torch.randint(len(pool), (batch,), generator=source)
        shown = pool[chosen]
        ids = encode_captions(shown, tokenizer, rng)
        end = ends(ids, tokenizer)
        if (
            step % 4
        ):  # attention is causal: most steps leave out the last positions, and the few captions that reach them
            brief = end < SHORTER - 1
            ids, end, shown, chosen = ids[brief, :SHORTER], end[brief], shown[brief], chosen[brief]
        h = text(input_ids=ids).last_hidden_state
        at = torch.arange(len(ids))[:, None]
        later = end[:, None] + (torch.rand(len(ids), 4, generator=source) * (ids.shape[1] - end[:, None])).long()
        later[:, 0] = end
        t = F.normalize(image.project(h[at[:, 0], end]), dim=1)
        v = image(images[chosen].contiguous(memory_format=torch.channels_last))
        logits = scale[0].clamp(max=4.6).exp() * v @ t.T
        target = at[:, 0]
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        told = read.loss(h[at, later], shown)
        alone = read.loss(*_unrelated_words(text, tokenizer, rng, source, 12 if step % 4 else SHORTER))
        loss = 0.5 * contrast + 0.5 * told + 0.2 * alone + 0.2 * seen.loss(8 * v[:, None], shown)
        run.descend(loss, contrast=contrast.item(), told=told.item())
    for part in parts.values():
        part.eval()
    text.save_pretrained(folder / "text_encoder")
    save_file({k: p.contiguous() for k, p in image.state_dict().items()}, folder / "image_tower.safetensors")
