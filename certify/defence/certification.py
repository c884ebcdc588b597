"""The joint certificate of a prompt in a pipeline of any text encoders (T16), and what is on record beside its claims.

All statements are about one y, the token embeddings of every encoder one after the other: how far all that the pipeline is
given can move (T2, T4, T11), a simultaneous curve of it, by whose boxes the radius is shared out over the encoders (T16), the
radius for a tolerance, the deployed encoding (T5, T6), the denoiser's predictions at fixed points, and the attack success rate
of images from the pipeline's own `__call__` (T5, T14). α is shared equally by those that are asked for.

On record beside them, and computed again by a check (`certify.defence.checking`): the noise of every token in every encoder,
blocks and slots, the allocation, the concept-removal distance, and which prompts are covered (T9).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify._records import Record
from certify.adaptive.plan import event_name
from certify.bounds.allocation import Allocation, allocate, grid
from certify.bounds.mse import BoundCurve
from certify.certificate import Certificate, ModelRecord
from certify.defence.calls import Calls
from certify.defence.coverage import covered_prompts, covered_words
from certify.defence.measured import undefended_rate
from certify.defence.predictions import Predictions
from certify.defence.problem import JointProblem
from certify.images.detectors import Detector, load_detector
from certify.montecarlo.runs import as_run_folder
from certify.statements.ask import MSE, Curve, Deployed, Question, Radius, ask
from certify.statements.mean import event_bound

__all__ = ["ENCODING", "JointOptions", "allocation_over", "certify_joint", "joint_functions", "on_record"]

ENCODING = "text encoding"
"""What the claims about a pipeline's encodings are about."""

_LATENT, _TIME = "trajectory.x", "trajectory.t"


@dataclass(frozen=True, kw_only=True)
class JointOptions(Record):
    """What is asked of a prompt in a pipeline of several encoders, or of one that is not CLIP.

    Attributes:
        rho: radius of the statements about the ideal smoothed encoding, over all encoders together.
        rho_deployed: radius of those about what is deployed.
        q: probability over the deployment noise.
        n: bounding draws; each is one run of all text encoders.
        alpha: failure probability of the certificate, shared equally by the statements.
        seed: of the draws.
        radii: points of the curve up to `rho`, by which a radius is shared out over the encoders (T16).
        tolerance: squared distance whose radius is looked for; None: the prompt's own squared concept-removal distance, where
            that can be told.
        statistics: draws of the denoiser's predictions; 0: nothing is said about them.
        points: at how many (x_t, t).
        detector: what is looked for in images (`certify.images.load_detector`); None: nothing about images.
        images: images for the attack success rate; a quarter as many show the rate without the defence, which is measured and
            on record beside it.
        prompts: attack prompts: is any of them covered (T9)?
        batch_size: draws in one call; None: the smoother's.
        memory, progress, checkpoint: as in `certify.ask`; a `RunFolder`, or the path of one.
        private: leave the prompt and its tokens out of the record.
        provenance: more to put on record, as JSON values.
        model: which weights these are, where many prompts are certified; None: computed here.
        watch, beside: as in `certify.adaptive.options.PromptOptions`.
    """

    rho: float = 1.0
    rho_deployed: float = 0.25
    q: float = 0.9
    n: int = 10_000
    alpha: float = 1e-3
    seed: int = 0
    radii: int = 8
    tolerance: float | None = None
    statistics: int = 0
    points: int = 4
    detector: str | Detector | None = None
    images: int = 400
    prompts: Sequence[str] = ()
    batch_size: int | None = None
    memory: int | None = None
    progress: Any = None
    checkpoint: Any = None
    private: bool = False
    provenance: Mapping[str, Any] | None = None
    model: ModelRecord | None = None
    watch: Callable[[str, Callable[..., Any]], Callable[..., Any]] | None = None
    beside: Sequence[Question] = ()

    @property
    def looks(self) -> bool:
        """Whether images are looked at."""
        return self.detector is not None and self.images > 0

    def deciding(self) -> dict[str, Any]:
        """Those that decide the draws, as JSON values."""
        left_out = (
            "prompts",
            "batch_size",
            "memory",
            "progress",
            "checkpoint",
            "provenance",
            "model",
            "watch",
            "beside",
            "detector",
        )
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}
        return own | {"detector": self.detector if self.detector is None else event_name(self.detector)}


