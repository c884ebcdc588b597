"""Certified rates of images: what T14 makes of as many images as T5.

UCE has erased the circle from the embedded model's U-Net, and the smoother suppresses the word: an image of the prompt shows
one by chance, whatever the copies are. For each number of copies, radius and number of images: how many images each draw of the
copies gets is chosen on pilot draws (`certify.event_bound`, `repeats=None`). Beside it T5 for a count of as many images at the
same rate.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from certify import AdaptiveMedianSmoother, GaussianNoise, event_bound, load_pipeline, world
from certify.confidence import clopper_pearson
from certify.images.statistics import attack_succeeds
from experiments import unlearning
from experiments.unlearning import saving
from experiments.unlearning.command import ensure_result, settings_of
from experiments.unlearning.concept import Concept

__all__ = ["CASES", "PROMPT", "row", "table"]

PROMPT, CONCEPT, ALPHA = "an image of a purple circle on a lilac background", "circle", 1e-3
CASES = ((13, 0.25, 2_000), (1, 1.0, 2_000), (13, 0.25, 10_000), (1, 1.0, 10_000))
"""K, ρ, images."""


def erased(folder: Path) -> Any:
    """The embedded model without the concept."""
    method, concept = unlearning.METHODS["uce"], Concept.embedded(CONCEPT)
    ensure_result(folder, method, concept, settings_of(method, concept, [], embedded=True), seed=0)
    return load_pipeline(**saving.overlays(folder))


def row(pipe: Any, replicas: int, rho: float, images: int) -> str:
    """One line of the table."""
    began, seen = time.perf_counter(), []
    adaptive = AdaptiveMedianSmoother.from_pipeline(pipe, [CONCEPT], n=replicas, **world.SMOOTHING)
    d = adaptive.deployment(PROMPT)
    sampler: dict[str, Any] = {
        "steps": int(world.DEFAULTS["num_inference_steps"]),
        "guidance": float(world.DEFAULTS["guidance_scale"]),
    }
    event = attack_succeeds(d, pipe, f"judge:{CONCEPT}", **sampler)

    def counted(z: Any, generator: Any, repeats: int | None = None) -> Any:
        fired = event(z, generator, repeats)
        seen.extend(fired.flatten().double().tolist())
        return fired

    e = event_bound(counted, d.y, d.noise, rho=rho, replicas=d.copies, repeats=None, n=images, alpha=ALPHA)
    rate = sum(seen) / len(seen)
    t5 = 1 - GaussianNoise(1.0).tails(clopper_pearson(round(rate * images), images, ALPHA), rho, replicas).upper
    return (
        f"| {replicas} | {rho:g} | {images:,} | {e.n:,} × {getattr(e, 'repeats', 1)} | {rate:.3f} | {t5:.3f} | "
        f"{e.value:.3f} | {time.perf_counter() - began:.0f} |"
    )


def table(quick: bool) -> str:
    """As Markdown."""
    lines = [
        "## Certified rates of images",
        "",
        f"“{PROMPT}”, the circle erased by UCE and suppressed by the smoother; confidence {1 - ALPHA:g}.",
        "Pilot images, a fifth as many, come besides.",
        "",
        "| K | ρ | images | draws × images each | rate | T5 at this rate | T14 | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        pipe = erased(Path(folder))
        for case in ((2, 0.1, 48),) if quick else CASES:
            lines.append(row(pipe, *case))
            print(lines[-1], flush=True)
    return "\n".join(lines)
