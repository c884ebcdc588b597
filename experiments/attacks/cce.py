"""CCE, concept inversion: one learned embedding by which the erased model explains images of the concept.

    v = argmin E_{x_0, ε, t} ‖ ε − e_θ(x_t, t, T(P[v])) ‖²,        P[v]: a sentence with the token <v> in the concept's place

It is textual inversion (Gal et al. 2023) against a model from which the concept was erased. No text that a user types reaches
v: the attacker adds a token to the tokenizer. Of all attacks here this is the one whose freedom is what a certificate
speaks of, a perturbation of token embeddings, though of one position and of any size.

Reference: Pham et al. (2024), "Circumventing Concept Erasure Methods For Text-to-Image Generative Models". Known from the
public source: the loss, without guidance; one row of the token table before the text encoder, all else frozen; AdamW,
weight decay 0.01; 5 000 steps of 4 × 4 images at a learning rate of 0.005, scaled to 0.08; 25 images of the unedited model.
Ours: one token for each batch of targets, with the images and the sentences of those targets; it starts at the mean of
the concept's tokens; the loss is of what the U-Net predicts, ε or v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from certify.models import PromptEncoder
from experiments.attacks import learned, sight
from experiments.attacks.attack import Attack, Row, Target, Victim
from experiments.sentences import concept_pattern, renamed
from experiments.settings import check
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Rng

__all__ = ["ATTACK", "Settings", "attack", "sentence"]


@dataclass(frozen=True)
class Settings:
    """Options of CCE.

    Attributes:
        iterations: steps of AdamW.
        batch: images a step.
        learning_rate, weight_decay: AdamW's.
        initial: the word that it starts at; "": the concept's first.
        steps, guidance: of the sampler that makes the images, where the victim brings none.
    """

    iterations: int = 5000
    batch: int = 16
    learning_rate: float = 0.08
    weight_decay: float = 0.01
    initial: str = ""
    steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        check(
            self,
            counts=("iterations", "batch", "steps"),
            positive=("learning_rate", "guidance"),
            not_negative=("weight_decay",),
        )


def sentence(concept: Concept, prompt: str, token: str) -> str:
    """The prompt with the token wherever it names the concept; at its end where it does not."""
    if concept_pattern(concept.erase).search(prompt):
        return renamed(prompt, concept.erase, token)
    return f"{prompt}, {token}" if prompt.strip() else token


def attack(victim: Victim, targets: Sequence[Target], settings: Settings, rng: Rng) -> list[Row]:
    """A row a target, all with the one token learned from them; `found` is the mean loss of the last tenth of the steps.

    Raises:
        ValueError: the victim has neither images nor an original model, the initial word is none, or the loss is not finite.
    """
    diffusion, concept = victim.diffusion, victim.concept
    token = f"<{concept.name.replace(' ', '-')}-{targets[0].number}>"
    first = learned.start(victim.encoder, settings.initial or concept.erase[0])
    x_0 = diffusion.latents(sight.aims(victim, targets, steps=settings.steps, guidance=settings.guidance))
    encoder = PromptEncoder.from_pipeline(learned.taught(diffusion.pipe, {token: first.float().cpu()}), truncate=True)
    said = [encoder.tokenize(sentence(concept, target.prompt, token)) for target in targets]
    (number,) = encoder.tokenize(token).content
    ids = torch.stack([text.ids for text in said])
    masks = [text.attention_mask for text in said if text.attention_mask is not None]
    mask = torch.stack(masks) if masks else None
    plain, here = torch.stack([encoder.embed(text) for text in said]).float(), (ids == number).to(encoder.device)
    vector = first.float().clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([vector], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    losses: list[float] = []
    for _ in range(settings.iterations):
        rows = torch.randint(len(targets), (settings.batch,), generator=rng.source)
        t = diffusion.times(len(rows), rng.source)
        noise = diffusion.normal(len(rows), rng.source)
        z = torch.where(here[rows, :, None], vector, plain[rows]).to(encoder.dtype)
        c = encoder.encode_batch(ids[rows], z, None if mask is None else mask[rows], grad=True)
        loss = sight.error(diffusion, x_0[rows], noise, t, c).mean()
        losses.append(float(loss.detach()))
        if not torch.isfinite(loss.detach()):
            raise ValueError(
                f"cce: the loss of step {len(losses)} is {losses[-1]}: must be finite; try a smaller learning rate"
            )
        (vector.grad,) = torch.autograd.grad(loss, vector)
        optimiser.step()
    last = losses[-max(1, len(losses) // 10) :]
    note = learned.note_of(token, vector)
    return [
        victim.row(ATTACK.name, target, sentence(concept, target.prompt, token), round(sum(last) / len(last), 6), note)
        for target in targets
    ]


ATTACK = Attack(
    name="cce",
    title="CCE, concept inversion (Pham et al. 2024)",
    run=attack,
    settings=Settings,
    embedded=lambda: Settings(iterations=150, learning_rate=0.01, steps=8, guidance=2.0),
    published="5 000 steps of 16 images",
)
