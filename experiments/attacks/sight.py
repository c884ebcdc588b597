"""Sight: the images that attacks on the U-Net aim at, those they make, and what tells whether an image shows the concept.

Such an attack has an image x_0 that shows the concept: one that the victim brings along, or the original model's own, of the
target's prompt and seed. It asks the erased U-Net about x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, and goes down in

    ‖ truth(x_0, ε, t) − e(x_t, t, c) ‖²  (mean),      truth = ε, or v for a U-Net that predicts v

(`Diffusion`), which is small where c makes the erased model see in x_t what x_0 shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from certify import _images
from certify.images import generation as generate
from certify.images.detectors import Detector
from experiments.attacks.attack import Target, Victim
from experiments.defenses.defense import fitting
from experiments.metrics.asr import load
from experiments.unlearning.diffusion import Diffusion

__all__ = ["aims", "error", "finder", "fitted", "likeness", "sampled", "teacher"]


def teacher(victim: Victim) -> tuple[Diffusion, Any]:
    """The original model: whose text encoder to ask, and which U-Net.

    Raises:
        ValueError: the victim has neither `reference` nor an original U-Net.
    """
    if victim.reference is not None:
        return victim.reference, victim.reference.unet
    if victim.diffusion.original is None:
        raise ValueError(
            f"victim {victim.name!r} has no original model: must have one, or images that show the concept"
        )
    return victim.diffusion, victim.diffusion.original


def aims(victim: Victim, targets: Sequence[Target], *, steps: int, guidance: float) -> Tensor:
    """x_0's images, one a target: the victim's own (by the targets' numbers), else the original model's.

    Args:
        victim: with images, or with an original model.
        targets: b of them.
        steps, guidance: of the sampler.

    Returns:
        (b, 3, height, width) in [0, 1].

    Raises:
        ValueError: there is neither, or fewer images than a target's number asks for.
    """
    if victim.images is not None:
        last = max(target.number for target in targets)
        if last >= len(victim.images):
            raise ValueError(f"images has {len(victim.images)} rows: must have one for target {last}")
        return victim.images[[target.number for target in targets]]
    diffusion, unet = teacher(victim)
    pipe = diffusion.pipe
    parts = SimpleNamespace(
        unet=unet, vae=pipe.vae, scheduler=pipe.scheduler, tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder
    )
    c = diffusion.encode(fitted(victim, targets))
    return generate.images(parts, c, seed=[target.seed for target in targets], steps=steps, guidance=guidance)


def fitted(victim: Victim, targets: Sequence[Target]) -> list[str]:
    """The targets' prompts, each as far as the context holds it: what a model that is asked for them is given."""
    return [fitting(victim.encoder, target.prompt) for target in targets]


def sampled(
    victim: Victim, c: Tensor, seeds: Sequence[int], *, steps: int, guidance: float, negative: Tensor | None = None
) -> Tensor:
    """The victim's images of encodings, each from its own seed's noise: (b, 3, height, width) in [0, 1]."""
    return generate.images(
        victim.diffusion.pipe, c, negative=negative, seed=list(seeds), steps=steps, guidance=guidance
    )


def error(diffusion: Diffusion, x_0: Tensor, noise: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """The mean of ‖truth − prediction‖² of each row, with the graph to c.

    Args:
        x_0, noise: (b, channels, height, width).
        t: (b,) training time steps.
        c: (b, tokens, width), encodings.

    Returns:
        (b,).
    """
    x_t = diffusion.noised(x_0, noise, t)
    guess = diffusion.predict(x_t, t, c.to(diffusion.device, diffusion.dtype))
    return (guess - diffusion.truth(x_0, noise, t)).square().flatten(1).mean(dim=1)


def finder(victim: Victim, spec: str) -> Detector:
    """The detector that an attack stops at.

    Args:
        victim: whose concept is looked for.
        spec: as for `metrics.asr.load`; "": the embedded world's judge of the concept.

    Raises:
        ValueError: an unknown detector, or "" for a concept that is none of the embedded world's.
    """
    if spec:
        return load(spec)
    if not victim.concept.head:
        raise ValueError(f"detector = '': must name one, {victim.concept.name!r} is no concept of the embedded world")
    return load(f"judge:{victim.concept.name}")


def likeness(victim: Victim, folder: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The cosine of two images' embeddings, row by row: ((b, 3, height, width), the same) → (b,) on the CPU.

    Args:
        victim: of the embedded world, or not.
        folder: with a `CLIPModel`; "": the embedded world's image tower.

    Raises:
        ValueError: "" for a concept that is none of the embedded world's.
        FileNotFoundError: no such folder.
    """
    tower: Any
    if folder:
        from experiments.metrics.features import ClipFeatures

        tower = ClipFeatures(folder)
    else:
        if not victim.concept.head:
            raise ValueError(
                f"clip = '': must be a folder with a CLIPModel, {victim.concept.name!r} is no concept of the embedded world"
            )
        tower = victim.concept.world.tower

    @torch.no_grad()
    def cosine(one: Tensor, other: Tensor) -> Tensor:
        rows = [tower(_images.checked("images", images).cpu().float()) for images in (one, other)]
        return torch.nn.functional.cosine_similarity(*rows, dim=1)

    return cosine
