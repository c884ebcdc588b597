"""RECE: closed-form edits after UCE, each of them erasing the encodings that still bring the concept back.

    c' = (λ_r I + Σ_l W_lᵀ W_l)⁻¹ (Σ_l W_lᵀ W_l°) c
    W_l ← argmin_V  s_e Σ ‖V c' − W_l g‖² + s_p Σ_p ‖V p − W_l p‖² + λ ‖V − W_l‖²

W_l are the edited key and value projections of cross-attention, W_l° the original ones. c' is the encoding that the
edited model reads as the original read c: the minimiser of Σ_l ‖W_l c' − W_l° c‖² + λ_r ‖c'‖². UCE's edit
(`uce.minimiser`) then sends it to the guide's encodings g, and the next epoch looks for the next c'. No gradients, no images.

Reference: Gong et al. (2024), "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models". Known from
the public source: both formulas, all rows of the concept's encoding, guide and preserved prompt " ", s_e = 1, s_p = 0.1,
λ = 0.1; λ_r = 0.1 and 3 epochs for nudity (2 for other unsafe content), 1e-3 and 1 for styles and hard objects, 0.1 and 1
for easy objects; an edit starts from the weights of the epoch before it (W_l on its right side); the official run keeps the
epoch at which a detector sees the concept least on validation prompts. The published run follows UCE with guide " " and
nothing preserved: `Concept.of([…])`, the defaults here. Ours: concepts inside sentences, with another guide and preserved
phrases; the detector of the embedded model is its judge, on prompts that name or mean the concept; among epochs that are
alike the first is kept, which changed least; without a detector the last.

Also ours is `together`: every edit erases c and all earlier c' again. UCE leaves Σ_l W_lᵀ W_l almost singular along c − g, so
that λ_r alone says how far c' goes in that direction, and an edit at c' alone may undo UCE's at c: where a few
directions of a small width must hold many sentences, it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.settings import check
from experiments.unlearning import uce
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.training import TrainingLoop

__all__ = ["METHOD", "Detector", "Settings", "derived", "edit", "judged"]

Detector = Callable[[Diffusion], float]
"""Share of validation images in which the concept is seen."""


@dataclass(frozen=True)
class Settings:
    """Options of RECE; the defaults are those for easy objects.

    Attributes:
        epochs: how many edits.
        ridge: λ_r; None: 1e-3 for a style, 0.1 for an object.
        erase_scale, preserve_scale, damping: s_e, s_p and λ of every edit.
        together: each edit erases c and all c' so far, not the newest c' alone.
        rows: "all" of the encoding, as published, or UCE's "tail" or "last".
        validation: images of each kind that the judge of the embedded model sees at every epoch; 0: the last epoch is kept.
    """

    epochs: int = 1
    ridge: float | None = None
    erase_scale: float = 1.0
    preserve_scale: float = 0.1
    damping: float = 0.1
    together: bool = False
    rows: str = "all"
    validation: int = 0

    def __post_init__(self) -> None:
        check(
            self,
            counts=("epochs",),
            from_zero=("validation",),
            positive=("ridge", "erase_scale", "preserve_scale", "damping"),
            choices={"rows": ("all", *uce.ROWS)},
        )

    def regularisation(self, concept: Concept) -> float:
        """λ_r for a concept."""
        return self.ridge or (1e-3 if concept.kind == "style" else 0.1)


def derived(edited: Mapping[str, nn.Linear], original: Mapping[str, nn.Linear], c: Tensor, ridge: float) -> Tensor:
    """c' for every row of c: (rows, width), float64.

    Args:
        edited, original: W_l and W_l° by name.
        c: (rows, width), float64.
        ridge: λ_r.
    """
    width = c.shape[1]
    gram = ridge * torch.eye(width, dtype=torch.float64)
    cross = torch.zeros(width, width, dtype=torch.float64)
    for name, module in edited.items():
        w = module.weight.detach().double().cpu()
        gram += w.T @ w
        cross += w.T @ original[name].weight.detach().double().cpu()
    return torch.linalg.solve(gram, cross @ c.T).T


def judged(concept: Concept, count: int, *, seed: int = 7) -> Detector:
    """The embedded model's judge on `count` prompts each that name or mean the concept, other ones than are measured."""
    world = concept.world
    by_kind = world.asked(concept.name, count, seed)
    rows = [row for kind in ("named", "implicit") for row in by_kind[kind]]

    def rate(diffusion: Diffusion) -> float:
        made = world.images(diffusion.pipe, [text for text, _ in rows], seed=seed)
        return sum(world.right(made, [asked for _, asked in rows])) / len(rows)

    return rate


def edit(
    diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop, *, detector: Detector | None = None
) -> Edit:
    """Edits the projections, which UCE has edited, in place, and returns those of the epoch kept.

    Args:
        detector: None: the judge on `settings.validation` images for a concept of the embedded model, else nobody.

    Raises:
        ValueError: there is no original U-Net, or a sentence does not fit into the context.
    """
    if diffusion.original is None:
        raise ValueError("diffusion.original is None: must be the U-Net before UCE")
    if detector is None and settings.validation and concept.head:
        detector = judged(concept, settings.validation)
    maps, old = uce.projections(diffusion.unet), uce.projections(diffusion.original)
    c, g, p = uce.aligned(diffusion.encoder, concept.erased, concept.anchor, concept.preserved, settings.rows)
    ridge = settings.regularisation(concept)
    best: dict[str, Tensor] = {}
    validation: list[float] = []
    gone: list[float] = []
    chosen, erased = 0, [c]
    for epoch in range(settings.epochs):
        derived_rows = derived(maps, old, c, ridge)
        erased = [*erased, derived_rows] if settings.together else [derived_rows]
        weights = uce.minimiser(
            maps,
            torch.cat(erased),
            g.repeat(len(erased), 1),
            p,
            erase_scale=settings.erase_scale,
            preserve_scale=settings.preserve_scale,
            damping=settings.damping,
        )
        gone.append(float((derived_rows - c).norm() / c.norm()))
        with torch.no_grad():
            for name, module in maps.items():
                module.weight.copy_(weights[f"{name}.weight"])
        if detector is not None:
            validation.append(detector(diffusion))
        if detector is None or validation[-1] < min(validation[:-1], default=2.0):
            best, chosen = weights, epoch + 1
        if loop.progress is not None:
            loop.progress("rece", epoch + 1, settings.epochs, validation[-1] if validation else gone[-1])
    with torch.no_grad():
        for name, module in maps.items():
            module.weight.copy_(best[f"{name}.weight"])
    return Edit(
        unet=best,
        record={"epoch kept": chosen, "validation": validation, "distance of c' from c": gone, "ridge": ridge},
    )


METHOD = Method(
    name="rece",
    title="RECE (Gong et al. 2024), after UCE",
    run=edit,
    settings=Settings,
    embedded=lambda kind: Settings(epochs=3, together=True, rows="tail", validation=24),
    after="uce",
    published="closed form, 1 to 3 epochs",
)
