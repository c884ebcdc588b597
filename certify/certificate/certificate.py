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

import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from certify import _files, _validate
from certify._digests import tensor_digest
from certify._pairs import Pair
from certify._records import Record, Shown
from certify._text import failure, shown
from certify.bounds import (
    EVIDENCE,
    METHODS,
    ROUTES,
    BoundCurve,
    CertifiedRadius,
    DeployedBound,
    EventBound,
    Evidence,
    MSEBound,
    PercentileBounds,
    Run,
    StatisticBound,
)
from certify.bounds.base import POINT
from certify.bounds.copies import event_at, event_interval, event_radius
from certify.bounds.percentile import BoxEvidence
from certify.certificate import words
from certify.certificate.words import NOT_COVERED
from certify.confidence import stopped_event
from certify.montecarlo import Function, Progress, draw
from certify.montecarlo.streams import VERSION
from certify.noise import Ellipsoid, GaussianNoise, Noise
from certify.progress import as_progress
from certify.statements.decide import Decision
from certify.statements.drawing import AskOptions

if TYPE_CHECKING:
    from certify.models.overlay import Overlay

__all__ = [
    "SCHEMA_VERSION",
    "Certificate",
    "CheckReport",
    "Claim",
    "ClaimedCurve",
    "ClaimedEvent",
    "ModelRecord",
    "Verdict",
    "checked_provenance",
    "claim_of",
    "tensor_digest",
]

SCHEMA_VERSION = 2
"""Of the files. What a seed draws has a version of its own, `provenance["streams"]` (1 where it is missing): the same seed
gives the same claims only if that is the same, too. `check` draws afresh and needs neither.
"""

_JSON, _TENSORS = "certificate.json", "tensors.safetensors"
_FILES = Pair(_JSON, _TENSORS)

_OWN = (
    "created",
    "seed",
    "streams",
    "pilot",
    "dtype",
    "device",
    "input_sha256",
    "input_shape",
    "noise",
    "versions",
    "model",
)
"""What `Certificate.of` puts on record itself."""
_ELSEWHERE_SAID = ("quantity", "smoother")
"""Names of a claim's own that are a record's, too: what a prompt's certificate is about, and the smoother's settings."""


