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

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from scipy.stats import binom
from torch import Tensor

from certify import _validate
from certify.bounds import METHODS, BoundCurve, CertifiedRadius, MSEBound, PercentileBounds, Run
from certify.bounds.mse import box_distance
from certify.ellipsoid import Ellipsoid
from certify.montecarlo import Function, draw
from certify.noise import GaussianNoise
from certify.support import Support

__all__ = ["SCHEMA_VERSION", "Certificate", "CheckReport", "Claim", "ClaimedCurve", "Verdict", "tensor_digest"]

SCHEMA_VERSION = 1

POLICIES = {
    "frozen": (
        "Σ is fixed: the claim is about the smoother with this Σ for every input in the ellipsoid. It does not cover a "
        "smoother that computes Σ anew from the perturbed prompt."
    ),
}
"""What each covariance policy does not cover, in one sentence (THEORY T7)."""

_JSON, _TENSORS = "certificate.json", "tensors.safetensors"


@dataclass(frozen=True)
class Claim:
    """One statement.

    Attributes:
        theorem: label in THEORY ("T1", "T2", …).
        quantity: "mse" (value bounds a squared ℓ2 distance), "radius" (value is a radius), "percentile" (a box).
        unit: of `value`.
        value: the bound or the radius; ∞ or 0 in an abstention; None for a box, which is in the tensors.
        rho: radius it holds for.
        p: percentile.
        replicas: noisy copies K behind one statistic; None for an ideal smoothed function.
        tolerance: for a radius, the squared ℓ2 distance it keeps.
        outputs: how many outputs hold jointly.
        smoother, method, reference: as in `MSEBound`.
        policy: covariance policy; `not_covered` says what it leaves out.
        alpha: failure probability of this claim; share: its part of the certificate's Σα.
        n: bounding draws.
        scope: "single", "pointwise" or "simultaneous".
        status, reason: "certified" or "abstained".
        tensors: prefix of its tensors in the file, or "".
    """

    theorem: str
    quantity: str
    unit: str
    value: float | None
    rho: float
    p: float
    replicas: int | None
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
    tensors: str

    @property
    def not_covered(self) -> str:
        """What the covariance policy of this claim leaves out."""
        return POLICIES[self.policy]

    @property
    def sentence(self) -> str:
        """The claim in words."""
        if self.status == "abstained":
            return f"No claim: {self.reason}."
        to = "the smoothed value at the input itself" if self.reference == "population" else "the reference"
        sure = f"with confidence 1 − {self.alpha:.3g} over n = {self.n:,} draws"
        if self.quantity == "radius":
            return (
                f"The {self.smoother}-smoothed output stays within squared distance {self.tolerance:.6g} of {to} for every "
                f"perturbation with ‖δ‖_Σ ≤ {self.rho:.4g}, {sure} ({self.theorem}, {self.method})."
            )
        if self.quantity == "mse":
            return (
                f"The {self.smoother}-smoothed output stays within squared distance {self.value:.6g} of {to} for every "
                f"perturbation with ‖δ‖_Σ ≤ {self.rho:.4g}, {sure} ({self.theorem}, {self.method})."
            )
        return (
            f"Each of {self.outputs:,} percentile-smoothed outputs (p = {self.p:g}) stays inside its interval for every "
            f"perturbation with ‖δ‖_Σ ≤ {self.rho:.4g}, {sure}, jointly ({self.theorem})."
        )


@dataclass(frozen=True)
class ClaimedCurve:
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
        """As in `MSEBound`."""
        return self.points[0].method

    @property
    def theorem(self) -> str:
        """As in `MSEBound`."""
        return self.points[0].theorem


@dataclass(frozen=True)
class Verdict:
    """What a check found about one claim: "refuted", "not refuted", or "nothing claimed"; `p_value` of the test."""

    claim: Claim
    outcome: str
    p_value: float
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """What `Certificate.check` returns.

    Attributes:
        verdicts: one a claim.
        n, seed, level: fresh draws, their seed, and the level of the test over all claims together.
    """

    verdicts: tuple[Verdict, ...]
    n: int
    seed: int
    level: float

    @property
    def refuted(self) -> bool:
        """Whether any claim was refuted."""
        return any(v.outcome == "refuted" for v in self.verdicts)

    def __str__(self) -> str:
        lines = [f"{v.outcome:>15}  p = {v.p_value:.3g}  {v.claim.quantity} at ρ = {v.claim.rho:.4g}  {v.detail}"
                 for v in self.verdicts]  # fmt: skip
        head = "REFUTED" if self.refuted else "not refuted"
        return "\n".join([f"{head}: {self.n:,} fresh draws, level {self.level:g}", *lines])


