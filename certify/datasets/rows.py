"""One row of a data set: how its prompt is certified, and what goes on record of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from certify import _validate
from certify._text import shown
from certify.datasets.prompt_files import PromptRow
from certify.defence import Defence
from certify.montecarlo import Progress, row_seed

if TYPE_CHECKING:
    from certify.adaptive import AdaptiveMedianSmoother
    from certify.certificate import Certificate, Claim, ModelRecord
    from certify.models import TokenizedPrompt

__all__ = ["RowOptions", "certify_row", "read_prompt", "word"]


@dataclass(frozen=True)
class RowOptions:
    """How every prompt is certified.

    Attributes:
        rho: radius of the reported bound, in units of ‖·‖_Σ.
        tolerance: squared ℓ2 distance for the certified radius; None: each prompt's own squared concept-removal distance.
        n: draws of the encoding, a prompt.
        alpha: failure probability, a prompt.
        seed: from which each row's seed is derived.
        statistics, images, detector, steps, guidance: as in `certify.adaptive.options.PromptOptions`; 0 statistics and
            0 images need the text encoder alone.
        private: leave prompts, their words and the other columns out of what is written, which only the owner may read: σ and
            relevance in it identify the words to anyone who has the model.
        save_certificates: keep each row's certificate in a folder.

    Raises:
        ValueError, TypeError: an option is out of range.
    """

    rho: float = 1.0
    tolerance: float | None = None
    n: int = 10_000
    alpha: float = 1e-3
    seed: int = 0
    statistics: int = 0
    images: int = 0
    detector: str | None = None
    steps: int = 50
    guidance: float = 7.5
    private: bool = False
    save_certificates: bool = False

    def __post_init__(self) -> None:
        _validate.positive("rho", self.rho)
        if self.tolerance is not None:
            _validate.positive("tolerance", self.tolerance)
        _validate.count("n", self.n)
        _validate.failure("alpha", self.alpha)
        _validate.seed_value(self.seed)
        _validate.count("statistics", self.statistics, minimum=0)
        _validate.count("images", self.images, minimum=0)
        _validate.count("steps", self.steps)
        _validate.positive("guidance", self.guidance)
        if self.images and self.detector is None:
            raise ValueError(f"images = {self.images}, detector = None: must have a detector to look at images with")

    def of_pipeline(self) -> dict[str, Any]:
        """Those of `certify.defence.JointOptions`; steps and guidance are arguments of the pipeline's call."""
        given = {name: getattr(self, name) for name in ("rho", "tolerance", "n", "alpha", "statistics", "private")}
        return given | {"detector": self.detector if self.images else None, "images": self.images}

    def of_prompt(self) -> dict[str, Any]:
        """Those of `certify.adaptive.options.PromptOptions`; its seed is the row's own."""
        given = {name: value for name, value in asdict(self).items() if name not in ("seed", "save_certificates")}
        return given | {"detector": self.detector if self.images else None}