PRIVATE = (
    "The prompt is left out, and is no secret: σ and relevance identify its words for whoever has the model, a table of the "
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


def checked_provenance(given: Any, taken: Iterable[str] = ()) -> dict[str, Any]:
    """What a caller wants on record beside what is put there anyway.

    Args:
        given: a mapping of names to JSON values; None: nothing.
        taken: names that say what was run, and which a caller has no say in, beside those of every certificate, of a claim, and
            of what can be asked.

    Raises:
        TypeError, ValueError: it is no mapping, it holds something else than JSON values, or one of these names.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"provenance = {given!r}: must be a mapping of names to JSON values")
    reserved = {*_OWN, *taken, *(_said_by_claims() - set(_ELSEWHERE_SAID))}
    for name in given:
        if name in reserved:
            raise ValueError(f"provenance names {name!r}: must be another name, that one says what was really run")
    try:
        _files.json_value(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise type(error)(f"provenance = {given!r}: must be JSON values ({error})") from error
    return dict(given)


def _said_by_claims() -> set[str]:
    """Names of what a claim says, or an option decides, by whatever name it goes."""
    alike = {name for name, here in _validate.ELSEWHERE.items() for name in (name, *here)}
    own = {"certify", "claims", "guidance", "model_sha256", "schema_version", "steps", "tensors"}
    return {*(field.name for field in fields(Claim)), *AskOptions.__annotations__, *alike, *own}


@dataclass(frozen=True)
class ModelRecord(Record):
    """Which weights a certificate is about. Computed once where one model gets many certificates and is left unchanged.

    Attributes:
        kind: the class's name, or "plain callable".
        sha256: digests over the named tensors of the parts; None: there are none.
        overlays: what was laid over parts after they were loaded: how many of their tensors it changed.
    """

    kind: str
    sha256: Mapping[str, str] | None
    overlays: Mapping[str, Overlay] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any) -> ModelRecord:
        """The record of a module, of a pipeline's modules, or None: of a plain callable. A record is returned as it is."""
        from certify.models.fingerprint import fingerprint
        from certify.models.overlay import overlay_on

        if isinstance(model, ModelRecord):
            return model
        if model is None:
            return cls("plain callable", None)
        parts = {k: v for k, v in getattr(model, "components", {}).items() if isinstance(v, torch.nn.Module)}
        if isinstance(model, torch.nn.Module):
            parts = {"module": model}
        overlays = {name: over for name, part in sorted(parts.items()) if (over := overlay_on(part)) is not None}
        digests = {name: fingerprint(part) for name, part in sorted(parts.items())} or None
        return cls(type(model).__name__, digests, overlays)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        over = {"overlays": {name: over.to_dict() for name, over in self.overlays.items()}} if self.overlays else {}
        return {"kind": self.kind, "sha256": None if self.sha256 is None else dict(self.sha256), **over}


@dataclass(frozen=True)
class Claim(Shown):
    """One statement.

    Attributes:
        theorem: label in THEORY ("T1", "T2", …).
        quantity: "mse" (value bounds a squared ℓ2 distance), "radius" (value is a radius), "percentile" (a box), "deployed"
            (value bounds an ℓ2 distance, at probability q), "statistic" (value bounds a statistic, at probability q),
            "event" (value bounds a probability).
        function: what it is about: "embedding", "noise prediction", "image shows circle", ….
        unit: of `value`.
        value: the bound or the radius; ∞, 1 or 0 in an abstention; None for a box, which is in the tensors.
        lower: the other end of a two-sided statement; else None.
        rho: radius it holds for.
        p: percentile; q: probability over the deployment noise; None where there is none.
        side: "upper", "lower" or "two-sided".
        replicas: noisy copies K behind one deployed output; None for an ideal smoothed function.
        copies: noisy copies that one call of the function sees; None: it is a function of one input.
        tolerance: for a radius, the squared ℓ2 distance it keeps.
        outputs: how many outputs hold jointly.
        smoother, method, reference: as in `MSEBound`.
        policy: covariance policy; `not_covered` says what it leaves out.
        alpha: failure probability of this claim; share: its part of the certificate's Σα.
        n: bounding draws.
        scope: "single"; "pointwise" or "simultaneous" for a point of a curve; "stopped early" where drawing ended as
            soon as the claim was decided.
        status, reason: "certified" or "abstained".
        evidence, numbers: kind and numbers of what the value follows from; its tensors have the prefix `tensors`.
        center: the name of its reference among the tensors, or "".
    """

    theorem: str
    quantity: str
    function: str
    unit: str
    value: float | None
    lower: float | None
    rho: float
    p: float | None
    q: float | None
    side: str
    replicas: int | None
    copies: int | None
    tolerance: float | None
    outputs: int
    smoother: str
    method: str
    reference: str
    policy: str
    alpha: float
    share: float
    n: int
    scope: str
    status: str
    reason: str
    evidence: str
    numbers: Mapping[str, float | int | str]
    tensors: str
    center: str

    @property
    def not_covered(self) -> str:
        """What the covariance policy of this claim leaves out."""
        return NOT_COVERED[self.policy]

    @property
    def sentence(self) -> str:
        """The claim in words."""
        return words.with_confidence(self)


@dataclass(frozen=True)
class ClaimedCurve(Shown):
    """The claims of one bound curve, with the attributes of a `BoundCurve`."""

    points: tuple[Claim, ...]

    @property
    def rhos(self) -> tuple[float, ...]:
        """The radii, increasing."""
        return tuple(claim.rho for claim in self.points)

    @property
    def values(self) -> tuple[float, ...]:
        """The bounds, +∞ where a point abstained."""
        return tuple(math.inf if claim.value is None else claim.value for claim in self.points)

    @property
    def simultaneous(self) -> bool:
        """Whether the curve as a whole is the statement."""
        return self.points[0].scope == "simultaneous"

    @property
    def alpha(self) -> float:
        """α of the curve (simultaneous) or of each point (pointwise)."""
        return self.points[0].alpha * (len(self.points) if self.simultaneous else 1)

    @property
    def n(self) -> int:
        """Bounding draws."""
        return self.points[0].n

    @property
    def method(self) -> str:
        """The methods of its points, each once."""
        return ", ".join(dict.fromkeys(point.method for point in self.points))

    @property
    def theorem(self) -> str:
        """Their theorems."""
        return ", ".join(dict.fromkeys(point.theorem for point in self.points))


@dataclass(frozen=True)
class ClaimedEvent(Shown):
    """The claim about an event, with what an `EventBound` knows of other radii."""

    claim: Claim
    noise: Noise

    @property
    def replicas(self) -> int:
        """Noisy copies."""
        return self.claim.replicas or 1

    @property
    def successes(self) -> int:
        """How often the event was seen in `n` draws."""
        return int(self.claim.numbers["successes"])

    @property
    def n(self) -> int:
        """Bounding draws."""
        return self.claim.n

    @property
    def alpha(self) -> float:
        """Failure probability, of all radii together."""
        return self.claim.alpha

    def at(self, rho: float) -> float:
        """As `EventBound.at`."""
        return event_at(self, self.noise, rho, self.claim.side == "two-sided")

    def radius(self, rate: float) -> float:
        """As `EventBound.radius`."""
        return event_radius(self.at, rate)


@dataclass(frozen=True)
class Verdict(Shown):
    """What a check found about one claim: "refuted", "not refuted", "nothing claimed" (an abstention), or "not checked" (its
    function was not given). `p_value` of the test; None where none was made, of a claim that contradicts its own record, too.
    """

    claim: Claim
    outcome: str
    p_value: float | None
    detail: str


@dataclass(frozen=True)
class CheckReport(Shown):
    """What `Certificate.check` returns.

    Attributes:
        verdicts: one a claim.
        n, seed, level: fresh draws (most of any function), their seed, and the level of the test over all claims together.
    """

    verdicts: tuple[Verdict, ...]
    n: int
    seed: int
    level: float

    @property
    def refuted(self) -> bool:
        """Whether any claim was refuted."""
        return any(v.outcome == "refuted" for v in self.verdicts)


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
        runs = [_run(result) for result in results]
        first = runs[0]
        for run in runs[1:]:
            if not torch.equal(run.y, first.y) or run.policy != first.policy or not _same_noise(run, first):
                raise ValueError("results are about different inputs, noises or policies: one certificate is about one")
            if (run.seed, run.dtype, run.device) != (first.seed, first.dtype, first.device):
                raise ValueError(
                    "results come from different seeds, dtypes or devices: one certificate records one of each"
                )
        flat = [part for result in results for part in (result.points if isinstance(result, BoundCurve) else [result])]
        total = sum(part.alpha for part in flat)
        tensors: dict[str, Tensor] = {"sigma": _sigma(first)}
        if keep_input:
            tensors["input"] = first.y.detach().cpu().contiguous()
        claims = tuple(_claim(part, index, total, tensors) for index, part in enumerate(flat))
        for key, tensor in (keep or {}).items():
            if key in tensors:
                raise ValueError(f"keep names {key!r}: must be a name that the certificate does not use itself")
            tensors[key] = tensor.detach().cpu().contiguous()
        record: dict[str, Any] = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": first.seed,
            "streams": VERSION,
            "pilot": max(run.pilot for run in runs),
            "dtype": first.dtype,
            "device": first.device,
            "input_sha256": tensor_digest(first.y),
            "input_shape": list(first.y.shape),
            "noise": type(first.noise).__name__,
            "versions": _versions(),
            "model": ModelRecord.of(model).to_dict(),
            **further,
        }
        return cls(claims, record, tensors)

    @property
    def alpha(self) -> float:
        """Σα: all claims hold at once with probability at least 1 − this."""
        return min(1.0, math.fsum(claim.alpha for claim in self.claims))

    @property
    def private(self) -> bool:
        """Whether it is of a prompt, and leaves it out."""
        return "token_noise" in self.provenance and self.provenance.get("prompt") is None

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
        """The claim to open with: the bound of the output at the radius asked for, or else the first that is made."""
        single = [c for c in self.claims if c.scope == "single" and c.quantity == "mse"]
        made = [c for c in self.claims if c.status == "certified"]
        return next(iter([c for c in single if c.status == "certified"] or made or single or self.claims))

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

    def event(self, claim: Claim) -> ClaimedEvent:
        """A certified claim about an event, at every radius.

        Raises:
            ValueError: the claim is of another kind, an abstention, or its drawing was stopped early: such a count is a limit
                at this radius alone.
        """
        if claim.quantity != "event" or claim.status != "certified":
            raise ValueError(f"claim is a {claim.status} {claim.quantity}: must be a certified event")
        if claim.scope == "stopped early":
            raise ValueError(
                "claim was decided early: its count says nothing about other radii; draw a fixed number instead"
            )
        return ClaimedEvent(claim, self.noise)

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
        record = {
            "schema_version": SCHEMA_VERSION,
            "alpha": self.alpha,
            "claims": [_encode(asdict(claim)) for claim in self.claims],
            "provenance": dict(self.provenance),
        }
        _FILES.write(path, record, self.tensors, overwrite=overwrite, owner_only=self.private)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Certificate:
        """Reads a certificate back.

        Raises:
            FileNotFoundError: there is none in the folder.
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
            claims = tuple(_decode(entry) for entry in record["claims"])
            provenance = _provenance(record["provenance"])
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
        if not _number(stated) or not math.isclose(float(stated), certificate.alpha, rel_tol=1e-9):
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
        level = _validate.probability("level", level)
        seed = _validate.seed_value(seed)
        y = _validate.own_tensor("y", y)
        stated = self.provenance.get("input_sha256", "")
        if stated is not None and tensor_digest(y) != stated:  # None: of a private prompt
            raise ValueError("y is not the input that this certificate is about: its SHA-256 differs")
        n = None if n is None else _validate.count("n", n)
        functions = self._functions(f)
        asked = [i for i, c in enumerate(self.claims) if c.status == "certified" and c.function in functions]
        held = {i: self._evidence(self.claims[i]) for i in asked}
        wrong = {i: e if isinstance(e, str) else self._contradiction(self.claims[i], e) for i, e in held.items()}
        tested = {i: e for i, e in held.items() if isinstance(e, Evidence) and not wrong[i]}
        witnesses = {i: evidence.witness() for i, evidence in tested.items()}
        most, report = 0, as_progress(progress)
        about = {i: (self.claims[i].function, self.claims[i].copies, self._shape(self.claims[i])) for i in tested}
        for name, copies, shape in dict.fromkeys(about.values()):
            mine = [i for i in tested if about[i] == (name, copies, shape)]
            number = n or max(self.claims[i].n for i in mine)
            most = max(most, number)
            draw(
                functions[name],
                y if copies is None else y.expand(copies, *y.shape),
                self.noise,
                n=number,
                seed=seed,
                stream="checking",
                accumulators=[witnesses[i] for i in mine],
                batch_size=batch_size,
                output_shape=shape,
                progress=report,
            )
        each = level / max(len(held), 1)

        def verdict(i: int, claim: Claim) -> Verdict:
            if claim.status == "abstained":
                return Verdict(claim, "nothing claimed", None, claim.reason)
            if i not in held:
                return Verdict(claim, "not checked", None, "its function was not given")
            if wrong[i]:
                return Verdict(claim, "refuted", None, wrong[i])
            p_value, detail = tested[i].verdict(witnesses[i], self.noise, claim.rho)
            return Verdict(claim, "refuted" if p_value <= each else "not refuted", p_value, detail)

        return CheckReport(tuple(verdict(i, claim) for i, claim in enumerate(self.claims)), most, seed, level)

    def _functions(self, f: Function | Mapping[str, Function]) -> dict[str, Function]:
        names = list(dict.fromkeys(claim.function for claim in self.claims))
        if isinstance(f, Mapping):
            unknown = sorted(set(f) - set(names))
            if unknown:
                raise ValueError(f"f names {unknown}: must be among {names}, which this certificate is about")
            return dict(f)
        if len(names) > 1:
            raise ValueError(
                f"f is one function, the certificate is about {names}: must be a mapping of names to functions"
            )
        return {names[0]: f}

    def _evidence(self, claim: Claim) -> Evidence | str:
        """What the claim rests on, or in words why it can rest on nothing."""
        prefix = f"{claim.tensors}."
        own = {k.removeprefix(prefix): v for k, v in self.tensors.items() if claim.tensors and k.startswith(prefix)}
        try:
            center = self.tensors[claim.center] if claim.center else torch.zeros(())
            if any(bool(tensor.isnan().any()) for tensor in (center, *own.values())):
                return "its tensors hold NaN"
            return EVIDENCE[claim.evidence].restored(claim.numbers, own, center)
        except KeyError as error:
            missing = error.args[0] if error.args[0] == claim.center else f"{prefix}{error.args[0]}"
            raise ValueError(
                f"certificate holds no tensor or number {missing!r}: the claim cannot be checked"
            ) from error
        except _NO_EVIDENCE as error:
            return f"its evidence is none: {error}"

    def _contradiction(self, claim: Claim, held: Evidence) -> str:
        """`_inconsistency`, where numbers and tensors may be such that nothing can be computed from them."""
        try:
            return self._inconsistency(claim, held)
        except KeyError as error:
            return f"its evidence holds no {error}"
        except _NO_EVIDENCE as error:
            return f"its evidence is none: {error}"

    def _shape(self, claim: Claim) -> tuple[int, ...]:
        """The shape of the claim's function's output."""
        if claim.copies is not None:
            return ()
        return tuple(self.tensors[claim.center if claim.center else f"{claim.tensors}.lower"].shape)

    def _inconsistency(self, claim: Claim, held: Evidence) -> str:
        """In words what the claim states that its evidence is not about; "" if there is nothing."""
        kind = (_LIKE.get(claim.quantity, claim.quantity), claim.smoother, claim.method)
        if _EVIDENCE_OF.get(kind) != (claim.theorem, held.kind):
            return f"it is about {', '.join(map(repr, kind))}, of which {claim.theorem} with {held.kind!r} says nothing"
        if claim.reference != (held.reference if claim.center else "none"):
            return f"it states the reference {claim.reference!r}, its evidence is about {held.reference!r}"
        if claim.center and claim.outputs != self.tensors[claim.center].numel():
            return f"it states {claim.outputs} outputs, its reference has {self.tensors[claim.center].numel()}"
        kept = held.numbers()
        p = {"percentile": kept.get("p_high"), "mse": 0.5 if claim.smoother == "median" else None}
        stated: dict[str, Any] = {
            "p": (claim.p, p.get(kind[0])),
            "q": (claim.q, kept.get("q")),
            "replicas": (claim.replicas, kept.get("replicas")),
            "copies": (claim.copies, None if claim.center else kept.get("replicas")),
            "side": (claim.side, kept.get("side", claim.side if claim.quantity == "event" else "upper")),
            "smoother": (claim.smoother, kept.get("smoother", claim.smoother)),
        }
        for name, (said, meant) in stated.items():
            if said != meant:
                return f"it states {name} = {said}, its evidence {meant}"
        if isinstance(held, BoxEvidence):
            if claim.quantity != "deployed" and not held.p_low == held.p_high == claim.p:
                return f"it states p = {claim.p}, its box is about the percentiles {held.p_low}, {held.p_high}"
            if not bool((held.lower <= held.upper).all()):
                return "its box is empty"
            if claim.outputs != held.lower.numel():
                return f"it states {claim.outputs} outputs, its box has {held.lower.numel()}"
        return "" if claim.quantity == "percentile" else self._shortfall(claim, held)

    def _shortfall(self, claim: Claim, held: Evidence) -> str:
        """In words which number of a claim does not follow from its evidence; "" if all do."""
        if claim.quantity == "radius" and claim.value != claim.rho:
            return f"it states a radius of {claim.value} and holds for {claim.rho}"
        stated = claim.tolerance if claim.quantity == "radius" else claim.value
        implied = held.implied(self.noise, claim.rho)
        if not (_at_most(stated, implied) if claim.side == "lower" else _at_most(implied, stated)):
            return f"it states {stated}, its evidence implies {implied!r}"
        kept = held.numbers()
        if claim.side == "two-sided" and not _at_most(claim.lower, kept["lower"]):
            return f"it states at least {claim.lower}, its evidence implies {kept['lower']}"
        if claim.quantity == "event":
            # Its count speaks about every radius, so the limits that are tested must not be weaker than what it says.
            seen, draws = int(kept["successes"]), claim.n
            if seen > draws:
                return f"it states {draws} draws, its evidence {seen} of them"
            at: dict[str, Any] = {"rho": claim.rho, "replicas": claim.replicas or 1, "alpha": claim.alpha}
            if claim.scope == "stopped early":
                # (Half of α is spent on this side; all of it by earlier versions, which could claim as little as `high`.)
                low, high = 0.0, stopped_event(seen, draws, self.noise, **at)
                most = stopped_event(seen, draws, self.noise, **{**at, "alpha": claim.alpha / 2})
            else:
                low, high = event_interval(seen, draws, self.noise, two_sided=claim.side == "two-sided", **at)
                most = high
            above = _at_most(high, claim.value) and _at_most(kept["upper"], most)
            if not (above and _at_most(claim.lower or 0.0, low) and _at_most(low, kept["lower"])):
                return f"{seen} of {draws} draws imply [{low!r}, {high!r}], its evidence says {kept}"
        return ""


def _record(path: Path) -> dict[str, Any]:
    try:
        record = _files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    version = record.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ValueError(f"{path}: schema_version = {version!r}, must be {SCHEMA_VERSION}")
    return record


def claim_of(result: Any, share: float = 1.0) -> Claim:
    """The claim that a result makes, without what a certificate keeps behind it.

    Args:
        result: what the functions that `Certificate.of` names return, a point of a curve by itself.
        share: its part of the certificate's Σα.
    """
    radius, box, early = (
        isinstance(result, CertifiedRadius),
        isinstance(result, PercentileBounds),
        isinstance(result, Decision),
    )
    center = getattr(result, "center", None)
    replicas = None if result.quantity == "mse" else getattr(result, "replicas", None)
    return Claim(
        theorem=result.theorem,
        quantity=result.quantity,
        function=result.run.function,
        unit=result.unit,
        value=None if box else float(result.rho if radius else result.claimed if early else result.value),
        lower=float(result.lower) if getattr(result, "side", "") == "two-sided" else None,
        rho=float(result.rho),
        p=result.p if box else 0.5 if getattr(result, "smoother", "") == "median" and replicas is None else None,
        q=getattr(result, "q", None),
        side=getattr(result, "side", "upper"),
        replicas=replicas,
        copies=result.run.copies,
        tolerance=result.tolerance if radius else None,
        outputs=1 if center is None else int(center.numel()),
        smoother="percentile" if box else getattr(result, "smoother", "none"),
        method="order statistics" if box else result.method,
        reference="none" if box else getattr(result, "reference", "none"),
        policy=result.run.policy,
        alpha=result.alpha,
        share=share,
        n=result.n,
        scope=getattr(result, "scope", "single"),
        status=result.status,
        reason=result.reason,
        evidence="",
        numbers={},
        tensors="",
        center="",
    )


def _claim(part: Any, index: int, total: float, tensors: dict[str, Tensor]) -> Claim:
    claim = claim_of(part, part.alpha / total)
    certified = part.status == "certified"
    evidence = part.evidence if certified else None
    if certified and evidence is None:
        raise ValueError(f"results hold a {type(part).__name__} without evidence: it cannot be tested again")
    name = f"claim{index}" if certified else ""
    for key, tensor in {} if evidence is None else evidence.tensors().items():
        # float32 draws keep their exact value; a box in float64 stays float64.
        tensors[f"{name}.{key}"] = tensor.detach().cpu().contiguous()
    center = None if claim.quantity == "percentile" else getattr(part, "center", None)
    return replace(
        claim,
        evidence="" if evidence is None else evidence.kind,
        numbers={} if evidence is None else evidence.numbers(),
        tensors=name,
        center="" if center is None else _kept_center(center.detach().cpu().contiguous(), tensors),
    )


def _kept_center(center: Tensor, tensors: dict[str, Tensor]) -> str:
    """The name under which a reference is kept; one that is there already is not kept twice."""
    number = 0
    while (name := f"center{number or ''}") in tensors:
        if torch.equal(tensors[name], center):
            return name
        number += 1
    tensors[name] = center
    return name


def _run(result: Any) -> Run:
    if isinstance(result, BoundCurve):
        return result.points[0].run
    known = (MSEBound, CertifiedRadius, PercentileBounds, DeployedBound, StatisticBound, EventBound, Decision)
    if isinstance(result, known):
        return result.run
    raise TypeError(f"results hold a {type(result).__name__}: must be what certify's bounds return")


def _same_noise(a: Run, b: Run) -> bool:
    return type(a.noise) is type(b.noise) and torch.equal(_sigma(a), _sigma(b))


def _sigma(run: Run) -> Tensor:
    if not isinstance(run.noise, GaussianNoise):
        raise TypeError(f"noise is a {type(run.noise).__name__}: certificates are kept for Gaussian noise")
    return run.noise.sigma_for(run.y.shape).cpu().contiguous()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("certify", "numpy", "transformers", "diffusers", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _encode(value: Any) -> Any:
    """JSON has no infinities: they become words."""
    if isinstance(value, Mapping):
        return {k: _encode(v) for k, v in value.items()}
    return ("Infinity" if value > 0 else "-Infinity") if isinstance(value, float) and math.isinf(value) else value


def _words_to_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _words_to_numbers(v) for k, v in value.items()}
    return {"Infinity": math.inf, "-Infinity": -math.inf}.get(value, value) if isinstance(value, str) else value


def _decode(entry: dict[str, Any]) -> Claim:
    names = {f.name for f in fields(Claim)}
    if set(entry) != names:
        raise ValueError(f"a claim has the fields {sorted(entry)}, must have {sorted(names)}")
    values: dict[str, Any] = {k: v if k in _TEXTS else _words_to_numbers(v) for k, v in entry.items()}
    if values["policy"] not in NOT_COVERED:
        raise ValueError(f"policy = {values['policy']!r}: must be one of {sorted(NOT_COVERED)}")
    for name, allowed in _WORDS:
        if values[name] not in allowed:
            raise ValueError(f"a claim has {name} = {values[name]!r}: must be one of {', '.join(map(repr, allowed))}")
    quantity = values["quantity"]
    for name, least, most in _RANGES:
        if name in _OPTIONAL and values[name] is None:
            continue
        if not _number(values[name]) or not least <= values[name] <= most:
            raise ValueError(f"a claim has {name} = {values[name]!r}: must be a number in [{least:g}, {most:g}]")
    limits = {"event": (0.0, 1.0), "statistic": (-math.inf, math.inf)}.get(quantity, (0.0, math.inf))
    wanted = {name: name in _NEEDED.get(quantity, ()) for name in ("value", "tolerance", "lower")}
    wanted["lower"] = values["side"] == "two-sided"
    for name, needed in wanted.items():
        number = values[name]
        if number is None and not needed:
            continue
        if not _number(number) or not limits[0] <= number <= limits[1]:
            raise ValueError(
                f"a claim has {name} = {number!r}: must be a number in [{limits[0]:g}, {limits[1]:g}] "
                f"for quantity {quantity!r}"
            )
    for name in ("n", "outputs", "replicas", "copies"):
        number = values[name]
        optional = name in _OPTIONAL and number is None
        if not optional and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ValueError(f"a claim has {name} = {number!r}: must be a whole number >= 1")
    if values["p"] is None and (quantity == "percentile" or values["evidence"] == "box"):
        raise ValueError(f"a claim has p = None: must be a number in [0, 1] for quantity {quantity!r}")
    if quantity in ("deployed", "statistic") and values["q"] is None:
        raise ValueError(f"a claim has q = None: must be a probability for quantity {quantity!r}")
    if quantity in ("deployed", "statistic", "event") and values["replicas"] is None:
        raise ValueError(f"a claim has replicas = None: must be a whole number >= 1 for quantity {quantity!r}")
    if not values["alpha"] > 0:
        raise ValueError(f"a claim has alpha = {values['alpha']!r}: must be > 0")
    if not isinstance(values["numbers"], dict) or not all(
        _number(v) or isinstance(v, str) for v in values["numbers"].values()
    ):
        raise ValueError(f"a claim has numbers = {values['numbers']!r}: must be a mapping to numbers and words")
    for name in _TEXTS:
        if not isinstance(values[name], str):
            raise ValueError(f"a claim has {name} = {values[name]!r}: must be a string")
    if (values["evidence"] == "") != (values["status"] == "abstained"):
        raise ValueError(f"a claim has evidence = {values['evidence']!r} and status = {values['status']!r}")
    return Claim(**values)


def _at_most(a: Any, b: Any) -> bool:
    """a ≤ b up to rounding; False where either is missing or NaN."""
    return _number(a) and _number(b) and (a == b or a <= b + 1e-9 * min(abs(a), abs(b)))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TEXTS = ("function", "unit", "reason", "tensors", "center")  # "Infinity" is a word there
_COUNTS = ("seed", "streams", "pilot")
_OPTIONAL = ("p", "q", "replicas", "copies")
_NEEDED = {
    "mse": ("value",),
    "radius": ("value", "tolerance"),
    "deployed": ("value",),
    "statistic": ("value",),
    "event": ("value",),
}
_RANGES = (
    ("rho", 0, math.inf),
    ("p", 0, 1),
    ("q", 0, 1),
    ("alpha", 0, 1),
    ("share", 0, 1),
    ("n", 1, 1e18),
    ("outputs", 1, 1e18),
)
_LIKE = {"radius": "mse"}
_EVIDENCE_OF = {
    ("percentile", "percentile", "order statistics"): ("T1", "box"),
    ("statistic", "none", "replicas"): ("T5", "limit"),
    ("event", "none", "replicas"): ("T5", "event"),
    **{("mse", *asked): (kind.theorem, kind.evidence.kind) for asked, kind in METHODS.items()},
    **{("deployed", *asked): (kind.theorem, kind.evidence.kind) for asked, kind in ROUTES.items()},
}
"""(quantity, smoother, method) → the theorem and the kind of evidence from which something follows about it."""
_NO_EVIDENCE = (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError)
"""What numbers and tensors of another kind than the evidence's own lead to."""
_BOUNDS = (*METHODS.values(), *ROUTES.values())
_WORDS = (
    ("quantity", ("mse", "radius", "percentile", "deployed", "statistic", "event")),
    ("status", ("certified", "abstained")),
    ("scope", ("single", "pointwise", "simultaneous", "stopped early")),
    ("side", ("upper", "lower", "two-sided")),
    ("theorem", ("T1", "T5", *(kind.theorem for kind in _BOUNDS))),
    ("smoother", ("percentile", "none", *(kind.smoother for kind in _BOUNDS))),
    ("method", ("order statistics", "replicas", *(kind.method for kind in _BOUNDS))),
    ("reference", ("center", "population", "none")),
    ("evidence", ("", *EVIDENCE)),
)


