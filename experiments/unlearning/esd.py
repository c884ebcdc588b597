"""ESD: erased stable diffusion. The U-Net learns to predict under the concept what negative guidance away from it would give.

    loss = ‖ e_θ(x_t, c) − sg[ e_*(x_t, c_0) − η (e_*(x_t, c) − e_*(x_t, c_0)) ] ‖²        (mean)

c is the encoding of a prompt that names the concept, c_0 that of the empty prompt, e_* the frozen original. x_t comes
from a DDIM run under c with guidance 3 that stops at a random step.

Reference: Gandikota et al. (2023), "Erasing Concepts from Diffusion Models". Known from the public source: the target; both
parametrisations (the newer code's base e_*(c) with η' is η = η' − 1); who samples x_t and which t goes with it (older
code: the student, t uniform in the step's bucket; newer: the frozen model, the sampler's own t); which weights train:
cross-attention (ESD-x, styles) or all others (ESD-u, objects and nudity); Adam, learning rate 1e-5, 1 000 iterations of
one prompt. Ours: sentences, where c_0 is the encoding of the same sentence without the concept, so that what else it
says is not pushed away (the newer code's `erase_from` is of this kind).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.settings import check
from experiments.unlearning.concept import Concept, Sentence
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.parameters import FILTERS, trainable
from experiments.unlearning.training import Rng, TrainingLoop

__all__ = ["METHOD", "Settings", "erase", "prompts", "samples", "target"]


@dataclass(frozen=True)
class Settings:
    """Options of ESD; the defaults are the older code's.

    Attributes:
        parameters: which weights train (`parameters.FILTERS`); None: "xattn" for a style, "noxattn" for an object.
        negative_guidance: η.
        iterations, batch: steps of Adam, and prompts in one.
        learning_rate: Adam's.
        steps, guidance: of the DDIM run that x_t comes from.
        sampler: "student" (with t in the step's bucket) or "teacher" (with the sampler's own t).
    """

    parameters: str | None = None
    negative_guidance: float = 1.0
    iterations: int = 1000
    batch: int = 1
    learning_rate: float = 1e-5
    steps: int = 50
    guidance: float = 3.0
    sampler: str = "student"

    def __post_init__(self) -> None:
        check(
            self,
            counts=("iterations", "batch", "steps"),
            positive=("negative_guidance", "learning_rate", "guidance"),
            choices={"parameters": FILTERS, "sampler": ("student", "teacher")},
        )

    def trained(self, concept: Concept) -> str:
        """The filter's name."""
        return self.parameters or ("xattn" if concept.kind == "style" else "noxattn")


def target(diffusion: Diffusion, teacher: Any, x_t: Tensor, t: Tensor, c: Tensor, c_0: Tensor, eta: float) -> Tensor:
    """e_*(x_t, c_0) − η (e_*(x_t, c) − e_*(x_t, c_0)), without gradient: (b, channels, height, width)."""
    with torch.no_grad():
        without, within = diffusion.predict(
            torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([c_0, c]), teacher
        ).chunk(2)
        return without - eta * (within - without)


def prompts(diffusion: Diffusion, sentences: list[Sentence]) -> tuple[Tensor, Tensor]:
    """(c, c_0): encodings of the sentences with the concept, and without it."""
    return diffusion.encode([s.target for s in sentences]), diffusion.encode([s.neutral for s in sentences])


def samples(
    diffusion: Diffusion, teacher: Any, c: Tensor, settings: Settings, rng: Rng, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(x_t, t): half-finished samples under c, of the student or of the teacher (`Settings.sampler`).

    Args:
        diffusion: the student.
        teacher: e_*.
        c: (b, tokens, width), encodings.
        settings: who samples, and how.
        rng: all randomness.
        noise: x_T; None: drawn.
    """
    by_student = settings.sampler == "student"
    return diffusion.half_finished(
        c,
        steps=settings.steps,
        guidance=settings.guidance,
        source=rng.source,
        unet=None if by_student else teacher,
        noise=noise,
        bucket=by_student,
    )


def erase(diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop) -> Edit:
    """Trains the U-Net in place and returns the weights that changed.

    Raises:
        ValueError: the filter selects nothing, or the loss is not finite.
    """
    teacher = diffusion.frozen_copy()
    weights = trainable(diffusion.unet, settings.trained(concept))
    optimiser = torch.optim.Adam(weights.values(), lr=settings.learning_rate)

    def loss(step: int, rng: Rng) -> Tensor:
        c, c_0 = prompts(diffusion, concept.sentences(settings.batch, rng.python))
        x_t, t = samples(diffusion, teacher, c, settings, rng)
        aim = target(diffusion, teacher, x_t, t, c, c_0, settings.negative_guidance)
        return torch.nn.functional.mse_loss(diffusion.predict(x_t, t, c), aim)

    losses = loop.run("esd", weights, optimiser, settings.iterations, loss)
    return Edit.trained(weights, settings.trained(concept), losses)


METHOD = Method(
    name="esd",
    title="ESD (Gandikota et al. 2023)",
    run=erase,
    settings=Settings,
    embedded=lambda kind: Settings(iterations=180, batch=8, learning_rate=2e-4, steps=8, guidance=2.0),
    published="1,000 iterations of 1 prompt, 50 sampler steps",
)
