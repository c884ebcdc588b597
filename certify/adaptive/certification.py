"""From a prompt to its certificate: which statements are made, against which yardstick, and what is put on record.

A certificate for a prompt holds, with α shared between them,

- a bound on how far the ideal smoothed encoding can move at the radius asked for (T2, T4, T11: the best),
- the same at several radii, simultaneously,
- the largest radius at which it stays within a tolerance (T3, T8); by default the *yardstick*,
- how far the deployed encoding, the median of K draws, can be from the reference with probability q (T5, T6),

and with a pipeline, at points (x_t, t) that a sampler visits,

- a bound for the smoother that takes the median over noise predictions (T2, T4),
- what the deployed encoding changes in the noise prediction (T5), and its concept score (T5),
- with a detector the attack success rate: the probability that an image shows what it looks for (T5).

A certificate takes several passes (encodings, statistics, images). With a checkpoint each keeps what it has drawn, and a run
that was killed goes on from there to the identical certificate.

The yardstick is a distance to hold every bound against: how far apart are the plain encodings of this prompt and of the
same prompt without the concept, that is, without its most relevant word. A bound above it is *vacuous*: it would allow
the output to move as far as taking the concept out, or putting it in, moves it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, cast

from torch import Tensor

from certify import _validate
from certify._digests import tensor_digest
from certify._records import Shown
from certify.adaptive.coverage import PositionCoverage, covered_prompts, covered_substitutions
from certify.adaptive.deployment import Deployment
from certify.certificate import Certificate, ModelRecord
from certify.certificate.provenance import checked_provenance
from certify.images.detectors import Detector, load_detector
from certify.images.statistics import (
    attack_succeeds,
    concept_score,
    embedding_distance,
    noise_prediction,
    noise_prediction_distance,
    undefended_rate,
)
from certify.models import NoisePredictor
from certify.models.trajectory import Trajectory
from certify.montecarlo import Progress
from certify.montecarlo.checkpoint import Checkpoint
from certify.montecarlo.runs import RunFolder, as_run_folder
from certify.progress import as_progress
from certify.statements.ask import MSE, Curve, Deployed, Question, Radius, ask
from certify.statements.replicas import event_bound, statistic_bound

if TYPE_CHECKING:
    from pathlib import Path

    from certify.adaptive.smoother import AdaptiveMedianSmoother

__all__ = [
    "DEFAULT_RHOS",
    "CertifyOptions",
    "Yardstick",
    "certify_prompt",
    "check_options",
    "event_name",
    "functions_of",
    "run_of_prompt",
    "yardstick",
]

DEFAULT_RHOS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Radii of the curve of a prompt's certificate."""


class CertifyOptions(TypedDict, total=False):
    """The options of `certify_prompt`, which explains them."""

    rho: float
    rho_deployed: float
    q: float
    n: int
    alpha: float
    seed: int
    rhos: Sequence[float] | None
    tolerance: float | None
    center: Tensor | None
    pipe: Any
    detector: str | Detector | None
    statistics: int
    images: int
    points: int
    steps: int
    guidance: float
    prompts: Sequence[str]
    private: bool
    batch_size: int | None
    progress: Progress | bool | None
    checkpoint: str | Path | RunFolder | None
    memory: int | None
    model: ModelRecord | None
    provenance: Mapping[str, Any] | None


_OWN = (
    "prompt",
    "quantity",
    "smoother",
    "token_noise",
    "token_spread",
    "concept_in_prompt",
    "yardstick",
    "coverage",
    "covered_prompts",
    "trajectory",
    "noise_prediction_yardstick",
    "concept_score_plain",
    "undefended",
    "without_word",
    "images",
    "truncated",
)
"""What `certify_prompt` puts on record itself, beside what every certificate has."""


@dataclass(frozen=True)
class Yardstick(Shown):
    """‖T(prompt) − T(prompt without `word`)‖², a sum over all positions, both encodings plain.

    Attributes:
        distance: squared ℓ2 distance.
        word: the words' text that was left out: the most relevant one.
        position: its first position.
    """

    distance: float
    word: str
    position: int


def yardstick(adaptive: AdaptiveMedianSmoother, prompt: str) -> Yardstick:
    """The squared distance between a prompt's encoding and that of the same prompt without its most relevant word.

    Raises:
        ValueError: the prompt is empty, holds no word, or does not fit into the context.
    """
    encodings, text, start = _with_and_without(adaptive, prompt)
    with_word, without = encodings.double()
    return Yardstick(float((with_word - without).square().sum()), text, start)


