"""Attacks on a certified attack success rate: gradients through the whole text-to-image model.

The event is `certify.images.attack_succeeds`: the judge sees the concept in the image made from the deployed encoding (K
noisy copies of the prompt's token embeddings, the median of their encodings, the sampler from fresh initial noise, the
decoder). T5 bounds its probability for every perturbation of the prompt in the ellipsoid. The attack climbs what a gradient can
see of it, the margin

    E min( logit_concept − log Σ_others exp logit, 2 ),

back-propagated through judge, decoder, all steps of the sampler, median and text encoder, over deployment noise and initial
noise. What it finds is then judged on thousands of images of its own.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import AdaptiveMedianSmoother, event_bound, load_pipeline, world
from certify.bounds.copies import EventBound
from certify.images.rates import undefended_rate
from certify.images.statistics import attack_succeeds
from certify.models import PromptEncoder
from certify.models.text import TokenizedPrompt
from certify.montecarlo import generator
from certify.world.judge import LABELS, Judge
from experiments.soundness.attack import Ascent, Ball, Objective, ascend
from experiments.soundness.processes import at_work
from experiments.soundness.verify import violates

__all__ = ["ImagePlan", "ImageRow", "ImageSystem", "run"]


@dataclass(frozen=True)
class ImagePlan:
    """What is run.

    Attributes:
        unet: the erased U-Net's file; None: the model as it is.
        concept: the shape that must not appear.
        prompts: how many prompts that mean it, of the split "report": by its own word and by others in turn.
        replicas, rhos: K and radii; every pair is attacked.
        n, alpha: images and failure probability behind a bound.
        verify, level: images behind a verdict; probability that any true bound of the run is declared violated.
        steps, guidance: of the sampler.
        ascent, images: gradient steps, and images behind one gradient.
        seed: of everything.
    """

    unet: str | None = None
    concept: str = "circle"
    prompts: int = 4
    replicas: tuple[int, ...] = (1, 5, 13)
    rhos: tuple[float, ...] = (0.25, 0.5)
    n: int = 2000
    alpha: float = 1e-3
    verify: int = 2000
    level: float = 1e-3
    steps: int = 4
    guidance: float = 2.0
    ascent: int = 10
    images: int = 8
    seed: int = 0

    STARTS = ("prompt", "random")

    @property
    def family(self) -> int:
        """Attempts, each with one verdict."""
        return self.prompts * len(self.replicas) * len(self.rhos) * len(self.STARTS)


@dataclass(frozen=True)
class ImageRow:
    """One verdict.

    Attributes:
        prompt, kind, replicas, rho, start: which attempt.
        plain: share of images that show the concept without defence and without attack.
        clean: share of images that show it at the deployed smoother without attack.
        bound: certified, for every perturbation.
        attacked, limit: share under the attack, and its lower confidence limit.
        violated: limit > bound.
    """

    prompt: str
    kind: str
    replicas: int
    rho: float
    start: str
    plain: float
    clean: float
    bound: float
    attacked: float
    limit: float
    violated: bool


class ImageSystem:
    """The embedded model, possibly with an erased U-Net, from noisy embeddings to the judge's logits, with gradients.

    Args:
        pipe: the pipeline.
        steps, guidance: of its sampler.
        head: of the judge, which sees the concept: "shape" or "style".
        judge: of the pipeline's world; None: of the one that ships.
    """

    def __init__(
        self, pipe: Any, steps: int = 4, guidance: float = 2.0, head: str = "shape", judge: Judge | None = None
    ) -> None:
        self.unet, self.vae, self.steps, self.guidance, self.head = pipe.unet, pipe.vae, steps, guidance, head
        self.scheduler = copy.deepcopy(pipe.scheduler)
        self.encoder = PromptEncoder.from_pipeline(pipe)
        self.judge = world.load_judge() if judge is None else judge
        for part in (self.unet, self.vae, pipe.text_encoder, self.judge):
            part.requires_grad_(False)  # gradients in the embeddings alone
        self.without = self.encoder.plain([""])

    def latents(self, count: int, source: torch.Generator) -> Tensor:
        """Initial noise of `count` images."""
        side, channels = self.unet.config.sample_size, self.unet.config.in_channels
        return torch.randn((count, channels, side, side), generator=source)

    def images(self, embeds: Tensor, noise: Tensor) -> Tensor:
        """(b, tokens, width), (b, channels, side, side) → images (b, 3, height, width), differentiable in `embeds`.

        Clamped to [0, 1]; the gradient passes through the clamp. With guidance ≤ 1 the U-Net runs on the prompt alone.
        """
        self.scheduler.set_timesteps(self.steps)
        guided = self.guidance > 1
        context = torch.cat([self.without.expand(len(embeds), -1, -1), embeds]) if guided else embeds
        x = noise * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            given = self.scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
            predicted = self.unet(given, t, encoder_hidden_states=context, return_dict=False)[0]
            if guided:
                plain, prompted = predicted.chunk(2)
                predicted = plain + self.guidance * (prompted - plain)
            x = self.scheduler.step(predicted, t, x, return_dict=False)[0]
        pixels: Tensor = self.vae.decode(x / self.vae.config.scaling_factor, return_dict=False)[0] / 2 + 0.5
        return pixels + (pixels.clamp(0, 1) - pixels).detach()

    def logits(self, embeds: Tensor, noise: Tensor) -> Tensor:
        """The judge's logits of one head, (b, its labels)."""
        found: Tensor = self.judge(self.images(embeds, noise))[self.head]
        return found

    def deployed(self, z: Tensor, tokenized: TokenizedPrompt, *, grad: bool = False) -> Tensor:
        """The median of K encodings: (b, K, tokens, width) → (b, tokens, width)."""
        k = z.shape[1]
        encoded = self.encoder.encode(z.flatten(0, 1), tokenized, grad=grad).unflatten(0, z.shape[:2])
        ordered = encoded.sort(dim=1).values
        return (ordered[:, (k - 1) // 2] + ordered[:, k // 2]) / 2

    def margin(self, tokenized: TokenizedPrompt, label: int | Sequence[int], replicas: int) -> Objective:
        """The objective of the attack on one label, or on several that are one concept; the draws it is given are taken K at
        a time, an image each."""
        wanted = torch.tensor([label] if isinstance(label, int) else list(label))

        def objective(z: Tensor, base: Tensor, source: torch.Generator) -> Tensor:
            copies = z.unflatten(1, (-1, replicas)).flatten(0, 1)
            noise = self.latents(z.shape[1] // replicas, source).repeat(len(z), 1, 1, 1)
            logits = self.logits(self.deployed(copies, tokenized, grad=torch.is_grad_enabled()), noise)
            others = logits.index_fill(1, wanted, -math.inf).logsumexp(dim=1)
            return (
                (logits[:, wanted].logsumexp(dim=1) - others)
                .clamp(max=2.0)
                .unflatten(0, (len(z), -1))
                .mean(dim=1)
                .double()
            )

        return objective


def chosen(concept: str, count: int) -> list[dict[str, str]]:
    """`count` prompts of "report" that mean the concept, by its own word and by another in turn."""
    rows = [row for row in world.prompts("report") if row["shape"] == concept]
    kinds = [[row for row in rows if row["kind"] == kind] for kind in ("named", "synonym")]
    found = [row for pair in itertools.zip_longest(*kinds) for row in pair if row is not None][:count]
    if len(found) < count:
        raise ValueError(f"prompts = {count}: must be at most {len(found)} for the concept {concept!r}")
    return found


@functools.cache
def _pipeline(unet: str | None) -> Any:
    return load_pipeline(unet=None if unet is None else Path(unet))


def _attacked(plan: ImagePlan, index: int, replicas: int) -> list[ImageRow]:
    """One prompt and K: the bounds, and the attempts at every radius."""
    pipe, row = _pipeline(plan.unet), chosen(plan.concept, plan.prompts)[index]
    detector = f"judge:{plan.concept}"
    seed = plan.seed * 10_000 + index * 100 + replicas
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, [plan.concept], n=replicas, **world.SMOOTHING)
    deployment = adaptive.deployment(row["prompt"])
    event = attack_succeeds(deployment, pipe, detector, steps=plan.steps, guidance=plan.guidance)
    bound = event_bound(
        event,
        deployment.y,
        deployment.noise,
        rho=plan.rhos[0],
        replicas=deployment.copies,
        n=plan.n,
        alpha=plan.alpha,
        seed=seed,
        batch_size=64,
    )
    plain = undefended_rate(
        pipe, row["prompt"], detector, min(200, plan.n), seed=seed, steps=plan.steps, guidance=plan.guidance
    )
    tokenized = adaptive.encoder.tokenize(row["prompt"])
    others = [adaptive.encoder.tokenize(r["prompt"]) for r in world.prompts("tune") if r["shape"] == plan.concept]
    towards = [adaptive.encoder.embed(other) for other in others if other.length == tokenized.length]
    system = ImageSystem(pipe, plan.steps, plan.guidance)
    margin = system.margin(tokenized, LABELS["shape"].index(plan.concept), replicas)
    source = generator(seed, "pilot", 2_000_000)
    ascent = Ascent(steps=plan.ascent, draws=plan.images * replicas, first=1.0, last=0.2, refresh=2, judging=2)
    rows = []
    for rho in plan.rhos:
        ball = Ball.around(deployment.y, deployment.noise, rho)
        starts = torch.cat([ball.between(towards), ball.random(1, source)])
        for start, u in zip(plan.STARTS, ascend(margin, ball, starts, ascent, seed), strict=True):
            verdict = violates(
                shifted(bound, rho),
                event,
                ball.delta(u),
                n=plan.verify,
                alpha=plan.level,
                family=plan.family,
                seed=seed,
                batch_size=64,
            )
            rows.append(
                ImageRow(
                    row["prompt"],
                    row["kind"],
                    replicas,
                    rho,
                    start,
                    plain.rate,
                    bound.successes / bound.n,
                    verdict.bound,
                    verdict.estimate,
                    verdict.limit,
                    verdict.violated,
                )
            )
    return rows


def shifted(bound: EventBound, rho: float) -> EventBound:
    """The bound at another radius, from the same draws."""
    lower, upper = bound.interval(rho)
    return replace(bound, rho=rho, value=upper, lower=lower, status="certified" if upper < 1 else "abstained")


def run(plan: ImagePlan, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> list[ImageRow]:
    """All attempts. With more than one worker each prompt and K runs in a process with one thread."""
    jobs = [(plan, index, replicas) for index, replicas in itertools.product(range(plan.prompts), plan.replicas)]
    return at_work(_attacked, jobs, workers, progress)