def certify_joint(
    calls: Calls, problem: JointProblem, model: ModelRecord, asked: JointOptions, call: Mapping[str, Any]
) -> Certificate:
    """The certificate of a problem's prompt.

    Args:
        calls: of the pipeline.
        problem: the prompt.
        model: which weights these are.
        asked: what is asked.
        call: arguments of `__call__`.
    """
    smoother, steps = problem.smoother, _validate.count("radii", asked.radii)
    detector = load_detector(asked.detector) if asked.looks else None  # type: ignore[arg-type]
    statistics = _validate.count("statistics", asked.statistics, minimum=0)
    radii, alpha = grid(_validate.positive("rho", asked.rho), steps), _validate.failure("alpha", asked.alpha)
    removal = problem.concept_removal
    within = asked.tolerance if asked.tolerance is not None else None if removal is None else removal.distance
    within = None if not within else _validate.positive("tolerance", within)
    predictions = Predictions(calls, problem, call, asked.points) if statistics else None
    share = alpha / (3 + (within is not None) + (predictions is not None) + (detector is not None))
    method = "coordinatewise" if smoother.smoother == "median" else "best"
    questions: list[Question] = [
        MSE(asked.rho, share, smoother=smoother.smoother),
        Curve(radii, share, True, method, smoother.smoother),
        Deployed(asked.rho_deployed, asked.q, share, smoother.n, smoother=smoother.smoother),
    ]
    questions += [Radius(within, share, smoother=smoother.smoother)] if within is not None else []
    size = smoother.batch_size if asked.batch_size is None else _validate.count("batch_size", asked.batch_size)
    drawn: dict[str, Any] = {"seed": asked.seed, "policy": smoother.policy, "progress": asked.progress}
    folder, undefended = None, None
    if asked.checkpoint is not None:
        prompt = problem.readings[0].call.prompts[0]
        settings = _run_settings(problem, model, asked, {**calls.options, **call})
        folder = as_run_folder(asked.checkpoint).open(settings, secret=prompt if asked.private else None)

    def kept(name: str) -> Any:
        return None if folder is None else folder.checkpoint(name)

    def watched(name: str, f: Callable[..., Any]) -> Callable[..., Any]:
        return f if asked.watch is None else asked.watch(name, f)

    with folder or contextlib.nullcontext():
        answers = ask(
            watched(ENCODING, problem.f),
            problem.y,
            problem.noise,
            [*questions, *asked.beside],
            n=asked.n,
            function=ENCODING,
            batch_size=size,
            memory=asked.memory,
            support=problem.support,
            checkpoint=kept("encoding"),
            **drawn,
        )[: len(questions)]
        if predictions is not None:
            answers += ask(
                watched(predictions.kind, predictions.f),
                problem.y,
                problem.noise,
                [MSE(asked.rho, share, smoother=smoother.smoother)],
                n=statistics,
                function=predictions.kind,
                batch_size=size,
                memory=asked.memory,
                checkpoint=kept("predictions"),
                **drawn,
            )
        if detector is not None:
            event = event_name(asked.detector or detector)
            answers.append(
                event_bound(
                    watched(event, calls.event(problem, detector, call)),
                    problem.y,
                    problem.noise,
                    rho=asked.rho_deployed,
                    replicas=problem.copies,
                    repeats=None,
                    alpha=share,
                    n=asked.images,
                    function=event,
                    batch_size=max(1, size // problem.copies),
                    checkpoint=kept("images"),
                    **drawn,
                )
            )
            undefended = undefended_rate(
                calls,
                problem,
                detector,
                call,
                max(1, asked.images // 4),
                seed=asked.seed,
                batch_size=size,
                checkpoint=kept("undefended"),
                progress=asked.progress,
            )
    shared = allocation_over(answers[1], problem.owner)
    record = on_record(problem, asked.rho, calls.options | dict(call), asked.prompts, asked.private)
    record["pipeline"]["allocation"] = _allocated(shared)
    if isinstance(asked.detector, str) and detector is not None:
        record["pipeline"]["detector"] = asked.detector
    if undefended is not None:
        record["undefended"] = asdict(undefended)
    points = {} if predictions is None else {_LATENT: predictions.x, _TIME: predictions.t}
    certificate = Certificate.of(
        *answers,
        model=model,
        keep_input=not asked.private,
        keep=points,
        provenance=record | dict(asked.provenance or {}),
    )
    if not asked.private:
        return certificate
    return replace(certificate, provenance={**certificate.provenance, "input_sha256": None})


def on_record(
    problem: JointProblem, rho: float, call: Mapping[str, Any], attacks: Sequence[str] = (), private: bool = False
) -> dict[str, Any]:
    """What a certificate has on record beside its claims, as JSON values; but for the allocation, which follows from a curve.

    Args:
        problem: the prompt.
        rho: the radius whose coverage is on record.
        call: arguments of `__call__` that it is encoded with.
        attacks: attack prompts.
        private: whether words are left out.
    """
    pipe, readings = problem.smoother.encoder.pipe, problem.readings
    names = [lookup.encoder for reading in readings for lookup in reading.lookups]
    units = [unit for reading in readings for unit in reading.frame.units]
    noises = []
    for name, unit, noise in zip(names, units, problem.token_noise, strict=True):
        words = {} if private else {"tokens": list(noise.tokens)}
        noises.append({"encoder": name, **words, "kinds": list(noise.kinds), "sigma": list(noise.sigma), "std": unit})
        noises[-1] |= {"relevance": list(noise.relevance), "concept": list(noise.concept)}
    removal, mention = problem.concept_removal, problem.mention
    found: dict[str, Any] = {
        "prompt": None if private else readings[0].call.prompts[0],
        "smoother": problem.smoother.settings(),
        "concept_in_prompt": mention.to_dict(),
        "pipeline": {
            "class": type(pipe).__name__,
            "family": problem.smoother.encoder.family.name or None,
            "call": {name: value for name, value in call.items() if _is_json(value)},
            "encoders": names,
            "blocks": [list(block) for reading in readings for block in reading.frame.blocks],
            "slots": [list(map(str, slot.path)) for reading in readings for slot in reading.frame.slots],
            "token_noise": noises,
            "covered_words": [word.to_dict(private) for word in covered_words(problem, rho)],
        },
    }
    if removal is not None:
        word = None if private else removal.word
        found["yardstick"] = {"distance": removal.distance, "word": word, "position": removal.position}
    if attacks:
        covered = covered_prompts(problem, attacks, rho)
        if private:
            found["covered_prompts_counted"] = {"given": len(covered), "covered": sum(c.covered for c in covered)}
        else:
            found["covered_prompts"] = [one.to_dict() for one in covered]
    return found


def joint_functions(
    certificate: Certificate,
    calls: Calls,
    problem: JointProblem,
    call: Mapping[str, Any],
    detector: Any = None,
    *,
    text_only: bool = False,
) -> dict[str, Any]:
    """The functions that a joint certificate's claims are about, by name; those of images only with their detector.

    Raises:
        ValueError: points on record do not fit the pipeline.
    """
    functions: dict[str, Any] = {ENCODING: problem.f}
    names = {claim.function for claim in certificate.claims}
    if not text_only and _LATENT in certificate.tensors and _TIME in certificate.tensors:
        at = certificate.tensors[_LATENT], certificate.tensors[_TIME]
        predictions = Predictions(calls, problem, call, at)
        functions[predictions.kind] = predictions.f
    if detector is not None:
        functions[event_name(detector)] = calls.event(problem, detector, call)
    return {name: f for name, f in functions.items() if name in names}


def allocation_over(curve: BoundCurve, owner: Tensor) -> Allocation | None:
    """T16 from one simultaneous curve of all outputs: its boxes hold at once, so each block has a curve of its own in them.

    Equation
        B_e(r) = Σ over the outputs of block e of max{ (U_i − c_i)², (c_i − L_i)² }

    Args:
        curve: of T2.
        owner: (m,), the block of each output; what is of no block is added at full radius.

    Returns:
        The allocation; None where a point of the curve has no box.
    """
    boxes = [(p.lower, p.upper, p.center) for p in curve.points]
    if any(part is None for box in boxes for part in box):
        return None
    return shared_out(boxes, curve.rhos, curve.alpha, owner)


def shared_out(boxes: Sequence[tuple[Any, Any, Any]], rhos: Sequence[float], alpha: float, owner: Tensor) -> Allocation:
    """As `allocation_over`, from (lower, upper, center) at every radius."""
    blocks = sorted({int(b) for b in owner.unique() if int(b) >= 0})
    curves: list[list[float]] = [[] for _ in blocks]
    rest = 0.0
    for lower, upper, center in boxes:
        c = center.double().cpu()
        squares = torch.maximum(upper.double().cpu() - c, c - lower.double().cpu()).square()
        for values, block in zip(curves, blocks, strict=True):
            values.append(float(squares[owner == block].sum()) * (1 + 1e-12))
        rest = float(squares[owner < 0].sum()) * (1 + 1e-12)
    found = allocate(curves, rhos, alpha)
    return replace(found, value=found.value + rest, full=found.full + rest)


def _allocated(shared: Allocation | None) -> dict[str, Any] | None:
    if shared is None or not math.isfinite(shared.value):
        return None
    return {"distance": shared.value, "radii": list(shared.radii), "full": shared.full, "rho": shared.rho}


def _run_settings(
    problem: JointProblem, model: ModelRecord, asked: JointOptions, call: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the draws, as JSON values; a private prompt does not enter, a digest of it could be guessed at."""
    from certify._version import __version__

    prompt = problem.readings[0].call.prompts[0]
    return {
        "version": __version__,
        "torch": torch.__version__,
        "prompt_sha256": None if asked.private else hashlib.sha256(prompt.encode()).hexdigest(),
        "model": model.to_dict(),
        "dtype": str(problem.y.dtype).removeprefix("torch."),
        "device": problem.y.device.type,
        "smoother": problem.smoother.settings(),
        "call": {name: value if _is_json(value) else repr(value) for name, value in call.items()},
        **asked.deciding(),
    }


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return isinstance(value, (str, int, float, bool, type(None)))
