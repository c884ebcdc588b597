"""GIFT: immunization. After the concept has been erased, the model is trained to be hard to teach it again.

Two levels, in turn, over and over:

    lower   n_P steps of      θ ← θ − α_P ∇ L(θ; safe)
    upper   n_I steps of      θ ← θ − α_I ∇ mean_k [ −b(L(θ_k; concept)) + β R(θ_k) ]

L is the diffusion loss on images with captions. The upper level makes it large on images of the concept (maximisation),
bounded by b(L) = log(1 + L) or min(L, ceiling), and pulls what the network's blocks make of them, h_l, to noise:

    R = mean_l dist(h_l, μ_l + σ_l ε),        μ_l, σ_l: mean and standard deviation of h_l by channel, held fixed,

dist the mean squared difference to a fresh draw, or the multi-kernel MMD. θ_0 = θ. With a lookahead of K steps (gradient-aware)
θ_1 … θ_K are what an attacker's fine-tune makes of θ, so that the loss is made large where the attacker will be, not only
where the model is. Of first order, the attacker takes steps of Adam and the gradient at θ_k counts as one at θ; of second
order, plain gradient steps are differentiated through.

Reference: "GIFT: Gradient-aware Immunization of diffusion models against malicious Fine-Tuning" (2025).
No source is public. Known from the abstract: two levels, representation noising and maximisation on the concept above,
preservation on safe data below. Known from its public reviews: the levels alternate, activations of all layers are
drawn to noise of the same distribution, and the options α_I, α_P, β and the inner and outer counts. Reconstruction: the
bounds b (log(1 + L) is representation noising's), both distances (five Gaussian kernels, each twice as wide as the one
before), two states of Adam, one a level, the lookahead, and all numbers. Ours: captions of the concept's images that
name it, mean it, leave it out or are empty, since an attacker may call it by any word; starting from UCE.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from certify.models.sampling import sample
from experiments.sentences import filled
from experiments.settings import check
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.finetune import Examples, diffusion_loss
from experiments.unlearning.method import Edit, Method, copied
from experiments.unlearning.parameters import FILTERS, trainable
from experiments.unlearning.training import Rng, TrainingLoop

__all__ = ["METHOD", "Settings", "TwoLevelAdam", "bounded", "immunise", "kernel_distance", "noising", "upper"]

LOWER, UPPER = 0, 1
_BETAS = (0.9, 0.999)  # of Adam, on both levels and ahead


@dataclass(frozen=True)
class Settings:
    """Options of GIFT. There are no published numbers; the defaults follow IMMA's rates.

    Attributes:
        parameters: which weights train (`parameters.FILTERS`).
        rounds: how often both levels have their turn.
        safe_steps, concept_steps: n_P and n_I.
        safe_rate, concept_rate: α_P and α_I.
        noise: β; 0: no noising.
        distance: "mse" or "mmd".
        bound: "log" or "clip".
        ceiling: of "clip".
        lookahead, lookahead_rate: K, and the attacker's learning rate.
        order: of the lookahead, 1 or 2.
        batch: images of a step.
        images: how many of each kind.
        source: "given": images of the concept from `concept_images` (embedded model: rendered); "own": the model's own
            generations, made before it is erased.
        concept_images, safe_images: folders; "": the model's own generations, or rendered scenes on the embedded model.
        steps, guidance: of the sampler of own generations.
    """

    parameters: str = "full"
    rounds: int = 500
    safe_steps: int = 1
    concept_steps: int = 1
    safe_rate: float = 1e-5
    concept_rate: float = 1e-5
    noise: float = 1e-3
    distance: str = "mse"
    bound: str = "log"
    ceiling: float = 1.0
    lookahead: int = 0
    lookahead_rate: float = 1e-5
    order: int = 1
    batch: int = 1
    images: int = 200
    source: str = "given"
    concept_images: str = ""
    safe_images: str = ""
    steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        check(
            self,
            counts=("rounds", "safe_steps", "concept_steps", "batch", "images", "steps"),
            from_zero=("lookahead",),
            positive=("safe_rate", "concept_rate", "ceiling", "lookahead_rate", "guidance"),
            not_negative=("noise",),
            choices={
                "parameters": FILTERS,
                "distance": ("mse", "mmd"),
                "bound": ("log", "clip"),
                "source": ("given", "own"),
            },
        )
        if self.order not in (1, 2):
            raise ValueError(f"order = {self.order!r}: must be 1 or 2")


class TwoLevelAdam(torch.optim.Optimizer):
    """Adam with a state and a learning rate for each level: the two gradients are opposed, and one average of both
    would be of neither.

    Args:
        parameters: what both levels train.
        rates: learning rates of the lower and the upper level.

    Attributes:
        level: whose turn it is, `LOWER` or `UPPER`.
    """

    def __init__(self, parameters: Any, rates: tuple[float, float]) -> None:
        super().__init__(list(parameters), {})
        self.rates, self.level = rates, LOWER

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of the level whose turn it is."""
        del closure
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                count, mean, square = (f"{name}{self.level}" for name in ("count", "mean", "square"))
                if count not in state:
                    state[count] = torch.zeros(())
                    state[mean], state[square] = torch.zeros_like(p), torch.zeros_like(p)
                state[count] += 1
                p -= _adam(p.grad, state[mean], state[square], float(state[count]), self.rates[self.level])


