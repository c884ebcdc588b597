"""Downstream: from the deployed encoding to noise predictions, concept scores, images and detectors.

A deployment turns K noisy copies of a prompt's token embeddings into the encoding that conditions the U-Net. Whatever is
computed from that encoding is a statistic of the K copies, and T5 speaks about it (docs/theory/t05-deployed.md):

    embedding_distance           ‖h − c‖                                            `certify.statistic_bound`
    concept_score                ⟨h, v⟩/‖v‖                                         `certify.statistic_bound`
    noise_prediction_distance    Σ_j w_j ‖ε(x_j, h, t_j) − ε(x_j, c, t_j)‖²         `certify.statistic_bound`
    sampled_noise_prediction     min{M, ‖ε(x_t, h, t) − ε(x_t, c, t)‖²}, (x_t, t) random  `certify.mean_bound` (T14)
    concept_score, cosine=True   ⟨h, v⟩/(‖h‖ ‖v‖), in [−1, 1]                          `certify.mean_bound` (T14)
    attack_succeeds              does a detector fire on the image made with h?     `certify.event_bound` (T14)

    d = adaptive.deployment("a photo of …")
    certify.event_bound(attack_succeeds(d, pipe, detector), d.y, d.noise, replicas=d.copies, rho=…)

`certify.images.rates.attack_rate_over` bounds the mean of that event's probability over a set of prompts, from images of
all of them.

They are defined for any deployment: an object with `copies` and a call `(z, generator)`, z (b, copies, tokens, width) →
(b, tokens, width). References (c, v, the trajectory) must not depend on the draws that bound the statistic. The generator's
randomness, smoothing noise beyond that in z and initial noise of images, does not depend on the prompt: T5 allows it.

`noise_prediction` is of another kind: a function of one noisy copy, for the smoother that takes the median or mean over noise
*predictions* (sections 3.2 and 3.3 of Han et al. 2025), to which T1, T2, T4, T11 and T12 apply.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from certify import _validate
from certify._floats import length, squared_lengths
from certify.images.detectors import Detector, detected, load_detector
from certify.images.generation import images
from certify.models import NoisePredictor, PromptEncoder, Trajectory
from certify.models.sampling import initial_noise, one_encoding, sample
from certify.models.trajectory import level
from certify.noise import GaussianNoise
from certify.statements.rates import Block

__all__ = [
    "Deployed",
    "DeployedPrompt",
    "attack_succeeds",
    "concept_score",
    "embedding_distance",
    "noise_prediction",
    "noise_prediction_distance",
    "sampled_noise_prediction",
]

Statistic = Callable[..., Tensor]
"""(z, generator=None), z (b, copies, tokens, width) → (b,)."""


class Deployed(Protocol):
    """What these statistics need of a deployment."""

    @property
    def copies(self) -> int:
        """Noisy copies of the input behind one deployed encoding: `replicas` of the statement."""

    def __call__(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(b, copies, tokens, width) → (b, tokens, width)."""


class DeployedPrompt(Deployed, Protocol):
    """And of a deployment whose copies a statement draws itself: `AdaptiveMedianSmoother.deployment` makes them."""

    @property
    def y(self) -> Tensor:
        """(tokens, width), the prompt's token embeddings."""

    @property
    def noise(self) -> GaussianNoise:
        """What is added in each copy; σ = 0 where nothing is."""


