"""The attacker's fine-tune: how many steps bring a concept back, or teach a model something harmless?

Who holds a model's weights can train them on images of what was taken out. Four attackers, by what they train:

    full    the whole U-Net (DreamBooth without its prior term)
    xattn   its cross-attention
    lora    low-rank additions W + B A (rank 4) to the maps of all its attention; B = 0 at the start
    ti      textual inversion: the embedding of one new token, and nothing of the model

All minimise the diffusion loss ‖U(x_t, t, c) − truth‖² on images of the concept with captions that name it. Every few steps
a fixed set of images is generated from fixed prompts and noise, and judged: the share that shows the concept against
the steps is the *curve*. Its figures are the *steps to recover* (the first measured step with a share ≥ the threshold;
censored at the end where there is none) and the *area* (the mean share over all steps). The same measurement on
something harmless tells whether a model can still be taught.

On the embedded model images are rendered and the judge decides; the harmless lesson is a new word ("a red florp") for a
shape that the model draws. On other models images come from a folder with a prompt, or are given, and a detector decides.

Known from the public source: DreamBooth's rate 5e-6, low-rank additions to query, key, value and output maps with A
random and B = 0 at rate 1e-4, textual inversion at 5e-4 … 1e-3. Ours: AdamW with weight decay 0.01 for all of them, no
prompt dropout; A is drawn from the run's own generator.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from certify import _files, _validate
from experiments import files
from experiments.sentences import filled
from experiments.settings import check
from experiments.unlearning.adapters import Word, low_rank
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import copied
from experiments.unlearning.parameters import trainable
from experiments.unlearning.training import Rng, TrainingLoop

__all__ = [
    "ATTACKERS",
    "RATES",
    "Attack",
    "Curve",
    "Examples",
    "Probe",
    "Settings",
    "attack",
    "diffusion_loss",
    "lesson",
]

ATTACKERS = ("full", "xattn", "lora", "ti")

RATES = {"full": 5e-6, "xattn": 5e-6, "lora": 1e-4, "ti": 1e-3}
"""Published learning rates, for Stable Diffusion."""

EMBEDDED_RATES = {"full": 5e-5, "xattn": 2e-4, "lora": 1e-3, "ti": 5e-3}
"""For the embedded model, which is a few hundred times smaller."""


@dataclass(frozen=True)
class Settings:
    """How the attacker trains.

    Attributes:
        attacker: one of `ATTACKERS`.
        steps, batch: of AdamW, and images in one.
        learning_rate: None: `RATES` of the attacker.
        rank: of "lora".
        initial: the word that "ti" starts from; "": the concept's neutral word, or "object".
        every: steps between measurements.
    """

    attacker: str = "full"
    steps: int = 1000
    batch: int = 1
    learning_rate: float | None = None
    rank: int = 4
    initial: str = ""
    every: int = 50

    def __post_init__(self) -> None:
        check(
            self,
            counts=("steps", "batch", "rank", "every"),
            positive=("learning_rate",),
            choices={"attacker": ATTACKERS},
        )

    @classmethod
    def embedded(cls, attacker: str, **given: Any) -> Settings:
        """For the embedded model."""
        _validate.choice("attacker", attacker, ATTACKERS)
        options = {"steps": 200, "batch": 8, "learning_rate": EMBEDDED_RATES[attacker], "every": 10}
        return cls(attacker, **(options | given))

    @property
    def rate(self) -> float:
        """AdamW's."""
        return RATES[self.attacker] if self.learning_rate is None else self.learning_rate

    def measured(self) -> tuple[int, ...]:
        """The steps after which there is a measurement: 0, every, 2 every, …, and the last."""
        return (*range(0, self.steps, self.every), self.steps)


