"""Options of a prompt's certificate: what is asked, within what failure probability, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from torch import Tensor

from certify import _validate
from certify._records import Record
from certify.adaptive.memory import CovarianceMemory
from certify.adaptive.record import ON_RECORD
from certify.certificate import ModelRecord
from certify.certificate.provenance import checked_provenance
from certify.images.detectors import Detector, load_detector
from certify.montecarlo import Progress
from certify.montecarlo.runs import RunFolder
from certify.statements.questions import Question

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEFAULT_RHOS", "AdaptiveOptions", "CertifyOptions", "PromptOptions", "refuse_private_memory"]

DEFAULT_RHOS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Radii of the curve of a prompt's certificate."""


class CertifyOptions(TypedDict, total=False):
    """The options of `AdaptiveMedianSmoother.certify`, which `PromptOptions` explains."""

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
    watch: Callable[[str, Callable[..., Any]], Callable[..., Any]] | None
    beside: Sequence[Question]


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Record):
    """What is asked of one prompt.

    Args:
        rho: radius of the statements about ideal smoothed values, and of one about the deployed encoding, in units of ‖·‖_Σ.
            Under the policy "levels", and so the next, by default what covers the level of the prompt's most relevant word.
        rho_deployed: radius of the statements about what is deployed, which see K noisy copies: T5 multiplies it by √K.
        q: probability over the deployment noise, for statements about what is deployed.
        n: bounding draws of the encoding, shared by the statements about it.
        alpha: failure probability of the certificate as a whole, shared equally by the statements.
        seed: of the draws.
        rhos: radii of the curve (`rho` is added); None: no curve.
        tolerance: squared distance for the certified radius; None: the concept-removal distance; 0: no certified radius.
        center: what distances are measured to, (tokens, width), for instance a deployed encoding; None: the smoothed
            value of pilot draws.
        pipe: the pipeline that the smoother is built on, for statements about noise predictions and images; None: none.
        detector: what an attack wants to see in an image (`certify.images.load_detector`); None: nothing about images.
        statistics: draws of each statistic of the deployed encoding, of K noisy copies each; 0: no such statements. Noise
            predictions of the smoother that takes the median of them are drawn as often.
        images: images for the attack success rate; from 300 on a fifth as many before, to choose how many each draw of the
            noisy copies is to have (T14); a quarter as many without the defence, of the prompt and of the prompt without its
            most relevant word; 0: nothing about images.
        points: points (x_t, t) of the sampler's trajectory at which noise predictions are compared.
        steps, guidance: sampler settings. The trajectory and the images are computed with them, and they are on record as they
            ran; the embedded model's own are 8 and 2 (`certify.world.DEFAULTS`).
        prompts: attack prompts, of which the certificate records whether `rho` covers them (T9).
        private: leave out the prompt, its tokens, its embeddings and their digest; attack prompts are counted. A checkpoint is
            then the owner's alone to read, and its names tell nothing. Not under policy "memory": regions hold embeddings.
            Relevance, σ, the trajectory, the reference and the boxes stay. σ and relevance identify the words to anyone who has
            the model: the prompt is hidden from readers without it, or who do not try. Only the owner may read the files.
        batch_size, memory, progress: as in `certify.statements.ask.ask`; progress counts encodings.
        checkpoint: a folder to keep in what every pass has drawn. The same call resumes from there to the identical
            certificate; batch size and memory may be others; another call has a place of its own in it. With a
            `certify.montecarlo.RunFolder` the caller removes what was kept, with its `remove`, once the certificate is saved.
        model: which weights these are, where the caller knows that they have not changed since; None: computed here.
        provenance: more to put on record, as JSON values ("source": where the model is from). What was run is there anyway,
            and no name of an option or of a part of the record may be given here.
        watch: is handed every function that is drawn, by its name in claims, and returns what is drawn in its place: a function
            that returns the same values and looks at them; None: nobody looks.
        beside: more questions that are answered from the draws of the encoding, each with an α of its own. They change nothing
            in the certificate and are no part of it.

    Raises:
        TypeError, ValueError: a value is of another kind, or out of range.
    """

    rho: float = 1.0
    rho_deployed: float = 0.25
    q: float = 0.9
    n: int = 10_000
    alpha: float = 1e-3
    seed: int = 0
    rhos: Sequence[float] | None = DEFAULT_RHOS
    tolerance: float | None = None
    center: Tensor | None = None
    pipe: Any = None
    detector: str | Detector | None = None
    statistics: int = 1_000
    images: int = 400
    points: int = 4
    steps: int = 50
    guidance: float = 7.5
    prompts: Sequence[str] = ()
    private: bool = False
    batch_size: int | None = None
    progress: Progress | bool | None = None
    checkpoint: str | Path | RunFolder | None = None
    memory: int | None = None
    model: ModelRecord | None = None
    provenance: Mapping[str, Any] | None = None
    watch: Callable[[str, Callable[..., Any]], Callable[..., Any]] | None = None
    beside: Sequence[Question] = ()

    @classmethod
    def of(cls, options: CertifyOptions) -> PromptOptions:
        """From options by name. A misspelt one is a TypeError that says what was meant."""
        _validate.options("certify", options, CertifyOptions.__annotations__)
        return cls(**options)

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in _CHECKS:
                _CHECKS[field.name](field.name, getattr(self, field.name))

    @property
    def requested_images(self) -> int:
        """Images for the attack success rate; 0 without a detector."""
        return self.images if self.detector else 0

    @property
    def largest_radius(self) -> float:
        """The largest radius of any statement but the certified radius, which is searched for."""
        return max(self.rho, self.rho_deployed, *(self.rhos or ()))

    def inside_a_region(self) -> PromptOptions:
        """These options under the policy "memory": no certified radius, which could exceed the region.

        Raises:
            ValueError: images are requested, or the prompt is private.
        """
        refuse_private_memory(self.private)
        if self.tolerance:
            raise ValueError(f"tolerance = {self.tolerance!r}: must be 0 or None under policy 'memory'")
        return replace(self, tolerance=0.0)

    def covering(self, rho: float | None, given: CertifyOptions) -> PromptOptions:
        """These options under the policy "levels": the radii that were not given are `rho`, where there is one."""
        if rho is None:
            return self
        return replace(self, **{name: rho for name in ("rho", "rho_deployed") if name not in given})  # type: ignore[arg-type]

    def deciding(self) -> dict[str, Any]:
        """What of it decides the draws, as JSON values."""
        from certify._digests import tensor_digest

        names = (
            "rho",
            "rho_deployed",
            "q",
            "n",
            "alpha",
            "seed",
            "rhos",
            "tolerance",
            "center",
            "statistics",
            "images",
        )
        given = {name: getattr(self, name) for name in (*names, "detector", "points", "steps", "guidance", "private")}
        return given | {
            "rhos": None if self.rhos is None else list(map(float, self.rhos)),
            "center": None if self.center is None else tensor_digest(self.center),
            "images": self.requested_images,
            "detector": _name(self.detector) if self.requested_images else None,
        }


