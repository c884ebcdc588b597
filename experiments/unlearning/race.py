"""RACE: adversarial training of an ESD model. ESD's loss, taken at the encoding near c that brings the concept back most.

    δ    = argmin_{‖δ‖_∞ ≤ ε} ‖ ε_0 − e_θ(x_t, c + δ) ‖²                    signed steps from a random start
    loss = ‖ e_θ(x_t, c + δ) − sg[ e_*(x_t, c_0) − η (e_*(x_t, c) − e_*(x_t, c_0)) ] ‖²        (mean)

ε_0 is the noise that the run of x_t began with: with a δ that predicts it, the model denoises towards what c asks for.
e is of noise in the first line; δ moves every row of the encoding, and c + δ stays between the smallest and the largest
entry of c.

Reference: Kim et al. (2024), "R.A.C.E.: Robust Adversarial Concept Erasure for Secure Text-to-Image Diffusion Model".
Known from the public source: both problems; ε = 0.1, steps of ε/4, ten of them (the option for their number is
ignored), the random start and the clamp; a start from an ESD checkpoint; no term for the clean prompt; Adam, learning
rate 1e-5, 1 000 iterations, η = 1, guidance 3; an optional pull towards the starting weights in L1, weight 0.1. Ours: the
teacher e_* is the model before ESD, as in ESD itself; the pull is the mean over weights of |θ − θ_start|;
on the embedded model ε = 0.3 and six steps: there a shape's encodings are about 0.9 an entry from another's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.settings import check
from experiments.unlearning import esd
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.parameters import trainable
from experiments.unlearning.training import Rng, TrainingLoop

__all__ = ["METHOD", "Settings", "clamped", "erase", "worst"]


@dataclass(frozen=True)
class Settings(esd.Settings):
    """Options of RACE: those of ESD, and of the inner problem.

    Attributes:
        radius: ε, the largest change of an entry of the encoding.
        attack_steps: signed steps.
        attack_step: their size; None: ε/4.
        pull: weight of the mean of |θ − θ_start|; 0: none.
        start: of the ESD that it starts from; None: ESD's own.
    """

    radius: float = 0.1
    attack_steps: int = 10
    attack_step: float | None = None
    pull: float = 0.0
    start: esd.Settings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, counts=("attack_steps",), positive=("radius", "attack_step"), not_negative=("pull",))
        if self.start is not None and not isinstance(self.start, esd.Settings):
            raise TypeError(f"start = {self.start!r}: must be settings of ESD")


def clamped(delta: Tensor, c: Tensor, radius: float) -> Tensor:
    """δ brought into the ball, and c + δ between the smallest and the largest entry of each encoding: (b, tokens, width)."""
    low, high = c.amin(dim=(1, 2), keepdim=True), c.amax(dim=(1, 2), keepdim=True)
    return (c + delta.clamp(-radius, radius)).clamp(low, high) - c


def worst(
    diffusion: Diffusion,
    x_t: Tensor,
    t: Tensor,
    c: Tensor,
    noise: Tensor,
    settings: Settings,
    source: torch.Generator,
) -> Tensor:
    """δ of the inner problem, without gradient: (b, tokens, width).

    Args:
        diffusion: whose U-Net is attacked.
        x_t, t: half-finished samples (b, channels, height, width) and their time steps (b,).
        c: (b, tokens, width), encodings.
        noise: ε_0, like x_t.
        settings: radius, steps and their size.
        source: draws the random start.
    """
    size = settings.attack_step or settings.radius / 4
    start = (2 * torch.rand(c.shape, generator=source) - 1) * settings.radius
    delta = clamped(start.to(c.device, c.dtype), c, settings.radius)
    for _ in range(settings.attack_steps):
        delta = delta.detach().requires_grad_(True)
        guess = diffusion.noise_of(diffusion.predict(x_t, t, c + delta), x_t, t)
        (slope,) = torch.autograd.grad(torch.nn.functional.mse_loss(guess, noise), delta)
        delta = clamped(delta.detach() - size * slope.sign(), c, settings.radius)
    return delta.detach()


def erase(diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop) -> Edit:
    """Trains the U-Net, which ESD has edited, in place, and returns the weights that changed.

    Raises:
        ValueError: there is no original U-Net to teach, the filter selects nothing, or the loss is not finite.
    """
    teacher = diffusion.original
    if teacher is None:
        raise ValueError("diffusion.original is None: must be the U-Net before ESD, which teaches")
    weights = trainable(diffusion.unet, settings.trained(concept))
    before = [p.detach().clone() for p in weights.values()] if settings.pull else []
    entries = sum(p.numel() for p in weights.values())
    optimiser = torch.optim.Adam(weights.values(), lr=settings.learning_rate)

    def loss(step: int, rng: Rng) -> Tensor:
        c, c_0 = esd.prompts(diffusion, concept.sentences(settings.batch, rng.python))
        noise = diffusion.normal(len(c), rng.source)
        x_t, t = esd.samples(diffusion, teacher, c, settings, rng, noise)
        diffusion.unet.requires_grad_(False)  # the attack needs no gradient of the weights
        delta = worst(diffusion, x_t, t, c, noise, settings, rng.source)
        for p in weights.values():
            p.requires_grad_(True)
        aim = esd.target(diffusion, teacher, x_t, t, c, c_0, settings.negative_guidance)
        value = torch.nn.functional.mse_loss(diffusion.predict(x_t, t, c + delta), aim)
        if settings.pull:
            moved = sum((p - q).abs().sum() for p, q in zip(weights.values(), before, strict=True))
            value = value + settings.pull * moved / entries
        return value

    losses = loop.run("race", weights, optimiser, settings.iterations, loss)
    return Edit.trained(weights, settings.trained(concept), losses)


METHOD = Method(
    name="race",
    title="RACE (Kim et al. 2024), after ESD",
    run=erase,
    settings=Settings,
    embedded=lambda kind: Settings(
        iterations=50, batch=4, learning_rate=1e-4, steps=8, guidance=2.0, radius=0.3, attack_steps=6
    ),
    after="esd",
    published="1,000 iterations of 1 prompt, 10 attack steps in each",
)
