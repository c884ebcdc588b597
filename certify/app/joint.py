"""Every other pipeline on the page: any text encoders, with the smoother over all of them of `certify.defend`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from certify.app.subject import Known, Model, ModelOptions, Subject, Watch, tokens
from certify.bounds.allocation import grid
from certify.certificate import Certificate, ModelRecord
from certify.defence import Defence, JointOptions, defend
from certify.defence.certification import certify_joint

if TYPE_CHECKING:
    from PIL.Image import Image

    from certify.app.asked import Asked
    from certify.montecarlo import Progress
    from certify.statements.questions import Question

__all__ = ["JointModel"]


class JointModel(Model):
    """A pipeline that `certify.defend` serves.

    Args:
        safe: the defended pipeline, for what the page does not ask for: smoother, policy, cap on the noise, arguments.
        model: as in `Model`.
    """

    def __init__(self, safe: Defence, **model: Unpack[ModelOptions]) -> None:
        super().__init__(**model)
        self.safe = safe
        self._records: dict[bool, ModelRecord] = {}

    def record(self, *, whole: bool) -> ModelRecord:
        """Which weights these are, computed once: nobody changes them; `whole`: with those that make an image."""
        if whole not in self._records:
            self._records[whole] = self.safe.model(whole=whole)
        return self._records[whole]

    def subject(self, asked: Asked) -> Subject:
        return _JointSubject(self, asked)


class _JointSubject(Subject):
    def __init__(self, model: JointModel, asked: Asked) -> None:
        adaptive: Any = model.safe.adaptive
        fixed: dict[str, Any] = {"smoother": adaptive.smoother, "sigma_max_relative": adaptive.sigma_max}
        fixed |= {"policy": adaptive.policy, "gamma": adaptive.gamma, "call": model.safe.calls.options}
        if model.batch_size is not None:
            fixed["batch_size"] = model.batch_size
        own = {"sigma0_relative": asked.sigma0, "k": asked.k, "n": asked.replicas}
        self.model, self.asked = model, asked
        self.safe = defend(model.safe.pipe, [asked.concept], **fixed, **own)
        self.problem = self.safe.problem(asked.prompt)
        self.smoother, self.noise, self.copies = adaptive.smoother, self.problem.noise, self.problem.copies
        self.radii = tuple(grid(asked.rho, JointOptions.radii))
        self.makes_images = not hasattr(model.safe.pipe, "video_processor")

    def known(self) -> Known:
        problem = self.problem
        concept = ", ".join(c.name for c in problem.smoother.concepts)
        units = [unit for reading in problem.readings for unit in reading.frame.units]
        of = zip(problem.layouts, problem.token_noise, units, strict=True)
        encoders = tuple((layout.encoder, tokens(noise, unit, concept)) for layout, noise, unit in of)
        removal = problem.concept_removal
        return Known(encoders, concept, problem.mention.named, None if removal is None else removal.distance)

    def pair(self, seed: int) -> tuple[Image, Image]:
        undefended, defended = (self.safe.images(self.asked.prompt, 1, seed, defended=d)[0] for d in (False, True))
        return undefended, defended

    def certify(
        self, detector: str | None, progress: Progress, watch: Watch | None, beside: Sequence[Question]
    ) -> Certificate:
        model, asked = self.model, self.asked
        provenance = model.provenance(asked)
        if detector is None:
            provenance["source"]["unet"] = None  # nothing is said of it
        options = JointOptions(
            rho=asked.rho,
            rho_deployed=asked.rho_deployed,
            n=asked.n,
            alpha=asked.alpha,
            seed=asked.seed,
            images=0 if detector is None else asked.images,
            detector=detector,
            batch_size=model.batch_size,
            memory=model.memory,
            progress=progress,
            watch=watch,
            beside=beside,
            provenance=provenance,
        )
        return certify_joint(self.safe.calls, self.problem, model.record(whole=detector is not None), options, {})
