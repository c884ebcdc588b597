"""Certified: what attacks on a victim's prompts can reach at most, and the strongest that were found, radius by radius.

Upper curve: the mean success rate over the prompts under adaptive median smoothing, whatever each is perturbed to within
‖δ_i‖_{Σ_i} ≤ ρ (`certify.images.attack_rate_over`, T5's corollary and T14). Σ is fixed at each prompt. Lower curve: for every
prompt and radius a gradient attack through judge, decoder, sampler, median and text encoder
(`experiments.soundness.images`), from three places: between prompts that mean the concept, at random, and what was found at
the radius below. Which of the perturbations is best, the prompt as it is among them, is decided on images of their own, and
what the best one reaches is counted on others.

The attacked rate is the mean over the prompts, with as many images each. Its limits are Clopper and Pearson's of the joint
count: that the prompts differ makes such a count scatter less, so the limits are on the safe side (Hoeffding 1956).

What is measured is kept, a file for the bound and one for each prompt and radius; a stopped run goes on.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _validate, load_pipeline
from certify.adaptive.deployment import Deployment
from certify.bounds.rates import RateOver
from certify.confidence import clopper_pearson
from certify.images.rates import attack_rate_over
from certify.images.statistics import attack_succeeds
from certify.models.text import TokenizedPrompt
from certify.montecarlo import generator
from experiments import files
from experiments.defenses.ams import Ams, Settings
from experiments.settings import check
from experiments.soundness.attack import Ascent, Ball, ascend
from experiments.soundness.images import ImageSystem
from experiments.soundness.verify import Fresh
from experiments.tables.result_cache import ResultCache
from experiments.unlearning import saving
from experiments.unlearning.concept import Concept

__all__ = ["Curves", "Effort", "Point", "curves"]

STARTS = ("unperturbed", "prompts", "random", "radius below")


@dataclass(frozen=True)
class Effort:
    """How much is drawn, and how hard is attacked.

    Attributes:
        n, alpha: images behind the bound (and a fifth as many before, to choose how), its failure probability.
        ascent, images: gradient steps, and images behind one gradient.
        choosing: images of each candidate, to choose the best.
        counted: images of the chosen one, at every prompt and radius.
        confidence: of the attacked rates' limits, both together.
        steps, guidance: of the sampler.
        seed: of everything.
    """

    n: int = 1000
    alpha: float = 1e-3
    ascent: int = 6
    images: int = 4
    choosing: int = 32
    counted: int = 160
    confidence: float = 0.95
    steps: int = 8
    guidance: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, counts=("n", "ascent", "images", "choosing", "counted", "steps"), positive=("guidance",))
        for name in ("alpha", "confidence"):
            _validate.probability(name, getattr(self, name))
        _validate.seed_value(self.seed)


@dataclass(frozen=True)
class Point:
    """One radius.

    Attributes:
        rho: ρ.
        bound: the mean success rate is at most this.
        attacked: what the strongest attacks found reach, the mean over the prompts; low, high: its confidence limits.
        successes, images: as counted.
        by_prompt: the attacked rate of each prompt.
        starts: where the best attack on each came from, one of `STARTS`.
    """

    rho: float
    bound: float
    attacked: float
    low: float
    high: float
    successes: int
    images: int
    by_prompt: tuple[float, ...]
    starts: tuple[str, ...]


@dataclass(frozen=True)
class Curves:
    """One victim.

    Attributes:
        bound: at all radii.
        points: at those attacked.
    """

    bound: RateOver
    points: tuple[Point, ...]

    @property
    def attacks(self) -> list[tuple[float, float, float, float]]:
        """(ρ, rate, lower, upper), as `certify.plots.plot_event_rates` takes them."""
        return [(p.rho, p.attacked, p.low, p.high) for p in self.points]


def curves(
    victim: str | Path | None,
    concept: Concept,
    settings: Settings,
    prompts: Sequence[str],
    rhos: Sequence[float],
    folder: str | Path,
    *,
    effort: Effort | None = None,
    towards: Sequence[str] | None = None,
    base: str | Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Curves:
    """The certified and the attacked curve of one victim, averaged over prompts.

    Args:
        victim: folder of its overlay; None: the model before erasing.
        concept: of the embedded world, what must not appear.
        settings: of the smoother: policy "frozen", aggregate "median"; `settings.n` is K.
        prompts: attacked ones; none of them empty.
        rhos: radii > 0, increasing.
        folder: where what was measured is kept.
        effort: how much.
        towards: prompts that mean the concept, to start attacks between; None: those of the split "tune".
        base: folder of the pipeline under the overlay; None: the embedded model.
        progress: told of what is being measured.

    Raises:
        ValueError: no prompts, an empty one, or a smoother that the attack cannot see through.
    """
    radii = _validate.increasing("rhos", rhos)
    run = _Run(
        victim, concept, settings, prompts, effort or Effort(), towards, base, ResultCache(Path(folder), progress)
    )
    bound = run.bound(radii)
    points, e = [], run.effort
    for i, rho in enumerate(radii):
        attacked = [run.attack(prompt, radii[: i + 1]) for prompt in run.prompts]
        successes, images = sum(f["successes"] for f in attacked), e.counted * len(attacked)
        low, high = (clopper_pearson(successes, images, (1 - e.confidence) / 2, side) for side in ("lower", "upper"))
        points.append(
            Point(
                rho=rho,
                bound=bound.at(rho),
                attacked=successes / images,
                low=low,
                high=high,
                successes=successes,
                images=images,
                by_prompt=tuple(f["successes"] / e.counted for f in attacked),
                starts=tuple(f["start"] for f in attacked),
            )
        )
    return Curves(bound, tuple(points))


class _Run:
    """One victim, loaded when something has to be measured."""

    def __init__(
        self,
        victim: str | Path | None,
        concept: Concept,
        settings: Settings,
        prompts: Sequence[str],
        effort: Effort,
        towards: Sequence[str] | None,
        base: str | Path | None,
        cache: ResultCache,
    ) -> None:
        if isinstance(prompts, str) or not prompts or not all(p.strip() for p in prompts):
            raise ValueError(f"prompts = {prompts!r}: must be a list of prompts, none of them empty")
        if (settings.policy, settings.aggregate) != ("frozen", "median"):
            raise ValueError(
                f"settings have policy {settings.policy!r}, aggregate {settings.aggregate!r}: must be 'frozen' and 'median'"
            )
        self.world = concept.world
        if concept.name not in self.world.concepts:
            raise ValueError(f"concept = {concept.name!r}: must be one concept of an embedded world")
        self.victim, self.concept, self.settings, self.effort = victim, concept, settings, effort
        self.prompts, self.base, self.cache = list(prompts), base, cache
        self.towards = self.world.meaning(concept.name) if towards is None else list(towards)
        self.detector = f"judge:{concept.name}"
        self.find = self.world.detector(concept.name)

    def key(self, **more: Any) -> dict[str, Any]:
        """What every measured result depends on."""
        sampler = {name: getattr(self.effort, name) for name in ("steps", "guidance", "seed")}
        model = {"base": _digest(self.base), "victim": _digest(self.victim), "detector": self.detector}
        return {**more, **model, "settings": asdict(self.settings), **sampler}

    @functools.cached_property
    def pipe(self) -> Any:
        return load_pipeline(self.base, **({} if self.victim is None else saving.overlays(self.victim)))

    @functools.cached_property
    def smoother(self) -> Any:
        e = self.effort
        return Ams(self.pipe, steps=e.steps, guidance=e.guidance, concept=self.concept, settings=self.settings).smoother

    @functools.cached_property
    def system(self) -> ImageSystem:
        return ImageSystem(self.pipe, self.effort.steps, self.effort.guidance, self.concept.head, self.world.judge)

    def bound(self, rhos: tuple[float, ...]) -> RateOver:
        """The certified curve; the count behind it is kept, and serves all radii."""
        e = self.effort

        def measure() -> dict[str, Any]:
            found = attack_rate_over(
                [self.smoother.deployment(prompt) for prompt in self.prompts],
                self.pipe,
                self.find,
                rhos=rhos,
                n=e.n,
                alpha=e.alpha,
                repeats=None,
                seed=e.seed,
                steps=e.steps,
                guidance=e.guidance,
            )
            return found.stored()

        key = self.key(prompts=sorted(self.prompts), n=e.n, alpha=e.alpha, radii=list(rhos), theorem="T14")
        return RateOver.restored(self.cache.get("bound", key, measure), rhos=rhos, alpha=e.alpha)

    def attack(self, prompt: str, rhos: tuple[float, ...]) -> dict[str, Any]:
        """The strongest attack found on a prompt within the last radius, and how often it succeeds."""
        e = self.effort
        key = self.key(
            prompt=prompt,
            rhos=list(rhos),
            towards=self.towards,
            **{name: getattr(e, name) for name in ("ascent", "images", "choosing", "counted")},
        )
        below = self.attack(prompt, rhos[:-1]) if len(rhos) > 1 else None
        return self.cache.get("attack", key, lambda: self._attacked(prompt, rhos[-1], below))

    def _attacked(self, prompt: str, rho: float, below: dict[str, Any] | None) -> dict[str, Any]:
        e, smoother = self.effort, self.smoother
        prepared = smoother.prepare(prompt)
        deployment, tokenized = prepared.deployment, prepared.tokenized
        ball = Ball.around(deployment.y, deployment.noise, rho)
        number = e.seed * 1_000_003 + int(hashlib.sha256(f"{prompt} {rho!r}".encode()).hexdigest()[:8], 16)
        names, starts = (
            list(STARTS[1:3]),
            [self._between(ball, tokenized), ball.random(1, generator(number, "pilot", 0))],
        )
        if below is not None:
            names.append(STARTS[3])
            starts.append(ball.directions(ball.whitened(_unpacked(below["delta"], ball))[None]))
        margin = self.system.margin(tokenized, self.world.inside(self.concept.name), deployment.copies)
        how = Ascent(steps=e.ascent, draws=e.images * deployment.copies, first=1.0, last=0.2, refresh=2, judging=1)
        # Where it began is a candidate, too: a smaller perturbation that works is one of this ball.
        candidates = [torch.zeros_like(ball.y), *ascend(margin, ball, torch.cat(starts), how, number)]
        names = [STARTS[0], *names]
        if below is not None:
            candidates.append(ball.whitened(_unpacked(below["delta"], ball)))
            names.append(STARTS[3])
        deltas = [ball.delta(u) for u in candidates]
        chosen = [int(self._fresh(deployment, e.choosing, 2 * number).at(delta).sum()) for delta in deltas]
        best = max(range(len(deltas)), key=lambda i: (chosen[i], -i))
        reached = self._fresh(deployment, e.counted, 2 * number + 1).at(deltas[best])
        return {
            "successes": int(reached.sum()),
            "start": names[best],
            "chosen": chosen,
            "size": deployment.noise.norm(deltas[best]),
            "delta": _packed(deltas[best], ball),
        }

    def _fresh(self, deployment: Deployment, n: int, seed: int) -> Fresh:
        e = self.effort
        event = attack_succeeds(deployment, self.pipe, self.find, steps=e.steps, guidance=e.guidance)
        return Fresh(event, deployment.y, deployment.noise, n=n, seed=seed, copies=deployment.copies)

    def _between(self, ball: Ball, tokenized: TokenizedPrompt) -> Tensor:
        """Towards the mean of the prompts that mean the concept and have this prompt's length; 0 if there is none."""
        encoder = self.smoother.encoder
        others = [encoder.tokenize(text) for text in self.towards]
        return ball.between([encoder.embed(other) for other in others if other.length == tokenized.length])


def _packed(delta: Tensor, ball: Ball) -> list[float]:
    """δ where there is noise; elsewhere it is 0."""
    return [float(v) for v in delta[ball.sigma > 0]]


def _unpacked(values: list[float], ball: Ball) -> Tensor:
    """δ again."""
    delta = torch.zeros_like(ball.y)
    delta[ball.sigma > 0] = torch.tensor(values, dtype=torch.float64)
    return delta


def _digest(folder: str | Path | None) -> str:
    """Of a folder's weights; "" for none."""
    return "" if folder is None else files.digest(*sorted(Path(folder).rglob("*.safetensors")))