@dataclass(frozen=True)
class Examples:
    """Images, as latents, and what is said of them.

    Attributes:
        latents: (n, channels, height, width).
        templates: a sentence an image, with "{}" where the phrase stands.
        phrase: what stands there.
    """

    latents: Tensor
    templates: tuple[str, ...]
    phrase: str

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.templates) or not self.templates:
            raise ValueError(
                f"templates holds {len(self.templates)} sentences: must be one each for {len(self.latents)} ≥ 1 images"
            )
        wrong = [t for t in self.templates if t.count("{}") > 1]
        if wrong:
            raise ValueError(f"templates holds {wrong[0]!r}: must have at most one '{{}}'")

    @classmethod
    def rendered(
        cls,
        diffusion: Diffusion,
        concept: Concept,
        count: int = 256,
        *,
        seed: int = 0,
        shows: bool = True,
        phrase: str | None = None,
        kind: str | None = "named",
    ) -> Examples:
        """Scenes of the embedded world with captions.

        Args:
            diffusion: whose autoencoder makes latents of them.
            concept: of the embedded world.
            count, seed: how many scenes, and which.
            shows: scenes that show the concept; False: only those that do not.
            phrase: how the concept is called; None: by its name. Unused where `shows` is False.
            kind: of caption ("named", "synonym", "neutral"; None: drawn). Unused where `shows` is True and a phrase is given.
        """
        world, texts = concept.world, []
        rows = world.scenes(concept.name, _validate.count("count", count), seed, shows)
        rng, source = random.Random(seed), torch.Generator().manual_seed(seed)
        for row in rows:
            if shows and kind == "named":
                texts.append(world.template(concept.name, row, rng))
            else:
                texts.append(world.caption(row, rng, kind))
        latents = diffusion.latents(world.draw(rows, source))
        return cls(latents, tuple(texts), concept.erase[0] if phrase is None else phrase)

    @classmethod
    def folder(cls, diffusion: Diffusion, folder: str | Path, prompt: str) -> Examples:
        """Every PNG and JPEG of a folder, cut to its middle square and resized to the model's own size.

        Args:
            diffusion: whose autoencoder makes latents of them.
            folder: where they are.
            prompt: what is said of all of them; a phrase that "ti" learns stands in "{}" around it, as in "a photo of {cat}".

        Raises:
            FileNotFoundError: the folder holds no image.
        """
        scale = int(diffusion.pipe.vae_scale_factor)
        _, height, width = diffusion.latent_shape()
        images = files.images(folder, height * scale, width * scale)
        template, phrase = _parted(prompt)
        return cls(diffusion.latents(images), (template,) * len(images), phrase)

    def draw(self, count: int, rng: Rng) -> tuple[Tensor, list[str]]:
        """Latents (count, …) and templates of random examples."""
        picked = torch.randint(len(self.templates), (count,), generator=rng.source)
        return self.latents[picked.to(self.latents.device)], [self.templates[i] for i in picked.tolist()]