def certify_row(
    adaptive: AdaptiveMedianSmoother | Defence,
    row: PromptRow,
    options: RowOptions,
    *,
    pipe: Any = None,
    batch_size: int | None = None,
    memory: int | None = None,
    progress: Progress | bool | None = None,
    model: ModelRecord | None = None,
    source: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], Certificate | None]:
    """Certifies a row's prompt.

    Under policy "memory" no radius is searched for (it could exceed the stored region): the certified radius is then the
    largest of a simultaneous curve whose bound is within the tolerance.

    Args:
        adaptive: the smoother; or a defended pipeline of any text encoders (`certify.defend`), which needs no `pipe`.
        row: the prompt. One that is empty, holds no word, or does not fit into the context, is refused, as is one for which the
            memory has no room.
        options: how.
        pipe: the pipeline that the smoother is built on, for statistics with noise predictions and for images.
        batch_size, memory, progress: as in `certify.statements.ask.ask`.
        model: which weights these are, where many rows are certified; None: computed here.
        source: where the model comes from, for the certificate's record.

    Returns:
        What goes on record (without "run"), and the certificate; None for a refused prompt. In the record: "status" is
        "certified" (the radius is > 0), "abstained" (`reason` says why) or "refused" (`reason`); "radius" is the certified
        radius for "tolerance", 0 without one; "bound" the bound at "rho", None without one, to be compared with
        "yardstick", a squared distance; "alpha" the failure probability of all that together, "n" the draws; "named" whether
        the prompt names the concept (`certify.adaptive.mention`); "others" the certificate's other claims; "seconds" the time
        it took; "truncated", of a prompt that was cut, its "tokens" and how many were "kept", begin and end included.
    """
    from certify.adaptive.options import DEFAULT_RHOS

    started = time.perf_counter()
    seed, named = row_seed(options.seed, row.number), not options.private
    head: dict[str, Any] = {"row": row.number, "line": row.line}
    if named:
        head |= {"prompt": row.prompt, "columns": dict(row.columns)}

    def refused(reason: str) -> tuple[dict[str, Any], None]:
        seconds = round(time.perf_counter() - started, 3)
        return head | {"status": "refused", "radius": 0.0, "reason": reason, "seed": seed, "seconds": seconds}, None

    if isinstance(adaptive, Defence):
        if not row.prompt.strip():
            return refused("the prompt is empty")
        shared: dict[str, Any] = {
            "seed": seed,
            "batch_size": batch_size,
            "memory": memory,
            "progress": progress,
            "model": model,
        }
        try:
            certificate = adaptive.certify(
                row.prompt, **options.of_pipeline(), **shared, provenance={"source": dict(source or {})}
            )
        except ValueError as error:
            return refused(str(error) if named else "the prompt carries no noise, or cannot be encoded")
        return head | _outcome(certificate, options, seed, started), certificate
    read = read_prompt(adaptive, row.prompt, named)
    if isinstance(read, str):
        return refused(read)
    remembers = adaptive.policy == "memory"
    memory_alone = {"tolerance": None, "rhos": DEFAULT_RHOS} if remembers else {"rhos": None}
    try:
        certificate = adaptive.certify(
            adaptive.prepare(read),
            **options.of_prompt() | memory_alone,
            seed=seed,
            pipe=pipe,
            batch_size=batch_size,
            memory=memory,
            progress=progress,
            model=model,
            provenance={"source": dict(source or {})},
        )
    except ValueError as error:
        if not remembers:
            raise
        return refused(str(error))
    cut = certificate.provenance.get("truncated")
    if cut:
        head |= {"truncated": cut}
    return head | _outcome(certificate, options, seed, started), certificate


def read_prompt(adaptive: AdaptiveMedianSmoother, prompt: str, named: bool) -> TokenizedPrompt | str:
    """A prompt's tokens, or why it cannot be certified. A private reason quotes nothing."""
    try:
        tokenized = adaptive.encoder.tokenize(prompt)
    except ValueError as error:
        return str(error) if named else "the prompt does not fit into the context"
    if tokenized.empty:
        return "the prompt is empty"
    return tokenized


def _outcome(certificate: Certificate, options: RowOptions, seed: int, started: float) -> dict[str, Any]:
    removal = certificate.provenance.get("yardstick") or {}
    within = removal.get("distance") if options.tolerance is None else options.tolerance
    bound = next(c for c in certificate.claims if c.quantity == "mse" and c.scope == "single")
    searched = next((c for c in certificate.claims if c.quantity == "radius"), None)
    radius, by, reason = 0.0, "", ""
    if searched is not None:
        radius, by, reason = searched.rho, searched.method, searched.reason
    elif within is None:
        reason = "without its most relevant word its encoding has another shape: a tolerance must be given"
    elif certificate.curve is not None and within > 0:
        inside = [c for c in certificate.curve.points if c.value is not None and c.value <= within]
        if inside:
            radius, by = inside[-1].rho, inside[-1].method
        else:
            reason = f"no bound of the curve is within the tolerance {shown(within, 'exact')}"
    else:
        reason = "the tolerance is 0: without its most relevant word the prompt has the same encoding"
    return {
        "status": "certified" if radius > 0 else "abstained",
        "radius": word(radius if radius > 0 else 0.0),
        "tolerance": within,
        "method": by,
        "rho": bound.rho,
        "bound": bound.value if bound.status == "certified" else None,
        "bound_method": bound.method,
        "yardstick": {k: v for k, v in removal.items() if v is not None},
        "alpha": certificate.alpha,
        "n": options.n,
        "seed": seed,
        "reason": reason if radius <= 0 else "",
        "named": certificate.provenance["concept_in_prompt"]["named"],
        "others": [_brief(c) for c in certificate.claims if c is not bound and c is not searched],
        "seconds": round(time.perf_counter() - started, 3),
    }


def _brief(claim: Claim) -> dict[str, Any]:
    names = ("function", "quantity", "rho", "q", "value", "alpha", "n", "theorem", "method", "status")
    return {name: word(v) for name in names if (v := getattr(claim, name)) is not None}


def word(value: Any) -> Any:
    """JSON has no infinity: it becomes the word that `float` reads."""
    return "Infinity" if isinstance(value, float) and value == math.inf else value