def refuse_private_memory(private: bool) -> None:
    """Raises ValueError where the prompt is to stay out of every file, and a memory of regions would hold it."""
    if private:
        raise ValueError(
            "private = True: must be False under policy 'memory', whose regions hold the prompt's embeddings"
        )


def _name(detector: Any) -> str:
    return detector if isinstance(detector, str) else f"{type(detector).__module__}.{type(detector).__qualname__}"


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _texts(name: str, value: Any) -> None:
    if isinstance(value, str) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{name} = {value!r}: must be a list of texts")


def _not_negative_count(name: str, value: Any) -> int:
    return _validate.count(name, value, minimum=0)


def _reserved() -> set[str]:
    """Names of what is run or recorded, here or elsewhere: who wants other values on record has to run them."""
    options = set(CertifyOptions.__annotations__)
    elsewhere = {name for name, here in _validate.ELSEWHERE.items() if options.intersection(here)}
    return {*ON_RECORD, *options, *elsewhere}


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("rho", "rho_deployed", "guidance"), _validate.positive),
    "q": _validate.probability,
    "alpha": _validate.failure,
    **dict.fromkeys(("n", "points", "steps"), _validate.count),
    **dict.fromkeys(("seed", "statistics", "images"), _not_negative_count),
    "rhos": _optional(lambda name, value: [_validate.positive(f"{name}[{i}]", v) for i, v in enumerate(value)]),
    "tolerance": _optional(_validate.not_negative),
    **dict.fromkeys(("batch_size", "memory"), _optional(_validate.count)),
    "private": _validate.flag,
    "detector": _optional(lambda _, value: load_detector(value)),
    "prompts": _texts,
    "provenance": lambda _, value: checked_provenance(value, _reserved()),
}


class AdaptiveOptions(TypedDict, total=False):
    """The options of `AdaptiveMedianSmoother`, which explains them."""

    sigma0: float | None
    sigma0_relative: float | None
    k: float
    n: int
    smoother: str
    use_global: bool
    policy: str
    sigma_min: float | None
    sigma_min_relative: float | None
    sharing: str
    memory: str | Path | CovarianceMemory | None
    gamma: float | None
    similarity: str
    special_tokens: str
    sigma_max: float | None
    sigma_max_relative: float | None
    smooth_unconditional: bool
    batch_size: int
    truncate: bool
