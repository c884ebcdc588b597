"""What a command will draw, and how long that takes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from certify.cli import terminal

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother, PreparedPrompt
    from certify.datasets import ClassifierTask, PromptRow, RowOptions
    from certify.defence import Defence, JointProblem


_LOG = logging.getLogger(__name__)

MOST_HOURS = 24
"""What a run may take without --long."""


def show_work(said: str, seconds: float, *, long: bool, at_most: bool = False) -> None:
    """Prints what will be drawn and how long that takes; refuses what takes so long that it is probably a slip.

    Raises:
        ValueError: the estimate is over `MOST_HOURS`, and `long` is false.
    """
    about = "at most " if at_most else ""
    _LOG.info("%s: %sabout %.0f s", said, about, seconds)
    terminal.out.print(f"[dim]{said}: {about}about {terminal.duration(seconds)}[/]")
    if seconds > 3600 * MOST_HOURS and not long:
        raise ValueError(
            f"this takes {about}about {seconds / 3600:,.0f} hours: must be at most {MOST_HOURS}; ask for less "
            "(--n, --statistics, --images), or give --long to run it all the same"
        )


def work_ahead(
    prompt: PreparedPrompt,
    pipe: Any,
    n: int,
    steps: int = 0,
    statistics: int = 0,
    images: int = 0,
) -> tuple[str, float]:
    """What will be drawn, and about how many seconds it takes: one batch is timed first."""
    import torch

    from certify.montecarlo.streams import row_generator

    deployment, denoiser, encoder = prompt.deployment, prompt.adaptive.denoiser, prompt.adaptive.encoder
    source = row_generator(0, "timing", deployment.y.device)
    z = deployment.draw(source, 4)

    each = timed(lambda: deployment(z, source)) / 4  # one deployed encoding
    seconds = each * (n * 1.2 / deployment.replicas + (2 if pipe is not None else 1) * statistics + images)
    said = [f"{n:,} draws of {math.prod(deployment.y.shape):,} inputs"] if n else []
    if pipe is not None and denoiser is not None:
        x, h = torch.zeros(16, *denoiser.latent_shape, device=z.device), encoder.plain([prompt.tokenized] * 16)
        one = timed(lambda: denoiser(x, 1, h)) / 16
        seconds += one * (8 * statistics + 1.5 * images * (2 * steps + 4))
        said += [f"{statistics:,} statistics"] if n else []
        said += [f"{images:,} images"] if images else []
    return ", ".join(said), seconds


def joint_work_ahead(problem: JointProblem, n: int, statistics: int = 0, images: int = 0) -> tuple[str, float]:
    """As `work_ahead`, of a pipeline of any text encoders; what its denoiser takes is not timed."""
    rows = min(4, problem.smoother.batch_size)
    z = problem.y[None].repeat(rows, *[1] * problem.y.ndim)
    each = timed(lambda: problem.f(z)) / rows
    said = [f"{n:,} draws of {problem.y.numel():,} inputs"]
    said += [f"{statistics:,} predictions"] if statistics else []
    said += [f"{images:,} images"] if images else []
    return ", ".join(said), each * (n * 1.2 + statistics + images * problem.copies)


def rows_ahead(
    adaptive: AdaptiveMedianSmoother | Defence,
    pipe: Any,
    rows: Sequence[PromptRow],
    options: RowOptions,
    batch_size: int | None,
) -> float:
    """About how many seconds the rows take: a certificate of few draws of the first one that is not refused is timed, and what
    it draws besides. Nothing is kept of it, nor stored in a memory.
    """
    from certify.adaptive.certification import certify_prompt
    from certify.adaptive.options import PromptOptions
    from certify.certificate import ModelRecord
    from certify.datasets import read_prompt
    from certify.defence import Defence

    if isinstance(adaptive, Defence):
        there = [row.prompt for row in rows if row.prompt.strip()]
        if not there:
            return 0.0
        problem = adaptive.problem(there[0])
        drawn = joint_work_ahead(problem, options.n, options.statistics, options.images)[1]
        return drawn * len(there)
    read = [read_prompt(adaptive, row.prompt, named=False) for row in rows]
    fit = [tokenized for tokenized in read if not isinstance(tokenized, str)]
    if not fit:
        return 0.0
    prompt = adaptive.prepare(fit[0])
    model = ModelRecord.of(adaptive.encoder.text_encoder)
    few: dict[str, Any] = {
        "n": 64,
        "statistics": 0,
        "images": 0,
        "rhos": None,
        "model": model,
        "batch_size": batch_size,
    }
    least = timed(lambda: certify_prompt(prompt, PromptOptions(rho=options.rho, pipe=pipe, **few)))
    drawn = work_ahead(prompt, pipe, options.n, options.steps, options.statistics, options.images)[1]
    return (least + drawn) * len(fit)


def inputs_ahead(task: ClassifierTask, draws: int, batch_size: int | None) -> float:
    """About how many seconds so many draws of a classifier take: a few of its first input are timed.

    Raises:
        ValueError, TypeError: it is no classifier.
    """
    from certify import classify_many

    few = {**task.asked, "n0": 64, "n": batch_size or 256, "stop_at": None}
    seconds = timed(lambda: classify_many(task.f, task.rows[:1], task.noise, batch_size=batch_size, **few))
    return seconds * draws / (few["n0"] + few["n"])


def timed(run: Callable[[], object]) -> float:
    """How long it takes, timed at the second call."""
    run()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
