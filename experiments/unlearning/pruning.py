"""P-ESD and P-AC: pruning for concept erasing. No weight is changed; a learned mask sets the critical ones among them to zero.

    W̃ = W ⊙ m,      loss = L_erase(W ⊙ m) + w · L_keep(W ⊙ m) + λ · mean P(m pruned)

L_erase is ESD's loss, or AC's. m is 1 but for the critical weights, each of which has a gate with log-odds a of being kept:

    hard-concrete      z = min(1, max(0, σ((log u − log(1 − u) + a) / β) (ζ − γ) + γ)),   u uniform, β = 2/3, γ = −0.1, ζ = 1.1
    straight-through   z = 1[a > 0], with the gradient of σ(a)

At the end the mask is binary: pruned are the weights with a < 0, those with the lowest a where there are more than the budget
allows. The mask is all that is stored, a bit a weight of the layers that it touches; loading the base again restores the
model bit for bit.

Reference: Yang, Cao and Xu (2024), "Pruning for Robust Concept Erasing in Diffusion Models". Known from the abstract and
summary (its source is not public): a differentiable mask on single parameters, on critical ones, plugged into the
objectives of ESD and AC; that it is recoverable and light to store. Reconstruction: the gates, their start at log-odds 3,
Adam on them, the budget and the final cut. Ours: which weights are critical,

    score = max(0, E[∂L_erase/∂W · W]) / (E[(∂⟨e(x_t, c_p), ξ⟩/∂W · W)²] + floor)^½ ,      ξ random signs,

what the erasing loss loses, to first order, when W goes to zero, against how far the predictions for kept prompts p move;
the term L_keep = ‖ e_m(x_t, c_p) − sg[ e_*(x_t, c_p) ] ‖², without which pruning takes other concepts along; and AC's
teacher, which is the model without the mask (published AC: the student itself).
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

from certify import _validate
from experiments.unlearning import esd
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.parameters import FILTERS
from experiments.unlearning.training import Dice, Loop

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

Loss = Callable[[Any, Dice], Tensor]
"""(U-Net, dice) → a scalar: an erasing or a keeping loss of any U-Net."""


@dataclass(frozen=True)
class Settings:
    """Options of P-ESD and P-AC.

    Attributes:
        objective: "esd" or "ac".
        parameters: whose weights may be pruned (`parameters.FILTERS`): matrices and kernels of these, no biases, no norms.
        critical: share of them that get a gate.
        budget: share of them that may be pruned.
        gates: "hard-concrete" or "straight-through".
        start: log-odds of every gate at first.
        iterations, batch: steps of Adam, and prompts in one.
        learning_rate: Adam's, on the log-odds.
        keep: w, weight of the keeping term; 0: none.
        penalty: λ.
        scoring: batches that the scores are averaged over.
        negative_guidance: ESD's η.
        steps, guidance: of the sampler (ESD: half-finished samples; AC and the keeping term: images).
        images: latents of images that the keeping term, and AC, use.
    """

    objective: str = "esd"
    parameters: str = "full"
    critical: float = 0.1
    budget: float = 0.02
    gates: str = "hard-concrete"
    start: float = 3.0
    iterations: int = 1000
    batch: int = 1
    learning_rate: float = 0.05
    keep: float = 1.0
    penalty: float = 0.0
    scoring: int = 64
    negative_guidance: float = 1.0
    steps: int = 50
    guidance: float = 3.0
    images: int = 200

    def __post_init__(self) -> None:
        _validate.choice("objective", self.objective, OBJECTIVES)
        _validate.choice("parameters", self.parameters, tuple(FILTERS))
        _validate.choice("gates", self.gates, GATES)
        for name in ("negative_guidance", "learning_rate", "critical", "budget"):
            _validate.positive(name, getattr(self, name))
        if self.critical > 1:
            raise ValueError(f"critical = {self.critical!r}: must be a share, at most 1")
        if self.budget > self.critical:
            raise ValueError(f"budget = {self.budget!r}: must be at most critical = {self.critical!r}")
        for name in ("keep", "penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be a number of at least 0")
        for name in ("iterations", "batch", "steps", "scoring", "images"):
            _validate.count(name, getattr(self, name))


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
        shapes: name → the weight's.
        allowed: how many may be pruned in all.
    """

    places: Mapping[str, Tensor]
    log_odds: Mapping[str, Tensor]
    shapes: Mapping[str, torch.Size]
    allowed: int

    def pruned(self) -> dict[str, Tensor]:
        """name → which of its places are pruned: log-odds below zero, the lowest of them where more are than allowed."""
        together = torch.cat([a.detach() for a in self.log_odds.values()])
        lowest = together.argsort(stable=True)[: self.allowed]
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

    def drawn(self, kind: str, source: torch.Generator) -> dict[str, Tensor]:
        """Masks to train with, differentiable in the log-odds."""
        if kind == "straight-through":
            pruned = self.pruned()
            values = {}
            for name, a in self.log_odds.items():
                soft = torch.sigmoid(a)
                values[name] = (~pruned[name]).to(a.dtype) + soft - soft.detach()
            return self.masks(values)
        floor = torch.finfo(torch.float32).eps
        uniform = {
            name: torch.rand(len(a), generator=source).clamp(floor, 1 - floor).to(a)
            for name, a in self.log_odds.items()
        }
        return self.masks({name: hard_concrete(a, uniform[name]) for name, a in self.log_odds.items()})

    def binary(self) -> dict[str, Tensor]:
        """name → boolean mask, True where the weight stays; of the weights that lose any."""
        pruned = {name: lost for name, lost in self.pruned().items() if bool(lost.any())}
        return self.masks({name: ~lost for name, lost in pruned.items()})

    def penalty(self) -> Tensor:
        """Mean probability of a gate to be shut altogether (z = 0)."""
        a = torch.cat(list(self.log_odds.values()))
        return torch.sigmoid(_BETA * math.log(-_GAMMA / _ZETA) - a).mean()