def embedding_distance(deployment: Deployed, center: Tensor) -> Statistic:
    """How far the deployed encoding is from a reference.

    Equation
        S = ‖h − c‖, an ℓ2 distance over all positions (not squared)

    Reference
        THEORY T5, first row of the table.

    Args:
        deployment: z ↦ h.
        center: c, (tokens, width).
    """
    reference = one_encoding("center", center).double()

    def distance(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        h = deployment(z, generator).double()
        return length((h - reference.to(h.device)).flatten(1), dim=1)

    return distance


def concept_score(
    deployment: Deployed, direction: Tensor, *, end: int | None = None, cosine: bool = False
) -> Statistic:
    """How far the deployed encoding points into the direction of a concept.

    Equation
        S = ⟨h, v⟩ / ‖v‖, over all positions, or at the end-of-text position alone;  for `cosine` divided by ‖h‖, too: in
        [−1, 1], so that its mean has a bound, `certify.mean_bound(…, lower=-1.0, upper=1.0)`

    Reference
        THEORY T5, third row of the table; T14.

    Args:
        deployment: z ↦ h.
        direction: v, (tokens, width), or (width,) for the end-of-text position: what `concept_direction` returns for the
            similarities "flattened" and "end-of-text".
        end: the end-of-text position, for (width,); None: that of the deployment's own prompt (`deployment.side.end`).
        cosine: divided by the length of h as well; 0 where h is.

    Raises:
        ValueError: `direction` is zero or has another shape, or the end-of-text position is not known.
    """
    v = _validate.finite_tensor("direction", direction).detach().double()
    if v.ndim not in (1, 2) or not bool(v.any()):
        raise ValueError(f"direction has shape {tuple(v.shape)}: must be (tokens, width) or (width,), and not zero")
    if v.ndim == 1 and end is None:
        end = getattr(getattr(deployment, "side", None), "end", None)
        if end is None:
            raise ValueError("end = None: must be the end-of-text position for a direction of shape (width,)")
    cosine = _validate.flag("cosine", cosine)
    position = None if v.ndim == 2 else _validate.count("end", end, minimum=0)
    unit = v.flatten() / length(v)

    def score(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        h = deployment(z, generator).double()
        h = h.flatten(1) if position is None else h[:, position]
        if h.shape[1] != len(unit):
            raise ValueError(f"direction has {len(unit)} entries: must have {h.shape[1]}, as the encoding")
        found = h @ unit.to(h.device)
        if not cosine:
            return found
        return (found / length(h, dim=1).clamp(min=torch.finfo(torch.float64).tiny)).clamp(-1.0, 1.0)

    return score


def noise_prediction_distance(
    deployment: Deployed,
    denoiser: NoisePredictor,
    trajectory: Trajectory,
    center: Tensor,
    *,
    guidance: float | None = None,
    batch: int = 64,
) -> Statistic:
    """How far the noise predicted with the deployed encoding is from that with a reference: the text-stage smoother's MSE.

    Equation
        S = Σ_j w_j ‖ε(x_j, h, t_j) − ε(x_j, c, t_j)‖²,  times g² for the guided prediction

    The guided prediction is ε_u + g (ε_c − ε_u), and ε_u does not depend on the prompt: it cancels.

    Reference
        THEORY T5, second row of the table; Han et al. (2025), section 3.4, where this smoother comes without a guarantee.

    Args:
        deployment: z ↦ h.
        denoiser: ε.
        trajectory: the fixed (x_j, t_j) with weights w_j.
        center: c, (tokens, width).
        guidance: g of the guided prediction; None: the conditional prediction.
        batch: rows in one call of the U-Net.
    """
    scale = 1.0 if guidance is None else _validate.positive("guidance", guidance) ** 2
    batch = _validate.count("batch", batch)
    reference = denoiser.along(trajectory, one_encoding("center", center), batch=batch).double()
    weights = scale * trajectory.weights

    def distance(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        predicted = denoiser.along(trajectory, deployment(z, generator), batch=batch).double()
        each = squared_lengths((predicted - reference).flatten(2), dim=2)
        return each @ weights.to(each.device)

    return distance


class _Seen(Exception):
    """Ends a run of the sampler whose further points nobody looks at."""


def sampled_noise_prediction(
    deployment: Deployed,
    denoiser: NoisePredictor,
    pipe: Any,
    center: Tensor,
    *,
    most: float,
    steps: int = 50,
    guidance: float = 7.5,
    weights: Sequence[float] | Tensor | None = None,
    unconditional: Tensor | None = None,
    batch: int = 64,
) -> Statistic:
    """How far the noise predicted with the deployed encoding is from that with a reference, at a point of a fresh run: the
    quantity of Han et al. (2025), an expectation over the sampler's own random (x_t, t), of the deployed text-stage smoother.

    Equation
        S = min{ M, ‖ε(x_t, h, t) − ε(x_t, c, t)‖² },   E S = Σ_t w_t E_{x_t} min{ M, ‖…‖² }
        x_T ~ N(0, I) and, where the scheduler draws any, fresh noise at every step; t is the i-th of the U-Net's runs with
        probability w_i; x_t what the run with the reference c visits there. M = `most`.

    Its mean has a bound, `certify.mean_bound(…, lower=0.0, upper=most)`: (x_t, t) is internal randomness whose law does not
    depend on the prompt. `noise_prediction_distance` is the same at fixed points, and its percentile (T5). An attack that also
    moves the x_t is not covered, as there.

    Reference
        THEORY T14; Han et al. (2025), sections 3.2 and 3.4, Appendix B.

    Args:
        deployment: z ↦ h.
        denoiser: ε.
        pipe: the pipeline whose sampler visits the points.
        center: c, (tokens, width), independent of the draws.
        most: M > 0. Larger values count as M: the claim is about that.
        steps, guidance, unconditional: of the sampler, as for `Trajectory.of`.
        weights: w_i, one for each of the U-Net's runs, ≥ 0; divided by their sum. None: equal ones, as in the paper.
        batch: rows in one call of the U-Net.

    Returns:
        A random statistic, (z, generator, repeats=None) → (b,) or (b, repeats) in [0, M].

    Raises:
        ValueError, TypeError: an argument out of range; another number of weights than runs.
    """
    most, batch = _validate.positive("most", most), _validate.count("batch", batch)
    reference = one_encoding("center", center)
    how: dict[str, Any] = {
        "steps": _validate.count("steps", steps),
        "guidance": _validate.positive("guidance", guidance),
    }
    if unconditional is None:
        without = PromptEncoder.from_pipeline(pipe).plain([""])
    else:
        without = one_encoding("unconditional", unconditional)
    runs = len(Trajectory.of(pipe, reference, unconditional=without, **how))
    shares = torch.ones(runs, dtype=torch.float64)
    if weights is not None:
        shares = _validate.finite_tensor("weights", torch.as_tensor(weights)).detach().to("cpu", torch.float64)
        if tuple(shares.shape) != (runs,) or bool((shares < 0).any()) or not bool((shares > 0).any()):
            raise ValueError(
                f"weights = {shares.tolist()}: must be {runs} numbers >= 0, one for each run of the U-Net, not all 0"
            )

    def at(h: Tensor, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(shares.to(generator.device), len(h), replacement=True, generator=generator).cpu()
        found, last = torch.empty(len(h), dtype=torch.float64), int(which.max())

        def watch(i: int, x: Tensor, t: Tensor, scheduler: Any) -> None:
            rows = (which == i).nonzero()[:, 0]
            if len(rows):
                here = rows.to(x.device)
                levels = torch.full((len(rows),), level(i, t, scheduler), dtype=torch.float64)
                times = torch.full((len(rows),), float(t), dtype=torch.float64)
                smoothed, plain = (
                    denoiser.at_rows(x[here], times, levels, c).double()
                    for c in (h[rows.to(h.device)], reference.to(h.device, h.dtype).expand(len(rows), -1, -1))
                )
                found[rows] = squared_lengths((smoothed - plain).flatten(1), dim=1).cpu()
            if i == last:
                raise _Seen

        noise = initial_noise(pipe, len(h), generator)
        embeds = reference.expand(len(h), -1, -1)
        with contextlib.suppress(_Seen):
            sample(pipe, embeds, without, noise, source=generator, watch=watch, **how)
        return found.clamp(max=most)

    def distance(z: Tensor, generator: torch.Generator, repeats: int | None = None) -> Tensor:
        if generator is None:
            raise ValueError("generator = None: must be given, the points are drawn from it")
        h = deployment(z, generator).repeat_interleave(repeats or 1, dim=0)
        values = torch.cat([at(part, generator) for part in h.split(batch)]).to(z.device)
        return values if repeats is None else values.reshape(len(z), repeats)

    return distance


def noise_prediction(
    denoiser: NoisePredictor,
    encode: Callable[[Tensor], Tensor],
    trajectory: Trajectory,
    guidance: float | None = None,
    unconditional: Tensor | None = None,
    *,
    batch: int = 64,
    grad: bool = False,
) -> Callable[[Tensor], Tensor]:
    """The noise predicted along a trajectory, as a function of token embeddings: f of the full noise-prediction smoother.

    Equation
        f(z)_j = √w_j ε(x_j, T(z), t_j),  or √w_j (ε_u + g (ε(x_j, T(z), t_j) − ε_u)) with ε_u = ε(x_j, c_u, t_j)

    With the weights inside, the squared distance of two outputs is the weighted mean over the trajectory,
    ‖f(z) − f(z')‖² = Σ_j w_j ‖ε_j − ε'_j‖²; median and mean commute with them. ε_u is computed once. A bound for the guided
    prediction is g² times that for the conditional one, and the draws cost the same.

    Reference
        Han et al. (2025), sections 3.2 and 3.3.

    Args:
        denoiser: ε.
        encode: T, (b, tokens, width) → (b, tokens, width).
        trajectory: the fixed (x_j, t_j) with weights w_j.
        guidance: g; None: the conditional prediction.
        unconditional: c_u, (tokens, width), fixed; goes with `guidance`.
        batch: rows in one call of the U-Net.
        grad: keep the graph, for attacks by gradient.

    Returns:
        f: (b, tokens, width) → (b, points, channels, height, width).

    Raises:
        ValueError: one of `guidance` and `unconditional` without the other.
    """
    if (guidance is None) != (unconditional is None):
        raise ValueError("guidance, unconditional: must be given both (guided prediction) or neither (conditional)")
    batch = _validate.count("batch", batch)
    roots = trajectory.weights.sqrt()
    g, without = 1.0, torch.zeros(())
    if guidance is not None and unconditional is not None:
        g = _validate.positive("guidance", guidance)
        without = denoiser.along(trajectory, one_encoding("unconditional", unconditional), batch=batch)

    def predictions(z: Tensor) -> Tensor:
        predicted = denoiser.along(trajectory, encode(z), batch=batch, grad=grad)
        if guidance is not None:
            predicted = without + g * (predicted - without)
        return predicted * roots.to(predicted.device, predicted.dtype)[:, None, None, None]

    return predictions


def attack_succeeds(
    deployment: Deployed,
    pipe: Any,
    detector: str | Detector,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    unconditional: Tensor | None = None,
    batch: int = 64,
) -> Statistic:
    """The event that a detector fires on the image made with the deployed encoding, from fresh initial noise.

    Equation
        S = 1[ detector( image( h, x_T ) ) ],  x_T ~ N(0, I)

    Its probability, over smoothing noise and initial noise, is the success rate of the attacker who chose the prompt;
    `certify.event_bound` bounds it for every prompt in the ellipsoid.

    Reference
        THEORY T5, last row of the table.

    Args:
        deployment: z ↦ h.
        pipe: a Stable Diffusion pipeline.
        detector: see `certify.images.load_detector`.
        steps, guidance: sampler settings, as for `certify.images.generation.images`. The claim is about these.
        unconditional: (1, tokens, width), the fixed branch without the prompt; None: the plain encoding of "".
        batch: images at a time.

    Returns:
        A random event, (z, generator) → booleans (b,); with `repeats=j`, j images of each deployed encoding, (b, j), each of
        which is encoded once.
    """
    fires = load_detector(detector)
    make = image_maker(pipe, steps, guidance, unconditional, batch)

    def succeeds(z: Tensor, generator: torch.Generator, repeats: int | None = None) -> Tensor:
        if generator is None:
            raise ValueError("generator = None: must be given, the initial noise is drawn from it")
        h = deployment(z, generator)
        if repeats is None:
            return detected(fires, make(h, generator=generator)).to(z.device)
        fired = detected(fires, make(h.repeat_interleave(repeats, dim=0), generator=generator))
        return fired.reshape(len(z), repeats).to(z.device)

    return succeeds


def encodings_of(deployments: Sequence[Deployed], block: Block) -> Tensor:
    """(draws, tokens, width), one prompt's after the other, put back in the order of the draws."""
    encodings = [deployments[i](z, block.source) for i, _, z in block.groups]
    shapes = {tuple(h.shape[1:]) for h in encodings}
    if len(shapes) > 1:
        raise ValueError(f"deployments give encodings of shapes {sorted(shapes)}: must give one shape")
    return torch.cat(encodings)[torch.cat([rows for _, rows, _ in block.groups]).argsort()]


def image_maker(
    pipe: Any, steps: int, guidance: float, unconditional: Tensor | None, batch: int
) -> Callable[..., Tensor]:
    """`images` with its settings: the branch without the prompt is encoded once."""
    if unconditional is None:
        without = PromptEncoder.from_pipeline(pipe).plain([""])
    else:
        without = one_encoding("unconditional", unconditional)
    return functools.partial(
        images,
        pipe,
        negative=without,
        steps=_validate.count("steps", steps),
        guidance=_validate.positive("guidance", guidance),
        batch=_validate.count("batch", batch),
    )
