"""From a prompt to its certificate: the planned statements are answered and put on record.

A certificate for a prompt holds, with α shared between them,

- a bound on how far the ideal smoothed encoding can move at the given radius (T2, T4, T11: the best),
- the same at several radii, simultaneously,
- the largest radius at which it stays within a tolerance (T3, T8); by default the *concept-removal distance*,
- how far the deployed encoding, the median of K draws, can be from the reference with probability q (T5, T6),

and with a pipeline, at points (x_t, t) that a sampler visits,

- a bound for the smoother that takes the median over noise predictions (T2, T4),
- what the deployed encoding changes in the noise prediction (T5), and its concept score (T5),
- with a detector the attack success rate: the probability that an image shows what it looks for (T14, T5).

A certificate takes several passes (encodings, statistics, images). With a checkpoint each keeps what it has drawn, and a run
that was killed resumes from there to the identical certificate.

The concept-removal distance is what every bound is compared with (`PreparedPrompt.concept_removal`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from certify.adaptive.plan import Materials, planned
from certify.adaptive.record import ENTRIES, ON_RECORD, Subject
from certify.certificate import Certificate, ModelRecord
from certify.images.rates import undefended_rate
from certify.models.trajectory import Trajectory
from certify.montecarlo import Progress
from certify.montecarlo.runs import RunFolder, as_run_folder
from certify.progress import as_progress

if TYPE_CHECKING:
    from certify.adaptive.options import PromptOptions
    from certify.adaptive.prompt import PreparedPrompt

__all__ = ["certify_prompt", "run_of_prompt"]


def certify_prompt(prompt: PreparedPrompt, options: PromptOptions) -> Certificate:
    """The certificate of one prompt, under its smoother's covariance policy (T7).

    Args:
        prompt: `AdaptiveMedianSmoother.prepare` makes it.
        options: what is asked.

    Returns:
        A `Certificate`; its provenance holds the smoother's settings, the tokens, concept-removal distances, what the radius
        covers and the measured rate without the defence. Where the prompt does not name the concept, `notices` says so.

    Raises:
        ValueError: the options do not fit together.
        CheckpointError: the checkpoint is damaged, or another process writes it.
    """
    adaptive, deployment, pipe = prompt.adaptive, prompt.deployment, options.pipe
    plan = planned(prompt, options)
    statements = sum(one.statements for one in plan)
    share = options.alpha / statements
    model = options.model or ModelRecord.of(adaptive.encoder.text_encoder if pipe is None else pipe)
    folder: RunFolder | None = None
    if options.checkpoint is not None:
        settings = run_of_prompt(prompt, model, options.deciding())
        folder = as_run_folder(options.checkpoint).open(settings, secret=prompt.text if options.private else None)
    undefended = max(1, options.images // 4) if options.requested_images else 0
    total = sum(one.n * one.weight for one in plan) + 2 * undefended * 2 * options.steps
    drawing = _Drawing(folder, as_progress(options.progress), total)
    materials = Materials(
        prompt, deployment, pipe=pipe, detector=options.detector, steps=options.steps, guidance=options.guidance
    )
    with folder or contextlib.nullcontext():
        first, *rest = plan
        answers = first.answers(materials, options, share, drawing.next(first.function, first.n * first.weight))
        trajectory = None
        if options.statistics and pipe is not None and adaptive.denoiser is not None:
            points = min(options.points, options.steps)
            how: dict[str, Any] = {"steps": options.steps, "guidance": options.guidance, "seed": options.seed}
            trajectory = Trajectory.of(pipe, answers[0].center, points=points, **how)
        materials = replace(materials, center=answers[0].center, trajectory=trajectory)
        for one in rest:
            answers += one.answers(materials, options, share, drawing.next(one.function, one.n * one.weight))
        if len(answers) != statements:
            raise RuntimeError(
                f"{statements} statements were planned and {len(answers)} answered: α was shared by the former"
            )
        found: dict[str, Any] = {} if trajectory is None else {"trajectory": trajectory.record()}
        found |= _measured(prompt, options, undefended, drawing)
    subject = Subject(
        prompt,
        deployment.noise,
        options.rho,
        attacks=options.prompts,
        scored=options.statistics > 0,
        trajectory=trajectory,
        private=options.private,
    )
    found |= {"prompt": None if options.private else prompt.text, "smoother": adaptive.settings()}
    found |= {name: value for name, entry in ENTRIES.items() if (value := entry.value(subject)) is not None}
    tensors = {} if trajectory is None else trajectory.tensors()
    certificate = Certificate.of(
        *answers,
        model=model,
        keep_input=not options.private,
        keep={f"trajectory.{name}": tensor for name, tensor in tensors.items()},
        provenance={name: found[name] for name in ON_RECORD if name in found} | dict(options.provenance or {}),
    )
    if not options.private:
        return certificate
    # Of few enough prompts a digest says which it is.
    return replace(certificate, provenance={**certificate.provenance, "input_sha256": None})


def _measured(prompt: PreparedPrompt, options: PromptOptions, n: int, drawing: _Drawing) -> dict[str, Any]:
    """How often the detector fires without the defence, of n images each: with the prompt, and without its most relevant word,
    which is what images show by chance. With the word suppressed it cannot be less. None of it is certified."""
    if not n or options.detector is None:
        return {}
    sampler: dict[str, Any] = {"steps": options.steps, "guidance": options.guidance}
    # Of a prompt that is cut the plain pipeline shows what is left of it.
    plain = prompt.adaptive.encoder.plain([prompt.tokenized])[0]
    found: dict[str, Any] = {}
    for name, stream, encoding in (
        ("undefended", "undefended", plain),
        ("without_word", "without the word", prompt.plain[1]),
    ):
        how = drawing.next(stream, n * 2 * options.steps)
        rate = undefended_rate(options.pipe, encoding, options.detector, n, seed=options.seed, **sampler, **how)
        found[name] = asdict(rate)
    detector = options.detector if isinstance(options.detector, str) else repr(options.detector)
    return {**found, "images": {"detector": detector, **sampler}}


@dataclass
class _Drawing:
    """Where every pass keeps its draws, and progress over all of them, `total` encodings' worth."""

    folder: RunFolder | None
    progress: Progress | None
    total: int
    done: int = 0

    def next(self, name: str, weight: int) -> dict[str, Any]:
        """Options of the next pass, which is `weight` encodings' worth."""
        before = self.done
        self.done += weight

        def report(now: int, total: int) -> None:
            if self.progress is not None:
                self.progress(min(self.total, before + weight * now // max(total, 1)), self.total)

        checkpoint = None if self.folder is None else self.folder.checkpoint(name)
        return {"checkpoint": checkpoint, "progress": report}


def run_of_prompt(prompt: PreparedPrompt, model: ModelRecord, decides: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the draws of a prompt's statements, as JSON values: the settings of its `RunFolder`.

    Args:
        prompt: it enters as a SHA-256, and not at all if `private` is decided: a digest of it can be guessed at.
        model: its weights.
        decides: whatever else the command or call was given that enters.
    """
    import torch

    from certify._version import __version__

    encoder, smoother = prompt.adaptive.encoder, prompt.adaptive.settings()
    del smoother["memory_sha256"]  # other prompts add to it; this one's Σ is on record with its draws
    return {
        "version": __version__,
        "torch": torch.__version__,
        "prompt_sha256": None if decides.get("private") else hashlib.sha256(prompt.text.encode()).hexdigest(),
        "model": model.to_dict(),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "device": encoder.device.type,
        "smoother": smoother,
        **decides,
    }