def _adam(gradient: Tensor, mean: Tensor, square: Tensor, count: float, rate: float) -> Tensor:
    """What Adam subtracts; the averages are brought up to date in place."""
    mean.lerp_(gradient, 1 - _BETAS[0])
    square.lerp_(gradient.square(), 1 - _BETAS[1])
    return rate * (mean / (1 - _BETAS[0] ** count)) / ((square / (1 - _BETAS[1] ** count)).sqrt() + 1e-8)


def bounded(loss: Tensor, settings: Settings) -> Tensor:
    """b(L): log(1 + L), or min(L, ceiling), whose gradient ends at the ceiling."""
    return torch.log1p(loss) if settings.bound == "log" else loss.clamp(max=settings.ceiling)


def kernel_distance(x: Tensor, y: Tensor, kernels: int = 5) -> Tensor:
    """Squared MMD of two samples (n, d) and (m, d), biased: mean k(x, x) + mean k(y, y) − 2 mean k(x, y).

    k is the sum of Gaussian kernels whose widths double, the middle one's being the mean squared distance between all points
    (held fixed), divided by their number.
    """
    z = torch.cat([x, y])
    squared = (z[:, None] - z[None]).square().sum(dim=2)
    middle = squared.detach().sum() / (len(z) * (len(z) - 1))
    widths = [middle.clamp(min=1e-12) * 2.0 ** (i - kernels // 2) for i in range(kernels)]
    k = torch.stack([torch.exp(-squared / width) for width in widths]).mean(dim=0)
    n = len(x)
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


def noising(activations: Sequence[Tensor], distance: str, source: torch.Generator) -> Tensor:
    """R: mean over the layers of dist(h, μ + σ ε), with μ and σ by channel over images and places, held fixed.

    Args:
        activations: of every layer, (b, channels, height, width).
        distance: "mse", divided by the mean of σ² so that layers of different scale count alike; or "mmd", between the images'
            flattened activations.
        source: draws ε.
    """
    terms = []
    for h in activations:
        with torch.no_grad():
            mean = h.mean(dim=(0, 2, 3), keepdim=True)
            std = h.std(dim=(0, 2, 3), keepdim=True, correction=0)
            noise = mean + std * torch.randn(h.shape, generator=source).to(h.device, h.dtype)
        if distance == "mse":
            terms.append((h - noise).square().mean() / std.square().mean().clamp(min=1e-12))
        else:
            terms.append(kernel_distance(h.flatten(1), noise.flatten(1)))
    return torch.stack(terms).mean()


@contextmanager
def _watched(unet: Any, wanted: bool) -> Iterator[list[Tensor]]:
    """What the U-Net's residual blocks and transformers give out in a call, in order."""
    seen: list[Tensor] = []
    kinds = ("ResnetBlock2D", "Transformer2DModel") if wanted else ()
    handles = [
        m.register_forward_hook(lambda m, args, out: seen.append(out if isinstance(out, Tensor) else out[0]))
        for m in unet.modules()
        if type(m).__name__ in kinds
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def upper(
    diffusion: Diffusion,
    weights: Mapping[str, Tensor],
    x_0: Tensor,
    c: Tensor,
    settings: Settings,
    rng: Rng,
) -> tuple[Tensor, Tensor]:
    """(−b(L) + β R, L) on a batch of the concept, with other weights in the U-Net.

    Args:
        diffusion: the model.
        weights: name → weight, in place of the U-Net's own of that name.
        x_0, c: latents (b, channels, height, width) and encodings (b, tokens, width).
        settings: b, β and dist.
        rng: draws the noise.
    """

    def predict(x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        out: Tensor = functional_call(diffusion.unet, dict(weights), (x_t, t), {"encoder_hidden_states": c}).sample
        return out

    with _watched(diffusion.unet, settings.noise > 0) as activations:
        loss = diffusion_loss(diffusion, x_0, c, rng, predict)
    value = -bounded(loss, settings)
    if settings.noise > 0:
        value = value + settings.noise * noising(activations, settings.distance, rng.source)
    return value, loss


def _ahead(
    diffusion: Diffusion,
    weights: Mapping[str, nn.Parameter],
    batches: Sequence[tuple[Tensor, Tensor]],
    settings: Settings,
    rng: Rng,
) -> Tensor:
    """The upper level's loss, mean over θ_0 … θ_K, one batch each, with a gradient at θ of the order that was asked for."""
    if settings.order == 2 and len(batches) > 1:
        return _through(diffusion, weights, batches, settings, rng)
    at: dict[str, Tensor] = dict(weights)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in weights.items()}
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    values = []
    for k, (x_0, c) in enumerate(batches):
        value, loss = upper(diffusion, at, x_0, c, settings, rng)
        last = k == len(batches) - 1
        for name, g in zip(
            at, torch.autograd.grad(value, list(at.values()), retain_graph=not last, allow_unused=True), strict=True
        ):
            if g is not None:
                total[name] += g / len(batches)
        values.append(value.detach())
        if not last:
            steps = torch.autograd.grad(loss, list(at.values()), allow_unused=True)
            with torch.no_grad():
                at = {
                    name: (p if g is None else p - _adam(g, *moments[name], k + 1.0, settings.lookahead_rate))
                    for (name, p), g in zip(at.items(), steps, strict=True)
                }
            at = {name: p.detach().requires_grad_(True) for name, p in at.items()}
    # A scalar with the mean value, and with the mean gradient as its own.
    carrier = torch.stack([(p * total[name]).sum() for name, p in weights.items()]).sum()
    return torch.stack(values).mean() + carrier - carrier.detach()


def _through(
    diffusion: Diffusion,
    weights: Mapping[str, nn.Parameter],
    batches: Sequence[tuple[Tensor, Tensor]],
    settings: Settings,
    rng: Rng,
) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    at: dict[str, Tensor] = dict(weights)
    values = []
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        for k, (x_0, c) in enumerate(batches):
            value, loss = upper(diffusion, at, x_0, c, settings, rng)
            values.append(value)
            if k < len(batches) - 1:
                steps = torch.autograd.grad(loss, list(at.values()), create_graph=True, allow_unused=True)
                at = {
                    name: p if g is None else p - settings.lookahead_rate * g
                    for (name, p), g in zip(at.items(), steps, strict=True)
                }
    return torch.stack(values).mean()


def immunise(diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop) -> Edit:
    """Trains the U-Net in place on both levels; returns the weights that changed.

    Raises:
        ValueError: the filter selects nothing, or a loss is not finite.
        FileNotFoundError: a folder of images holds none.
    """
    harmful, safe = examples(diffusion, concept, settings, loop)
    weights = trainable(diffusion.unet, settings.parameters)
    optimiser = TwoLevelAdam(weights.values(), (settings.safe_rate, settings.concept_rate))
    period = settings.safe_steps + settings.concept_steps

    def batch(of: Examples, rng: Rng) -> tuple[Tensor, Tensor]:
        x_0, templates = of.draw(settings.batch, rng)
        return x_0, diffusion.encode([filled(t, of.phrase) if "{}" in t else t for t in templates])

    def loss(step: int, rng: Rng) -> Tensor:
        optimiser.level = LOWER if step % period < settings.safe_steps else UPPER
        if optimiser.level == LOWER:
            return diffusion_loss(diffusion, *batch(safe, rng), rng)
        return _ahead(diffusion, weights, [batch(harmful, rng) for _ in range(1 + settings.lookahead)], settings, rng)

    losses = loop.run("gift", weights, optimiser, settings.rounds * period, loss)
    last = losses[-20 * period :]
    first = settings.rounds * period - len(last)
    below = [(first + i) % period < settings.safe_steps for i in range(len(last))]
    return Edit(
        unet=copied(weights),
        record={
            "trained": settings.parameters,
            "last losses, lower level": [v for v, is_lower in zip(last, below, strict=True) if is_lower],
            "last losses, upper level": [v for v, is_lower in zip(last, below, strict=True) if not is_lower],
        },
    )


def examples(
    diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop
) -> tuple[Examples, Examples]:
    """(images of the concept, safe images), both with captions of which one in ten is empty.

    Raises:
        ValueError: images of the concept must be given and are not.
    """
    embedded, seed = bool(concept.head), loop.seed
    if settings.concept_images:
        harmful = Examples.folder(diffusion, settings.concept_images, concept.erase[0])
    elif settings.source == "own":
        harmful = _own(diffusion, concept, settings, loop, safe=False)
    elif embedded:
        harmful = Examples.rendered(diffusion, concept, settings.images, seed=seed, kind=None)
    else:
        raise ValueError("concept_images = '': must be a folder of images of the concept, or source must be 'own'")
    if settings.safe_images:
        safe = Examples.folder(diffusion, settings.safe_images, concept.neutral)
    elif settings.source == "own" or not embedded:
        safe = _own(diffusion, concept, settings, loop, safe=True)
    else:
        safe = Examples.rendered(diffusion, concept, settings.images, seed=seed + 1, shows=False, kind=None)
    return _some_empty(harmful), _some_empty(safe)


def _own(diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop, *, safe: bool) -> Examples:
    """Generations from the concept's sentences by the model as it was before it was erased, or from those that must stay."""
    sentences = concept.sentences(settings.images, random.Random(loop.seed + safe))
    prompts = [s.retained if safe else s.target for s in sentences]
    pipe = (
        diffusion.pipe
        if diffusion.original is None
        else SimpleNamespace(unet=diffusion.original, scheduler=diffusion.pipe.scheduler)
    )
    empty = diffusion.encode([""])

    def make(first: int, stop: int, rng: Rng) -> Tensor:
        c, noise = diffusion.encode(prompts[first:stop]), diffusion.normal(stop - first, rng.source)
        return sample(pipe, c, empty, noise, steps=settings.steps, guidance=settings.guidance)

    rows = loop.collect("safe-images" if safe else "concept-images", settings.images, 32, make)
    return Examples(rows.to(diffusion.device, diffusion.dtype), tuple(prompts), concept.erase[0])


def _some_empty(of: Examples) -> Examples:
    return dataclasses.replace(of, templates=tuple("" if i % 10 == 9 else t for i, t in enumerate(of.templates)))


def _embedded(kind: str) -> Settings:
    """Few rounds and no noising: driven further, the concept's loss was higher, and the concept came back sooner."""
    del kind
    return Settings(
        rounds=60,
        safe_rate=3e-4,
        concept_rate=1e-4,
        noise=0.0,
        lookahead_rate=1e-4,
        batch=8,
        steps=8,
        guidance=2.0,
    )


METHOD = Method(
    name="gift",
    title="GIFT (2025), reconstructed",
    run=immunise,
    settings=Settings,
    embedded=_embedded,
    after="uce",
    published="not published",
)
