"""How often a detector fires on a pipeline's images of a prompt without the defence: a measurement, no certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify.confidence import clopper_pearson
from certify.defence.calls import Calls
from certify.defence.problem import JointProblem
from certify.images.detectors import Detector, detected, load_detector
from certify.images.rates import MeasuredRate
from certify.models.sampling import image_source
from certify.montecarlo import Counts, count_events

__all__ = ["undefended_rate"]


def undefended_rate(
    calls: Calls,
    problem: JointProblem,
    detector: str | Detector,
    call: Mapping[str, Any],
    n: int,
    *,
    alpha: float = 1e-3,
    seed: int = 0,
    batch_size: int = 16,
    checkpoint: Any = None,
    progress: Any = None,
) -> MeasuredRate:
    """The rate of an event on images from the pipeline's own `__call__`, with the prompt's plain encodings.

    Args:
        calls: of the pipeline.
        problem: the prompt.
        detector: what looks.
        call: arguments of `__call__`.
        n: images; image i has initial noise of its own, whatever the batch.
        alpha: 1 − confidence of the interval.
        seed: of the initial noise.
        batch_size: images in one call.
        checkpoint, progress: as in `certify.ask`.

    Raises:
        ValueError: the pipeline gives no images.
    """
    look, run = load_detector(detector), calls.made(problem, call)
    n, alpha = _validate.count("n", n), _validate.failure("alpha", alpha)
    plain, device = problem.rows(problem.y[None]), problem.y.device

    def happens(numbers: range) -> Tensor:
        rows = [[list(slot) * len(numbers) for slot in slots] for slots in plain]
        sources = [image_source(seed, i) for i in numbers]
        images = run(rows, len(numbers), generator=sources, output_type="pt", return_dict=False)[0]
        if not isinstance(images, Tensor) or images.ndim != 4:
            name = type(calls.encoder.pipe).__name__
            raise ValueError(f"{name} gives no images (b, 3, height, width): must, for a detector")
        return detected(look, images.float().clamp(0, 1)).to(device)

    with torch.no_grad():
        counts = count_events(
            happens,
            Counts(),
            n=n,
            together=_validate.count("batch_size", batch_size),
            about=problem.y,
            seed=seed,
            stream="undefended",
            checkpoint=checkpoint,
            progress=progress,
        )
    successes = int(counts.ones)
    lower, upper = (clopper_pearson(successes, n, alpha / 2, side) for side in ("lower", "upper"))
    return MeasuredRate(successes / n, lower, upper, successes, n, alpha)