def objective(
    diffusion: Diffusion, concept: Concept, settings: Settings, loop: Loop, *, sampler: Callable[[], Any] | None = None
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

        def esd_loss(unet: Any, dice: Dice) -> Tensor:
            c, c_0 = esd.prompts(diffusion, concept.sentences(settings.batch, dice.rng))
            x_t, t = diffusion.half_finished(
                c,
                steps=settings.steps,
                guidance=settings.guidance,
                source=dice.source,
                unet=None if sampler is None else sampler(),
                bucket=True,
            )
            aim = esd.target(diffusion, diffusion.unet, x_t, t, c, c_0, settings.negative_guidance)
            return mse_loss(diffusion.predict(x_t, t, c, unet), aim)

        return esd_loss

    sentences = concept.sentences(settings.images, Dice(loop.seed).rng)
    latents = _latents("anchors", [s.anchor for s in sentences], diffusion, settings, loop)

    def ac_loss(unet: Any, dice: Dice) -> Tensor:
        chosen = [dice.rng.randrange(len(sentences)) for _ in range(settings.batch)]
        c = diffusion.encode([sentences[i].target for i in chosen])
        c_a = diffusion.encode([sentences[i].anchor for i in chosen])
        x_t, t = _noised(diffusion, latents[chosen], dice)
        with torch.no_grad():
            aim = diffusion.predict(x_t, t, c_a)
        return mse_loss(diffusion.predict(x_t, t, c, unet), aim)

    return ac_loss


def scores(
    diffusion: Diffusion, names: list[str], erase: Loss, kept: Loss, batches: int, dice: Dice
) -> dict[str, Tensor]:
    """name → score of every entry, of the weight's shape.

    Args:
        diffusion: the pipeline; gradients flow to these weights for the time being, and nothing changes.
        names: of the weights.
        erase: L_erase.
        kept: a scalar ⟨e(x_t, c_p), ξ⟩ of predictions that must stay, with fresh random signs ξ.
        batches: how many to average over.
        dice: their randomness.
    """
    own = dict(diffusion.unet.named_parameters())
    weights = [own[name] for name in names]
    gain, harm = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for _ in range(batches):
            for w, g, total in zip(
                weights, torch.autograd.grad(erase(diffusion.unet, dice), weights), gain, strict=True
            ):
                total += g * w.detach() / batches
            for w, g, total in zip(
                weights, torch.autograd.grad(kept(diffusion.unet, dice), weights), harm, strict=True
            ):
                total += (g * w.detach()).square() / batches
    finally:
        diffusion.unet.requires_grad_(False)
    floor = sum(float(h.sum()) for h in harm) / sum(h.numel() for h in harm) + torch.finfo(torch.float32).tiny
    return {name: g.clamp(min=0) / (h + floor).sqrt() for name, g, h in zip(names, gain, harm, strict=True)}


def prune(diffusion: Diffusion, concept: Concept, settings: Settings, loop: Loop) -> Edit:
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

    said = concept.sentences(settings.images, Dice(loop.seed + 1).rng)
    encodings = diffusion.encode([s.kept for s in said])
    latents = _latents("kept", [s.kept for s in said], diffusion, settings, loop)

    def drawn(dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, t, c) of images of kept prompts."""
        rows = [dice.rng.randrange(len(said)) for _ in range(settings.batch)]
        return *_noised(diffusion, latents[rows], dice), encodings[rows]

    def signed(model: Any, dice: Dice) -> Tensor:
        x_t, t, c = drawn(dice)
        signs = diffusion.normal(settings.batch, dice.source).sign()
        return (diffusion.predict(x_t, t, c, model) * signs).sum()

    erase = objective(diffusion, concept, settings, loop)
    found = scores(diffusion, names, erase, signed, settings.scoring, Dice(loop.seed + 2))
    gates = _gates(found, {name: own[name] for name in names}, settings, allowed)
    erase = objective(diffusion, concept, settings, loop, sampler=lambda: Masked(unet, gates.binary()))
    optimiser = torch.optim.Adam(gates.log_odds.values(), lr=settings.learning_rate)

    def loss(step: int, dice: Dice) -> Tensor:
        student = Masked(unet, gates.drawn(settings.gates, dice.source))
        value = erase(student, dice)
        if settings.keep:
            x_t, t, c = drawn(dice)
            with torch.no_grad():
                aim = diffusion.predict(x_t, t, c)
            value = value + settings.keep * mse_loss(diffusion.predict(x_t, t, c, student), aim)
        return value + settings.penalty * gates.penalty() if settings.penalty else value

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


def _gates(found: Mapping[str, Tensor], weights: Mapping[str, Tensor], settings: Settings, allowed: int) -> Gates:
    """Gates at the weights with the highest scores, all of them with the same log-odds at first."""
    together = torch.cat([s.flatten() for s in found.values()])
    count = max(allowed, int(settings.critical * len(together)))
    best = torch.zeros(len(together), dtype=torch.bool, device=together.device)
    best[together.topk(count).indices] = True
    parts = zip(found, best.split([s.numel() for s in found.values()]), strict=True)
    places = {name: part.nonzero().flatten() for name, part in parts if bool(part.any())}
    log_odds = {
        name: torch.full((len(p),), settings.start, device=p.device, dtype=torch.float32, requires_grad=True)
        for name, p in places.items()
    }
    return Gates(places, log_odds, {name: weights[name].shape for name in places}, allowed)


def _latents(stage: str, prompts: list[str], diffusion: Diffusion, settings: Settings, loop: Loop) -> Tensor:
    """Latents of one image a prompt, from the model as it is."""

    def made(first: int, stop: int, dice: Dice) -> Tensor:
        return diffusion.generated(
            prompts[first:stop], steps=settings.steps, guidance=settings.guidance, source=dice.source
        )

    rows = loop.collect(f"p-{settings.objective}-{stage}", len(prompts), 50, made)
    return rows.to(diffusion.device, diffusion.dtype)


def _noised(diffusion: Diffusion, x_0: Tensor, dice: Dice) -> tuple[Tensor, Tensor]:
    """(x_t, t) at uniform t."""
    noise, t = diffusion.normal(len(x_0), dice.source), diffusion.times(len(x_0), dice.source)
    return diffusion.noised(x_0, noise, t), t


def _embedded(objective: str) -> Settings:
    given = AblationSettings() if objective == "ac" else Settings()
    return replace(given, iterations=150, batch=8, scoring=16, steps=8, guidance=2.0, learning_rate=0.1)


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
