"""P-ESD and P-AC: pruning for concept erasing. No weight is changed; a learned mask sets the critical ones among them to zero.

    W̃ = W ⊙ m,      loss = L_erase(W ⊙ m) + w · L_keep(W ⊙ m) + λ · mean P(m pruned)

L_erase is ESD's loss, or AC's. m is 1 but for the critical weights, each of which has a gate with log-odds a of being kept:

    hard-concrete      z = min(1, max(0, σ((log u − log(1 − u) + a) / β) (ζ − γ) + γ)),   u uniform, β = 2/3, γ = −0.1, ζ = 1.1
    straight-through   z = 1[a > 0], and as many as the budget allows; ∂z/∂a is taken to be the gate's speed κ

At the end the mask is binary: pruned are the weights with a < 0, those with the lowest a where there are more than the budget
allows. The mask is all that is stored, a bit a weight of the layers that it touches; loading the base again restores the
model bit for bit.

Reference: Yang, Cao and Xu (2024), "Pruning for Robust Concept Erasing in Diffusion Models". Known from the abstract and
summary (its source is not public): a differentiable mask on single parameters, on critical ones, plugged into the
objectives of ESD and AC; that it is recoverable and light to store. Reconstruction: the gates, their start at log-odds 3,
Adam on them, the budget and the final cut. Ours: which weights are critical, and how fast their gates are,

    score = κ · E[∂L_erase/∂W · W],      κ = 1 / (H + mean H),      H = E[(∂⟨e(x_t, c_p), ξ⟩/∂W · W)²],      ξ random signs,

what the erasing loss loses, to first order, when W goes to zero, against how far the predictions for kept prompts p move
(without κ, or in one go, pruning what erases best destroys the model); the term
L_keep = ‖ e_m(x_t, c_p) − sg[ e_*(x_t, c_p) ] ‖²; straight-through gates, which start at −score and go on by κ ∂L/∂m, so
that a weight whose loss turns out to do harm comes back; and AC's teacher, which is the model without the mask (published
AC: the student itself).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from experiments.settings import check
from experiments.unlearning import esd
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.parameters import FILTERS
from experiments.unlearning.training import Rng, TrainingLoop

__all__ = [
    "GATES",
    "METHODS",
    "AblationSettings",
    "Gates",
    "Masked",
    "Settings",
    "hard_concrete",
    "objective",
    "prune",
    "scores",
]

GATES = ("hard-concrete", "straight-through")
OBJECTIVES = ("esd", "ac")
_BETA, _GAMMA, _ZETA = 2 / 3, -0.1, 1.1

Loss = Callable[[Any, Rng], Tensor]
"""(U-Net, rng) → a scalar: an erasing or a keeping loss of any U-Net."""


@dataclass(frozen=True)
class Settings:
    """Options of P-ESD and P-AC.

    Attributes:
        objective: "esd" or "ac".
        parameters: whose weights may be pruned (`parameters.FILTERS`): matrices and kernels of these, no biases, no norms.
        critical: share of them that get a gate.
        budget: share of them that may be pruned.
        gates: "straight-through" or "hard-concrete".
        start: log-odds of every hard-concrete gate at first.
        learning_rate: of the log-odds. Straight-through: of gradient descent, where 1 makes steps like the first, which is
            the score itself, in units of its root mean square. Hard-concrete: Adam's. None: 1, or 0.05.
        growth: straight-through: share of the iterations over which the budget grows from nothing to all of it.
        iterations, batch: steps, and prompts in one.
        keep: w, weight of the keeping term; 0: none.
        penalty: λ.
        scoring: batches that the scores are averaged over.
        negative_guidance: ESD's η.
        sampler: where ESD's x_t come from: "student" (half-finished samples of the masked model, t in the step's bucket, as
            ESD), "teacher" (the same of the original), or "images" (images of the original model, noised: much cheaper).
        steps, guidance: of the sampler.
        images: latents of images that the keeping term, AC, and the sampler "images" use.
    """

    objective: str = "esd"
    parameters: str = "full"
    critical: float = 0.25
    budget: float = 0.02
    gates: str = "straight-through"
    start: float = 3.0
    learning_rate: float | None = None
    growth: float = 0.35
    iterations: int = 1000
    batch: int = 1
    keep: float = 1.0
    penalty: float = 0.0
    scoring: int = 64
    negative_guidance: float = 1.0
    sampler: str = "student"
    steps: int = 50
    guidance: float = 3.0
    images: int = 200

    def __post_init__(self) -> None:
        check(
            self,
            counts=("iterations", "batch", "steps", "scoring", "images"),
            positive=("negative_guidance", "critical", "budget", "learning_rate", "guidance"),
            not_negative=("keep", "penalty"),
            shares=("critical", "growth"),
            finite=("start",),
            choices={
                "objective": OBJECTIVES,
                "parameters": FILTERS,
                "gates": GATES,
                "sampler": ("student", "teacher", "images"),
            },
        )
        if self.budget > self.critical:
            raise ValueError(f"budget = {self.budget!r}: must be at most critical = {self.critical!r}")


@dataclass(frozen=True)
class AblationSettings(Settings):
    """Options of P-AC: those of `Settings`, with AC's iterations, batch and images."""

    objective: str = "ac"
    iterations: int = 200
    batch: int = 4
    guidance: float = 7.5
    images: int = 1000


