"""Stable Diffusion 1.x and 2.x on the page: one CLIP text encoder, with the smoother of `certify.adaptive`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from certify.adaptive import AdaptiveMedianSmoother
from certify.adaptive.options import DEFAULT_RHOS
from certify.app.subject import Known, Model, ModelOptions, Subject, Watch, tokens
from certify.certificate import Certificate, ModelRecord
from certify.images.generation import pair

if TYPE_CHECKING:
    from PIL.Image import Image

    from certify.app.asked import Asked
    from certify.montecarlo import Progress
    from certify.statements.questions import Question

__all__ = ["ClipModel"]


class ClipModel(Model):
    """A Stable Diffusion pipeline.

    Args:
        pipe: the pipeline.
        smoothing: options of the smoother that the page does not ask for.
        sampler: steps and guidance.
        model: as in `Model`.
    """

    def __init__(
        self, pipe: Any, *, smoothing: Mapping[str, Any], sampler: Mapping[str, Any], **model: Unpack[ModelOptions]
    ) -> None:
        super().__init__(**model)
        self.pipe, self.smoothing, self.sampler = pipe, dict(smoothing), dict(sampler)

    @functools.cached_property
    def record(self) -> ModelRecord:
        """Which weights these are, computed once: nobody changes them."""
        return ModelRecord.of(self.pipe)

    def subject(self, asked: Asked) -> Subject:
        return _ClipSubject(self, asked)


class _ClipSubject(Subject):
    radii = DEFAULT_RHOS

    def __init__(self, model: ClipModel, asked: Asked) -> None:
        own = {"sigma0_relative": asked.sigma0, "k": asked.k, "n": asked.replicas}
        fixed = {name: value for name, value in model.smoothing.items() if name != "sigma0"}
        settings: Any = {**fixed, **own}
        self.model, self.asked = model, asked
        self.adaptive = AdaptiveMedianSmoother.from_pipeline(model.pipe, [asked.concept], **settings)
        self.prompt = self.adaptive.prepare(asked.prompt)
        self.smoother = self.adaptive.smoother
        self.noise, self.copies = self.prompt.deployment.noise, self.prompt.deployment.copies

    def known(self) -> Known:
        concept = ", ".join(c.name for c in self.adaptive.concepts)
        found = tokens(self.prompt.token_noise, self.adaptive.encoder.embedding_std, concept)
        removal = self.prompt.concept_removal.distance
        return Known((("text_encoder", found),), concept, self.prompt.mention.named, removal)

    def pair(self, seed: int) -> tuple[Image, Image]:
        settings: Any = self.model.sampler
        (undefended,), (defended,) = pair(self.model.pipe, self.adaptive, self.asked.prompt, seed=seed, **settings)
        return undefended, defended

    def certify(
        self, detector: str | None, progress: Progress, watch: Watch | None, beside: Sequence[Question]
    ) -> Certificate:
        model, asked = self.model, self.asked
        sampler: Any = model.sampler
        return self.adaptive.certify(
            self.prompt,
            rho=asked.rho,
            rho_deployed=asked.rho_deployed,
            rhos=self.radii,
            n=asked.n,
            alpha=asked.alpha,
            seed=asked.seed,
            statistics=0,
            images=0 if detector is None else asked.images,
            detector=detector,
            pipe=model.pipe,
            batch_size=model.batch_size,
            memory=model.memory,
            model=model.record,
            progress=progress,
            watch=watch,
            beside=beside,
            provenance=model.provenance(asked),
            **sampler,
        )
