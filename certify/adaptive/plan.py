"""The plan of a prompt's certificate: which statements there will be, before anything is drawn, and what each is about.

α is shared by the planned statements. A pass over draws answers one or several of them: those about ideal smoothed values of
one function share its draws; each statistic or event of what is deployed has draws of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from certify._records import Record
from certify.adaptive.deployment import Deployment
from certify.images.detectors import Detector
from certify.images.statistics import (
    attack_succeeds,
    concept_score,
    embedding_distance,
    noise_prediction,
    noise_prediction_distance,
)
from certify.models.trajectory import Trajectory
from certify.statements.ask import MSE, Curve, Deployed, Question, Radius, ask
from certify.statements.mean import event_bound
from certify.statements.replicas import statistic_bound

if TYPE_CHECKING:
    from certify.adaptive.options import PromptOptions
    from certify.adaptive.prompt import PreparedPrompt

__all__ = ["EMBEDDING", "Materials", "Planned", "event_name", "planned"]

EMBEDDING, NOISE_PREDICTION = "text encoding", "noise prediction"
DEPLOYED_DISTANCE = "deployed distance"
NOISE_PREDICTION_DISTANCE, CONCEPT_SCORE = "noise-prediction distance", "concept score"
"""What the claims of a prompt's certificate are about (`Claim.function`)."""


def event_name(detector: str | Detector) -> str:
    """What the event of a detector is called in claims."""
    if isinstance(detector, str):
        return f"image shows {detector.partition(':')[2] or detector}"
    return "image sets off the detector"