class Masked(nn.Module):
    """A U-Net seen through masks: its weights W stay as they are, it runs with W ⊙ m.

    Args:
        unet: the U-Net; it is not a part of this module's state.
        masks: name → m of the weight's shape, of whatever dtype; the others are used as they are.
    """

    def __init__(self, unet: nn.Module, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._inner = [unet]  # in a list, so that it is not registered
        own = dict(unet.named_parameters())
        self.weights = {name: own[name] * mask.to(own[name]) for name, mask in masks.items()}

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return functional_call(self._inner[0], self.weights, inputs, named)


def hard_concrete(log_odds: Tensor, u: Tensor) -> Tensor:
    """z in [0, 1] of log-odds and uniform u, of one shape; differentiable in the log-odds wherever it is neither 0 nor 1."""
    noisy = torch.sigmoid((u.log() - (-u).log1p() + log_odds) / _BETA)
    return (noisy * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


@dataclass(frozen=True)
class Gates:
    """Gates of the critical weights.

    Attributes:
        places: name → positions in the flattened weight.
        log_odds: name → of being kept, one a place.
        speeds: name → κ, one a place.
        shapes: name → the weight's.
        allowed: how many may be pruned in all.
    """

    places: Mapping[str, Tensor]
    log_odds: Mapping[str, Tensor]
    speeds: Mapping[str, Tensor]
    shapes: Mapping[str, torch.Size]
    allowed: int

    def pruned(self, share: float = 1.0) -> dict[str, Tensor]:
        """name → which of its places are pruned: log-odds below zero, the lowest of them where more are than a share of what
        is allowed."""
        together = torch.cat([a.detach() for a in self.log_odds.values()])
        lowest = together.argsort(stable=True)[: int(share * self.allowed)]
        chosen = torch.zeros(len(together), dtype=torch.bool, device=together.device)
        chosen[lowest] = together[lowest] < 0
        sizes = [len(a) for a in self.log_odds.values()]
        return dict(zip(self.log_odds, chosen.split(sizes), strict=True))

    def masks(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """name → mask in the weight's shape: the given values at the places, 1 elsewhere."""
        whole = {}
        for name, value in values.items():
            one = torch.ones(self.shapes[name].numel(), dtype=value.dtype, device=value.device)
            whole[name] = one.scatter(0, self.places[name], value).reshape(self.shapes[name])
        return whole

    def drawn(self, kind: str, source: torch.Generator, share: float = 1.0) -> dict[str, Tensor]:
        """Masks to train with, differentiable in the log-odds; straight-through with a share of the budget."""
        if kind == "straight-through":
            pruned = self.pruned(share)
            values = {}
            for name, a in self.log_odds.items():
                soft = self.speeds[name] * a
                values[name] = (~pruned[name]).to(a.dtype) + soft - soft.detach()
            return self.masks(values)
        floor = torch.finfo(torch.float32).eps
        uniform = {
            name: torch.rand(len(a), generator=source).clamp(floor, 1 - floor).to(a)
            for name, a in self.log_odds.items()
        }
        return self.masks({name: hard_concrete(a, uniform[name]) for name, a in self.log_odds.items()})

    def binary(self, share: float = 1.0) -> dict[str, Tensor]:
        """name → boolean mask, True where the weight stays; of the weights that lose any."""
        pruned = {name: lost for name, lost in self.pruned(share).items() if bool(lost.any())}
        return self.masks({name: ~lost for name, lost in pruned.items()})

    def penalty(self) -> Tensor:
        """Mean probability of a gate to be shut altogether (z = 0)."""
        a = torch.cat(list(self.log_odds.values()))
        return torch.sigmoid(_BETA * math.log(-_GAMMA / _ZETA) - a).mean()


def objective(
    diffusion: Diffusion,
    concept: Concept,
    settings: Settings,
    loop: TrainingLoop,
    *,
    sampler: Callable[[], Any] | None = None,
) -> Loss:
    """L_erase of any U-Net, with the pipeline's own as the teacher.

    Args:
        diffusion: the pipeline, whose weights stay.
        concept: what is erased.
        settings: which objective, and its options.
        loop: AC's images are made in it.
        sampler: gives the U-Net that ESD's half-finished samples come from; None: the pipeline's own.
    """
    if settings.objective == "esd":
        named = concept.sentences(settings.images, Rng(loop.seed).python)
        of_images = settings.sampler == "images"
        shown = _latents("concept", [s.target for s in named], diffusion, settings, loop) if of_images else None

        def esd_loss(unet: Any, rng: Rng) -> Tensor:
            if shown is not None:
                chosen = [rng.python.randrange(len(named)) for _ in range(settings.batch)]
                c, c_0 = esd.prompts(diffusion, [named[i] for i in chosen])
                x_t, t = _noised(diffusion, shown[chosen], rng)
            else:
                c, c_0 = esd.prompts(diffusion, concept.sentences(settings.batch, rng.python))
                x_t, t = diffusion.half_finished(
                    c,
                    steps=settings.steps,
                    guidance=settings.guidance,
                    source=rng.source,
                    unet=None if sampler is None or settings.sampler == "teacher" else sampler(),
                    bucket=settings.sampler == "student",
                )
            aim = esd.target(diffusion, diffusion.unet, x_t, t, c, c_0, settings.negative_guidance)
            return mse_loss(diffusion.predict(x_t, t, c, unet), aim)

        return esd_loss

    sentences = concept.sentences(settings.images, Rng(loop.seed).python)
    latents = _latents("anchors", [s.anchor for s in sentences], diffusion, settings, loop)

    def ac_loss(unet: Any, rng: Rng) -> Tensor:
        chosen = [rng.python.randrange(len(sentences)) for _ in range(settings.batch)]
        c = diffusion.encode([sentences[i].target for i in chosen])
        c_a = diffusion.encode([sentences[i].anchor for i in chosen])
        x_t, t = _noised(diffusion, latents[chosen], rng)
        with torch.no_grad():
            aim = diffusion.predict(x_t, t, c_a)
        return mse_loss(diffusion.predict(x_t, t, c, unet), aim)

    return ac_loss


def scores(
    diffusion: Diffusion, names: list[str], erase: Loss, signed: Loss, batches: int, rng: Rng
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """name → score of every entry, of the weight's shape; and the same of κ.

    Args:
        diffusion: the pipeline; gradients flow to these weights for the time being, and nothing changes.
        names: of the weights.
        erase: L_erase.
        signed: a scalar ⟨e(x_t, c_p), ξ⟩ of predictions that must stay, with fresh random signs ξ.
        batches: how many to average over.
        rng: their randomness.
    """
    own = dict(diffusion.unet.named_parameters())
    weights = [own[name] for name in names]
    gain, harm = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for _ in range(batches):
            for w, g, total in zip(
                weights, torch.autograd.grad(erase(diffusion.unet, rng), weights), gain, strict=True
            ):
                total += g * w.detach() / batches
            for w, g, total in zip(
                weights, torch.autograd.grad(signed(diffusion.unet, rng), weights), harm, strict=True
            ):
                total += (g * w.detach()).square() / batches
    finally:
        diffusion.unet.requires_grad_(False)
    floor = sum(float(h.sum()) for h in harm) / sum(h.numel() for h in harm) + torch.finfo(torch.float32).tiny
    speeds = {name: 1 / (h + floor) for name, h in zip(names, harm, strict=True)}
    return {name: g * speeds[name] for name, g in zip(names, gain, strict=True)}, speeds


def prune(diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop) -> Edit:
    """Learns the mask. The pipeline's weights stay as they are.

    Raises:
        ValueError: there is nothing to prune, the budget allows less than one weight, or the loss is not finite.
    """
    unet = diffusion.unet.requires_grad_(False)
    chosen = FILTERS[settings.parameters]
    names = [name for name, p in unet.named_parameters() if chosen(name) and p.ndim >= 2]
    if not names:
        raise ValueError(
            f"parameters = {settings.parameters!r}: selects no matrix or kernel in a {type(unet).__name__}"
        )
    own = dict(unet.named_parameters())
    total = sum(own[name].numel() for name in names)
    allowed = int(settings.budget * total)
    if allowed < 1:
        raise ValueError(f"budget = {settings.budget!r}: allows none of {total:,} weights to be pruned")

    said = concept.sentences(settings.images, Rng(loop.seed + 1).python)
    encodings = diffusion.encode([s.retained for s in said])
    latents = _latents("kept", [s.retained for s in said], diffusion, settings, loop)

    def drawn(rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, t, c) of images of kept prompts."""
        rows = [rng.python.randrange(len(said)) for _ in range(settings.batch)]
        return *_noised(diffusion, latents[rows], rng), encodings[rows]

    def signed(model: Any, rng: Rng) -> Tensor:
        x_t, t, c = drawn(rng)
        signs = diffusion.normal(settings.batch, rng.source).sign()
        return (diffusion.predict(x_t, t, c, model) * signs).sum()

    gates: Gates | None = None
    at = 0  # the step that is being made

    def share() -> float:
        return min(1.0, (at + 1) / (settings.growth * settings.iterations)) if settings.growth else 1.0

    def student_now() -> Any:
        return unet if gates is None else Masked(unet, gates.binary(share()))

    erase = objective(diffusion, concept, settings, loop, sampler=student_now)
    saliency, speeds = scores(diffusion, names, erase, signed, settings.scoring, Rng(loop.seed + 2))
    learned = gates = _gates(saliency, speeds, settings, allowed)
    rate, trained = settings.learning_rate, list(gates.log_odds.values())
    optimiser: torch.optim.Optimizer
    if settings.gates == "straight-through":
        optimiser = torch.optim.SGD(trained, lr=1.0 if rate is None else rate)
    else:
        optimiser = torch.optim.Adam(trained, lr=0.05 if rate is None else rate)

    def loss(step: int, rng: Rng) -> Tensor:
        nonlocal at
        at = step
        student = Masked(unet, learned.drawn(settings.gates, rng.source, share()))
        value = erase(student, rng)
        if settings.keep:
            x_t, t, c = drawn(rng)
            with torch.no_grad():
                aim = diffusion.predict(x_t, t, c)
            value = value + settings.keep * mse_loss(diffusion.predict(x_t, t, c, student), aim)
        return value + settings.penalty * learned.penalty() if settings.penalty else value

    losses = loop.run(f"p-{settings.objective}", gates.log_odds, optimiser, settings.iterations, loss)
    masks = gates.binary()
    lost = sum(int((~m).sum()) for m in masks.values())
    return Edit(
        masks=masks,
        record={
            "weights": total,
            "critical": sum(len(p) for p in gates.places.values()),
            "pruned": lost,
            "pruned share": lost / total,
            "tensors masked": len(masks),
            "mask, bytes": sum(-(-m.numel() // 8) for m in masks.values()),
            "the masked weights, bytes": sum(own[n].numel() * own[n].element_size() for n in masks),
            "the U-Net, bytes": sum(p.numel() * p.element_size() for p in own.values()),
            "last losses": losses[-20:],
        },
    )


def _gates(saliency: Mapping[str, Tensor], speeds: Mapping[str, Tensor], settings: Settings, allowed: int) -> Gates:
    """Gates at the weights with the highest scores."""
    together = torch.cat([s.flatten() for s in saliency.values()])
    best = torch.zeros(len(together), dtype=torch.bool, device=together.device)
    chosen = together.topk(max(allowed, int(settings.critical * len(together)))).indices
    best[chosen] = True
    unit = float(together[chosen].square().mean().sqrt()) + torch.finfo(torch.float32).tiny
    parts = zip(saliency, best.split([s.numel() for s in saliency.values()]), strict=True)
    places = {name: part.nonzero().flatten() for name, part in parts if bool(part.any())}
    if settings.gates == "straight-through":
        start = {name: -saliency[name].flatten()[at].float() / unit for name, at in places.items()}
    else:
        start = {name: torch.full(at.shape, settings.start, device=at.device) for name, at in places.items()}
    return Gates(
        places,
        {name: a.clone().requires_grad_() for name, a in start.items()},
        {name: speeds[name].flatten()[at].float() / unit for name, at in places.items()},
        {name: saliency[name].shape for name in places},
        allowed,
    )


def _latents(stage: str, prompts: list[str], diffusion: Diffusion, settings: Settings, loop: TrainingLoop) -> Tensor:
    """Latents of one image a prompt, from the model as it is."""

    def batch(first: int, stop: int, rng: Rng) -> Tensor:
        return diffusion.generated(
            prompts[first:stop], steps=settings.steps, guidance=settings.guidance, source=rng.source
        )

    rows = loop.collect(f"p-{settings.objective}-{stage}", len(prompts), 50, batch)
    return rows.to(diffusion.device, diffusion.dtype)


def _noised(diffusion: Diffusion, x_0: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """(x_t, t) at uniform t."""
    noise, t = diffusion.normal(len(x_0), rng.source), diffusion.times(len(x_0), rng.source)
    return diffusion.noised(x_0, noise, t), t


_TUNED: dict[str, Any] = {"budget": 0.02, "keep": 0.3, "negative_guidance": 2.0}


def _embedded(objective: str) -> Settings:
    given = AblationSettings() if objective == "ac" else Settings()
    return replace(
        given, iterations=110, batch=8, scoring=24, images=64, sampler="images", steps=8, guidance=2.0, **_TUNED
    )


METHODS = (
    Method(
        name="p-esd",
        title="P-ESD (Yang, Cao and Xu 2024)",
        run=prune,
        settings=Settings,
        embedded=lambda kind: _embedded("esd"),
        published="not published; ESD's are 1,000 iterations of 1 prompt",
    ),
    Method(
        name="p-ac",
        title="P-AC (Yang, Cao and Xu 2024)",
        run=prune,
        settings=AblationSettings,
        embedded=lambda kind: _embedded("ac"),
        published="not published; AC's are 200 iterations of 4 prompts",
    ),
)