@dataclass(frozen=True)
class Probe:
    """A fixed set of images to judge.

    Attributes:
        templates: a prompt an image, with "{}" where the phrase stands.
        phrase: what stands there.
        verdict: images (n, 3, height, width) in [0, 1] → (shown (n,) of booleans, scores (n,)).
        steps, guidance: of the sampler.
        seed: of the noise.
    """

    templates: tuple[str, ...]
    phrase: str
    verdict: Callable[[Tensor], tuple[Tensor, Tensor]]
    steps: int = 50
    guidance: float = 7.5
    seed: int = 6

    @classmethod
    def embedded(cls, concept: Concept, count: int = 48, *, phrase: str | None = None, seed: int = 5) -> Probe:
        """Captions of the embedded world that name the concept, or call it by another phrase; the judge's label."""
        world, rng = concept.world, random.Random(seed)
        shown = world.scenes(concept.name, _validate.count("count", count), seed, shows=True)
        texts = [world.template(concept.name, row, rng, full=True) for row in shown]
        asked = {concept.head: concept.name}

        def verdict(images: Tensor) -> tuple[Tensor, Tensor]:
            images = images.cpu()
            return torch.tensor(world.right(images, [asked] * len(images))), world.probability(images, concept.name)

        chosen = concept.erase[0] if phrase is None else phrase
        return cls(tuple(texts), chosen, verdict, world.steps, world.guidance)

    @classmethod
    def detector(
        cls,
        spec: str,
        prompt: str,
        count: int = 32,
        *,
        steps: int = 50,
        guidance: float = 7.5,
        seed: int = 6,
    ) -> Probe:
        """One prompt, many times, and a detector of `certify.load_detector`, whose verdict is the score as well.

        Args:
            spec: the detector.
            prompt: with the phrase in braces, as in `Examples.folder`.
            count: images.
            steps, guidance, seed: of the sampler and of the noise.
        """
        from certify.images.detectors import detected, load_detector

        finder = load_detector(spec)

        def verdict(images: Tensor) -> tuple[Tensor, Tensor]:
            shown = detected(finder, images)
            return shown, shown.float()

        template, phrase = _parted(prompt)
        return cls((template,) * _validate.count("count", count), phrase, verdict, steps, guidance, seed)

    def measure(self, diffusion: Diffusion, encode: Callable[[Sequence[str]], Tensor]) -> tuple[float, float]:
        """(share of the images that show it, mean score).

        Args:
            diffusion: the model as it is now.
            encode: templates → encodings (n, tokens, width), with the phrase or what was learned in its place.
        """
        from certify.images import generation as generate

        with torch.no_grad():
            images = generate.images(
                diffusion.pipe,
                encode(self.templates).detach(),
                negative=diffusion.encode([""]),
                seed=self.seed,
                batch=64,
                steps=self.steps,
                guidance=self.guidance,
            )
        shown, scores = self.verdict(images)
        return float(shown.float().mean()), float(scores.mean())


@dataclass(frozen=True)
class Curve:
    """What was measured while the attacker trained.

    Attributes:
        attacker: one of `ATTACKERS`.
        steps: after which there was a measurement, from 0.
        shares: of the images, those that show it.
        scores: mean score.
    """

    attacker: str
    steps: tuple[int, ...]
    shares: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def area(self) -> float:
        """Mean share over all steps (the area under the curve, by trapezoids, divided by its length)."""
        pairs = list(zip(self.steps, self.shares, strict=True))
        total = sum((b - a) * (p + q) / 2 for (a, p), (b, q) in pairwise(pairs))
        return total / (self.steps[-1] - self.steps[0])

    def reached(self, threshold: float = 0.5) -> int | None:
        """The first measured step with a share ≥ the threshold; None: not within the steps (censored)."""
        _validate.probability("threshold", threshold)
        return next((s for s, share in zip(self.steps, self.shares, strict=True) if share >= threshold), None)


@dataclass(frozen=True)
class Attack:
    """What an attacker has in the end.

    Attributes:
        curve: what was measured.
        tensors: what was trained, named as its file names it: a state dict of the U-Net (full, xattn), low-rank additions
            as diffusers and peft name them (lora), or the token's embedding (ti), as `load_textual_inversion` reads it.
        losses: of every step made in this call.
    """

    curve: Curve
    tensors: dict[str, Tensor]
    losses: list[float] = field(default_factory=list)

    def save(self, path: str | Path) -> Path:
        """Writes the tensors as a safetensors file."""
        path = Path(path)
        _files.make_folder(path.parent)
        _files.write_tensors(path, self.tensors)
        return path


