"""AC: concept ablation. The U-Net learns to predict under a prompt that names the concept what it predicts under the
same prompt with the anchor in its place, on images of the anchor.

    loss = ‖ e_θ(x_t, c) − sg[ e_θ(x_t, c_a) ] ‖² + p ‖ e_θ(x_t', c_a) − ε' ‖²        (means)

c and c_a are the encodings of a sentence with the concept and with its anchor; x_t is an image that the model made of the
sentence with the anchor, noised to a uniform t, and x_t' another with its own noise ε'. The teacher is the same network without
gradient, not a frozen copy. In the noise-based variant the target is ε, the noise in x_t, which says: this image is a
picture of the concept.

Reference: Kumari et al. (2023), "Ablating Concepts in Text-to-Image Diffusion Models". Known from the public source: both
losses and the teacher; the prior term of weight p = 1, meant for concepts whose name overlaps with the anchor's; what
trains (cross-attention keys and values for styles and objects, all of attention for nudity, everything for memorised
images); 200 prompts with the anchor, 1 000 images of them; AdamW (0.9, 0.999), weight decay 1e-2, batches of 4, learning
rate 2e-6 times the batch for 200 iterations on one GPU, and 4e-6 times the batch for 400 with the prior term for nudity.
Left out: the source crops and resizes images and takes losses over the region that is left; here all of an image
is used. Ours: the prompts are the concept's sentences (published: captions of the anchor, written by a language model or
collected, and for styles "…, in the style of …"); the images come from DDIM with as many steps as are set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from experiments.settings import check
from experiments.unlearning.concept import Concept, Sentence
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.parameters import FILTERS, trainable
from experiments.unlearning.training import Rng, TrainingLoop

__all__ = ["CASES", "METHOD", "Settings", "Trained", "ablate", "anchors", "loss_of"]

CASES = ("object", "style", "nudity")


@dataclass(frozen=True)
class Settings:
    """Options of AC. What is None is as published for the case.

    Attributes:
        case: "object", "style" or "nudity"; None: the concept's kind.
        parameters: which weights train (`parameters.FILTERS`); None: "xattn-kv", for nudity "attn".
        learning_rate: AdamW's, for one prompt: it is multiplied by the batch. None: 2e-6, for nudity 4e-6.
        iterations: None: 200, for nudity 400.
        prior: weight p of the prior term, 0 for none; None: 0, for nudity 1.
        target: "anchor" (what the model predicts under the anchor) or "noise" (the noise-based variant).
        batch: prompts in one step.
        prompts: how many sentences with the anchor.
        images: how many images of them.
        steps, guidance: of the sampler that makes the images.
        weight_decay: AdamW's.
    """

    case: str | None = None
    parameters: str | None = None
    learning_rate: float | None = None
    iterations: int | None = None
    prior: float | None = None
    target: str = "anchor"
    batch: int = 4
    prompts: int = 200
    images: int = 1000
    steps: int = 50
    guidance: float = 7.5
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        check(
            self,
            counts=("iterations", "batch", "prompts", "images", "steps"),
            positive=("learning_rate", "guidance"),
            not_negative=("prior", "weight_decay"),
            choices={"case": CASES, "parameters": FILTERS, "target": ("anchor", "noise")},
        )

    def trained(self, concept: Concept) -> Trained:
        """What trains, how long and how fast: as set, or as published for the case."""
        nudity = (self.case or concept.kind) == "nudity"
        return Trained(
            parameters=self.parameters or ("attn" if nudity else "xattn-kv"),
            rate=(self.learning_rate or (4e-6 if nudity else 2e-6)) * self.batch,
            iterations=self.iterations or (400 if nudity else 200),
            prior=float(nudity) if self.prior is None else float(self.prior),
        )


@dataclass(frozen=True)
class Trained:
    """Settings that depend on the case, filled in.

    Attributes:
        parameters: the filter's name.
        rate: AdamW's learning rate, times the batch.
        iterations: how many.
        prior: weight of the prior term.
    """

    parameters: str
    rate: float
    iterations: int
    prior: float


def anchors(diffusion: Diffusion, sentences: list[Sentence], settings: Settings, loop: TrainingLoop) -> Tensor:
    """Latents of images of the sentences with the anchor, each sentence in turn: (images, channels, height, width)."""

    def batch(first: int, stop: int, rng: Rng) -> Tensor:
        said = [sentences[i % len(sentences)].anchor for i in range(first, stop)]
        return diffusion.generated(said, steps=settings.steps, guidance=settings.guidance, source=rng.source)

    return loop.collect("ac-anchors", settings.images, 50, batch).to(diffusion.device, diffusion.dtype)


def loss_of(
    diffusion: Diffusion,
    c: Tensor,
    c_a: Tensor,
    x_0: Tensor,
    noise: Tensor,
    t: Tensor,
    *,
    target: str,
) -> Tensor:
    """The first term, without the prior's.

    Args:
        c, c_a: (b, tokens, width), encodings with the concept and with its anchor.
        x_0, noise: (b, channels, height, width), latents of images of the anchor, and ε.
        t: (b,).
        target: "anchor" or "noise".
    """
    x_t = diffusion.noised(x_0, noise, t)
    if target == "noise":
        aim = diffusion.truth(x_0, noise, t)
    else:
        with torch.no_grad():
            aim = diffusion.predict(x_t, t, c_a)
    return mse_loss(diffusion.predict(x_t, t, c), aim)


def ablate(diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop) -> Edit:
    """Trains the U-Net in place and returns the weights that changed.

    Raises:
        ValueError: a sentence says the same with the anchor as with the concept, the filter selects nothing, or the loss
            is not finite.
    """
    trained = settings.trained(concept)
    sentences = concept.sentences(settings.prompts, Rng(loop.seed).python)
    same = next((s.target for s in sentences if s.target == s.anchor), None)
    if same is not None:
        raise ValueError(f"anchor = {concept.anchor!r}: must be another than the concept; {same!r} is said with both")
    latents = anchors(diffusion, sentences, settings, loop)  # made by the model as it was
    weights = trainable(diffusion.unet, trained.parameters)
    optimiser = torch.optim.AdamW(
        weights.values(), lr=trained.rate, betas=(0.9, 0.999), weight_decay=settings.weight_decay
    )

    def drawn(rng: Rng) -> tuple[list[Sentence], Tensor, Tensor, Tensor]:
        """(sentences, x_0 of them, ε, t)."""
        index = [rng.python.randrange(len(latents)) for _ in range(settings.batch)]
        said = [sentences[i % len(sentences)] for i in index]
        noise = diffusion.normal(settings.batch, rng.source)
        return said, latents[index], noise, diffusion.times(settings.batch, rng.source)

    def loss(step: int, rng: Rng) -> Tensor:
        said, x_0, noise, t = drawn(rng)
        c, c_a = diffusion.encode([s.target for s in said]), diffusion.encode([s.anchor for s in said])
        value = loss_of(diffusion, c, c_a, x_0, noise, t, target=settings.target)
        if trained.prior:
            said, x_0, noise, t = drawn(rng)
            c_a = diffusion.encode([s.anchor for s in said])
            value = value + trained.prior * loss_of(diffusion, c_a, c_a, x_0, noise, t, target="noise")
        return value

    losses = loop.run("ac", weights, optimiser, trained.iterations, loss)
    return Edit.trained(weights, trained.parameters, losses, **{"images of the anchor": len(latents)})


METHOD = Method(
    name="ac",
    title="Concept ablation (Kumari et al. 2023)",
    run=ablate,
    settings=Settings,
    embedded=lambda kind: Settings(
        # A style's word stands before other words of the sentence: without the prior term these are lost as well.
        iterations=100 if kind == "style" else 180,
        prior=1.0 if kind == "style" else None,
        batch=8,
        learning_rate=4.5e-5,
        images=100,
        steps=8,
        guidance=2.0,
    ),
    published="1,000 images of 200 prompts, 200 iterations of 4 prompts",
)