@dataclass(frozen=True, eq=False)
class Certificate:
    """Claims, their provenance, and the tensors behind them."""

    claims: tuple[Claim, ...]
    provenance: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, *results: Any, model: Any = None, keep_input: bool = True, **provenance: Any) -> Certificate:
        """A certificate of results about one input and one noise.

        Args:
            *results: what `percentile_bounds`, `mse_bound`, `certified_radius`, `bound_curve` returned, from one y and
                one noise.
            model: the module or pipeline behind f, for a SHA-256 over its named tensors; None: the record says that f was
                a plain callable.
            keep_input: whether the input y itself is stored; without it only its hash is. σ, the reference and the boxes
                stay: who has the model can test guesses of a prompt against them.
            **provenance: anything else worth recording, as JSON values.

        Raises:
            ValueError, TypeError: no results, unknown kinds, or results about different inputs or noises.
        """
        if not results:
            raise ValueError("results = (): a certificate needs at least one result")
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
        for run in runs:
            if run.support is not None and run.support.gain is not None and run.support.offset is not None:
                if not torch.equal(run.support.gain, tensors.setdefault("support.gain", run.support.gain)):
                    raise ValueError("results rest on different supports: one certificate is about one function")
                tensors["support.offset"] = run.support.offset
        claims = tuple(_claim(part, index, total, tensors) for index, part in enumerate(flat))
        record: dict[str, Any] = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": first.seed,
            "pilot": first.pilot,
            "dtype": first.dtype,
            "device": first.device,
            "input_sha256": tensor_digest(first.y),
            "input_shape": list(first.y.shape),
            "noise": type(first.noise).__name__,
            "versions": _versions(),
            "model": _model_record(model),
            **provenance,
        }
        try:
            json.dumps(record, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise type(error)(f"provenance = {provenance!r}: must be JSON values ({error})") from error
        return cls(claims, record, tensors)

    @property
    def alpha(self) -> float:
        """Σα: all claims hold at once with probability at least 1 − this."""
        return min(1.0, math.fsum(claim.alpha for claim in self.claims))

    @property
    def noise(self) -> GaussianNoise:
        """The noise the claims are about."""
        return GaussianNoise(self.tensors["sigma"])

    @property
    def center(self) -> Tensor | None:
        """The reference of the claims, shape (*output), if they have a common one."""
        return self.tensors.get("center")

    @property
    def curve(self) -> ClaimedCurve | None:
        """The claims of a bound curve, together; None without one."""
        points = tuple(claim for claim in self.claims if claim.scope != "single")
        return ClaimedCurve(points) if points else None

    def ellipsoid(self, claim: Claim) -> Ellipsoid:
        """The certified set of a claim."""
        return Ellipsoid(self.tensors["sigma"], claim.rho if claim.status == "certified" else 0.0)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes `certificate.json` and `tensors.safetensors` into a folder, which is made if need be.

        Raises:
            FileExistsError: the folder holds a certificate already and `overwrite` is not set.
        """
        path = Path(folder)
        if (path / _JSON).exists() and not overwrite:
            raise FileExistsError(
                f"folder = {str(path)!r} holds a certificate already: choose another or set overwrite"
            )
        # Cloned: two tensors may share memory (a reference that is the input itself), which the format refuses.
        blob = save_tensors({name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.tensors.items()})
        record = {
            "schema_version": SCHEMA_VERSION,
            "alpha": self.alpha,
            "claims": [_encode(asdict(claim)) for claim in self.claims],
            "provenance": dict(self.provenance),
            "tensors_sha256": hashlib.sha256(blob).hexdigest(),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        path.mkdir(parents=True, exist_ok=True)
        _write(path / _TENSORS, blob)
        _write(path / _JSON, text.encode())
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
            record = json.loads((path / _JSON).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path / _JSON}: not readable as JSON ({error})") from error
        if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
            version = record.get("schema_version") if isinstance(record, dict) else None
            raise ValueError(f"{path / _JSON}: schema_version = {version!r}, must be {SCHEMA_VERSION}")
        try:
            blob = (path / _TENSORS).read_bytes()
        except OSError as error:
            raise ValueError(f"{path / _TENSORS}: not readable ({error})") from error
        if hashlib.sha256(blob).hexdigest() != record.get("tensors_sha256"):
            raise ValueError(
                f"{path / _TENSORS}: its SHA-256 is not the one in {_JSON}; the two do not belong together"
            )
        try:
            tensors = load_tensors(blob)
            claims = tuple(_decode(entry) for entry in record["claims"])
            provenance = dict(record["provenance"])
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise ValueError(f"{path / _JSON}: not a certificate of schema {SCHEMA_VERSION} ({error})") from error
        if "sigma" not in tensors:
            raise ValueError(f"{path / _TENSORS}: holds no tensor 'sigma'")
        if not claims:
            raise ValueError(f"{path / _JSON}: holds no claims")
        certificate = cls(claims, provenance, tensors)
        stated = record.get("alpha")
        if not isinstance(stated, (int, float)) or not math.isclose(stated, certificate.alpha, rel_tol=1e-9):
            raise ValueError(
                f"{path / _JSON}: alpha = {stated!r} is not the sum over its claims, {certificate.alpha!r}"
            )
        return certificate

    def check(
        self,
        f: Function,
        y: Tensor,
        *,
        seed: int = 1,
        n: int | None = None,
        level: float = 1e-6,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CheckReport:
        """Draws afresh and looks for evidence against each claim.

        Under a claim a draw of output i exceeds its upper limit with probability at most 1 − p⁺, so the number of
        exceedances among n fresh draws is at most Bin(n, 1 − p⁺); a claim is refuted if that is rejected for any output
        and side (Bonferroni over all of them), or if its value does not follow from its own box. Not being refuted is no
        proof: the certificate is.

        Args:
            f, y: the function and the input the certificate is about.
            seed: seed of the checking stream, which no certificate draws from.
            n: fresh draws; None: as many as the claims used.
            level: probability of refuting anything at all in a certificate whose claims are all true.
            batch_size, progress: as in `certify.statements.ask`.

        Raises:
            ValueError: `y` is not the input of this certificate.
        """
        level = _validate.probability("level", level)
        seed = _validate.seed_value(seed)
        y = _validate.finite_tensor("y", y).detach()
        if tensor_digest(y) != self.provenance.get("input_sha256"):
            raise ValueError("y is not the input that this certificate is about: its SHA-256 differs")
        draws = _validate.count("n", max(claim.n for claim in self.claims) if n is None else n)
        counters = {c.tensors: _Exceedances(*self._box(c)) for c in self.claims if c.status == "certified"}
        shapes = {tuple(counter.lower.shape) for counter in counters.values()}
        if len(shapes) > 1:
            raise ValueError(f"the claims are about outputs of shapes {sorted(shapes)}: one f can be checked at a time")
        if counters:
            draw(
                f,
                y,
                self.noise,
                n=draws,
                seed=seed,
                stream="checking",
                accumulators=counters.values(),
                output_shape=shapes.pop(),
                batch_size=batch_size,
                progress=progress,
            )
        each = level / max(len(counters), 1)
        verdicts = tuple(self._verdict(claim, counters.get(claim.tensors), draws, each) for claim in self.claims)
        return CheckReport(verdicts, draws, seed, level)

    def _box(self, claim: Claim) -> tuple[Tensor, Tensor]:
        names = [f"{claim.tensors}.lower", f"{claim.tensors}.upper"]
        if claim.quantity != "percentile":
            names.append("center")
        for name in names:
            if name not in self.tensors:
                raise ValueError(f"certificate holds no tensor {name!r}: the claim cannot be checked")
        return self.tensors[names[0]], self.tensors[names[1]]

    def _verdict(self, claim: Claim, seen: _Exceedances | None, n: int, level: float) -> Verdict:
        if seen is None:
            return Verdict(claim, "nothing claimed", 1.0, claim.reason)
        inconsistent = self._inconsistency(claim, seen.lower, seen.upper)
        if inconsistent:
            return Verdict(claim, "refuted", 0.0, inconsistent)
        tails = self.noise.tails(claim.p, claim.rho, claim.replicas or 1)
        # binom.sf(k − 1) is P[Bin ≥ k]; tails are rounded down, so a little is given back before they stand for a maximum.
        p_low = float(binom.sf(int(seen.below.max()) - 1, n, min(1.0, tails.lower * (1 + 1e-9))))
        p_high = float(binom.sf(int(seen.above.max()) - 1, n, min(1.0, tails.upper * (1 + 1e-9))))
        p_value = min(1.0, 2 * seen.lower.numel() * min(p_low, p_high))
        expected = max(tails) * n
        detail = f"most exceedances of one output: {int(max(seen.below.max(), seen.above.max()))}, allowed mean {expected:.1f}"
        return Verdict(claim, "refuted" if p_value <= level else "not refuted", p_value, detail)

    def _inconsistency(self, claim: Claim, lower: Tensor, upper: Tensor) -> str:
        if not bool((lower <= upper).all()):
            return "its box is empty"
        if claim.quantity == "radius" and claim.value != claim.rho:
            return f"it states a radius of {claim.value} and holds for {claim.rho}"
        if claim.outputs != lower.numel():
            return f"it states {claim.outputs} outputs, its box has {lower.numel()}"
        stated = claim.tolerance if claim.quantity == "radius" else claim.value
        if claim.quantity == "percentile" or stated is None:
            return ""
        if claim.reference == "population":
            # The reference lies in the box, so one of its two sides is at least half the box away from it.
            implied = float(((upper - lower) / 2).square().sum())
            return (
                ""
                if stated >= implied * (1 - 1e-9)
                else f"it states {stated:.6g}, its box implies {implied:.6g} or more"
            )
        implied = box_distance(lower, upper, self.tensors["center"], self.tensors["center"])
        if "support.gain" in self.tensors:
            held = Support(lower, upper, self.tensors["support.gain"], self.tensors["support.offset"])
            implied = min(implied, held.median_cap(self.tensors["center"]))
        if not stated >= implied * (1 - 1e-9):
            return f"it states {stated:.6g}, its box implies no less than {implied:.6g}"
        return ""


class _Exceedances:
    """Counts, for each output, the draws beyond a box by more than the rounding of the arithmetic.

    The same input gives values a few ulp apart in batches of different sizes, which matters where f has atoms. The ulp
    are those of the values that f works with inside, for which the root mean square of the whole box stands in.
    """

    key = "exceedances"

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self.lower, self.upper, self.count = lower.to(torch.float64), upper.to(torch.float64), 0
        sides = torch.cat([self.lower.reshape(-1), self.upper.reshape(-1)])
        sides = sides[torch.isfinite(sides)]
        self.scale = float(sides.square().mean().sqrt()) if sides.numel() else 0.0
        self.below = torch.zeros(lower.shape, dtype=torch.int64)
        self.above = torch.zeros(lower.shape, dtype=torch.int64)

    def update(self, outputs: Tensor) -> None:
        values = outputs.to("cpu", torch.float64)
        slack = 1000 * torch.finfo(outputs.dtype).eps * (self.scale + values.abs())
        self.count += values.shape[0]
        self.below += (values < self.lower - slack).sum(dim=0)
        self.above += (values > self.upper + slack).sum(dim=0)

    def merge(self, other: _Exceedances) -> None:
        self.count += other.count
        self.below += other.below
        self.above += other.above

    def widened(self, other: _Exceedances) -> _Exceedances:
        raise ValueError("two boxes cannot share one count")


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over a tensor's dtype, shape and bytes."""
    array = tensor.detach().cpu().contiguous()
    data = array.reshape(-1).view(torch.uint8)
    head = f"{array.dtype} {tuple(array.shape)} ".encode()
    return hashlib.sha256(head + data.numpy().tobytes()).hexdigest()


def _claim(part: Any, index: int, total: float, tensors: dict[str, Tensor]) -> Claim:
    certified = part.status == "certified"
    name = f"claim{index}" if certified else ""
    if certified and part.lower is not None:
        # float32 draws keep their exact value; a box in float64 stays float64.
        tensors[f"{name}.lower"], tensors[f"{name}.upper"] = part.lower.contiguous(), part.upper.contiguous()
    if not isinstance(part, PercentileBounds):
        held = tensors.get("center")
        center = part.center.detach().cpu().contiguous()
        if held is not None and not torch.equal(held, center):
            raise ValueError("results are about different references: one certificate is about one")
        tensors["center"] = center
    radius, box = isinstance(part, CertifiedRadius), isinstance(part, PercentileBounds)
    return Claim(
        theorem=part.theorem,
        quantity="percentile" if box else part.quantity,
        unit="the unit of f's outputs" if box else part.unit,
        value=None if box else float(part.rho if radius else part.value),
        rho=float(part.rho),
        p=part.p if box else 0.5,
        replicas=None,
        tolerance=part.tolerance if radius else None,
        outputs=int(part.center.numel()),
        smoother="percentile" if box else part.smoother,
        method="order statistics" if box else part.method,
        reference="none" if box else part.reference,
        policy=part.run.policy,
        alpha=part.alpha,
        share=part.alpha / total,
        n=part.n,
        scope=getattr(part, "scope", "single"),
        status=part.status,
        reason=part.reason,
        tensors=name,
    )


def _run(result: Any) -> Run:
    if isinstance(result, BoundCurve):
        return result.points[0].run
    if isinstance(result, (MSEBound, CertifiedRadius, PercentileBounds)):
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
    for name in ("certify", "transformers", "diffusers", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _model_record(model: Any) -> dict[str, Any]:
    from certify.models.fingerprint import fingerprint

    if model is None:
        return {"kind": "plain callable", "sha256": None}
    parts = {k: v for k, v in getattr(model, "components", {}).items() if isinstance(v, torch.nn.Module)}
    if isinstance(model, torch.nn.Module):
        parts = {"module": model}
    digests = {name: fingerprint(part) for name, part in sorted(parts.items())}
    return {"kind": type(model).__name__, "sha256": digests or None}


def _encode(claim: dict[str, Any]) -> dict[str, Any]:
    return {k: ("Infinity" if isinstance(v, float) and math.isinf(v) else v) for k, v in claim.items()}


def _decode(entry: dict[str, Any]) -> Claim:
    names = {f.name for f in fields(Claim)}
    if set(entry) != names:
        raise ValueError(f"a claim has the fields {sorted(entry)}, must have {sorted(names)}")
    values: dict[str, Any] = {k: (math.inf if v == "Infinity" else v) for k, v in entry.items()}
    if values["policy"] not in POLICIES:
        raise ValueError(f"policy = {values['policy']!r}: must be one of {sorted(POLICIES)}")
    claim = Claim(**values)
    for name, least, most in _RANGES:
        number = values[name]
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not least <= number <= most:
            raise ValueError(f"a claim has {name} = {number!r}: must be a number in [{least:g}, {most:g}]")
    needed = {"mse": {"value"}, "radius": {"value", "tolerance"}}.get(values["quantity"], set())
    for name in ("value", "tolerance"):
        number = values[name]
        if number is None and name not in needed:
            continue
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not number >= 0:
            raise ValueError(
                f"a claim has {name} = {number!r}: must be a number >= 0 for quantity {values['quantity']!r}"
            )
    for name in ("n", "outputs", "replicas"):
        number = values[name]
        if (isinstance(number, bool) or not isinstance(number, int) or number < 1) and (name, number) != (
            "replicas",
            None,
        ):
            raise ValueError(f"a claim has {name} = {number!r}: must be a whole number >= 1")
    if not values["alpha"] > 0:
        raise ValueError(f"a claim has alpha = {values['alpha']!r}: must be > 0")
    for name, allowed in _WORDS:
        if values[name] not in allowed:
            raise ValueError(f"a claim has {name} = {values[name]!r}: must be one of {', '.join(map(repr, allowed))}")
    return claim


_RANGES = (("rho", 0, math.inf), ("p", 0, 1), ("alpha", 0, 1), ("share", 0, 1), ("n", 1, 1e18), ("outputs", 1, 1e18))
_WORDS = (
    ("quantity", ("mse", "radius", "percentile")),
    ("status", ("certified", "abstained")),
    ("scope", ("single", "pointwise", "simultaneous")),
    ("theorem", ("T1", *(kind.theorem for kind in METHODS.values()))),
    ("smoother", ("percentile", *(smoother for smoother, _ in METHODS))),
    ("method", ("order statistics", *(method for _, method in METHODS))),
    ("reference", ("center", "population", "none")),
)


def _write(path: Path, data: bytes) -> None:
    # Written beside and renamed, so that a reader never sees half a file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
