"""Rates: how often the images of one prompt, or of a set of prompts, set a detector off.

`attack_rate_over` certifies the mean over a set of prompts (T5, T14); for one prompt the event is `attack_succeeds`, and
its bound `certify.event_bound`'s. `undefended_rate` is no certificate: one takes noise. It counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from certify import _validate
from certify._records import Shown
from certify._text import confidence, percent
from certify.bounds.rates import RateOver
from certify.confidence import clopper_pearson
from certify.images.detectors import Detector, detected, load_detector
from certify.images.statistics import DeployedPrompt, encodings_of, image_maker
from certify.models import PromptEncoder
from certify.models.sampling import image_source, one_encoding
from certify.montecarlo import Counts, count_events
from certify.montecarlo.streams import generator as stream_generator
from certify.statements.drawing import CheckpointOptions, CountOptions, Draws
from certify.statements.rates import Block, RateDraws

__all__ = ["MeasuredRate", "attack_rate_over", "undefended_rate"]


@_validate.suggests(CountOptions)
def attack_rate_over(
    deployments: Sequence[DeployedPrompt],
    pipe: Any,
    detector: str | Detector,
    *,
    rhos: Sequence[float],
    alpha: float = 1e-3,
    two_sided: bool = False,
    repeats: int | None = 1,
    steps: int = 50,
    guidance: float = 7.5,
    unconditional: Tensor | None = None,
    batch: int = 64,
    **options: Unpack[CountOptions],
) -> RateOver:
    """The mean success rate of attacks over a set of prompts, whatever each prompt is perturbed to (T5, corollary; T14).

    Equation
        for all ‖δ_i‖_{Σ_i} ≤ ρ:  (1/m) Σ_i P[ detector fires on the image made at y_i + δ_i ] ≤ Φ(Φ⁻¹(p̄) + √K ρ),
        p̄ the Clopper–Pearson limit of the mean at the y_i, from n images of prompts chosen at random with replacement (T5);
        or from several images of each draw of a prompt and its copies (T14).

    Every Σ_i is fixed: the claim is about the m smoothers that `deployments` are, each for its own prompt. A prompt whose
    deployment has no noise is covered for δ = 0 only. With different numbers of copies, K is the largest.

    Reference
        THEORY T5, corollary; T14 (docs/theory/t05-deployed.md, docs/theory/t14-bounded-means.md).

    Args:
        deployments: one a prompt, all with encodings of the same shape.
        pipe: a Stable Diffusion pipeline.
        detector: see `certify.images.load_detector`.
        rhos: radii > 0, increasing; the bound at others is `RateOver.at`.
        alpha: failure probability over all images, of the statement at all radii together.
        two_sided: bound the mean from below, too; α is then shared.
        repeats: images of each draw of a prompt's copies; 1: T5. None: chosen on pilot draws, a fifth as many images besides.
        steps, guidance, unconditional: as for `attack_succeeds`.
        batch: images at a time, of whatever prompts. Only rounding depends on it.
        **options: of drawing: those of `certify.statements.drawing.Draws`. n is the draws of copies, for `repeats` None the
            images in all; 1 000 if it is not given. The prompts' order does not matter; the `function` of a checkpoint should
            name model and detector.

    Returns:
        `RateOver`.

    Raises:
        ValueError, TypeError: an argument out of range, or deployments whose encodings differ in shape.
    """
    given = list(deployments)
    for i, deployment in enumerate(given):
        if not callable(deployment) or not all(hasattr(deployment, name) for name in ("y", "noise", "copies")):
            raise TypeError(f"deployments[{i}] is a {type(deployment).__name__}: must have y, noise, copies and a call")
    if not given:
        raise ValueError("deployments is empty: must hold at least one")
    fires = load_detector(detector)
    make, batch = image_maker(pipe, steps, guidance, unconditional, batch), _validate.count("batch", batch)
    options.setdefault("n", 1000)
    inputs = [d.y for d in given], [d.noise for d in given], [d.copies for d in given]
    drawing = RateDraws(*inputs, rhos, alpha, two_sided, repeats, about=f"{steps} {guidance}", **options)

    def verdicts(blocks: Sequence[Block]) -> Tensor:
        encodings, j, pilot = (
            torch.cat([encodings_of(given, block) for block in blocks]),
            blocks[0].repeats,
            blocks[0].pilot,
        )
        rows = [j * (block.first + row) + i for block in blocks for row in range(block.count) for i in range(j)]
        sources = [stream_generator(drawing.seed, "images", row, internal=pilot) for row in rows]
        fired = detected(fires, make(encodings.repeat_interleave(j, dim=0), generator=sources))
        return fired.reshape(-1, j) if j > 1 else fired

    return drawing.bounded(verdicts, batch)


@dataclass(frozen=True)
class MeasuredRate(Shown):
    """How often a detector fired on images of one prompt: a measurement at this prompt, not a certificate.

    Attributes:
        rate: successes / n.
        lower, upper: Clopper–Pearson interval of the probability at confidence 1 − α (α/2 a side).
        successes, n, alpha: as counted and asked.
    """

    rate: float
    lower: float
    upper: float
    successes: int
    n: int
    alpha: float

    def __str__(self) -> str:
        return (
            f"measured {percent(self.rate, 'near')} ({self.successes} of {self.n} images; "
            f"{percent(self.lower, 'down')} … {percent(self.upper, 'up')} at confidence {confidence(self.alpha)})"
        )


@_validate.suggests(CheckpointOptions)
def undefended_rate(
    pipe: Any,
    prompt: str | Tensor,
    detector: str | Detector,
    n: int = 500,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    unconditional: Tensor | None = None,
    alpha: float = 1e-3,
    batch: int = 64,
    **options: Unpack[CheckpointOptions],
) -> MeasuredRate:
    """How often a detector fires on images of a prompt without the defence.

    Args:
        pipe: a Stable Diffusion pipeline.
        prompt: a prompt, or an encoding, (tokens, width): the same for all images.
        detector: see `certify.images.load_detector`.
        n: images; image i is that of `certify.images.generation.images(…, seed=seed)`.
        steps, guidance, unconditional, batch: as for `certify.images.generation.images`.
        alpha: 1 − confidence of the interval.
        **options: of drawing: those of `certify.statements.drawing.Draws`.

    Raises:
        ValueError, TypeError: an argument out of range; the checkpoint is another run's.
    """
    drawing, alpha = Draws(n, **options), _validate.failure("alpha", alpha)
    fires, n, seed = load_detector(detector), drawing.n, drawing.seed
    make, batch = image_maker(pipe, steps, guidance, unconditional, batch), _validate.count("batch", batch)
    embeds = (
        PromptEncoder.from_pipeline(pipe).plain([prompt]) if isinstance(prompt, str) else one_encoding("prompt", prompt)
    )

    def happens(numbers: range) -> Tensor:
        shown = make(embeds.expand(len(numbers), -1, -1), generator=[image_source(seed, i) for i in numbers])
        return detected(fires, shown)

    counts = count_events(
        happens,
        Counts(),
        n=n,
        together=batch,
        about=embeds,
        seed=seed,
        stream="undefended",
        checkpoint=drawing.checkpoint,
        progress=drawing.progress,
    )
    successes = int(counts.ones)
    lower, upper = (clopper_pearson(successes, n, alpha / 2, side) for side in ("lower", "upper"))
    return MeasuredRate(successes / n, lower, upper, successes, n, alpha)