def diffusion_loss(
    diffusion: Diffusion,
    x_0: Tensor,
    c: Tensor,
    rng: Rng,
    predict: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """mean ‖U(x_t, t, c) − truth‖² with t uniform and fresh noise: what a diffusion model is trained on.

    Args:
        diffusion: the model.
        x_0: (b, channels, height, width), latents of images.
        c: (b, tokens, width), encodings.
        rng: draws t and the noise.
        predict: (x_t, t, c) → prediction; None: the pipeline's U-Net.
    """
    t = diffusion.times(len(x_0), rng.source)
    noise = diffusion.normal(len(x_0), rng.source)
    predicted = (predict or diffusion.predict)(diffusion.noised(x_0, noise, t), t, c)
    return nn.functional.mse_loss(predicted, diffusion.truth(x_0, noise, t))


def attack(
    diffusion: Diffusion,
    examples: Examples,
    probe: Probe,
    settings: Settings,
    loop: TrainingLoop,
    *,
    neutral: str = "",
) -> Attack:
    """Fine-tunes the pipeline's U-Net in place (or a token beside it) and measures as it goes.

    Args:
        diffusion: the model; "lora" leaves the sum W + B A in its U-Net.
        examples: what it is trained on.
        probe: what is measured.
        settings: who attacks.
        loop: runs it; a stopped run goes on, with what it had measured.
        neutral: the word that "ti" starts from where the settings name none; "": "object".

    Raises:
        ValueError: nothing to train, or the loss is not finite.
    """
    word: Word | None = None
    if settings.attacker == "ti":
        diffusion.unet.requires_grad_(False)
        word = Word(diffusion.encoder, settings.initial or neutral or "object")
        weights: dict[str, Any] = {f"<{examples.phrase or 'concept'}>": word.vector}
    elif settings.attacker == "lora":
        weights = dict(low_rank(diffusion.unet, settings.rank, torch.Generator().manual_seed(loop.seed)))
    else:
        weights = dict(trainable(diffusion.unet, settings.attacker))
    optimiser = torch.optim.AdamW(weights.values(), lr=settings.rate, weight_decay=0.01)
    measured = settings.measured()
    table = torch.full((len(measured), 2), torch.nan, dtype=torch.float64)

    def encoded(phrase: str) -> Callable[[Sequence[str]], Tensor]:
        if word is not None:
            return word.encode
        return lambda templates: diffusion.encode([filled(t, phrase) if "{}" in t else t for t in templates])

    seen, asked = encoded(examples.phrase), encoded(probe.phrase)

    def measure(step: int) -> None:
        row = measured.index(step)
        if bool(table[row].isnan().any()):
            table[row] = torch.tensor(probe.measure(diffusion, asked), dtype=torch.float64)

    def loss(step: int, rng: Rng) -> Tensor:
        if step in measured:
            measure(step)
        x_0, templates = examples.draw(settings.batch, rng)
        return diffusion_loss(diffusion, x_0, seen(templates), rng)

    losses = loop.run("attack", weights, optimiser, settings.steps, loss, state={"measured": table})
    measure(settings.steps)
    tensors = copied(weights)
    if settings.attacker == "lora":
        for module in diffusion.unet.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    shares, scores = table[:, 0].tolist(), table[:, 1].tolist()
    return Attack(Curve(settings.attacker, measured, tuple(shares), tuple(scores)), tensors, losses)


def lesson(
    diffusion: Diffusion,
    concept: Concept,
    phrase: str | None = None,
    *,
    images: int = 256,
    asked: int = 48,
    seed: int = 0,
) -> tuple[Examples, Probe]:
    """What the attacker is given on the embedded model, and what is measured: a concept, by its name or by a new word."""
    return (
        Examples.rendered(diffusion, concept, images, seed=seed, phrase=phrase),
        Probe.embedded(concept, asked, phrase=phrase),
    )


def _parted(prompt: str) -> tuple[str, str]:
    """("a photo of {}", "cat") of "a photo of {cat}"; a prompt without braces is all phrase."""
    before, opened, rest = prompt.partition("{")
    phrase, closed, after = rest.partition("}")
    if not opened:
        return "{}", prompt
    if not closed or not phrase.strip() or "{" in after or "}" in after:
        raise ValueError(
            f"prompt = {prompt!r}: must hold the concept's phrase in braces once, as in 'a photo of {{cat}}'"
        )
    return f"{before}{{}}{after}", phrase.strip()