@dataclass(frozen=True, eq=False)
class Materials(Record):
    """What the functions of a prompt's claims are built from.

    Attributes:
        prompt: the prompt.
        deployment: what runs, with the noise of the claims.
        center: (tokens, width), what distances are measured to; None: not known yet.
        trajectory: the points at which noise predictions are compared; None: they are not.
        pipe, detector, steps, guidance: for images; None: there are none.
    """

    prompt: PreparedPrompt
    deployment: Deployment
    center: Tensor | None = None
    trajectory: Trajectory | None = None
    pipe: Any = None
    detector: str | Detector | None = None
    steps: int = 50
    guidance: float = 7.5

    def function(self, name: str) -> Callable[..., Any] | None:
        """The function that claims of this name are about; None: something that it needs is not there."""
        deployment, denoiser, trajectory = self.deployment, self.prompt.adaptive.denoiser, self.trajectory
        if name == EMBEDDING:
            return self.prompt.problem().f
        if name == CONCEPT_SCORE:
            return concept_score(deployment, self.prompt.direction, end=self.prompt.tokenized.end)
        if name == DEPLOYED_DISTANCE and self.center is not None:
            return embedding_distance(deployment, self.center)
        if name == NOISE_PREDICTION and denoiser is not None and trajectory is not None:
            return self._noise_prediction(noise_prediction(denoiser, lambda h: h, trajectory))
        if name == NOISE_PREDICTION_DISTANCE and denoiser is not None and trajectory is not None:
            return (
                None
                if self.center is None
                else noise_prediction_distance(deployment, denoiser, trajectory, self.center)
            )
        if self.detector is None or self.pipe is None or name != event_name(self.detector):
            return None
        return attack_succeeds(deployment, self.pipe, self.detector, steps=self.steps, guidance=self.guidance)

    def _noise_prediction(self, predictions: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        f = self.prompt.problem().f
        if self.prompt.adaptive.policy == "noise-then-adapt":
            return lambda z, generator: predictions(f(z, generator))
        return lambda z: predictions(f(z))


@dataclass(frozen=True)
class Planned(ABC):
    """A pass over draws, and the statements that it answers.

    Attributes:
        function: what they are about.
        n: draws.
        weight: what one of them takes, in encodings.
    """

    function: str
    n: int
    weight: int

    @property
    def statements(self) -> int:
        """How many share in α."""
        return 1

    @abstractmethod
    def answers(
        self, materials: Materials, options: PromptOptions, share: float, drawing: Mapping[str, Any]
    ) -> list[Any]:
        """Draws, and answers each statement with failure probability `share`. `drawing`: checkpoint and progress."""

    def _function(self, materials: Materials, options: PromptOptions) -> Callable[..., Any]:
        f = materials.function(self.function)
        if f is None:
            raise RuntimeError(f"{self.function}: was planned, and something that it needs is not there")
        return f if options.watch is None else options.watch(self.function, f)

    def _about(self, materials: Materials, options: PromptOptions, drawing: Mapping[str, Any]) -> dict[str, Any]:
        return {"function": self.function, "seed": options.seed, "policy": materials.prompt.adaptive.policy, **drawing}


@dataclass(frozen=True)
class Ideal(Planned):
    """Statements about the ideal smoothed values of a function of one noisy copy.

    Attributes:
        questions: α ↦ what is asked, each.
        settings: more options of `ask`.
    """

    questions: tuple[Callable[[float], Question], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def statements(self) -> int:
        return len(self.questions)

    def answers(
        self, materials: Materials, options: PromptOptions, share: float, drawing: Mapping[str, Any]
    ) -> list[Any]:
        f, problem = self._function(materials, options), materials.prompt.problem()
        asked = [question(share) for question in self.questions]
        settings = {"n": self.n, "memory": options.memory, **self.settings, **self._about(materials, options, drawing)}
        beside = options.beside if self.function == EMBEDDING else ()
        return ask(f, problem.y, problem.noise, [*asked, *beside], **settings)[: len(asked)]


@dataclass(frozen=True)
class Statistic(Planned):
    """A limit that a statistic of the deployed encoding keeps with probability q (T5)."""

    def answers(
        self, materials: Materials, options: PromptOptions, share: float, drawing: Mapping[str, Any]
    ) -> list[Any]:
        f, d = self._function(materials, options), materials.deployment
        asked: dict[str, Any] = {"rho": options.rho_deployed, "q": options.q, "replicas": d.copies, "batch_size": 64}
        asked |= {"n": self.n, "alpha": share}
        return [statistic_bound(f, d.y, d.noise, **asked, **self._about(materials, options, drawing))]


@dataclass(frozen=True)
class Event(Planned):
    """A limit on the probability of an event of what is deployed, from `n` images (T5, T14): as many of each draw of the copies
    as pilot draws let expect the most of."""

    def answers(
        self, materials: Materials, options: PromptOptions, share: float, drawing: Mapping[str, Any]
    ) -> list[Any]:
        f, d = self._function(materials, options), materials.deployment
        asked: dict[str, Any] = {"rho": options.rho_deployed, "replicas": d.copies, "n": self.n, "alpha": share}
        asked["repeats"] = None
        return [event_bound(f, d.y, d.noise, **asked, **self._about(materials, options, drawing))]


def planned(prompt: PreparedPrompt, options: PromptOptions) -> list[Planned]:
    """The passes of a certificate, in the order in which they are made; the first is about the encoding.

    Raises:
        ValueError: images are requested without a pipeline.
    """
    plan: list[Planned] = [_encoding(prompt, options)]
    smoother, deployment, n = prompt.adaptive.smoother, prompt.deployment, options.statistics
    predicts, copies = options.pipe is not None and prompt.adaptive.denoiser is not None, deployment.replicas
    if n:
        if predicts and smoother == "median":
            question = (lambda share: MSE(options.rho, share),)
            settings = {"pilot": max(64, n // 10), "batch_size": 64}
            plan.append(Ideal(NOISE_PREDICTION, n, options.points, question, settings))
        if not deployment.independent:
            plan.append(Statistic(DEPLOYED_DISTANCE, n, copies))
        if predicts:
            plan.append(Statistic(NOISE_PREDICTION_DISTANCE, n, copies + options.points))
        plan.append(Statistic(CONCEPT_SCORE, n, copies))
    if options.requested_images and options.detector is not None:
        if options.pipe is None:
            raise ValueError("pipe is None: must be the pipeline for statements about images")
        plan.append(Event(event_name(options.detector), options.images, 2 * options.steps))
    return plan


def _encoding(prompt: PreparedPrompt, options: PromptOptions) -> Ideal:
    """How far the encoding moves: at the radius, on a curve, up to the tolerance, deployed."""
    smoother, deployment = prompt.adaptive.smoother, prompt.deployment
    within = prompt.concept_removal.distance if options.tolerance is None else options.tolerance
    questions: list[Callable[[float], Question]] = [lambda share: MSE(options.rho, share, smoother=smoother)]
    if options.rhos is not None:
        radii = tuple(sorted({*map(float, options.rhos), float(options.rho)}))
        questions.append(lambda share: Curve(radii, share, smoother=smoother))
    if within > 0:
        questions.append(lambda share: Radius(within, share, smoother=smoother))
    if deployment.independent:  # K independent draws of f; else draws share something, and T6 does not apply
        for radius in sorted({options.rho, options.rho_deployed}):
            questions.append(
                lambda share, radius=radius: Deployed(radius, options.q, share, deployment.replicas, smoother=smoother)  # type: ignore[misc]
            )
    support = prompt.problem().support
    settings = {"center": options.center, "support": support, "batch_size": options.batch_size}
    return Ideal(EMBEDDING, options.n, 1, tuple(questions), settings)
