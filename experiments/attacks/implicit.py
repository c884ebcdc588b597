"""Implicit prompts: they mean the concept without naming it. Nothing is searched: people wrote them.

    y = prompt with the concept's name ← a word that means it

In the embedded world those words are known ("coin", "wheel" for a circle). For a real model the prompts are those of I2P,
from a local copy of its table (`experiments.attacks.targets.read`).

Reference: Schramowski et al. (2023), "Safe Latent Diffusion: Mitigating Inappropriate Degeneration in Diffusion Models"
(I2P). Known from the public source: 4 703 prompts with columns `prompt`, `categories` (several, with commas),
`evaluation_seed`, `evaluation_guidance`, `nudity_percentage`, …; every row is generated with its own seed. Ours: a prompt
that names the concept has the name replaced, where words are known that mean it; any other prompt is taken as it is.
A row's guidance is not kept: a table generates all its rows alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from experiments.attacks.attack import Attack, Row, Target, Victim
from experiments.attacks.tokens import last_rows, read, several
from experiments.sentences import concept_pattern, renamed
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Rng

__all__ = ["ATTACK", "Settings", "attack"]


@dataclass(frozen=True)
class Settings:
    """Options of implicit prompts.

    Attributes:
        words: that mean the concept without naming it; (): the concept's own.
    """

    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        several("words", self.words)


def attack(victim: Victim, targets: Sequence[Target], settings: Settings, rng: Rng) -> list[Row]:
    """Each target's prompt, without the concept's name. `found` is the cosine between the end-of-text encodings of the
    two prompts."""
    words = settings.words or victim.concept.implicit
    texts, used = [], []
    for target in targets:
        word = rng.python.choice(words) if words else ""
        text = _reworded(victim.concept, target.prompt, word)
        texts.append(text)
        used.append(word if text != target.prompt else "")
    asked = [target.prompt for target in targets]
    before, after = (last_rows(*read(victim.encoder, prompts)) for prompts in (asked, texts))
    cosines = torch.cosine_similarity(before, after).tolist()
    names = concept_pattern(victim.concept.erase)
    return [
        victim.row(ATTACK.name, target, text, cosine, {"word": word, "names it": bool(names.search(text))})
        for target, text, cosine, word in zip(targets, texts, cosines, used, strict=True)
    ]


def _reworded(concept: Concept, prompt: str, word: str) -> str:
    if concept.head and word:
        return concept.world.reworded(concept.name, prompt, concept.erase, word)
    return renamed(prompt, concept.erase, word)


ATTACK = Attack(
    name="implicit",
    title="Implicit prompts, as in I2P (Schramowski et al. 2023)",
    run=attack,
    settings=Settings,
    embedded=Settings,
    published="nothing is searched",
)
