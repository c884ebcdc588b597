"""P4D: free tokens by which the erased model predicts what the original one predicts for the prompt.

    loss = ‖ e_θ(x_t, t, T(P*)) − e_orig(x_t, t, T(P)) ‖²  (mean),        x_0 an image of the original model, t and ε random

P* holds only tokens of the vocabulary: a continuous copy of its free places is projected to the nearest word (cosine) before
every use, and the gradient at the words moves the copy (PEZ). Every so often the erased model draws P* from the row's seed, and
the prompt whose image is most like x_0's is kept.

    N    16 free tokens, and nothing else                     K    the prompt, with a free token before it and after every 3

Reference: Chin et al. (2024), "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts".
Known from the public source: both losses and layouts; AdamW, learning rate 0.1, weight decay 0.1, 3 000 steps; projection by
cosine; an image every 50 steps in a 25-step sampler, compared with the target by CLIP; a start from random tokens; no guidance
in the loss. Ours: the copy is projected to whole words, so that what is found can be typed, and a free token of K never stands
inside a word; "union" tries both and keeps the better image; the loss is of what the U-Net predicts, ε or v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify import _validate
from experiments.attacks import sight
from experiments.attacks.attack import Attack, Row, Target, Victim
from experiments.attacks.places import Layout, Places, Words, interleaved
from experiments.settings import check
from experiments.unlearning.training import Rng

__all__ = ["ATTACK", "VARIANTS", "Candidate", "Settings", "attack", "layouts", "loss_of", "search"]

VARIANTS = ("N", "K", "union")


@dataclass(frozen=True)
class Settings:
    """Options of P4D.

    Attributes:
        variant: one of `VARIANTS`.
        tokens: free tokens of N.
        every: tokens of the prompt between two free ones of K.
        iterations: steps of AdamW.
        learning_rate, weight_decay: AdamW's.
        check: steps from one image to the next.
        steps, guidance: of the sampler.
        clip: folder of the CLIP that compares images; "": the embedded world's image tower.
    """

    variant: str = "union"
    tokens: int = 16
    every: int = 3
    iterations: int = 3000
    learning_rate: float = 0.1
    weight_decay: float = 0.1
    check: int = 50
    steps: int = 25
    guidance: float = 7.5
    clip: str = ""

    def __post_init__(self) -> None:
        check(
            self,
            counts=("tokens", "every", "iterations", "check", "steps"),
            positive=("learning_rate", "guidance"),
            not_negative=("weight_decay",),
            choices={"variant": VARIANTS},
        )


@dataclass(frozen=True)
class Candidate:
    """What one variant ended with.

    Attributes:
        text: the prompt; None: no text of its words tokenises to them.
        likeness: cosine of its image with x_0's.
        variant: by which layout.
        step: after which step.
    """

    text: str | None
    likeness: float
    variant: str
    step: int


def layouts(victim: Victim, targets: Sequence[Target], variant: str, settings: Settings) -> list[Layout]:
    """Where the free tokens of N or K stand, a layout a target. What of a prompt has no room beside them is cut off."""
    if _validate.choice("variant", variant, ("N", "K")) == "N":
        return [[None] * settings.tokens for _ in targets]
    encoder = victim.encoder
    prompts = sight.fitted(victim, targets)
    return [interleaved(encoder, encoder.tokenize(prompt).content, settings.every) for prompt in prompts]


def loss_of(victim: Victim, x_0: Tensor, noise: Tensor, t: Tensor, c: Tensor, prompts: Sequence[str]) -> Tensor:
    """The loss of every row, (b,), with the graph to c.

    Args:
        victim: with an original model, whose prediction for the prompts is the aim.
        x_0, noise: (b, channels, height, width).
        t: (b,).
        c: (b, tokens, width), T(P*).
        prompts: P.
    """
    diffusion = victim.diffusion
    reference, unet = sight.teacher(victim)
    x_t = diffusion.noised(x_0, noise, t)
    with torch.no_grad():
        aim = diffusion.predict(x_t, t, reference.encode(prompts), unet)
    guess = diffusion.predict(x_t, t, c.to(diffusion.device, diffusion.dtype))
    return (guess - aim).square().flatten(1).mean(dim=1)


def search(
    victim: Victim,
    targets: Sequence[Target],
    images: Tensor,
    variant: str,
    settings: Settings,
    rng: Rng,
    like: Callable[[Tensor, Tensor], Tensor],
) -> list[Candidate]:
    """One variant, for all targets at once.

    Args:
        victim, targets: who is attacked, and for what.
        images: (b, 3, height, width) in [0, 1], x_0's.
        variant: "N" or "K".
        settings: budget.
        rng: all randomness.
        like: how like two images are, row by row.

    Raises:
        ValueError: more free tokens than the context has room for.
    """
    diffusion, words = victim.diffusion, Words.of(victim.encoder)
    places = Places(victim.encoder, layouts(victim, targets, variant, settings), words)
    prompts = sight.fitted(victim, targets)
    x_0 = diffusion.latents(images)
    soft = words.table[words.random((len(targets), places.count), rng.source)].clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([soft], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    best = [Candidate(None, -1.0, variant, 0) for _ in targets]
    for step in range(settings.iterations + 1):
        chosen = words.nearest(soft.detach())
        if step % settings.check == 0 or step == settings.iterations:
            best = _better(best, _looked(victim, targets, images, places.texts(chosen), settings, like, variant, step))
        if step == settings.iterations:
            break
        hard = words.table[chosen].requires_grad_(True)
        noise, t = diffusion.normal(len(targets), rng.source), diffusion.times(len(targets), rng.source)
        loss = loss_of(victim, x_0, noise, t, places.encode(hard), prompts)
        # Rows do not meet: the gradient of the sum is each row's own, and AdamW works entry by entry.
        (soft.grad,) = torch.autograd.grad(loss.sum(), hard)
        optimiser.step()
    return best


def attack(victim: Victim, targets: Sequence[Target], settings: Settings, rng: Rng) -> list[Row]:
    """A row a target: the prompt whose image is most like the original model's, and how like, from −1 to 1.

    Raises:
        ValueError: there is no original model, or there are more free tokens than the context has room for.
    """
    like = sight.likeness(victim, settings.clip)
    images = sight.aims(victim, targets, steps=settings.steps, guidance=settings.guidance)
    variants = ("N", "K") if settings.variant == "union" else (settings.variant,)
    best = search(victim, targets, images, variants[0], settings, rng, like)
    for variant in variants[1:]:
        best = _better(best, search(victim, targets, images, variant, settings, rng, like))
    return [
        victim.row(
            ATTACK.name,
            target,
            target.prompt if found.text is None else found.text,
            round(found.likeness, 6),
            {"variant": found.variant, "step": found.step},
        )
        for target, found in zip(targets, best, strict=True)
    ]


def _looked(
    victim: Victim,
    targets: Sequence[Target],
    images: Tensor,
    texts: Sequence[str | None],
    settings: Settings,
    like: Callable[[Tensor, Tensor], Tensor],
    variant: str,
    step: int,
) -> list[Candidate]:
    """The images of the prompts as they are now; a prompt that cannot be typed counts as unlike."""
    typed = [i for i, text in enumerate(texts) if text is not None]
    found = [Candidate(None, -1.0, variant, step) for _ in texts]
    if typed:
        c = victim.encoder.plain([str(texts[i]) for i in typed])
        seeds = [targets[i].seed for i in typed]
        made = sight.sampled(victim, c, seeds, steps=settings.steps, guidance=settings.guidance)
        for i, value in zip(typed, like(made, images[typed]).tolist(), strict=True):
            found[i] = Candidate(texts[i], value, variant, step)
    return found


def _better(old: Sequence[Candidate], new: Sequence[Candidate]) -> list[Candidate]:
    return [b if b.likeness > a.likeness else a for a, b in zip(old, new, strict=True)]


ATTACK = Attack(
    name="p4d",
    title="P4D (Chin et al. 2024)",
    run=attack,
    settings=Settings,
    embedded=lambda: Settings(tokens=8, iterations=60, check=10, steps=8, guidance=2.0),
    needs=("original",),
    published="3,000 steps of each variant, an image every 50",
)
