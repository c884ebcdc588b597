"""Certificates: what was proven, kept so that somebody else can read it, load it and test it again.

A certificate is a list of *claims* and, apart from them, their *provenance*. A claim is one statement: theorem, quantity,
value, radius, confidence, draws, covariance policy. "The same seed, the same certificate" is about claims; provenance
holds dates, versions and hashes. Each claim holds with probability 1 − α of its own; all together with probability
1 − Σα (`Certificate.alpha`).

On disk it is a folder with `certificate.json` and `tensors.safetensors` (the noise, the reference and the box behind each
claim; nothing pickled). `check` draws afresh from another stream and *refutes* a claim only by a binomial test at a
stated level: a fresh bound is larger than the old one half the time, and that proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certify import _files, _validate
from certify._pairs import Pair
from certify._records import Shown
from certify._text import failure, shown
from certify.bounds import BoundCurve, Run
from certify.bounds.base import POINT
from certify.bounds.bounded_mean import MeanEvidence
from certify.bounds.indistinguishability import Indistinguishability
from certify.bounds.statement import Result
from certify.certificate import words
from certify.certificate.check import CheckReport, checked, evidence_of
from certify.certificate.claim import Claim, ClaimedCurve, ClaimedEvent, ClaimedMean
from certify.certificate.provenance import checked_provenance, provenance_from, provenance_of
from certify.certificate.schema import SCHEMA_VERSION, as_json, claim_from, is_number
from certify.montecarlo import Function, Progress
from certify.noise import Ellipsoid, GaussianNoise

__all__ = ["SCHEMA_VERSION", "Certificate"]

_JSON, _TENSORS = "certificate.json", "tensors.safetensors"
_FILES = Pair(_JSON, _TENSORS)

PRIVATE = (
    "The prompt is left out, and is no secret: σ and relevance identify its words to anyone who has the model, a table of the "
    "vocabulary being enough. It is hidden from readers without the model, and from those who do not try."
)
"""The notice of a certificate that leaves its prompt out."""


def not_named(concept: str, relevance: float, threshold: float) -> str:
    """The notice that a prompt does not name the concept that its certificate is about (`certify.adaptive.mention`)."""
    near, names = shown(relevance, "near", 2), shown(threshold, "near", 2)
    return (
        f"The prompt does not seem to name “{concept}”: its highest relevance is {near}, where prompts that name it reach "
        f"{names}. What is certified holds, but there is little of the concept to suppress here."
    )


@dataclass(frozen=True, eq=False)
class Certificate(Shown):
    """Claims, their provenance, and the tensors behind them."""

    claims: tuple[Claim, ...]
    provenance: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)

    def __repr__(self) -> str:
        made = sum(claim.status == "certified" for claim in self.claims)
        return (
            f"Certificate({made} of {len(self.claims)} claims made, α = {failure(self.alpha)}, {self.claims[0].policy})"
        )

    @classmethod
    @_validate.suggests()
    def of(
        cls,
        *results: Any,
        model: Any = None,
        keep_input: bool = True,
        keep: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Certificate:
        """A certificate of results about one input and one noise.

        Args:
            *results: what `percentile_bounds`, `mse_bound`, `certified_radius`, `bound_curve`, `deployed_bound`,
                `statistic_bound`, `event_bound` or `decide_…` returned, from one y and one noise.
            model: the module or pipeline behind f, for a SHA-256 over its named tensors, or its `ModelRecord`, where many
                certificates are about one model; None: the record says that f was a plain callable.
            keep_input: whether the input y itself is stored; without it only its hash is. σ, the reference and the boxes
                stay: who has the model can test guesses of a prompt against them.
            keep: more tensors to keep, under names of their own.
            provenance: anything else worth recording, as JSON values, under names that are not the record's own.

        Raises:
            ValueError, TypeError: no results, unknown kinds, or results about different inputs or noises.
        """
        if not results:
            raise ValueError("results = (): a certificate needs at least one result")
        further = checked_provenance(provenance)
        parts = [part for result in results for part in (result.points if isinstance(result, BoundCurve) else [result])]
        for part in parts:
            if not isinstance(part, Result):
                raise TypeError(f"results hold a {type(part).__name__}: must be what certify's bounds return")
        runs = list({id(part.run): part.run for part in parts}.values())
        first = runs[0]
        for run in runs[1:]:
            if not torch.equal(run.y, first.y) or run.policy != first.policy or not _same_noise(run, first):
                raise ValueError("results are about different inputs, noises or policies: one certificate is about one")
            if (run.seed, run.dtype, run.device) != (first.seed, first.dtype, first.device):
                raise ValueError(
                    "results come from different seeds, dtypes or devices: one certificate records one of each"
                )
        total = sum(part.alpha for part in parts)
        tensors: dict[str, Tensor] = {"sigma": _sigma(first)}
        if keep_input:
            tensors["input"] = _on_cpu(first.y)
        claims = tuple(_claim(part, index, total, tensors) for index, part in enumerate(parts))
        for key, tensor in (keep or {}).items():
            if key in tensors:
                raise ValueError(f"keep names {key!r}: must be a name that the certificate does not use itself")
            tensors[key] = _on_cpu(tensor)
        return cls(claims, provenance_of(first, max(run.pilot for run in runs), model, further), tensors)

    @property
    def alpha(self) -> float:
        """Σα: all claims hold at once with probability at least 1 − this."""
        return min(1.0, math.fsum(claim.alpha for claim in self.claims))

    @property
    def private(self) -> bool:
        """Whether it is of a prompt, and leaves it out."""
        about = self.provenance.get("pipeline")
        joint = isinstance(about, Mapping) and "token_noise" in about
        return (joint or "token_noise" in self.provenance) and self.provenance.get("prompt") is None

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader must know beside the claims, in words: they say little, though they hold."""
        found = [f"But {POINT}."] if not bool((self.tensors["sigma"] > 0).any()) else []
        found += [PRIVATE] if self.private else []
        mention = self.provenance.get("concept_in_prompt")
        try:
            if mention is not None and not mention["named"]:
                found.append(
                    not_named(str(mention["concept"]), float(mention["relevance"]), float(mention["threshold"]))
                )
        except (KeyError, TypeError, ValueError):  # a stranger's record
            found.append("What the record says of the concept in the prompt cannot be read.")
        return tuple(found)

    @property
    def main(self) -> Claim:
        """The claim to open with: the bound of the output at the requested radius, else the first certified claim."""
        single = [c for c in self.claims if c.scope == "single" and c.quantity == "mse"]
        made = [c for c in self.claims if c.status == "certified"]
        return next(iter([c for c in single if c.status == "certified"] or made or single or self.claims))

    @property
    def headline(self) -> Claim:
        """The claim that a page opens with: the rate at which an attack succeeds, where it is certified; else `main`."""
        rates = [c for c in self.claims if words.is_probability(c) and c.status == "certified" and c.side == "upper"]
        return next(iter(rates), self.main)

    @property
    def indistinguishability(self) -> Indistinguishability | None:
        """What anybody could tell of a perturbation by what is made of the claims' noisy copies (T15): at the smallest radius
        of a claim about them, made or not, since no draw enters it. None: no claim is about what is deployed.

        It is not on disk: it follows from the radius and the number of copies that are.
        """
        deployed = [(claim.rho, -claim.replicas) for claim in self.claims if claim.replicas is not None]
        if not deployed:
            return None
        rho, replicas = min(deployed)
        return Indistinguishability(rho, -replicas)

    @property
    def noise(self) -> GaussianNoise:
        """The noise the claims are about."""
        return GaussianNoise(self.tensors["sigma"])

    @property
    def center(self) -> Tensor | None:
        """The reference of the claims, shape (*output), if they have a common one."""
        names = {claim.center for claim in self.claims if claim.center}
        return self.tensors[names.pop()] if len(names) == 1 else None

    @property
    def curve(self) -> ClaimedCurve | None:
        """The claims of a bound curve, together; None without one."""
        points = tuple(claim for claim in self.claims if claim.scope in ("pointwise", "simultaneous"))
        return ClaimedCurve(points) if points else None

    def event(self, claim: Claim) -> ClaimedEvent | ClaimedMean:
        """A certified claim about an event's probability, at every radius.

        Raises:
            ValueError: the claim is of another kind, an abstention, or its drawing was stopped early: such a count is a limit
                at this radius alone; or its evidence is none.
        """
        if not words.is_probability(claim) or claim.status != "certified":
            raise ValueError(f"claim is a {claim.status} {claim.quantity}: must be a certified event")
        if claim.scope == "stopped early":
            raise ValueError(
                "claim was decided early: its count says nothing about other radii; draw a fixed number instead"
            )
        if claim.quantity == "event":
            return ClaimedEvent(claim, self.noise)
        held = evidence_of(self, claim)
        if not isinstance(held, MeanEvidence) or claim.side == "lower":
            raise ValueError(f"claim about {claim.function!r}: must rest on an upper limit ({held})")
        return ClaimedMean(claim, self.noise, held)

    def ellipsoid(self, claim: Claim) -> Ellipsoid:
        """The certified set of a claim."""
        return Ellipsoid(self.tensors["sigma"], claim.rho if claim.status == "certified" else 0.0)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes `certificate.json` and `tensors.safetensors` into a folder, which is made if need be.

        At every moment the folder holds a certificate that can be loaded, the old one or this one, whatever fails. Only the
        owner may read the files of one that leaves its prompt out.

        Raises:
            FileExistsError: the folder holds a certificate already and `overwrite` is not set, or tensors of no certificate.
            OSError: it cannot be written; a certificate that was there is there.
        """
        path = Path(folder)
        _FILES.write(path, self._record(), self.tensors, overwrite=overwrite, owner_only=self.private)
        return path

    def to_json(self) -> str:
        """The certificate as `certificate.json` holds it, on one line fewer: claims, provenance, the digest of its tensors.

        `certify.certificate.schema.json_schema` says what it may hold.
        """
        return _FILES.contents(self._record(), self.tensors)[0].rstrip("\n")

    def _record(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "alpha": self.alpha,
            "claims": [as_json(claim) for claim in self.claims],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def load(cls, folder: str | Path) -> Certificate:
        """Reads a certificate back.

        Raises:
            FileNotFoundError: the folder has none.
            ValueError: the files are damaged, foreign, of another schema version, or do not belong together.
        """
        path = Path(folder)
        if not (path / _JSON).is_file():
            raise FileNotFoundError(f"folder = {str(path)!r}: holds no {_JSON}")
        try:
            record, tensors = _FILES.read(path, _record)
        except OSError as error:
            raise ValueError(f"{path / _TENSORS}: not readable ({error})") from error
        try:
            claims = tuple(claim_from(entry) for entry in record["claims"])
            provenance = provenance_from(record["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path / _JSON}: not a certificate of schema {SCHEMA_VERSION} ({error})") from error
        if "sigma" not in tensors:
            raise ValueError(f"{path / _TENSORS}: holds no tensor 'sigma'")
        try:
            GaussianNoise(tensors["sigma"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path / _TENSORS}: {error}") from error
        if not claims:
            raise ValueError(f"{path / _JSON}: holds no claims")
        certificate = cls(claims, provenance, tensors)
        stated: Any = record.get("alpha")
        total = math.fsum(claim.alpha for claim in claims)
        if not is_number(stated) or not math.isclose(float(stated), certificate.alpha, rel_tol=1e-9):
            raise ValueError(
                f"{path / _JSON}: alpha = {stated!r} is not the sum over its claims, {certificate.alpha!r}"
            )
        for claim in claims:
            if not math.isclose(claim.share * total, claim.alpha, rel_tol=1e-9):
                raise ValueError(
                    f"{path / _JSON}: a claim has share = {claim.share!r}: must be its part of Σα, {claim.alpha / total!r}"
                )
        return certificate

    def check(
        self,
        f: Function | Mapping[str, Function],
        y: Tensor,
        *,
        seed: int = 1,
        n: int | None = None,
        level: float = 1e-6,
        batch_size: int | None = None,
        progress: Progress | bool | None = None,
    ) -> CheckReport:
        """Draws afresh and looks for evidence against each claim.

        The numbers that a claim follows from are limits for the law of f(y + G), which fresh draws can contradict: under a
        box, say, a draw of output i exceeds its upper limit with probability at most 1 − p⁺, so that the number of
        exceedances is at most Bin(n, 1 − p⁺). A claim is refuted if its limits are rejected by a binomial test (T11's by a
        Chernoff bound), Bonferroni-corrected, or if its value does not follow from them. Not being refuted is no proof: the
        certificate is.

        Args:
            f: the function the certificate is about; where it is about several, a mapping of their names (`Claim.function`)
                to them. Claims about a name that is not there are not checked. One with `copies` K takes (b, K, *input).
            y: the input it is about.
            seed: seed of the checking stream, which no certificate draws from.
            n: fresh draws of each function; None: as many as its claims used.
            level: probability of refuting anything at all in a certificate whose claims are all true.
            batch_size, progress: as in `certify.statements.ask.ask`.

        Raises:
            ValueError: `y` is not the input of this certificate, or `f` is one function and the claims are about several.
        """
        return checked(self, f, y, seed, n, level, batch_size, progress)


def _record(path: Path) -> dict[str, Any]:
    try:
        record = _files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    version = record.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ValueError(f"{path}: schema_version = {version!r}, must be {SCHEMA_VERSION}")
    return record


def _claim(part: Result, index: int, total: float, tensors: dict[str, Tensor]) -> Claim:
    """The claim of a result, whose tensors are put among `tensors`."""
    behind: dict[str, Any] = {"share": part.alpha / total}
    if part.status == "certified":
        if part.evidence is None:
            raise ValueError(f"results hold a {type(part).__name__} without evidence: it cannot be tested again")
        name = f"claim{index}"
        behind |= {"evidence": part.evidence.kind, "numbers": part.evidence.numbers(), "tensors": name}
        # float32 draws keep their exact value; a box in float64 stays float64.
        tensors |= {f"{name}.{key}": _on_cpu(tensor) for key, tensor in part.evidence.tensors().items()}
    if part.measured_to is not None:
        behind["center"] = _kept_center(_on_cpu(part.measured_to), tensors)
    return replace(Claim.of(part), **behind)


def _kept_center(center: Tensor, tensors: dict[str, Tensor]) -> str:
    """The name under which a reference is kept; one that is there already is not kept twice."""
    number = 0
    while (name := f"center{number or ''}") in tensors:
        if torch.equal(tensors[name], center):
            return name
        number += 1
    tensors[name] = center
    return name


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _same_noise(a: Run, b: Run) -> bool:
    return type(a.noise) is type(b.noise) and torch.equal(_sigma(a), _sigma(b))


def _sigma(run: Run) -> Tensor:
    if not isinstance(run.noise, GaussianNoise):
        raise TypeError(f"noise is a {type(run.noise).__name__}: certificates are kept for Gaussian noise")
    return run.noise.sigma_for(run.y.shape).cpu().contiguous()