def _with_and_without(adaptive: AdaptiveMedianSmoother, prompt: str) -> tuple[Tensor, str, int]:
    """Plain encodings of the prompt and of it without its most relevant word, (2, tokens, width), the word and where it is."""
    encoder, record = adaptive.encoder, adaptive.relevance(prompt)
    tokenized = encoder.tokenize(prompt)

    def relevance(word: tuple[int, int]) -> float:
        return max(record.relevance[i] or 0.0 for i in range(*word))

    start, stop = max(tokenized.words, key=relevance)
    content = tokenized.content
    rest = [*content[: start - 1], *content[stop - 1 :]]  # position 0 is the begin token
    text = "".join(tokenized.tokens[start:stop]).replace("</w>", "")
    return encoder.plain([tokenized, encoder.assemble(rest)]), text, start


def certify_prompt(
    adaptive: AdaptiveMedianSmoother,
    prompt: str,
    *,
    rho: float = 1.0,
    rho_deployed: float = 0.25,
    q: float = 0.9,
    n: int = 10_000,
    alpha: float = 1e-3,
    seed: int = 0,
    rhos: Sequence[float] | None = DEFAULT_RHOS,
    tolerance: float | None = None,
    center: Tensor | None = None,
    pipe: Any = None,
    detector: str | Detector | None = None,
    statistics: int = 1_000,
    images: int = 400,
    points: int = 4,
    steps: int = 50,
    guidance: float = 7.5,
    prompts: Sequence[str] = (),
    private: bool = False,
    batch_size: int | None = None,
    progress: Progress | bool | None = None,
    checkpoint: str | Path | RunFolder | None = None,
    memory: int | None = None,
    model: ModelRecord | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Certificate:
    """The certificate of one prompt, under the smoother's covariance policy (T7).

    Args:
        adaptive: the smoother.
        prompt: not empty.
        rho: radius of the statements about ideal smoothed values, and of one about the deployed encoding, in units of ‖·‖_Σ.
        rho_deployed: radius of the statements about what is deployed, which see K noisy copies: T5 multiplies it by √K.
        q: probability over the deployment noise, for statements about what is deployed.
        n: bounding draws of the encoding, shared by the statements about it.
        alpha: failure probability of the certificate as a whole, shared equally by the statements.
        seed: of the draws.
        rhos: radii of the curve (`rho` is added); None: no curve.
        tolerance: squared distance for the certified radius; None: the yardstick; 0: no radius is asked for.
        center: what distances are measured to, (tokens, width), for instance a deployed encoding; None: the smoothed
            value of pilot draws.
        pipe: the pipeline that the smoother is built on, for statements about noise predictions and images; None: none.
        detector: what an attack wants to see in an image (`certify.images.load_detector`); None: nothing about images.
        statistics: draws of each statistic of the deployed encoding, of K noisy copies each; 0: no such statements. Noise
            predictions of the smoother that takes the median of them are drawn as often.
        images: images for the attack success rate; a quarter as many without the defence, of the prompt and of the prompt
            without its most relevant word; 0: nothing about images.
        points: points (x_t, t) of the sampler's trajectory at which noise predictions are compared.
        steps, guidance: sampler settings. The trajectory and the images are made with them, and they are on record as they
            ran; the embedded model's own are 8 and 2 (`certify.world.DEFAULTS`).
        prompts: attack prompts, of which the certificate records whether `rho` covers them (T9).
        private: leave out the prompt, its tokens, its embeddings and their digest; attack prompts are counted. A checkpoint is
            then the owner's alone to read, and its names tell nothing. Not under policy "memory": regions hold embeddings.
            Relevance, σ, the trajectory, the reference and the boxes stay. σ and relevance identify the words for whoever has
            the model: the prompt is hidden from readers without it, or who do not try. Only the owner may read the files.
        batch_size, memory, progress: as in `certify.statements.ask.ask`; progress counts encodings.
        checkpoint: a folder to keep in what every pass has drawn. The same call goes on from there to the identical
            certificate; batch size and memory may be others; another call has a place of its own in it. With a
            `certify.montecarlo.RunFolder` the caller removes what was kept, with its `remove`, once the certificate is saved.
        model: which weights these are, where the caller knows that they have not changed since; None: computed here.
        provenance: more to put on record, as JSON values ("source": where the model is from). What was run is there anyway,
            and no name of an option or of a part of the record may be given here.

    Returns:
        A `Certificate`; its provenance holds the smoother's settings, the tokens, yardsticks, what the radius covers and the
        measured rate without the defence. Where the prompt does not name the concept, `notices` says so.

    Raises:
        ValueError: the prompt is empty or too long, or an argument is out of range.
        CheckpointError: the checkpoint is damaged, or another process writes it.
    """
    further = checked_provenance(provenance, _spoken_for())
    check_options(
        {
            "rho": rho,
            "rho_deployed": rho_deployed,
            "q": q,
            "n": n,
            "alpha": alpha,
            "seed": seed,
            "rhos": rhos,
            "tolerance": tolerance,
            "statistics": statistics,
            "images": images,
            "points": points,
            "steps": steps,
            "guidance": guidance,
            "prompts": prompts,
            "batch_size": batch_size,
            "memory": memory,
        }
    )
    problem, stick = adaptive.problem(prompt), yardstick(adaptive, prompt)
    deployment = adaptive.deployment(prompt)
    within = stick.distance if tolerance is None else tolerance
    work = _Work(
        adaptive, pipe, deployment, n, statistics, images if detector else 0, points, steps, as_progress(progress)
    )

    plan = _planned(adaptive, deployment, rho, rho_deployed, q, rhos, within, pipe, work.statistics)
    if work.images and detector is not None:
        plan.append(_Planned(event_name(detector)))
    share = alpha / len(plan)

    def asked(name: str) -> list[Question]:
        return [one.statement(share) for one in plan if one.function == name and one.statement is not None]

    settings: dict[str, Any] = {"seed": seed, "policy": adaptive.policy}
    model = ModelRecord.of(adaptive.encoder.text_encoder if pipe is None else pipe) if model is None else model
    folder: RunFolder | None = None
    if checkpoint is not None:
        shown = detector if isinstance(detector, str) else f"{type(detector).__module__}.{type(detector).__qualname__}"
        decides: dict[str, Any] = {
            "rho": rho,
            "rho_deployed": rho_deployed,
            "q": q,
            "n": n,
            "alpha": alpha,
            "seed": seed,
            "rhos": None if rhos is None else list(map(float, rhos)),
            "tolerance": tolerance,
            "center": None if center is None else tensor_digest(center),
            "statistics": statistics,
            "images": work.images,
            "detector": shown if work.images else None,
            "points": points,
            "steps": steps,
            "guidance": guidance,
            "private": private,
        }
        settings_of_run = run_of_prompt(adaptive, prompt, model, decides)
        folder = as_run_folder(checkpoint).open(settings_of_run, secret=prompt if private else None)

    def kept(name: str) -> Checkpoint | None:
        return None if folder is None else folder.checkpoint(name)

    with folder or contextlib.nullcontext():
        answers: list[Any] = ask(
            problem.f,
            problem.y,
            problem.noise,
            asked(EMBEDDING),
            n=n,
            center=center,
            support=problem.support,
            batch_size=batch_size,
            function=EMBEDDING,
            checkpoint=kept(EMBEDDING),
            memory=memory,
            progress=work.tick(n),
            **settings,
        )
        reference = answers[0].center
        record: dict[str, Any] = {}
        keep: dict[str, Tensor] = {}
        if work.statistics:
            trajectory = None
            if pipe is not None and adaptive.denoiser is not None:
                trajectory = Trajectory.of(
                    pipe, reference, steps=steps, seed=seed, guidance=guidance, points=min(points, steps)
                )
                keep = {f"trajectory.{name}": tensor for name, tensor in trajectory.tensors().items()}
                record["trajectory"] = trajectory.record()
                record["noise_prediction_yardstick"] = prediction_yardstick(adaptive, prompt, trajectory)
            functions = functions_of(adaptive, prompt, deployment, reference, trajectory, pipe, None, steps, guidance)
            if asked(NOISE_PREDICTION):
                answers += ask(
                    functions[NOISE_PREDICTION],
                    problem.y,
                    problem.noise,
                    asked(NOISE_PREDICTION),
                    n=work.statistics,
                    pilot=max(64, work.statistics // 10),
                    batch_size=64,
                    function=NOISE_PREDICTION,
                    checkpoint=kept(NOISE_PREDICTION),
                    memory=memory,
                    progress=work.tick(work.statistics * points),
                    **settings,
                )
            for name in (one.function for one in plan if one.statement is None and one.function in functions):
                answers.append(
                    statistic_bound(
                        functions[name],
                        deployment.y,
                        deployment.noise,
                        rho=rho_deployed,
                        q=q,
                        replicas=deployment.copies,
                        n=work.statistics,
                        alpha=share,
                        batch_size=64,
                        function=name,
                        checkpoint=kept(name),
                        progress=work.tick(work.statistics * deployment.replicas),
                        **settings,
                    )
                )
            record["concept_score_plain"] = plain_score(adaptive, prompt)
        if work.images and detector is not None:
            name = event_name(detector)
            functions = functions_of(adaptive, prompt, deployment, reference, None, pipe, detector, steps, guidance)
            answers.append(
                event_bound(
                    functions[name],
                    deployment.y,
                    deployment.noise,
                    rho=rho_deployed,
                    replicas=deployment.copies,
                    n=work.images,
                    alpha=share,
                    function=name,
                    checkpoint=kept(name),
                    progress=work.tick(work.images * steps * 2),
                    **settings,
                )
            )
            count = max(1, work.images // 4)
            sampler: dict[str, Any] = {"seed": seed, "steps": steps, "guidance": guidance}
            plain: dict[str, Any] = {"checkpoint": kept("undefended"), "progress": work.tick(count * steps * 2)}
            # Of a prompt that is cut the plain pipeline shows what is left of it.
            plain_encoding = adaptive.encoder.plain([prompt])[0]
            record["undefended"] = asdict(undefended_rate(pipe, plain_encoding, detector, count, **plain, **sampler))
            # What an image shows by chance: with the concept's word suppressed it cannot be less.
            without = _with_and_without(adaptive, prompt)[0][1]
            plain = {"checkpoint": kept("without the word"), "progress": work.tick(count * steps * 2)}
            record["without_word"] = asdict(undefended_rate(pipe, without, detector, count, **plain, **sampler))
            record["images"] = {
                "detector": detector if isinstance(detector, str) else repr(detector),
                "steps": steps,
                "guidance": guidance,
            }
    if len(answers) != len(plan):
        raise RuntimeError(f"{len(plan)} claims were planned and {len(answers)} made: α was shared by the former")
    noise = problem.token_noise
    tokens = {
        "kinds": list(noise.kinds),
        "relevance": list(noise.relevance),
        "concept": list(noise.concept),
        "sigma": list(noise.sigma),
    }
    words = {} if private else {"tokens": list(noise.tokens)}
    record |= adaptive.encoder.tokenize(prompt).truncated
    attacks = covered_prompts(adaptive, prompt, prompts, rho) if prompts else []
    if private:  # attacks resemble what they attack, and it may be among them
        counted = {"given": len(attacks), "covered": sum(attack.covered for attack in attacks)}
        record["covered_prompts_counted"], attacks = counted, []
    certificate = Certificate.of(
        *answers,
        model=model,
        keep_input=not private,
        keep=keep,
        provenance={
            "prompt": None if private else prompt,
            "quantity": problem.quantity,
            "smoother": adaptive.settings(),
            "token_noise": {**words, **tokens},
            "token_spread": adaptive.encoder.embedding_spread,
            "concept_in_prompt": adaptive.mention(prompt).to_dict(),
            "yardstick": {
                "distance": stick.distance,
                "word": None if private else stick.word,
                "position": stick.position,
            },
            "coverage": [_position(c, private) for c in covered_substitutions(adaptive, prompt, rho)],
            "covered_prompts": [attack.to_dict() for attack in attacks],
            **record,
            **further,
        },
    )
    if not private:
        return certificate
    # Of few enough prompts a digest says which it is.
    return replace(certificate, provenance={**certificate.provenance, "input_sha256": None})


def refuse_private_memory(private: bool) -> None:
    """Raises ValueError where the prompt is to stay out of every file, and a memory of regions would hold it."""
    if private:
        raise ValueError(
            "private = True: must be False under policy 'memory', whose regions hold the prompt's embeddings"
        )


def check_options(options: CertifyOptions) -> None:
    """Refuses options that are out of range, before anything is drawn or stored.

    Raises:
        TypeError: there is no such option, or it is of another kind.
        ValueError: it is out of range.
    """
    _validate.options("certify", options, CertifyOptions.__annotations__)
    checks: dict[str, Callable[[str, Any], Any]] = {
        **dict.fromkeys(("rho", "rho_deployed", "guidance"), _validate.positive),
        **dict.fromkeys(("q",), _validate.probability),
        "alpha": _validate.failure,
        **dict.fromkeys(("n", "points", "steps"), _validate.count),
        **dict.fromkeys(("seed", "statistics", "images"), functools.partial(_validate.count, minimum=0)),
        "rhos": _optional(lambda name, value: [_validate.positive(f"{name}[{i}]", v) for i, v in enumerate(value)]),
        "tolerance": _optional(_validate.not_negative),
        "batch_size": _optional(_validate.count),
        "memory": _optional(_validate.count),
        "private": _validate.flag,
        "detector": _optional(lambda _, value: load_detector(value)),
        "prompts": _texts,
        "provenance": lambda _, value: checked_provenance(value, _spoken_for()),
    }
    for name, value in options.items():
        if name in checks:
            checks[name](name, value)


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _texts(name: str, value: Any) -> None:
    if isinstance(value, str) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{name} = {value!r}: must be a list of texts")


def _spoken_for() -> set[str]:
    """Names of what is run or recorded, here or elsewhere: who wants other values on record has to run them."""
    options = set(CertifyOptions.__annotations__)
    elsewhere = {name for name, here in _validate.ELSEWHERE.items() if options.intersection(here)}
    return {*_OWN, *options, *elsewhere}


def run_of_prompt(
    adaptive: AdaptiveMedianSmoother, prompt: str, model: ModelRecord, decides: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the draws of a prompt's statements, as JSON values: the settings of its `RunFolder`.

    Args:
        adaptive: the smoother.
        prompt: it enters as a SHA-256, and not at all if `private` is decided: a digest of it can be guessed at.
        model: its weights.
        decides: whatever else the command or call was given that enters.
    """
    import torch

    from certify._version import __version__

    smoother = adaptive.settings()
    del smoother["memory_sha256"]  # other prompts add to it; this one's Σ is on record with its draws
    return {
        "version": __version__,
        "torch": torch.__version__,
        "prompt_sha256": None if decides.get("private") else hashlib.sha256(prompt.encode()).hexdigest(),
        "model": model.to_dict(),
        "dtype": str(adaptive.encoder.dtype).removeprefix("torch."),
        "device": adaptive.encoder.device.type,
        "smoother": smoother,
        **decides,
    }


EMBEDDING, NOISE_PREDICTION = "text encoding", "noise prediction"
DEPLOYED_DISTANCE = "deployed distance"
NOISE_PREDICTION_DISTANCE, CONCEPT_SCORE = "noise-prediction distance", "concept score"
"""What the claims of a prompt's certificate are about (`Claim.function`)."""


def event_name(detector: str | Detector) -> str:
    """What the event of a detector is called in claims."""
    if isinstance(detector, str):
        return f"image shows {detector.partition(':')[2] or detector}"
    return "image sets off the detector"


def functions_of(
    adaptive: AdaptiveMedianSmoother,
    prompt: str,
    deployment: Deployment,
    center: Tensor,
    trajectory: Trajectory | None,
    pipe: Any,
    detector: str | Detector | None,
    steps: int,
    guidance: float,
) -> dict[str, Callable[..., Any]]:
    """Claims' functions by name: those that can be evaluated with what is given."""
    problem = adaptive.problem(prompt)
    found: dict[str, Callable[..., Any]] = {
        EMBEDDING: problem.f,
        DEPLOYED_DISTANCE: embedding_distance(deployment, center),
    }
    denoiser = adaptive.denoiser
    if trajectory is not None and denoiser is not None:
        predictions = noise_prediction(denoiser, lambda h: h, trajectory)
        if adaptive.policy == "noise-then-adapt":
            found[NOISE_PREDICTION] = lambda z, generator: predictions(problem.f(z, generator))
        else:
            found[NOISE_PREDICTION] = lambda z: predictions(problem.f(z))
        found[NOISE_PREDICTION_DISTANCE] = noise_prediction_distance(deployment, denoiser, trajectory, center)
    found[CONCEPT_SCORE] = concept_score(deployment, _direction(adaptive, prompt), end=problem.tokenized.end)
    if detector is not None and pipe is not None:
        found[event_name(detector)] = attack_succeeds(deployment, pipe, detector, steps=steps, guidance=guidance)
    return found


@dataclass(frozen=True)
class _Planned:
    """A claim to be made: what it is about, and α ↦ the statement; None: a statistic of the deployed encoding, or an event."""

    function: str
    statement: Callable[[float], Question] | None = None


def _planned(
    adaptive: AdaptiveMedianSmoother,
    deployment: Deployment,
    rho: float,
    rho_deployed: float,
    q: float,
    rhos: Sequence[float] | None,
    tolerance: float,
    pipe: Any,
    statistics: int,
) -> list[_Planned]:
    """The claims of a certificate, but for one about images, in the order in which they are made: α is shared by all."""
    smoother = adaptive.aggregate
    kinds: list[Callable[[float], Question]] = [lambda share: MSE(rho, share, smoother=smoother)]
    if rhos is not None:
        radii = tuple(sorted({*map(float, rhos), float(rho)}))
        kinds.append(lambda share: Curve(radii, share, smoother=smoother))
    if tolerance > 0:
        kinds.append(lambda share: Radius(tolerance, share, smoother=smoother))
    if deployment.independent:  # K independent draws of f; else draws share something, and T6 does not apply
        for radius in sorted({rho, rho_deployed}):
            kinds.append(
                lambda share, radius=radius: Deployed(radius, q, share, deployment.replicas, smoother=smoother)  # type: ignore[misc]
            )
    plan = [_Planned(EMBEDDING, kind) for kind in kinds]
    if statistics:
        predicts = pipe is not None and adaptive.denoiser is not None
        if predicts and smoother == "median":
            plan.append(_Planned(NOISE_PREDICTION, lambda share: MSE(rho, share)))
        if not deployment.independent:
            plan.append(_Planned(DEPLOYED_DISTANCE))
        if predicts:
            plan.append(_Planned(NOISE_PREDICTION_DISTANCE))
        plan.append(_Planned(CONCEPT_SCORE))
    return plan


class _Work:
    """What there is to do, and progress over all of it."""

    def __init__(
        self,
        adaptive: AdaptiveMedianSmoother,
        pipe: Any,
        deployment: Deployment,
        n: int,
        statistics: int,
        images: int,
        points: int,
        steps: int,
        progress: Progress | None,
    ) -> None:
        if images and pipe is None:
            raise ValueError("pipe is None: must be the pipeline for statements about images")
        self.statistics, self.images, self.progress = statistics, images, progress
        predictions = pipe is not None and adaptive.denoiser is not None and statistics > 0
        copies = deployment.replicas
        self.total = n + statistics * (copies + predictions * (copies + points)) + images * steps * 3
        self.done = 0

    def tick(self, weight: int) -> Progress:
        """A progress function for the next part, which is `weight` encodings' worth."""
        before = self.done
        self.done += weight

        def report(now: int, total: int) -> None:
            if self.progress is not None:
                self.progress(min(self.total, before + weight * now // max(total, 1)), self.total)

        return report


def prediction_yardstick(adaptive: AdaptiveMedianSmoother, prompt: str, trajectory: Trajectory) -> float:
    """Σ_j w_j ‖ε(x_j, T(prompt), t_j) − ε(x_j, T(prompt without its most relevant word), t_j)‖²."""
    denoiser = cast(NoisePredictor, adaptive.denoiser)
    predicted = denoiser.along(trajectory, _with_and_without(adaptive, prompt)[0]).double()
    difference = (predicted[0] - predicted[1]).flatten(1).square().sum(dim=1)
    return float(difference.cpu() @ trajectory.weights)


def _direction(adaptive: AdaptiveMedianSmoother, prompt: str) -> Tensor:
    """The direction of the concept that the prompt is most relevant to."""
    record = adaptive.relevance(prompt)
    best = max(range(len(record.relevance)), key=lambda i: -math.inf if (r := record.relevance[i]) is None else r)
    names = [concept.name for concept in adaptive.concepts]
    return adaptive.scorer.directions[names.index(str(record.concept[best]))]


def plain_score(adaptive: AdaptiveMedianSmoother, prompt: str) -> float:
    """The concept score of the prompt's plain encoding."""
    v, tokenized = _direction(adaptive, prompt), adaptive.encoder.tokenize(prompt)
    h = adaptive.encoder.plain([tokenized])[0].double().cpu()
    return float((h if v.ndim == 2 else h[tokenized.end]).flatten() @ v.flatten() / v.norm())


def _position(coverage: PositionCoverage, private: bool) -> dict[str, Any]:
    """What a radius covers at one position; a private record names no token."""
    kept = coverage.to_dict()
    if private:
        for name in ("token", "nearest", "uncovered"):
            del kept[name]
    return kept