def _provenance(record: Any) -> dict[str, Any]:
    """A provenance whose entries are what they are taken for, where they are there."""
    if not isinstance(record, dict):
        raise ValueError(f"provenance is a {type(record).__name__}: must be an object")
    for name, (fits, what) in _ON_RECORD.items():
        if name in record and not fits(record[name]):
            raise ValueError(f"provenance has {name} = {record[name]!r}: must be {what}")
    return record


def _is_model(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    digests, overlays = value.get("sha256"), value.get("overlays", {})
    if not isinstance(overlays, dict) or not all(isinstance(overlay, dict) for overlay in overlays.values()):
        return False
    return digests is None or (isinstance(digests, dict) and all(isinstance(d, str) for d in digests.values()))


def _is_source(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    named = all(isinstance(value.get(n), str | None) for n in ("model", "unet", "text_encoder", "variant"))
    concepts = value.get("concepts") or []
    return named and isinstance(concepts, list) and all(isinstance(concept, str) for concept in concepts)


def _is_cut(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    tokens, kept = (value.get(name) for name in ("tokens", "kept"))
    return type(tokens) is int and type(kept) is int and 0 < kept < tokens


_ON_RECORD: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{
        n: (lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0, "a whole number >= 0") for n in _COUNTS
    },
    **{n: (lambda v: isinstance(v, str), "a string") for n in ("dtype", "device", "noise")},
    "input_sha256": (lambda v: isinstance(v, str | None), "a string or null"),
    "prompt": (lambda v: isinstance(v, str | None), "a string or null"),
    "model": (_is_model, "an object with kind, a string, and sha256, null or strings by name"),
    "source": (_is_source, "an object of strings or null, and concepts, a list of strings"),
    "smoother": (lambda v: isinstance(v, dict), "an object"),
    "truncated": (_is_cut, "an object with tokens and kept, whole numbers, kept > 0 the smaller one"),
}
"""What `check` and the command line take from a provenance."""
